"""Rows of jobs and how they change: shared by users' calls, workers' calls and write-back."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from supernet_registry.clients.wire.resources import (
    EpochMetrics,
    JobError,
    JobEvent,
    JobState,
    SearchJob,
    SearchSpec,
    SourceDecision,
)
from supernet_registry.registry.catalog import names
from supernet_registry.registry.catalog.blobs import release
from supernet_registry.registry.catalog.outbox import announce
from supernet_registry.registry.catalog.records import etag, from_json, to_json
from supernet_registry.registry.storage.schema import datasets, job_events, jobs
from supernet_registry.search.errors import LeaseLost
from supernet_registry.v1.searches_pb2 import EpochMetrics as EpochMessage
from supernet_registry.v1.searches_pb2 import JobEvent as EventMessage
from supernet_registry.v1.searches_pb2 import SearchSpec as SpecMessage
from supernet_registry.v1.searches_pb2 import SourceDecision as DecisionMessage

__all__ = [
    "ENDED",
    "LEASED",
    "JobChange",
    "display_name",
    "find_job",
    "lease_lost",
    "leased_job",
    "select_jobs",
    "to_job",
]

ENDED = tuple(state.value for state in JobState if state.ended)
LEASED = (JobState.RUNNING.value, JobState.CANCELLING.value)


class JobChange:
    """A change of one locked job: fields and events, written by `save` in the caller's transaction."""

    def __init__(self, connection: sa.Connection, row: sa.Row[Any], now: datetime) -> None:
        self.row = row
        self.now = now
        self.sequence: int = row.last_sequence
        self._connection = connection
        self._values: dict[str, Any] = {}

    def set(self, **values: Any) -> None:
        """Set columns."""
        self._values.update(values)

    def tell(self, event: JobEvent) -> None:
        """Append an event; sequences have no gaps since the job's row is locked."""
        self.sequence += 1
        epoch = event.epoch
        body = JobEvent(
            sequence=self.sequence,
            job=names.job_name(self.row.id),
            time=self.now,
            state=event.state,
            epoch=epoch,
            decision=event.decision,
            message=event.message,
        )
        self._connection.execute(
            job_events.insert().values(
                job_row=self.row.row_id,
                sequence=self.sequence,
                phase=epoch.phase.value if epoch else None,
                epoch=epoch.epoch if epoch else None,
                body=to_json(body, EventMessage),
            )
        )

    def enter(self, state: JobState) -> None:
        """Go into a state and tell so; a state without a worker gives up the lease, an end also the checkpoints."""
        self.set(state=state.value)
        self.tell(JobEvent(state=state))
        if state.value not in LEASED:
            self.set(lease_until=None)
        if state.ended:
            self.set(end_time=self.now, checkpoint_sha256=None, previous_checkpoint_sha256=None)
            for sha256 in {self.row.checkpoint_sha256, self.row.previous_checkpoint_sha256}:
                release(self._connection, sha256, self.now)

    def fail(self, error: JobError) -> None:
        """End with an error."""
        self.set(error_reason=error.reason, error_message=error.message)
        self.enter(JobState.FAILED)

    def save(self) -> SearchJob:
        """Write, announce to the publisher, and return the job as it is now."""
        statement = jobs.update().where(jobs.c.row_id == self.row.row_id)
        values = {**self._values, "last_sequence": self.sequence}
        self._connection.execute(statement.values(**values, revision=jobs.c.revision + 1))
        name = names.job_name(self.row.id)
        announce(self._connection, "job", name, self.now)
        return to_job(find_job(self._connection, name))


def select_jobs() -> sa.Select[Any]:
    """All jobs, with what their resource shows of the dataset."""
    return sa.select(
        jobs,
        datasets.c.id.label("dataset_id"),
        datasets.c.display_name.label("dataset_display_name"),
        datasets.c.class_count,
    ).join(datasets, jobs.c.dataset_row == datasets.c.row_id)


def find_job(connection: sa.Connection, name: str, field: str = "name", *, lock: bool = False) -> sa.Row[Any]:
    """Row (of `select_jobs`) of a job. Raises NotFound, InvalidArgument, with `field`."""
    statement = select_jobs().where(jobs.c.id == names.job_id(name, field))
    row = connection.execute(statement.with_for_update(of=jobs) if lock else statement).one_or_none()
    if row is None:
        raise names.not_found(name, field, "List the search jobs.")
    return row


def leased_job(connection: sa.Connection, name: str, fence: int, now: datetime) -> JobChange:
    """The job, locked, if `fence` is the token of its present lease.

    A lease that ran out but was not taken away yet still counts: nobody else has worked on the job meanwhile.

    Raises:
        NotFound, InvalidArgument: the name.
        LeaseLost: another attempt owns the job, or it has ended.
    """
    row = find_job(connection, name, "job", lock=True)
    if row.fence != fence or row.state not in LEASED:
        raise lease_lost(row, fence)
    return JobChange(connection, row, now)


def lease_lost(row: sa.Row[Any], fence: int) -> LeaseLost:
    """The error for a stale fencing token."""
    name = names.job_name(row.id)
    return LeaseLost(
        f"Fence {fence} does not own {name}: it is {row.state}, its fence is {row.fence}.",
        remedy="Stop working on it and lease another job.",
        field="fence",
        metadata={"job": name, "fence": str(row.fence), "state": row.state},
    )


def to_job(row: sa.Row[Any]) -> SearchJob:
    """Resource of a row of `select_jobs`."""
    spec = from_json(row.spec, SpecMessage, SearchSpec)
    return SearchJob(
        name=names.job_name(row.id),
        supernet=names.supernet_name(row.supernet_id),
        dataset=names.dataset_name(row.dataset_id),
        spec=spec,
        stream=row.stream,
        stream_step=row.stream_step,
        labels=row.labels,
        state=JobState(row.state),
        attempt=row.attempt,
        worker=row.worker,
        decision=from_json(row.decision, DecisionMessage, SourceDecision) if row.decision is not None else None,
        progress=from_json(row.progress, EpochMessage, EpochMetrics) if row.progress is not None else None,
        version=row.version_name,
        head_moved=row.head_moved,
        error=JobError(reason=row.error_reason, message=row.error_message) if row.error_reason else None,
        last_sequence=row.last_sequence,
        create_time=row.create_time,
        start_time=row.start_time,
        end_time=row.end_time,
        etag=etag(jobs, row.row_id, row.revision),
        dataset_display_name=display_name(spec.datasets, row.dataset_display_name),
        base_version=names.version_name(row.supernet_id, row.base_number) if row.base_number is not None else "",
    )


def display_name(datasets: Sequence[str], first: str) -> str:
    """Of the dataset; a generalist, which has several, says how many."""
    return f"{len(datasets)} datasets" if datasets else first
