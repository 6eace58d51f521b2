"""Blob stores, and the blobs of a catalog with their sweep."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given
from hypothesis import settings as properties
from hypothesis import strategies as st

from supernet_registry.clients.wire.resources import AbandonOutcome, Executor
from supernet_registry.registry.catalog import Catalog
from supernet_registry.registry.catalog.sweep import blob_references
from supernet_registry.registry.settings import Settings
from supernet_registry.registry.storage.blobs.local import LocalBlobStore
from supernet_registry.registry.storage.database import transaction
from supernet_registry.registry.storage.schema import blobs
from supernet_registry.search.errors import BlobCorrupt, DiskFull, InvalidArgument, NotFound
from tests.registry.catalog.catalog_world import StandingClock, World, sketch

ROOT = Path(__file__).parents[3]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_name_that_is_no_digest_never_reaches_the_file_system(tmp_path: Path) -> None:
    store = LocalBlobStore(tmp_path / "store")
    for name in ("../../etc/passwd", "", "A" * 64):
        with pytest.raises(ValueError, match="not a sha256"):
            store.open_read(name)


@properties(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bit=st.integers(0, 8 * 3000 - 1))
def test_every_flipped_bit_is_found(tmp_path: Path, bit: int) -> None:
    store = LocalBlobStore(tmp_path / "flip")
    digest = store.put(bytes(range(250)) * 12)
    path = tmp_path / "flip" / digest[:2] / digest
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.chmod(0o644)
    path.write_bytes(data)
    with pytest.raises(BlobCorrupt):
        store.verify(digest)
    store.delete(digest)


DISK_FULL_PROGRAM = """
import resource, sys
from pathlib import Path
from supernet_registry.registry.storage.blobs.local import LocalBlobStore
from supernet_registry.search.errors import DiskFull
store = LocalBlobStore(Path(sys.argv[1]))
small = store.put(b"small")
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    store.put(b"x" * 100_000)
except DiskFull:
    store.verify(small)
    print(sorted(path.name for path in Path(sys.argv[1]).rglob("*") if path.is_file()) == [small])
"""


def test_a_full_disk_leaves_no_half_blob(tmp_path: Path) -> None:
    """Writing is stopped by the operating system (a file size limit); the temporary file is gone afterwards."""
    program = [sys.executable, "-c", DISK_FULL_PROGRAM, str(tmp_path / "store")]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(program, capture_output=True, text=True, timeout=60, env=env)
    assert result.stdout == "True\n", result.stderr


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 4 MiB, where the machine lets us mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_catalog_on_a_full_disk_still_reads_and_recovers_without_a_restart(
    small_disk: Path, clock: StandingClock
) -> None:
    with Catalog.open(Settings(data_dir=small_disk), clock=clock) as catalog:
        kept = catalog.blobs.put(os.urandom(500_000))
        filler = small_disk / "filler"
        with filler.open("wb") as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(bytes(65536))
                file.flush()
        with pytest.raises(DiskFull) as caught:
            catalog.blobs.put(os.urandom(500_000))
        assert caught.value.retry_after_s
        with pytest.raises(DiskFull):
            World(catalog, clock).upload(os.urandom(500_000))
        assert len(catalog.blobs.read(kept)) == 500_000
        filler.unlink()
        again = catalog.blobs.put(os.urandom(500_000))
        assert catalog.blobs.find_missing([kept, again]) == []
        assert list(small_disk.glob("blobs/tmp/*")) == []


def test_missing_blobs_are_named_in_order(catalog: Catalog) -> None:
    here = catalog.blobs.put(b"here")
    absent = [f"blobs/{i:064x}" for i in range(3)]
    assert catalog.blobs.find_missing([absent[0], here, absent[2], absent[1]]) == [absent[0], absent[2], absent[1]]
    with pytest.raises(InvalidArgument) as caught:
        catalog.blobs.find_missing([here, "blobs/../x"])
    assert caught.value.field == "names[1]"
    with pytest.raises(InvalidArgument):
        catalog.blobs.find_missing([here] * 1001)


DATA = bytes(range(256)) * 20


@properties(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(offset=st.integers(0, len(DATA)), limit=st.integers(0, len(DATA) + 5), chunk=st.integers(1, 700))
def test_any_range_can_be_read_in_chunks(catalog: Catalog, offset: int, limit: int, chunk: int) -> None:
    name = catalog.blobs.put(DATA)
    chunks = list(catalog.blobs.read_chunks(name, offset=offset, limit=limit, chunk_bytes=chunk))
    assert b"".join(chunks) == DATA[offset : offset + limit if limit else None]
    assert all(0 < len(piece) <= chunk for piece in chunks)


@pytest.mark.parametrize("damage", ["flip the first byte", "flip the last byte", "cut", "remove"])
def test_damaged_blobs_are_never_served_whole(catalog: Catalog, tmp_path: Path, damage: str) -> None:
    """The last chunk is withheld, also when only an undamaged part was asked for."""
    name = catalog.blobs.put(DATA)
    path = next((tmp_path / "data" / "blobs").glob(f"*/{name.removeprefix('blobs/')}"))
    path.chmod(0o644)
    if damage == "remove":
        path.unlink()
    else:
        start = {"flip the first byte": b"!" + DATA[1:], "flip the last byte": DATA[:-1] + b"!", "cut": DATA[:-9]}
        path.write_bytes(start[damage])
    with pytest.raises(BlobCorrupt):
        catalog.blobs.read(name)
    served = b""
    with pytest.raises(BlobCorrupt):
        for chunk in catalog.blobs.read_chunks(name, offset=1000, limit=2000, chunk_bytes=500):
            served += chunk
    assert len(served) < 2000


def test_ranges_outside_of_the_blob_are_refused(catalog: Catalog) -> None:
    name = catalog.blobs.put(b"abc")
    for offset, limit in ((-1, 0), (4, 0), (0, -1)):
        with pytest.raises(InvalidArgument):
            catalog.blobs.read_chunks(name, offset=offset, limit=limit)
    with pytest.raises(NotFound):
        catalog.blobs.read_chunks(f"blobs/{'0' * 64}")


def test_the_sweep_spares_what_is_referenced_or_in_grace(world: World, clock: StandingClock) -> None:
    """An upload is not removed before its uploader had the time to refer to it."""
    version = world.version()
    world.catalog.datasets.update(version.dataset, retain_images=True)
    orphan = world.catalog.blobs.put(b"orphan")
    clock.advance(20 * 3600)
    assert world.catalog.blobs.find_missing([orphan]) == []  # asked for: its grace starts anew
    clock.advance(20 * 3600)
    world.catalog.sweeper.sweep()
    assert world.catalog.blobs.has(orphan)
    clock.advance(5 * 3600)
    swept = world.catalog.sweeper.sweep()
    assert (swept.blobs_deleted, swept.bytes_freed) == (1, 6)
    assert not world.catalog.blobs.has(orphan)
    sketch_blob = f"blobs/{sketch(0, 'e').digest}"
    assert world.catalog.blobs.find_missing([version.weights_blob, version.child_blob, sketch_blob]) == []


def test_images_stay_while_a_job_needs_them_or_somebody_retains_them(world: World, clock: StandingClock) -> None:
    job = world.job(seed=0)
    caller = world.job("supernets/b", seed=1, executor=Executor.CALLER)
    retained = world.catalog.datasets.update(world.dataset(2).name, retain_images=True)
    fresh_after = world.draft(3)
    clock.advance(2 * 3600)
    fresh = world.register(fresh_after, seed=3)
    assert world.catalog.sweeper.sweep().images_dropped == 0
    world.catalog.jobs.cancel(job.name)
    world.catalog.jobs.cancel(caller.name)
    assert world.catalog.sweeper.sweep().images_dropped == 2
    datasets = world.catalog.datasets
    assert datasets.get(job.dataset).images_blob == ""
    assert datasets.get(retained.name).images_blob
    assert datasets.get(fresh.name).images_blob


def test_superseded_checkpoints_go_with_the_next_sweep(world: World, clock: StandingClock) -> None:
    """The present and the one before stay; an ended job keeps none."""
    job = world.job()
    lease, _ = world.lease(job)
    saved = []
    for i in range(4):
        saved.append(world.catalog.blobs.put(f"checkpoint {i}".encode()))
        world.catalog.leases.save_checkpoint(job.name, lease.fence, saved[-1])
        world.catalog.leases.save_checkpoint(job.name, lease.fence, saved[-1])
    clock.advance(1)
    world.catalog.sweeper.sweep()
    assert [world.catalog.blobs.has(name) for name in saved] == [False, False, True, True]
    world.catalog.leases.abandon(job.name, lease.fence, AbandonOutcome.FAILED)
    clock.advance(1)
    world.catalog.sweeper.sweep()
    assert [world.catalog.blobs.has(name) for name in saved] == [False] * 4


def test_a_file_that_a_crash_left_without_a_row_is_swept_in_time(world: World, clock: StandingClock) -> None:
    stray = world.catalog.blobs.store.put(b"stray")
    world.catalog.sweeper.sweep()
    assert world.catalog.blobs.store.has(stray)
    clock.advance(25 * 3600)
    assert world.catalog.sweeper.sweep().blobs_deleted == 1
    assert not world.catalog.blobs.store.has(stray)


def test_the_sweep_knows_every_reference() -> None:
    assert {f"{column.table.name}.{column.name}" for column in blob_references()} == {
        "datasets.sketch_sha256",
        "datasets.images_sha256",
        "jobs.checkpoint_sha256",
        "jobs.previous_checkpoint_sha256",
        "versions.weights_sha256",
        "versions.child_sha256",
    }


def test_the_database_itself_refuses_to_forget_a_referenced_blob(world: World) -> None:
    world.version()
    with pytest.raises(sa.exc.IntegrityError), transaction(world.engine) as connection:
        connection.execute(blobs.delete())
