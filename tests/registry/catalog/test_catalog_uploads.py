"""Resumable uploads."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import google_crc32c
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supernet_registry.clients.wire.resources import Upload
from supernet_registry.registry.catalog import Catalog
from supernet_registry.search.errors import (
    DigestMismatch,
    InvalidArgument,
    NotFound,
    QuotaExceeded,
    WeightsTooLarge,
    WrongOffset,
)
from tests.registry.catalog.catalog_world import StandingClock, World

DATA = random.Random(0).randbytes(5000)
NAME = f"blobs/{hashlib.sha256(DATA).hexdigest()}"


def send(catalog: Catalog, upload: Upload, content: bytes, offset: int | None = None) -> Upload:
    """Append one chunk with a right checksum."""
    start = upload.persisted_size_bytes if offset is None else offset
    return catalog.uploads.append(upload.name, start, content, google_crc32c.value(content))


def test_an_upload_ends_as_a_blob_and_a_second_one_is_complete_at_once(catalog: Catalog) -> None:
    upload = catalog.uploads.start(NAME, len(DATA))
    assert upload == Upload(name=upload.name, blob=NAME, size_bytes=5000)
    half = send(catalog, upload, DATA[:2000])
    assert (half.persisted_size_bytes, half.complete) == (2000, False)
    assert catalog.uploads.get(upload.name) == half
    whole = send(catalog, half, DATA[2000:])
    assert (whole.persisted_size_bytes, whole.complete) == (5000, True)
    assert catalog.blobs.read(NAME) == DATA
    assert catalog.uploads.start(NAME, len(DATA)).complete
    with pytest.raises(NotFound):
        catalog.uploads.get(upload.name)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.sets(st.integers(1, 4999), max_size=6), torn=st.integers(0, 300))
def test_an_upload_cut_anywhere_goes_on_after_a_restart(
    world: World, open_catalog: Callable[..., Catalog], tmp_path: Path, cuts: set[int], torn: int
) -> None:
    """After each cut another process goes on, and bytes that were written but not acknowledged do no harm."""
    unique = random.Random(repr((sorted(cuts), torn))).randbytes(5000)
    name = f"blobs/{hashlib.sha256(unique).hexdigest()}"
    ends = [*sorted(cuts), 5000]
    upload = world.catalog.uploads.start(name, 5000)
    for end in ends:
        restarted = open_catalog()
        upload = restarted.uploads.start(name, 5000)
        upload = send(restarted, upload, unique[upload.persisted_size_bytes : end])
        assert upload.persisted_size_bytes == end
        part = tmp_path / "data" / "uploads" / f"{upload.name.removeprefix('uploads/')}.part"
        if end < 5000:
            with part.open("ab") as file:
                file.write(b"?" * torn)
        restarted.close()
    assert upload.complete
    assert world.catalog.blobs.read(name) == unique


def test_a_wrong_offset_tells_the_right_one(catalog: Catalog) -> None:
    upload = send(catalog, catalog.uploads.start(NAME, 5000), DATA[:2000])
    for offset in (0, 1999, 2001, -1):
        with pytest.raises(WrongOffset) as caught:
            send(catalog, upload, DATA[:10], offset)
        assert caught.value.metadata["persisted_size"] == "2000"
    assert catalog.uploads.get(upload.name).persisted_size_bytes == 2000


def test_bad_chunks_are_refused_and_not_stored(catalog: Catalog) -> None:
    upload = catalog.uploads.start(NAME, 5000)
    with pytest.raises(DigestMismatch):
        catalog.uploads.append(upload.name, 0, DATA[:10], google_crc32c.value(DATA[:10]) ^ 1)
    for content in (b"", bytes(2 * 2**20 + 1), DATA + b"x"):
        with pytest.raises(InvalidArgument):
            send(catalog, upload, content, 0)
    assert catalog.uploads.get(upload.name).persisted_size_bytes == 0


def test_bytes_of_another_digest_are_dropped(catalog: Catalog, tmp_path: Path) -> None:
    upload = catalog.uploads.start(NAME, 5000)
    with pytest.raises(DigestMismatch, match="dropped"):
        send(catalog, upload, DATA[:-1] + b"!")
    with pytest.raises(NotFound):
        catalog.uploads.get(upload.name)
    assert catalog.blobs.find_missing([NAME]) == [NAME]
    assert list((tmp_path / "data" / "uploads").iterdir()) == []


def test_two_clients_share_the_upload_of_one_blob(catalog: Catalog) -> None:
    """Whoever is behind is told the offset; the blob is made once."""
    name = f"blobs/{hashlib.sha256(DATA * 20).hexdigest()}"

    def client(_: int) -> bool:
        upload = catalog.uploads.start(name, len(DATA) * 20)
        while not upload.complete:
            start = upload.persisted_size_bytes
            try:
                upload = send(catalog, upload, (DATA * 20)[start : start + 1000])
            except (WrongOffset, NotFound):
                upload = catalog.uploads.start(name, len(DATA) * 20)
        return upload.complete

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(client, range(4)))
    assert catalog.blobs.read(name) == DATA * 20


def test_sizes_and_quotas(open_catalog: Callable[..., Catalog]) -> None:
    catalog = open_catalog(max_upload_bytes=10_000, max_pending_upload_bytes=12_000)
    for size in (0, -1):
        with pytest.raises(InvalidArgument):
            catalog.uploads.start(NAME, size)
    with pytest.raises(WeightsTooLarge):
        catalog.uploads.start(NAME, 10_001)
    with pytest.raises(InvalidArgument):
        catalog.uploads.start("blobs/short", 10)
    catalog.uploads.start(NAME, 10_000)
    with pytest.raises(QuotaExceeded) as caught:
        catalog.uploads.start(f"blobs/{'0' * 64}", 3000)
    assert caught.value.retry_after_s
    for bad, error in (
        ("uploads/nonsense", InvalidArgument),
        (f"uploads/{'0' * 8}-0000-0000-0000-{'0' * 12}", NotFound),
    ):
        with pytest.raises(error):
            catalog.uploads.get(bad)


def test_stale_uploads_are_dropped_and_living_ones_kept(catalog: Catalog, clock: StandingClock, tmp_path: Path) -> None:
    stale = send(catalog, catalog.uploads.start(f"blobs/{'0' * 64}", 5000), DATA[:10])
    living = send(catalog, catalog.uploads.start(NAME, 5000), DATA[:10])
    (tmp_path / "data" / "uploads" / "left-by-a-crash.part").write_bytes(b"x")
    clock.advance(20 * 3600)
    send(catalog, living, DATA[10:20])
    clock.advance(5 * 3600)
    assert catalog.sweeper.sweep().uploads_dropped == 1
    assert catalog.uploads.get(living.name).persisted_size_bytes == 20
    with pytest.raises(NotFound):
        catalog.uploads.get(stale.name)
    assert len(list((tmp_path / "data" / "uploads").iterdir())) == 1


def test_an_upload_whose_file_vanished_starts_again(catalog: Catalog, tmp_path: Path) -> None:
    send(catalog, catalog.uploads.start(NAME, 5000), DATA[:10])
    for path in (tmp_path / "data" / "uploads").iterdir():
        path.unlink()
    upload = catalog.uploads.start(NAME, 5000)
    with pytest.raises(DigestMismatch):  # the lost bytes were acknowledged; the digest has the last word
        send(catalog, upload, DATA[10:])
    assert send(catalog, catalog.uploads.start(NAME, 5000), DATA).complete
