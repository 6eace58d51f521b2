"""Search jobs as their users see them: created, followed, cancelled. Workers use `Leases`."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import sqlalchemy as sa

from supernet_registry.clients.wire.resources import Executor, JobEvent, JobState, SearchJob, SearchSpec
from supernet_registry.registry.catalog import names
from supernet_registry.registry.catalog.checks import check_number
from supernet_registry.registry.catalog.generalists import (
    check_generalist_draft,
    find_retained,
    generalist_datasets,
    insert_datasets,
)
from supernet_registry.registry.catalog.idempotency import body_digest, check_request_id, remembered
from supernet_registry.registry.catalog.job_checks import check_job_draft
from supernet_registry.registry.catalog.job_rows import JobChange, display_name, find_job, kind_of, select_jobs, to_job
from supernet_registry.registry.catalog.outbox import announce
from supernet_registry.registry.catalog.paging import read_page
from supernet_registry.registry.catalog.records import from_json, to_json
from supernet_registry.registry.catalog.spaces import describe_space, read_space, stored_space
from supernet_registry.registry.catalog.supernets import insert_supernet
from supernet_registry.registry.catalog.versions import find_version
from supernet_registry.registry.clock import Clock
from supernet_registry.registry.storage import failpoints
from supernet_registry.registry.storage.database import run_write, transaction
from supernet_registry.registry.storage.schema import datasets, job_events, jobs, supernets
from supernet_registry.search.errors import ImagesMissing, InvalidArgument, JobFinished, SpaceMismatch
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.spaces import SearchSpace, check_compatible
from supernet_registry.v1.searches_pb2 import JobEvent as EventMessage
from supernet_registry.v1.searches_pb2 import SearchJob as JobMessage
from supernet_registry.v1.searches_pb2 import SearchSpec as SpecMessage

__all__ = ["Jobs", "job_finished"]

JobPage: TypeAlias = tuple[list[SearchJob], str]

_MOST_EVENTS = 1000
_SOURCE_FIELD = "search_job.spec.source_version"


@dataclass(frozen=True, slots=True)
class _Plan:
    """A job that passed every check, with what it refers to."""

    spec: SearchSpec
    space: SearchSpace
    datasets: Sequence[sa.Row[Any]]  # one, or those of a generalist
    supernet: sa.Row[Any] | None  # None: to be created

    @property
    def dataset(self) -> sa.Row[Any]:
        return self.datasets[0]

    @property
    def base_number(self) -> int | None:
        return self.supernet.head_number if self.supernet is not None else None


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
            NotFound: the dataset, or the source version.
            SpaceMismatch: the supernet exists in another space, or the source's weights do not fit.
            ImagesMissing: a job for the pool on a dataset without images.
            RequestIdReused: the request id came before with another body.
        """
        draft = check_job_draft(job)
        return self._create(
            draft, self._plan, method="CreateSearchJob", request_id=request_id, validate_only=validate_only
        )

    def create_generalist(self, job: SearchJob, *, request_id: str = "", validate_only: bool = False) -> SearchJob:
        """Queue the pretraining of a generalist; create its supernet if it does not exist.

        Args:
            job: `supernet`, `stream`, `labels`, and in its spec `datasets`, `source_version` (the base),
                `without_replay`, `search_space`, `epochs`, `patience`, `batch_size`, `seed`, `recipe`; the rest is
                ignored. The datasets of a base that is a generalist itself are added to those named.
            request_id, validate_only: as for `create`.

        Raises:
            InvalidArgument, InvalidSearchSpace, NotFinite: with the path of the field in `PretrainGeneralistRequest`.
            NotFound: a dataset, or the base version.
            SpaceMismatch: the supernet exists in another space, or the base's weights do not fit.
            ImagesMissing: the images of a dataset are not retained.
            RequestIdReused: the request id came before with another body.
        """
        draft = check_generalist_draft(job)
        return self._create(
            draft,
            self._plan_generalist,
            method="PretrainGeneralist",
            request_id=request_id,
            validate_only=validate_only,
        )

    def _create(
        self,
        draft: SearchJob,
        plan: Callable[[sa.Connection, SearchJob], _Plan],
        *,
        method: str,
        request_id: str,
        validate_only: bool,
    ) -> SearchJob:
        request_id = check_request_id(request_id)
        if validate_only:
            with transaction(self._engine, write=False) as connection:
                return _preview(draft, plan(connection, draft))

        def create(connection: sa.Connection) -> SearchJob:
            name = remembered(
                connection,
                lambda: self._insert(connection, draft, plan(connection, draft)),
                method=method,
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

    def _plan(self, connection: sa.Connection, draft: SearchJob) -> _Plan:
        """Check a draft against the catalog."""
        assert draft.spec is not None
        dataset = _find_dataset(connection, draft)
        if draft.spec.executor is Executor.POOL and dataset.images_sha256 is None:
            raise ImagesMissing(
                f"The registry has no images of {draft.dataset}.",
                remedy="Upload the images with the dataset, or run the search where they are (`--here`).",
                field="search_job.dataset",
                metadata={"resource": draft.dataset},
            )
        supernet = _find_supernet(connection, draft.supernet)
        space = _space_of(draft, supernet, "search_job.spec.search_space")
        Recipe().override(variant=draft.spec.variant.recipe_name).check_space(space, field="search_job.spec.variant")
        spec = replace(draft.spec, search_space=describe_space(space))
        if spec.source_version:
            source = find_version(connection, spec.source_version, _SOURCE_FIELD)
            spec = replace(spec, source_version=_check_source(connection, source, space, _SOURCE_FIELD))
        return _Plan(spec, space, [dataset], supernet)

    def _plan_generalist(self, connection: sa.Connection, draft: SearchJob) -> _Plan:
        """Check a generalist's draft against the catalog."""
        assert draft.spec is not None
        spec = draft.spec
        base = find_version(connection, spec.source_version, "base_version") if spec.source_version else None
        learnt = generalist_datasets(connection, [base.job_row]).get(base.job_row, []) if base is not None else []
        known = [names.dataset_name(dataset.id) for dataset in learnt]
        if spec.without_replay and set(spec.datasets) <= set(known):
            raise InvalidArgument(
                "Without replay there is nothing to train on: the base knows every dataset.",
                remedy="Name a new dataset, or let the base's be learnt along.",
                field="datasets",
            )
        rows = find_retained(connection, list(dict.fromkeys([*known, *spec.datasets])))
        supernet = _find_supernet(connection, draft.supernet)
        if base is not None and supernet is None and spec.search_space is None:
            space = stored_space(base.space)
        else:
            space = _space_of(draft, supernet, "search_space")
        if base is not None and stored_space(base.space).id != space.id:
            raise SpaceMismatch(
                f"The base's search space {stored_space(base.space).id} is not {space.id}; heads cannot be mapped.",
                remedy="Go on in the base's search space, or begin without a base.",
                field="base_version",
            )
        spec = replace(
            spec,
            search_space=describe_space(space),
            executor=Executor.POOL,
            datasets=tuple(names.dataset_name(row.id) for row in rows),
            source_version="" if base is None else _check_source(connection, base, space, "base_version"),
        )
        return _Plan(spec, space, rows, supernet)

    def _insert(self, connection: sa.Connection, draft: SearchJob, plan: _Plan) -> str:
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


def _preview(draft: SearchJob, plan: _Plan) -> SearchJob:
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
        kind=kind_of(plan.spec),
    )


def job_finished(name: str, state: JobState) -> JobFinished:
    """The error for what can no longer be done to an ended job."""
    return JobFinished(
        f"{name} has ended already: {state}.",
        remedy="Create a new job.",
        field="name",
        metadata={"resource": name, "state": state.value},
    )


def _find_dataset(connection: sa.Connection, draft: SearchJob) -> sa.Row[Any]:
    dataset_id = names.dataset_id(draft.dataset, "search_job.dataset")
    # Shared lock: the images cannot be detached before the job that needs them is in the table.
    statement = datasets.select().where(datasets.c.id == dataset_id).with_for_update(read=True)
    row = connection.execute(statement).one_or_none()
    if row is None:
        raise names.not_found(draft.dataset, "search_job.dataset", "Register the dataset first.")
    return row


def _find_supernet(connection: sa.Connection, name: str) -> sa.Row[Any] | None:
    statement = supernets.select().where(supernets.c.id == names.supernet_id(name))
    return connection.execute(statement.with_for_update(read=True)).one_or_none()


def _space_of(draft: SearchJob, supernet: sa.Row[Any] | None, field: str) -> SearchSpace:
    """The job's space: what it asks for, else its supernet's, else the default one."""
    assert draft.spec is not None
    if supernet is None:
        return read_space(draft.spec.search_space, field)
    existing = stored_space(supernet.space)
    if draft.spec.search_space is not None:
        asked = read_space(draft.spec.search_space, field)
        if asked.id != existing.id:
            raise SpaceMismatch(
                f"{draft.supernet} has the search space {existing.id}; the job asks for {asked.id}.",
                remedy="Leave the search space out, or search into another supernet.",
                field=field,
                metadata={"supernetSpace": existing.id, "jobSpace": asked.id},
            )
    return existing


def _check_source(connection: sa.Connection, row: sa.Row[Any], space: SearchSpace, field: str) -> str:
    """Name of a source version (`head` resolved), whose weights fit `space`."""
    # Shared lock: its supernet cannot be deleted before the job that needs it is in the table.
    connection.execute(
        sa.select(supernets.c.row_id).where(supernets.c.row_id == row.supernet_row).with_for_update(read=True)
    )
    try:
        check_compatible(stored_space(row.space), space)
    except SpaceMismatch as error:
        error.field = field
        raise
    return names.version_name(row.supernet_id, row.number)
