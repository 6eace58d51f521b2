"""Search jobs as workers see them: leases, fencing tokens, progress, checkpoints.

A lease is a promise of the worker to call again soon; the fencing token (it grows with every lease of a job) is what
keeps a paused worker that wakes up too late from doing anything: every call here and `WriteBack.complete` compare it
under the job's lock.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from supernet_registry.clients.wire.resources import (
    AbandonOutcome,
    Executor,
    JobError,
    JobEvent,
    JobState,
    Lease,
    SearchJob,
)
from supernet_registry.registry.catalog import names
from supernet_registry.registry.catalog.blobs import Blobs, release
from supernet_registry.registry.catalog.checks import check_text
from supernet_registry.registry.catalog.event_checks import check_event, check_source, explicit_mode
from supernet_registry.registry.catalog.job_rows import LEASED, JobChange, find_job, leased_job, select_jobs
from supernet_registry.registry.catalog.jobs import job_finished
from supernet_registry.registry.catalog.records import to_json
from supernet_registry.registry.clock import Clock
from supernet_registry.registry.settings import Settings
from supernet_registry.registry.storage import failpoints
from supernet_registry.registry.storage.database import run_write, transaction
from supernet_registry.registry.storage.schema import datasets, job_events, jobs
from supernet_registry.search.errors import InvalidArgument, SearchFailed
from supernet_registry.v1.searches_pb2 import EpochMetrics as EpochMessage
from supernet_registry.v1.searches_pb2 import SourceDecision as DecisionMessage

__all__ = ["Leases"]

MOST_EVENTS = 1000
_REASON = re.compile(r"[A-Z][A-Z0-9_]{0,62}")
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_LONGEST_ERROR = 10_000


class Leases:
    """WorkerService's calls but the last: the result goes through `WriteBack.complete`.

    Every call with a `fence` raises NotFound for an unknown job, and LeaseLost, without any effect, where the token is
    not that of the job's present lease.
    """

    def __init__(self, engine: sa.Engine, blobs: Blobs, settings: Settings, clock: Clock) -> None:
        self._engine = engine
        self._blobs = blobs
        self._clock = clock
        self._lease_seconds = settings.lease_seconds
        self._max_attempts = settings.max_attempts

    def lease(self, worker: str, *, device: str = "", job: str = "") -> tuple[Lease, SearchJob, str] | None:
        """Take the oldest queued job of the pool whose images are here, or the named job.

        Jobs that their caller runs are leased by name only.

        Returns:
            (lease, job, `blobs/...` of the checkpoint to resume from or ""); None if there is nothing to take, also
            while somebody else holds the named job.

        Raises:
            InvalidArgument: malformed name of worker or job.
            NotFound, JobFinished: the named job.
        """
        check_text(worker, "worker", max_length=200, required=True)
        check_text(device, "device", max_length=200)
        if not job and not self._anything_queued():
            return None  # an idle worker's question must not take the writers' lock

        def take(connection: sa.Connection) -> tuple[Lease, SearchJob, str] | None:
            row = _named(connection, job) if job else _oldest(connection)
            if row is None:
                return None
            now = self._clock()
            change = JobChange(connection, row, now)
            change.set(
                attempt=row.attempt + 1,
                fence=row.fence + 1,
                worker=worker,
                device=device,
                lease_until=self._until(now),
                start_time=row.start_time or now,
            )
            change.enter(JobState.RUNNING)
            leased = change.save()
            checkpoint = names.blob_name(row.checkpoint_sha256) if row.checkpoint_sha256 else ""
            return self._lease(leased.name, row.fence + 1, now), leased, checkpoint

        return run_write(self._engine, take)

    def renew(self, job: str, fence: int) -> tuple[Lease, bool]:
        """Prolong a lease; returns it, and whether the job should stop."""

        def renew(connection: sa.Connection) -> tuple[Lease, bool]:
            change = leased_job(connection, job, fence, self._clock())
            self._prolong(connection, change)
            return self._lease(job, fence, change.now), change.row.state == JobState.CANCELLING.value

        return run_write(self._engine, renew)

    def report(self, job: str, fence: int, events: Sequence[JobEvent]) -> int:
        """Append events (epochs, the decision, messages) and prolong the lease; returns the job's last sequence.

        What the job has already is not appended again: an epoch of the same phase, the very same decision.

        Raises:
            InvalidArgument, NotFinite: an event; the field names it. Nothing is appended.
            NotFound, SpaceMismatch: the decision's source.
        """
        if len(events) > MOST_EVENTS:
            raise InvalidArgument(f"{len(events)} events.", remedy=f"Send at most {MOST_EVENTS}.", field="events")
        for i, event in enumerate(events):
            check_event(event, f"events[{i}]")

        def report(connection: sa.Connection) -> int:
            change = leased_job(connection, job, fence, self._clock())
            self._prolong(connection, change)
            before = change.sequence
            _append(connection, change, events)
            if change.sequence != before:
                change.save()
            return change.sequence

        return run_write(self._engine, report)

    def save_checkpoint(self, job: str, fence: int, checkpoint_blob: str) -> None:
        """Remember an uploaded checkpoint; the one before is kept too, older ones are released.

        Raises:
            NotFound, InvalidArgument: the blob.
        """

        def save(connection: sa.Connection) -> None:
            change = leased_job(connection, job, fence, self._clock())
            row = change.row
            sha256 = self._blobs.refer(connection, checkpoint_blob, "checkpoint_blob")
            if sha256 == row.checkpoint_sha256:
                return
            release(connection, row.previous_checkpoint_sha256, change.now)
            values = {"checkpoint_sha256": sha256, "previous_checkpoint_sha256": row.checkpoint_sha256}
            connection.execute(jobs.update().where(jobs.c.row_id == row.row_id).values(values))
            failpoints.hit("checkpoint.before_commit")

        run_write(self._engine, save)

    def abandon(self, job: str, fence: int, outcome: AbandonOutcome, error: JobError | None = None) -> SearchJob:
        """End an attempt without a result.

        FAILED ends the job with the error; CANCELLED ends it; REQUEUE lets another worker go on from the checkpoint,
        unless cancellation was asked for.

        Raises:
            InvalidArgument: no outcome.
        """
        if outcome is AbandonOutcome.UNSPECIFIED:
            raise InvalidArgument("No outcome.", remedy="Say FAILED, CANCELLED or REQUEUE.", field="outcome")

        def abandon(connection: sa.Connection) -> SearchJob:
            change = leased_job(connection, job, fence, self._clock())
            if outcome is AbandonOutcome.FAILED:
                change.fail(_clean_error(error))
            elif outcome is AbandonOutcome.CANCELLED or change.row.state == JobState.CANCELLING.value:
                change.enter(JobState.CANCELLED)
            else:
                change.set(worker="")
                change.enter(JobState.QUEUED)
            return change.save()

        return run_write(self._engine, abandon)

    def expire(self) -> list[str]:
        """Take jobs from workers whose lease ran out; returns the names of the jobs. Call it every few seconds.

        The job is queued again and keeps its checkpoint; it fails after `max_attempts` lost workers, and is cancelled
        if that was asked for.
        """
        overdue = jobs.c.state.in_(LEASED) & (jobs.c.lease_until < self._clock())
        with transaction(self._engine, write=False) as connection:
            if connection.execute(sa.select(jobs.c.row_id).where(overdue).limit(1)).first() is None:
                return []

        def expire(connection: sa.Connection) -> list[str]:
            statement = select_jobs().where(overdue).order_by(jobs.c.row_id)
            rows = connection.execute(statement.with_for_update(of=jobs, skip_locked=True)).all()
            return [self._expire(connection, row).name for row in rows]

        return run_write(self._engine, expire)

    def readopt(self) -> int:
        """At server start: give every running job a whole lease from now, so that its worker finds it again.

        Without it a server that was down for longer than a lease would take all jobs from workers that are well.
        """

        def readopt(connection: sa.Connection) -> int:
            until = self._until(self._clock())
            statement = jobs.update().where(jobs.c.state.in_(LEASED), jobs.c.lease_until < until)
            return connection.execute(statement.values(lease_until=until)).rowcount

        return run_write(self._engine, readopt)

    def _expire(self, connection: sa.Connection, row: sa.Row[Any]) -> SearchJob:
        change = JobChange(connection, row, self._clock())
        lost = row.lost_leases + 1
        change.set(lost_leases=lost)
        change.tell(JobEvent(message=f"Worker {row.worker} stopped renewing its lease (attempt {row.attempt})."))
        if row.state == JobState.CANCELLING.value:
            change.enter(JobState.CANCELLED)
        elif lost >= self._max_attempts:
            message = f"{lost} workers died running this job, the last one was {row.worker}."
            change.fail(JobError(reason=SearchFailed.reason, message=f"{message} Look into the workers' logs."))
        else:
            change.set(worker="")
            change.enter(JobState.QUEUED)
        return change.save()

    def _anything_queued(self) -> bool:
        with transaction(self._engine, write=False) as connection:
            return connection.execute(_queued().limit(1)).first() is not None

    def _prolong(self, connection: sa.Connection, change: JobChange) -> None:
        statement = jobs.update().where(jobs.c.row_id == change.row.row_id)
        connection.execute(statement.values(lease_until=self._until(change.now)))

    def _until(self, now: datetime) -> datetime:
        return now + timedelta(seconds=self._lease_seconds)

    def _lease(self, job: str, fence: int, now: datetime) -> Lease:
        return Lease(job=job, fence=fence, expire_time=self._until(now), duration_seconds=self._lease_seconds)


def _queued() -> sa.Select[Any]:
    """Jobs that any worker may take, oldest first."""
    return (
        select_jobs()
        .where(
            jobs.c.state == JobState.QUEUED.value,
            jobs.c.executor == Executor.POOL.value,
            datasets.c.images_sha256.is_not(None),
        )
        .order_by(jobs.c.row_id)
    )


def _oldest(connection: sa.Connection) -> sa.Row[Any] | None:
    return connection.execute(_queued().limit(1).with_for_update(of=jobs, skip_locked=True)).one_or_none()


def _named(connection: sa.Connection, name: str) -> sa.Row[Any] | None:
    row = find_job(connection, name, "job", lock=True)
    state = JobState(row.state)
    if state.ended:
        raise job_finished(name, state)
    return row if state is JobState.QUEUED else None


def _append(connection: sa.Connection, change: JobChange, events: Sequence[JobEvent]) -> None:
    keys = sa.select(job_events.c.phase, job_events.c.epoch).where(
        job_events.c.job_row == change.row.row_id, job_events.c.epoch.is_not(None)
    )
    known = {(phase, epoch) for phase, epoch in connection.execute(keys)}
    decision = change.row.decision
    for event in events:
        if event.epoch is not None:
            key = (event.epoch.phase.value, event.epoch.epoch)
            if key in known:
                continue
            known.add(key)
            change.set(progress=to_json(event.epoch, EpochMessage))
        elif event.decision is not None:
            decided = explicit_mode(event.decision)
            body = to_json(decided, DecisionMessage)
            if body == decision:
                continue
            # Another decision than before is kept: an attempt without a checkpoint may have tasted anew.
            decision = body
            change.set(decision=body, source_version=check_source(connection, change.row, decided))
            change.tell(JobEvent(decision=decided))
            continue
        change.tell(event)


def _clean_error(error: JobError | None) -> JobError:
    """An error as a worker tells it, made storable: losing it for a control character in its text would be worse."""
    reason = error.reason if error is not None and _REASON.fullmatch(error.reason) else SearchFailed.reason
    message = _UNPRINTABLE.sub(" ", error.message)[:_LONGEST_ERROR] if error is not None else ""
    return JobError(reason=reason, message=message)
