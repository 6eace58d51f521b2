"""What every blob store keeps to, whatever it stores into."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from supernet_registry.registry.storage.blobs.local import LocalBlobStore
from supernet_registry.registry.storage.blobs.memory import MemoryBlobStore
from supernet_registry.registry.storage.blobs.store import BlobStore
from supernet_registry.search.errors import NotFound


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


STORES: dict[str, Callable[[Path], BlobStore]] = {
    "local": lambda folder: LocalBlobStore(folder / "store"),
    "memory": lambda folder: MemoryBlobStore(),
}
"""A store joins by one line; it gets a folder of its own."""


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    """An empty store of each kind."""
    return STORES[request.param](tmp_path)


def test_a_store_keeps_bytes_by_their_digest(store: BlobStore) -> None:
    digest = store.put(b"weights")
    assert digest == sha256(b"weights")
    assert store.put(b"weights") == digest
    assert (store.has(digest), store.size(digest), list(store.digests())) == (True, 7, [digest])
    with store.open_read(digest) as file:
        file.seek(3)
        assert file.read() == b"ghts"
    store.verify(digest)
    store.delete(digest)
    store.delete(digest)
    assert not store.has(digest)
    for call in (store.size, store.open_read, store.verify):
        with pytest.raises(NotFound):
            call(digest)


def test_a_store_adopts_a_finished_file(store: BlobStore, tmp_path: Path) -> None:
    for _ in range(2):
        path = tmp_path / "upload"
        path.write_bytes(b"adopted")
        store.adopt(path, sha256(b"adopted"))
        assert not path.exists()
    store.verify(sha256(b"adopted"))


def test_many_threads_may_store_the_same_bytes(store: BlobStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        digests = set(pool.map(lambda number: store.put(bytes([number % 2]) * 10_000), range(32)))
    assert digests == set(store.digests()) == {sha256(bytes([bit]) * 10_000) for bit in (0, 1)}
    for digest in digests:
        store.verify(digest)


def test_removing_what_was_left_behind_removes_no_blob(store: BlobStore) -> None:
    digest = store.put(b"kept")
    assert store.remove_temporary(0.0, time.time() + 3600.0) == 0
    store.verify(digest)
