"""Content-addressed stores of bytes, by their sha256.

`LocalBlobStore` keeps one file a blob. Its order of work is what makes an acknowledged blob survive power loss and a
half-written one invisible: temporary file on the same file system, fsync, rename to the digest, fsync of the folder.

`registry.catalog.blobs.Blobs` is what the rest of the service uses: a store together with its table.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from registry import failpoints
from search.errors import BlobCorrupt, DiskFull, NotFound

__all__ = ["BlobStore", "LocalBlobStore", "MemoryBlobStore", "corrupt", "disk_full", "fsync_folder", "is_disk_full"]

_READ_BYTES = 1024 * 1024
_SHA256 = re.compile(r"[0-9a-f]{64}")


class BlobStore(Protocol):
    """Bytes by their sha256 (64 lowercase hexadecimal digits). All methods may be called from any thread."""

    def has(self, sha256: str) -> bool:
        """Whether the blob is stored."""

    def size(self, sha256: str) -> int:
        """Its size in bytes. Raises NotFound."""

    def open_read(self, sha256: str) -> BinaryIO:
        """Open for reading (seekable); the caller closes it. Raises NotFound."""

    def put(self, data: bytes) -> str:
        """Store durably and return the sha256; idempotent. Raises DiskFull."""

    def adopt(self, path: Path, sha256: str) -> None:
        """Take over a complete, fsynced file whose digest the caller has verified; the file is gone afterwards.

        Idempotent. Raises DiskFull.
        """

    def delete(self, sha256: str) -> None:
        """Forget the blob; no error if it is absent."""

    def digests(self) -> Iterator[str]:
        """All stored digests, in no particular order."""

    def verify(self, sha256: str) -> None:
        """Read the whole blob and compare. Raises NotFound, BlobCorrupt."""


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
            raise _absent(sha256) from None

    def open_read(self, sha256: str) -> BinaryIO:
        try:
            return self._path(sha256).open("rb")
        except FileNotFoundError:
            raise _absent(sha256) from None

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
            yield from (path.name for path in folder.iterdir() if _SHA256.fullmatch(path.name))

    def verify(self, sha256: str) -> None:
        _verify(self, sha256)

    def remove_temporary(self, older_than_s: float, now_s: float) -> int:
        """Remove temporary files that a crash left behind; returns their number."""
        stale = [path for path in self._temporary.iterdir() if now_s - path.stat().st_mtime > older_than_s]
        for path in stale:
            path.unlink(missing_ok=True)
        return len(stale)

    def _path(self, sha256: str) -> Path:
        if not _SHA256.fullmatch(sha256):
            raise ValueError(f"not a sha256: {sha256!r}")
        return self._root / sha256[:2] / sha256


class MemoryBlobStore:
    """The same in memory, for tests and short-lived registries."""

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
        _verify(self, sha256)

    def _get(self, sha256: str) -> bytes:
        try:
            return self._blobs[sha256]
        except KeyError:
            raise _absent(sha256) from None


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


def corrupt(sha256: str, found: str) -> BlobCorrupt:
    """The error for stored bytes that are not what they were."""
    return BlobCorrupt(
        f"The stored bytes of blobs/{sha256} hash to {found}.",
        remedy="Restore the file from a backup, or delete it and upload the blob again.",
        metadata={"blob": f"blobs/{sha256}", "foundSha256": found},
    )


def _verify(store: BlobStore, sha256: str) -> None:
    digest = hashlib.sha256()
    with store.open_read(sha256) as file:
        while chunk := file.read(_READ_BYTES):
            digest.update(chunk)
    if digest.hexdigest() != sha256:
        raise corrupt(sha256, digest.hexdigest())


def _absent(sha256: str) -> NotFound:
    return NotFound(f"blobs/{sha256} is not stored.", remedy="Upload it first.", metadata={"blob": f"blobs/{sha256}"})
