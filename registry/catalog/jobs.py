"""Search jobs as their users see them. (Signatures first; bodies follow.)"""

from __future__ import annotations

from clients.resources import JobEvent, JobState, SearchJob


class Jobs:
    """SearchService's half of the jobs; workers use `Leases`."""

    def create(self, job: SearchJob, *, request_id: str = "", validate_only: bool = False) -> SearchJob:
        raise NotImplementedError

    def get(self, name: str) -> SearchJob:
        raise NotImplementedError

    def list(
        self, *, page_size: int = 0, page_token: str = "", state: JobState | None = None, stream: str = ""
    ) -> tuple[list[SearchJob], str]:
        raise NotImplementedError

    def cancel(self, name: str) -> SearchJob:
        raise NotImplementedError

    def events(self, name: str, *, after_sequence: int = 0, limit: int = 500) -> "list[JobEvent]":
        """Events with a larger sequence, ascending. Raises NotFound."""
        raise NotImplementedError
