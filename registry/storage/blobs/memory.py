"""Blobs in memory, for tests and short-lived registries."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from supernet_registry.registry.storage.blobs.store import absent, verify_digest

__all__ = ["MemoryBlobStore"]


class MemoryBlobStore:
    """A dictionary; forgotten with the process."""

    def __init__(self) -> None:
        self._blobs: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def has(self, sha256: str) -> bool:
        return sha256 in self._blobs

    def size(self, sha256: str) -> int:
        return len(self._get(sha256))

    def open_read(self, sha256: str) -> BinaryIO:
        return io.BytesIO(self._get(sha256))

    def put(self, data: bytes) -> str:
        sha256 = hashlib.sha256(data).hexdigest()
        with self._lock:
            self._blobs.setdefault(sha256, bytes(data))
        return sha256

    def adopt(self, path: Path, sha256: str) -> None:
        data = path.read_bytes()
        with self._lock:
            self._blobs[sha256] = data
        path.unlink()

    def delete(self, sha256: str) -> None:
        with self._lock:
            self._blobs.pop(sha256, None)

    def digests(self) -> Iterator[str]:
        with self._lock:
            return iter(list(self._blobs))

    def verify(self, sha256: str) -> None:
        verify_digest(self, sha256)

    def remove_temporary(self, older_than_s: float, now_s: float) -> int:  # noqa: ARG002  # see BlobStore
        return 0  # a crash leaves nothing behind at all

    def _get(self, sha256: str) -> bytes:
        try:
            return self._blobs[sha256]
        except KeyError:
            raise absent(sha256) from None
