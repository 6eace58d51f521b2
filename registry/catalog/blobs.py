"""Stored blobs with their table. Names are `blobs/{sha256}`. (Signatures first; bodies follow.)"""

from __future__ import annotations

from collections.abc import Iterable, Iterator


class Blobs:
    """What FindMissingBlobs and ReadBlob need, and every part that stores bytes."""

    def find_missing(self, names: Iterable[str]) -> list[str]:
        """Those (at most 1000) that are not stored; present ones start a new grace period. Raises InvalidArgument."""
        raise NotImplementedError

    def put(self, data: bytes) -> str:
        """Store; the name. Raises DiskFull."""
        raise NotImplementedError

    def size(self, name: str) -> int:
        """Bytes. Raises NotFound."""
        raise NotImplementedError

    def read(self, name: str) -> bytes:
        """The whole blob, digest verified. Raises NotFound, BlobCorrupt."""
        raise NotImplementedError

    def read_chunks(self, name: str, *, offset: int = 0, limit: int = 0, chunk_bytes: int = 2097152) -> Iterator[bytes]:
        """Chunks from `offset`; the whole blob's digest is verified before the last chunk is yielded.

        Raises NotFound, InvalidArgument (offset beyond the end), BlobCorrupt.
        """
        raise NotImplementedError
