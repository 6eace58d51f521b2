"""What the catalog knows of generalists: the datasets of their jobs and versions, and what those datasets must hold.

A generalist's job is a row like any other, with its first dataset in `dataset_row`, so that leases, fencing,
checkpoints and write-back need not know of it. All its datasets stand in `job_datasets`; a job without rows there is a
search on one dataset. A version has the datasets of its job.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from supernet_registry.clients.wire.resources import SearchJob, SearchSpec, SourcePolicy, TransferMode
from supernet_registry.registry.catalog import names
from supernet_registry.registry.catalog.checks import check_labels, check_number, check_text
from supernet_registry.registry.catalog.job_checks import DEFAULT_STREAM, SPEC_RANGES, check_recipe
from supernet_registry.registry.storage.schema import datasets, job_datasets, jobs, versions
from supernet_registry.search.errors import ImagesMissing, InvalidArgument

__all__ = [
    "check_generalist_draft",
    "find_retained",
    "generalist_datasets",
    "insert_datasets",
    "is_generalist",
    "uses_dataset",
]

_FEWEST = 2
_MOST = 256
_BATCH = 500
"""Values in one IN (...)."""


def check_generalist_draft(job: SearchJob) -> SearchJob:
    """The input fields of a generalist's job, checked; fields are named as in `PretrainGeneralistRequest`.

    Raises:
        InvalidArgument, NotFinite: with the path of the field.
    """
    spec = job.spec or SearchSpec()
    names.supernet_id(job.supernet, "supernet")
    for i, name in enumerate(spec.datasets):
        names.dataset_id(name, f"datasets[{i}]")
    for field in ("epochs", "patience", "batch_size", "seed"):
        low, high = SPEC_RANGES[field]
        check_number(getattr(spec, field), field, low=low, high=high)
    check_recipe(spec.recipe, "recipe")
    if spec.source_version:
        names.version_key(spec.source_version, "base_version")
    elif spec.without_replay:
        raise InvalidArgument(
            "There is no base whose datasets could be left without replay.",
            remedy="Name a base_version, or leave without_replay out.",
            field="without_replay",
        )
    return SearchJob(
        supernet=job.supernet,
        spec=SearchSpec(
            search_space=spec.search_space,
            source_policy=SourcePolicy.VERSION if spec.source_version else SourcePolicy.SCRATCH,
            source_version=spec.source_version,
            transfer_mode=TransferMode.WEIGHTS_AND_ALPHAS if spec.source_version else TransferMode.SCRATCH,
            epochs=spec.epochs,
            patience=spec.patience,
            batch_size=spec.batch_size,
            seed=spec.seed,
            recipe=spec.recipe,
            datasets=tuple(dict.fromkeys(spec.datasets)),
            without_replay=spec.without_replay,
        ),
        stream=check_text(job.stream, "stream", max_length=200) or DEFAULT_STREAM,
        labels=check_labels(job.labels, "labels"),
    )


def find_retained(connection: sa.Connection, wanted: Sequence[str]) -> list[sa.Row[Any]]:
    """Rows of datasets whose images are here to stay, in the order of their names, under a shared lock.

    Raises:
        InvalidArgument: fewer than two, or more than 256.
        NotFound: a dataset.
        ImagesMissing: the registry has no images of one, or does not retain them.
    """
    if not _FEWEST <= len(wanted) <= _MOST:
        raise InvalidArgument(
            f"{len(wanted)} datasets, those of the base included.",
            remedy=f"A generalist learns {_FEWEST} to {_MOST} datasets; for one dataset create a search job.",
            field="datasets",
        )
    ids = [names.dataset_id(name, "datasets") for name in wanted]
    # Shared lock: the images cannot be detached before the job that needs them is in the table.
    found = connection.execute(datasets.select().where(datasets.c.id.in_(ids)).with_for_update(read=True))
    rows: dict[str, sa.Row[Any]] = {row.id: row for row in found}
    for dataset_id in ids:
        row = rows.get(dataset_id)
        if row is None:
            raise names.not_found(names.dataset_name(dataset_id), "datasets", "Register the dataset first.")
        if row.images_sha256 is None or not row.retain_images:
            name = names.dataset_name(dataset_id)
            raise ImagesMissing(
                f"The registry does not retain the images of {name} ({row.display_name}).",
                remedy="Register the dataset again with its images and retain_images (`search --retain-images`).",
                field="datasets",
                metadata={"resource": name},
            )
    return [rows[dataset_id] for dataset_id in ids]


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
