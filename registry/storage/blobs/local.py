"""Blobs on a local file system, one file each.

The order of work is what makes an acknowledged blob survive power loss and a half-written one invisible: temporary file
on the same file system, fsync, rename to the digest, fsync of the folder.
"""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from supernet_registry.registry.storage import failpoints
from supernet_registry.registry.storage.blobs.store import SHA256, absent, verify_digest
from supernet_registry.search.errors import DiskFull

__all__ = ["LocalBlobStore", "disk_full", "fsync_folder", "is_disk_full"]


class LocalBlobStore:
    """Files `root/ab/abcdef...` on a local file system."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._temporary = root / "tmp"
        self._temporary.mkdir(parents=True, exist_ok=True)

    def has(self, sha256: str) -> bool:
        return self._path(sha256).is_file()

    def size(self, sha256: str) -> int:
        try:
            return self._path(sha256).stat().st_size
        except FileNotFoundError:
            raise absent(sha256) from None

    def open_read(self, sha256: str) -> BinaryIO:
        try:
            return self._path(sha256).open("rb")
        except FileNotFoundError:
            raise absent(sha256) from None

    def put(self, data: bytes) -> str:
        sha256 = hashlib.sha256(data).hexdigest()
        if self.has(sha256):
            return sha256
        path: Path | None = None
        try:
            with tempfile.NamedTemporaryFile(dir=self._temporary, delete=False) as file:
                path = Path(file.name)
                file.write(data)
                file.flush()
                failpoints.hit("blob.written")
                os.fsync(file.fileno())
            self.adopt(path, sha256)
        except OSError as error:
            if path is not None:
                path.unlink(missing_ok=True)
            if is_disk_full(error):
                raise disk_full() from error
            raise
        return sha256

    def adopt(self, path: Path, sha256: str) -> None:
        target = self._path(sha256)
        try:
            failpoints.hit("blob.synced")
            if not target.parent.is_dir():
                target.parent.mkdir(exist_ok=True)
                fsync_folder(self._root)
            path.chmod(0o444)  # nothing ever writes to a blob; a mistake shall fail loudly
            path.replace(target)
            failpoints.hit("blob.renamed")
            fsync_folder(target.parent)
        except OSError as error:
            if is_disk_full(error):
                raise disk_full() from error
            raise

    def delete(self, sha256: str) -> None:
        self._path(sha256).unlink(missing_ok=True)

    def digests(self) -> Iterator[str]:
        for folder in self._root.glob("[0-9a-f][0-9a-f]"):
            yield from (path.name for path in folder.iterdir() if SHA256.fullmatch(path.name))

    def verify(self, sha256: str) -> None:
        verify_digest(self, sha256)

    def remove_temporary(self, older_than_s: float, now_s: float) -> int:
        stale = [path for path in self._temporary.iterdir() if now_s - path.stat().st_mtime > older_than_s]
        for path in stale:
            path.unlink(missing_ok=True)
        return len(stale)

    def _path(self, sha256: str) -> Path:
        if not SHA256.fullmatch(sha256):
            raise ValueError(f"not a sha256: {sha256!r}")
        return self._root / sha256[:2] / sha256


def fsync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_disk_full(error: OSError) -> bool:
    """Whether an operating system error means: no room (device, quota, or file size limit)."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def disk_full() -> DiskFull:
    """The error for "no space left on device"."""
    return DiskFull(
        "The registry's disk is full; nothing was stored.",
        remedy="Free space on the server's disk, then send the same request again.",
        retry_after_s=30.0,
    )
