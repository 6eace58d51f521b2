"""What the catalog knows of generalists: the datasets of their jobs and versions.

A generalist's job is a row like any other, with its first dataset in `dataset_row`, so that leases, fencing,
checkpoints and write-back need not know of it. All its datasets stand in `job_datasets`; a job without rows there is a
search on one dataset. A version has the datasets of its job.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from supernet_registry.registry.storage.schema import datasets, job_datasets, jobs, versions

__all__ = [
    "generalist_datasets",
    "insert_datasets",
    "is_generalist",
    "uses_dataset",
]

_BATCH = 500
"""Values in one IN (...)."""


def insert_datasets(connection: sa.Connection, job_row: int, rows: Sequence[sa.Row[Any]]) -> None:
    """Note the datasets of a generalist's job."""
    values = [{"job_row": job_row, "position": i, "dataset_row": row.row_id} for i, row in enumerate(rows)]
    connection.execute(job_datasets.insert(), values)


def generalist_datasets(connection: sa.Connection, job_rows: Iterable[int]) -> dict[int, list[sa.Row[Any]]]:
    """The datasets (`id`, `digest`, `class_count`) of generalists' jobs in order, by job; others have no entry."""
    result: dict[int, list[sa.Row[Any]]] = {}
    wanted = sorted(set(job_rows))
    statement = (
        sa.select(job_datasets.c.job_row, datasets.c.id, datasets.c.digest, datasets.c.class_count)
        .join(datasets, job_datasets.c.dataset_row == datasets.c.row_id)
        .order_by(job_datasets.c.job_row, job_datasets.c.position)
    )
    for start in range(0, len(wanted), _BATCH):
        batch = wanted[start : start + _BATCH]
        rows: sa.CursorResult[Any] = connection.execute(statement.where(job_datasets.c.job_row.in_(batch)))
        for row in rows:
            result.setdefault(row.job_row, []).append(row)
    return result


def is_generalist() -> sa.ColumnElement[bool]:
    """Of a row of `versions`."""
    return sa.exists().where(job_datasets.c.job_row == versions.c.job_row)


def uses_dataset(dataset_row: sa.ColumnElement[Any] | int) -> sa.ColumnElement[bool]:
    """Of a row of `jobs`: whether it is about that dataset, alone or among others."""
    among = sa.exists().where(job_datasets.c.job_row == jobs.c.row_id, job_datasets.c.dataset_row == dataset_row)
    # Said explicitly: `datasets` may stand two queries further out, where SQLAlchemy does not look by itself.
    return sa.or_(jobs.c.dataset_row == dataset_row, among.correlate(jobs, datasets))
