"""Search jobs as workers see them: leases, fencing tokens, progress. (Signatures first; bodies follow.)"""

from __future__ import annotations

from collections.abc import Sequence

from clients.resources import AbandonOutcome, JobError, JobEvent, Lease, SearchJob


class Leases:
    """WorkerService's half of the jobs; the result goes through `WriteBack.complete`. Stale fences raise LeaseLost."""

    def lease(self, worker: str, *, device: str = "", job: str = "") -> tuple[Lease, SearchJob, str] | None:
        """Take the oldest queued pool job (or the named one): (lease, job, checkpoint blob or ""); None: nothing to do.

        Raises NotFound, JobFinished (named job only).
        """
        raise NotImplementedError

    def renew(self, job: str, fence: int) -> tuple[Lease, bool]:
        """(prolonged lease, whether the job should stop)."""
        raise NotImplementedError

    def report(self, job: str, fence: int, events: Sequence[JobEvent]) -> int:
        """Append events (epoch, decision or message); the job's last sequence."""
        raise NotImplementedError

    def save_checkpoint(self, job: str, fence: int, checkpoint_blob: str) -> None:
        raise NotImplementedError

    def abandon(self, job: str, fence: int, outcome: AbandonOutcome, error: JobError | None = None) -> SearchJob:
        raise NotImplementedError

    def expire(self) -> list[str]:
        """Take jobs from workers whose lease ran out; names of the jobs changed. Call every few seconds."""
        raise NotImplementedError

    def readopt(self) -> int:
        """At server start: give every running job a whole lease from now, so that its worker finds it again."""
        raise NotImplementedError
