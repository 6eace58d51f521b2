"""The publisher's side of the outbox: entries given up, filling it up again, and who this registry is."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa

from registry import schema
from registry.clock import Clock, utc_now
from registry.database import transaction

__all__ = ["DeadLetter", "any_run", "bury", "dead_letters", "refill", "registry_id"]

REASON_LENGTH = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A resource whose state MLflow refused for good."""

    resource: str
    reason: str


def bury(engine: sa.Engine, row_ids: Iterable[int], reason: str) -> None:
    """Take entries out of the queue and keep them with the reason."""
    table = schema.outbox
    with transaction(engine) as connection:
        connection.execute(
            sa.update(table).where(table.c.row_id.in_(list(row_ids))).values(dead_reason=reason[:REASON_LENGTH])
        )


def dead_letters(engine: sa.Engine) -> list[DeadLetter]:
    """Entries that were given up, oldest first."""
    table = schema.outbox
    query = sa.select(table.c.resource, table.c.dead_reason).where(table.c.dead_reason.is_not(None))
    with transaction(engine, write=False) as connection:
        rows = connection.execute(query.order_by(table.c.row_id)).all()
    return [DeadLetter(resource=resource, reason=reason) for resource, reason in rows]


def refill(engine: sa.Engine, *, clock: Clock = utc_now) -> int:
    """Queue every job and supernet anew, forget all runs, try dead letters again; the number of entries added.

    Entries that wait already stay: that of a deleted supernet is the only trace of it.
    """
    now = clock()
    with transaction(engine) as connection:
        connection.execute(sa.delete(schema.mlflow_runs))
        connection.execute(sa.update(schema.outbox).values(dead_reason=None, not_before=now))
        jobs = connection.scalars(sa.select(schema.jobs.c.id).order_by(schema.jobs.c.row_id)).all()
        supernets = connection.scalars(sa.select(schema.supernets.c.id).order_by(schema.supernets.c.row_id)).all()
        rows = [("job", f"searchJobs/{job}") for job in jobs] + [("supernet", f"supernets/{net}") for net in supernets]
        if rows:
            connection.execute(
                sa.insert(schema.outbox),
                [
                    {"topic": topic, "resource": resource, "create_time": now, "attempts": 0, "not_before": now}
                    for topic, resource in rows
                ],
            )
    return len(rows)


def any_run(engine: sa.Engine) -> str | None:
    """A run that was published before, if there is one: a probe for whether MLflow is still the same store."""
    with transaction(engine, write=False) as connection:
        return connection.scalar(sa.select(schema.mlflow_runs.c.run_id).limit(1))


def registry_id(engine: sa.Engine) -> str:
    """This registry's identity, made at the first call: two registries may feed one tracking server."""
    table = schema.registry_identity
    with transaction(engine) as connection:
        known = connection.scalar(sa.select(table.c.id))
        if known is None:
            known = str(uuid.uuid4())
            connection.execute(sa.insert(table).values(row_id=1, id=known))
    return str(known)
