"""Content-addressed stores of bytes, by their sha256. (Signatures first; bodies follow.)

`registry.catalog.blobs.Blobs` is what the rest of the service uses: a store plus its table.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol


class BlobStore(Protocol):
    """Bytes by their sha256 (64 lowercase hexadecimal digits)."""

    def has(self, sha256: str) -> bool:
        """Whether the blob is stored."""

    def size(self, sha256: str) -> int:
        """Its size in bytes. Raises NotFound."""

    def open_read(self, sha256: str) -> BinaryIO:
        """Open for reading (seekable). Raises NotFound."""

    def put(self, data: bytes) -> str:
        """Store durably; idempotent. Raises DiskFull."""

    def adopt(self, path: Path, sha256: str) -> None:
        """Take over a complete, fsynced file whose digest the caller has verified; idempotent."""

    def delete(self, sha256: str) -> None:
        """Forget; no error if absent."""

    def verify(self, sha256: str) -> None:
        """Read it all and compare. Raises NotFound, BlobCorrupt."""

    def digests(self) -> Iterator[str]:
        """All stored digests."""


class LocalBlobStore:
    """Files `root/ab/cdef...`; survives power loss at any point."""

    def __init__(self, root: Path) -> None: ...
