"""What is still to be published to MLflow, and what has been.

A row says only that a resource changed; the publisher reads the resource's present state and publishes that. Rows are
written in the transaction of the change, so none is lost, and several rows of one resource may be published as one.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

import sqlalchemy as sa

from supernet_registry.registry.clock import Clock
from supernet_registry.registry.storage.database import run_write, transaction
from supernet_registry.registry.storage.schema import (
    jobs,
    mlflow_runs,
    mlflow_versions,
    outbox,
    registry_identity,
    supernets,
)

__all__ = ["Backlog", "MlflowLinks", "MlflowRun", "MlflowVersion", "Outbox", "OutboxRow", "announce"]

_REASON_LENGTH = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxRow:
    """Something changed: read the resource's present state and publish that."""

    row_id: int
    topic: str  # "job" or "supernet"
    resource: str  # "searchJobs/..." or "supernets/..."; may be gone by now
    create_time: datetime
    attempts: int
    dead_reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """How far the publisher is behind."""

    count: int
    oldest_age_s: float


def announce(connection: sa.Connection, topic: Literal["job", "supernet"], resource: str, now: datetime) -> None:
    """Write an outbox row in the transaction of the change itself."""
    connection.execute(
        outbox.insert().values(topic=topic, resource=resource, create_time=now, attempts=0, not_before=now)
    )


class Outbox:
    """The queue between the catalog and the publisher."""

    def __init__(self, engine: sa.Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock

    def pending(self, limit: int = 100) -> list[OutboxRow]:
        """Oldest first; deferred and dead rows are left out."""
        ready = _alive() & (outbox.c.not_before <= self._clock())
        return self._rows(outbox.select().where(ready).order_by(outbox.c.row_id).limit(limit))

    def done(self, row_ids: Iterable[int]) -> None:
        """Forget published rows."""
        with transaction(self._engine) as connection:
            connection.execute(outbox.delete().where(outbox.c.row_id.in_(list(row_ids))))

    def defer(self, row_ids: Iterable[int], seconds: float) -> None:
        """Count a failed attempt; the rows are pending again after `seconds`."""
        later = self._clock() + timedelta(seconds=seconds)
        self._update(row_ids, attempts=outbox.c.attempts + 1, not_before=later)

    def bury(self, row_ids: Iterable[int], reason: str) -> None:
        """Give rows up that MLflow refuses for good; they are kept to be read and no longer tried."""
        self._update(row_ids, attempts=outbox.c.attempts + 1, dead_reason=reason[:_REASON_LENGTH])

    def dead(self, limit: int = 100) -> list[OutboxRow]:
        """Rows that were given up, newest first."""
        buried = outbox.c.dead_reason.is_not(None)
        return self._rows(outbox.select().where(buried).order_by(outbox.c.row_id.desc()).limit(limit))

    def backlog(self) -> Backlog:
        """Rows that wait, deferred ones included, and the age of the oldest."""
        figures = sa.select(sa.func.count(), sa.func.min(outbox.c.create_time)).where(_alive())
        with transaction(self._engine, write=False) as connection:
            count, oldest = connection.execute(figures).one()
        age = (self._clock() - oldest).total_seconds() if oldest is not None else 0.0
        return Backlog(count=count, oldest_age_s=max(age, 0.0))

    def refill(self) -> int:
        """Queue every job and supernet anew and forget what was published; the number of entries added.

        Entries that wait stay: that of a deleted supernet is the only trace of it. Dead letters are tried again.
        """
        now = self._clock()
        with transaction(self._engine) as connection:
            connection.execute(mlflow_runs.delete())
            connection.execute(mlflow_versions.delete())
            connection.execute(outbox.update().values(dead_reason=None, not_before=now))
            ids = {
                ("job", "searchJobs"): connection.scalars(sa.select(jobs.c.id).order_by(jobs.c.row_id)).all(),
                ("supernet", "supernets"): connection.scalars(
                    sa.select(supernets.c.id).order_by(supernets.c.row_id)
                ).all(),
            }
            rows = [(topic, f"{kind}/{name}") for (topic, kind), names in ids.items() for name in names]
            if rows:
                values = {"create_time": now, "attempts": 0, "not_before": now}
                connection.execute(
                    outbox.insert(), [{"topic": topic, "resource": resource, **values} for topic, resource in rows]
                )
        return len(rows)

    def _rows(self, statement: sa.Select[Any]) -> list[OutboxRow]:
        with transaction(self._engine, write=False) as connection:
            return [
                OutboxRow(
                    row_id=row.row_id,
                    topic=row.topic,
                    resource=row.resource,
                    create_time=row.create_time,
                    attempts=row.attempts,
                    dead_reason=row.dead_reason,
                )
                for row in connection.execute(statement)
            ]

    def _update(self, row_ids: Iterable[int], **values: Any) -> None:
        with transaction(self._engine) as connection:
            connection.execute(outbox.update().where(outbox.c.row_id.in_(list(row_ids))).values(**values))


def _alive() -> sa.ColumnElement[bool]:
    return outbox.c.dead_reason.is_(None)


@dataclass(frozen=True, slots=True, kw_only=True)
class MlflowRun:
    """Job → MLflow run."""

    job: str
    experiment_id: str
    run_id: str
    published_sequence: int = 0
    finished: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MlflowVersion:
    """Supernet version → MLflow model version."""

    version: str
    model_name: str
    model_version: str


class MlflowLinks:
    """What the publisher made in MLflow. Kept here, since creating a model version there is not idempotent."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def registry_id(self) -> str:
        """A UUID that tells this registry from others that feed the same tracking server; made when first needed."""

        def find_or_make(connection: sa.Connection) -> str:
            found = connection.execute(sa.select(registry_identity.c.id)).scalar_one_or_none()
            if found is None:
                found = str(uuid.uuid4())
                connection.execute(registry_identity.insert().values(row_id=1, id=found))
            return str(found)

        return run_write(self._engine, find_or_make)

    def run(self, job: str) -> MlflowRun | None:
        """The run of a job."""
        row = self._find(mlflow_runs.c.job == job, mlflow_runs)
        return MlflowRun(**row) if row else None

    def any_run(self) -> str | None:
        """Id of a run that was published before, if there is one: to ask whether MLflow is still the same store."""
        with transaction(self._engine, write=False) as connection:
            return connection.scalar(sa.select(mlflow_runs.c.run_id).limit(1))

    def save_run(self, run: MlflowRun) -> None:
        """Insert or replace."""
        self._save(mlflow_runs, mlflow_runs.c.job == run.job, asdict(run))

    def versions(self, model_name: str) -> dict[str, str]:
        """MLflow's number of every version that has been published to a registered model."""
        table = mlflow_versions
        query = sa.select(table.c.version, table.c.model_version).where(table.c.model_name == model_name)
        with transaction(self._engine, write=False) as connection:
            return {row.version: row.model_version for row in connection.execute(query)}

    def save_version(self, link: MlflowVersion) -> None:
        """Insert or replace."""
        self._save(mlflow_versions, mlflow_versions.c.version == link.version, asdict(link))

    def forget_versions(self, model_name: str) -> None:
        """Remove, after the registered model was deleted."""
        with transaction(self._engine) as connection:
            connection.execute(mlflow_versions.delete().where(mlflow_versions.c.model_name == model_name))

    def _find(self, key: sa.ColumnElement[bool], table: sa.Table) -> dict[str, Any] | None:
        with transaction(self._engine, write=False) as connection:
            row = connection.execute(table.select().where(key)).mappings().one_or_none()
        return dict(row) if row else None

    def _save(self, table: sa.Table, key: sa.ColumnElement[bool], values: dict[str, Any]) -> None:
        def save(connection: sa.Connection) -> None:
            if connection.execute(table.update().where(key).values(values)).rowcount == 0:
                connection.execute(table.insert().values(values))

        run_write(self._engine, save)
