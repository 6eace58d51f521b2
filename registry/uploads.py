"""Resumable uploads. (Signatures first; bodies follow.)"""

from __future__ import annotations

from clients.resources import Upload


class Uploads:
    """Uploads in progress (`uploads/{uuid}`)."""

    def start(self, blob: str, size_bytes: int) -> Upload:
        """Start an upload, or return the unfinished one of the same blob; complete at once if the blob exists.

        Raises InvalidArgument, WeightsTooLarge (above max_upload_bytes), QuotaExceeded, DiskFull.
        """
        raise NotImplementedError

    def get(self, name: str) -> Upload:
        """How much is safely stored. Raises NotFound."""
        raise NotImplementedError

    def append(self, name: str, offset: int, content: bytes, crc32c: int) -> Upload:
        """Append one chunk (at most 2 MiB); the last one verifies the whole and makes the blob.

        Raises WrongOffset (metadata: persisted_size), DigestMismatch (chunk: nothing stored; whole: upload dropped),
        InvalidArgument, NotFound, DiskFull.
        """
        raise NotImplementedError
