"""Removal of what nobody needs any more. (Signatures first; bodies follow.)"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepResult:
    """Counts of what one sweep removed."""

    images_dropped: int = 0
    uploads_dropped: int = 0
    blobs_deleted: int = 0
    bytes_freed: int = 0


class Sweeper:
    """`Catalog.sweeper`; the server calls `sweep()` every `sweep_interval_seconds`."""

    def sweep(self) -> SweepResult:
        """Drop stale uploads, images no job needs and nobody retains, and unreferenced blobs past their grace."""
        raise NotImplementedError
