"""Beginning again: everything queued anew, and how to notice that this is needed."""

from __future__ import annotations

import sqlalchemy as sa

from supernet_registry.registry.clock import Clock, utc_now
from supernet_registry.registry.storage import schema
from supernet_registry.registry.storage.database import transaction

__all__ = ["any_run", "refill"]


def refill(engine: sa.Engine, *, clock: Clock = utc_now) -> int:
    """Queue every job and supernet anew and forget what was published; the number of entries added.

    Entries that wait already stay: that of a deleted supernet is the only trace of it. Dead letters are tried again.
    """
    now = clock()
    with transaction(engine) as connection:
        connection.execute(sa.delete(schema.mlflow_runs))
        connection.execute(sa.delete(schema.mlflow_versions))
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
