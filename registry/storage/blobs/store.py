"""What a blob store is: bytes by their sha256, content-addressed.

Each store is a file of its own beside this one and passes the suite in `tests/registry/catalog/test_blob_stores.py`.
`registry.catalog.blobs.Blobs` is what the rest of the service uses: a store together with its table.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from supernet_registry.search.errors import BlobCorrupt, NotFound

__all__ = ["BlobStore", "corrupt"]

_READ_BYTES = 1024 * 1024
SHA256 = re.compile(r"[0-9a-f]{64}")


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

    def remove_temporary(self, older_than_s: float, now_s: float) -> int:
        """Remove what interrupted calls left behind, such as temporary files; returns how many there were.

        Args:
            older_than_s: age in seconds; what is younger may still be in use.
            now_s: seconds since the epoch.
        """


def corrupt(sha256: str, found: str) -> BlobCorrupt:
    """The error for stored bytes that are not what they were."""
    return BlobCorrupt(
        f"The stored bytes of blobs/{sha256} hash to {found}.",
        remedy="Restore the file from a backup, or delete it and upload the blob again.",
        metadata={"blob": f"blobs/{sha256}", "foundSha256": found},
    )


def verify_digest(store: BlobStore, sha256: str) -> None:
    """`BlobStore.verify` of a store that has nothing better to do."""
    with store.open_read(sha256) as file:
        verify_file(file, sha256)


def verify_file(file: BinaryIO, sha256: str) -> None:
    """Read an open blob to its end, a MiB at a time, and compare. Raises BlobCorrupt."""
    digest = hashlib.sha256()
    while chunk := file.read(_READ_BYTES):
        digest.update(chunk)
    if digest.hexdigest() != sha256:
        raise corrupt(sha256, digest.hexdigest())


def absent(sha256: str) -> NotFound:
    return NotFound(f"blobs/{sha256} is not stored.", remedy="Upload it first.", metadata={"blob": f"blobs/{sha256}"})
