"""Search jobs as their users see them: created, followed, cancelled. Workers use `Leases`."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

import sqlalchemy as sa

from supernet_registry.clients.wire.resources import JobEvent, JobState, SearchJob, SearchSpec
from supernet_registry.registry.catalog import names
from supernet_registry.registry.catalog.checks import check_number
from supernet_registry.registry.catalog.generalists import insert_datasets
from supernet_registry.registry.catalog.idempotency import body_digest, check_request_id, remembered
from supernet_registry.registry.catalog.job_rows import JobChange, display_name, find_job, select_jobs, to_job
from supernet_registry.registry.catalog.kinds import Plan, kind_of
from supernet_registry.registry.catalog.outbox import announce
from supernet_registry.registry.catalog.paging import read_page
from supernet_registry.registry.catalog.records import from_json, to_json
from supernet_registry.registry.catalog.supernets import insert_supernet
from supernet_registry.registry.clock import Clock
from supernet_registry.registry.storage import failpoints
from supernet_registry.registry.storage.database import run_write, transaction
from supernet_registry.registry.storage.schema import job_events, jobs
from supernet_registry.search.errors import JobFinished
from supernet_registry.v1.searches_pb2 import JobEvent as EventMessage
from supernet_registry.v1.searches_pb2 import SearchJob as JobMessage
from supernet_registry.v1.searches_pb2 import SearchSpec as SpecMessage

__all__ = ["Jobs", "job_finished"]

JobPage: TypeAlias = tuple[list[SearchJob], str]

_MOST_EVENTS = 1000


class Jobs:
    """SearchService's calls."""

    def __init__(self, engine: sa.Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock

    def create(self, job: SearchJob, *, request_id: str = "", validate_only: bool = False) -> SearchJob:
        """Queue a job; create its supernet if it does not exist. Output-only fields of `job` are ignored.

        Args:
            request_id: a UUID; the same id and body get the same job.
            validate_only: check everything, write nothing; the job returned has no name.

        Raises:
            InvalidArgument, InvalidSearchSpace, NotFinite: with the path of the field.
            NotFound: a dataset, or the version to start from.
            SpaceMismatch: the supernet exists in another space, or the source's weights do not fit.
            ImagesMissing: the registry lacks images that the job needs, or does not retain them.
            RequestIdReused: the request id came before with another body.
        """
        kind = kind_of(job.spec or SearchSpec())
        draft = kind.check(job)
        request_id = check_request_id(request_id)
        if validate_only:
            with transaction(self._engine, write=False) as connection:
                return _preview(draft, kind.plan(connection, draft))

        def create(connection: sa.Connection) -> SearchJob:
            name = remembered(
                connection,
                lambda: self._insert(connection, draft, kind.plan(connection, draft)),
                method="CreateSearchJob",
                request_id=request_id,
                body_sha256=body_digest(draft, JobMessage),
                clock=self._clock,
            )
            return to_job(find_job(connection, name))

        return run_write(self._engine, create)

    def get(self, name: str) -> SearchJob:
        """One job. Raises NotFound, InvalidArgument."""
        with transaction(self._engine, write=False) as connection:
            return to_job(find_job(connection, name))

    def cancel(self, name: str) -> SearchJob:
        """Ask a job to stop: a queued one is cancelled at once, a running one is CANCELLING until its worker confirms.

        Cancelling twice is no error.

        Raises:
            NotFound, InvalidArgument.
            JobFinished: it succeeded or failed before.
        """

        def cancel(connection: sa.Connection) -> SearchJob:
            row = find_job(connection, name, lock=True)
            state = JobState(row.state)
            if state in (JobState.CANCELLING, JobState.CANCELLED):
                return to_job(row)
            if state.ended:
                raise job_finished(name, state)
            change = JobChange(connection, row, self._clock())
            change.enter(JobState.CANCELLED if state is JobState.QUEUED else JobState.CANCELLING)
            return change.save()

        return run_write(self._engine, cancel)

    def events(self, name: str, *, after_sequence: int = 0, limit: int = 500) -> Sequence[JobEvent]:
        """Events with a larger sequence, ascending, at most `limit` (up to 1000). Raises NotFound, InvalidArgument."""
        check_number(after_sequence, "after_sequence", low=0)
        check_number(limit, "limit", low=1, high=_MOST_EVENTS)
        with transaction(self._engine, write=False) as connection:
            row = find_job(connection, name)
            statement = (
                sa.select(job_events.c.body)
                .where(job_events.c.job_row == row.row_id, job_events.c.sequence > after_sequence)
                .order_by(job_events.c.sequence)
                .limit(limit)
            )
            return [from_json(body, EventMessage, JobEvent) for body in connection.execute(statement).scalars()]

    def list(
        self, *, page_size: int = 0, page_token: str = "", state: JobState | None = None, stream: str = ""
    ) -> JobPage:
        """One page of jobs, newest first, and the next page's token. Raises InvalidArgument, InvalidPageToken."""
        statement = select_jobs()
        if state not in (None, JobState.UNSPECIFIED):
            statement = statement.where(jobs.c.state == state.value)
        if stream:
            statement = statement.where(jobs.c.stream == stream)
        with transaction(self._engine, write=False) as connection:
            return read_page(
                connection,
                statement,
                jobs.c.row_id,
                lambda rows: [to_job(row) for row in rows],
                query=json.dumps(["jobs", state or "", stream]),
                page_size=page_size,
                page_token=page_token,
            )

    def _insert(self, connection: sa.Connection, draft: SearchJob, plan: Plan) -> str:
        now = self._clock()
        supernet_id = names.supernet_id(draft.supernet)
        if plan.supernet is None:
            insert_supernet(connection, supernet_id, plan.space, now)
            announce(connection, "supernet", draft.supernet, now)
        job_id = uuid.uuid4().hex[:16]
        connection.execute(
            jobs.insert().values(
                id=job_id,
                supernet_id=supernet_id,
                dataset_row=plan.dataset.row_id,
                spec=to_json(plan.spec, SpecMessage),
                executor=plan.spec.executor.value,
                stream=draft.stream,
                stream_step=draft.stream_step,
                labels=dict(draft.labels),
                base_number=plan.base_number,
                state=JobState.QUEUED.value,
                attempt=0,
                lost_leases=0,
                fence=0,
                worker="",
                device="",
                source_version=plan.spec.source_version,
                version_name="",
                head_moved=False,
                error_reason="",
                error_message="",
                last_sequence=0,
                create_time=now,
                revision=1,
            )
        )
        name = names.job_name(job_id)
        row = find_job(connection, name)
        if plan.spec.datasets:
            insert_datasets(connection, row.row_id, plan.datasets)
        change = JobChange(connection, row, now)
        change.enter(JobState.QUEUED)
        change.save()
        failpoints.hit("job.before_commit")
        return name


def _preview(draft: SearchJob, plan: Plan) -> SearchJob:
    """The job as it would be created."""
    base = plan.base_number
    supernet_id = names.supernet_id(draft.supernet)
    return replace(
        draft,
        dataset=names.dataset_name(plan.dataset.id),
        spec=plan.spec,
        state=JobState.QUEUED,
        dataset_display_name=display_name(plan.spec.datasets, plan.dataset.display_name),
        base_version=names.version_name(supernet_id, base) if base is not None else "",
    )


def job_finished(name: str, state: JobState) -> JobFinished:
    """The error for what can no longer be done to an ended job."""
    return JobFinished(
        f"{name} has ended already: {state}.",
        remedy="Create a new job.",
        field="name",
        metadata={"resource": name, "state": state.value},
    )
