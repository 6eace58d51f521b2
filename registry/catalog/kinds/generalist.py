"""Kind of work `generalist`: one supernet over several datasets whose images are retained.

The job's row has the first dataset in `dataset_row`, as every job; all of them stand in `job_datasets`. A version has
the datasets of its job.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from supernet_registry.clients.wire.resources import Executor, SearchJob, SearchSpec
from supernet_registry.registry.catalog import names
from supernet_registry.registry.catalog.generalists import generalist_datasets
from supernet_registry.registry.catalog.kinds.kind import (
    SPEC,
    Plan,
    check_job,
    check_recipe,
    check_source,
    find_supernet,
    given_space,
    space_of,
)
from supernet_registry.registry.catalog.spaces import describe_space, stored_space
from supernet_registry.registry.catalog.versions import find_version
from supernet_registry.registry.storage.schema import datasets
from supernet_registry.search.errors import ImagesMissing, InvalidArgument, SpaceMismatch
from supernet_registry.search.recipe import Recipe

__all__ = ["Generalist"]

_WORK = f"{SPEC}.generalist"
_BASE = f"{_WORK}.base_version"
_DATASETS = f"{_WORK}.datasets"
_FEWEST = 2
_MOST = 256


class Generalist:
    """See `Kind`."""

    def check(self, job: SearchJob) -> SearchJob:
        spec = job.spec or SearchSpec()
        work = spec.generalist
        assert work is not None
        for i, name in enumerate(work.datasets):
            names.dataset_id(name, f"{_DATASETS}[{i}]")
        if work.base_version:
            names.version_key(work.base_version, _BASE)
        elif work.without_replay:
            raise InvalidArgument(
                "There is no base whose datasets could be left without replay.",
                remedy="Name a base_version, or leave without_replay out.",
                field=f"{_WORK}.without_replay",
            )
        if spec.executor is Executor.CALLER:
            raise InvalidArgument(
                "A generalist learns from images that the registry retains.",
                remedy="Leave the executor out: a worker of the pool runs it.",
                field=f"{SPEC}.executor",
            )
        work = replace(work, datasets=tuple(dict.fromkeys(work.datasets)))
        spec = replace(spec, search_space=given_space(spec), executor=Executor.POOL, generalist=work)
        return check_job(replace(job, dataset=""), spec)

    def plan(self, connection: sa.Connection, draft: SearchJob) -> Plan:
        spec = draft.spec
        assert spec is not None
        work = spec.generalist
        assert work is not None
        base = find_version(connection, work.base_version, _BASE) if work.base_version else None
        learnt = generalist_datasets(connection, [base.job_row]).get(base.job_row, []) if base is not None else []
        known = [names.dataset_name(dataset.id) for dataset in learnt]
        if work.without_replay and set(work.datasets) <= set(known):
            raise InvalidArgument(
                "Without replay there is nothing to train on: the base knows every dataset.",
                remedy="Name a new dataset, or let the base's be learnt along.",
                field=_DATASETS,
            )
        rows = _find_retained(connection, list(dict.fromkeys([*known, *work.datasets])))
        supernet = find_supernet(connection, draft.supernet)
        if base is not None and supernet is None and spec.search_space is None:
            space = stored_space(base.space)
        else:
            space = space_of(draft, supernet)
        if base is not None and stored_space(base.space).id != space.id:
            raise SpaceMismatch(
                f"The base's search space {stored_space(base.space).id} is not {space.id}; heads cannot be mapped.",
                remedy="Go on in the base's search space, or begin without a base.",
                field=_BASE,
            )
        check_recipe(Recipe.for_space(space), spec.recipe).check_space(space, field=f"{SPEC}.recipe.variant")
        work = replace(
            work,
            datasets=tuple(names.dataset_name(row.id) for row in rows),
            base_version="" if base is None else check_source(connection, base, space, _BASE),
        )
        return Plan(replace(spec, search_space=describe_space(space), generalist=work), space, rows, supernet)


def _find_retained(connection: sa.Connection, wanted: Sequence[str]) -> list[sa.Row[Any]]:
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
            field=_DATASETS,
        )
    ids = [names.dataset_id(name, _DATASETS) for name in wanted]
    # Shared lock: the images cannot be detached before the job that needs them is in the table.
    found = connection.execute(datasets.select().where(datasets.c.id.in_(ids)).with_for_update(read=True))
    rows: dict[str, sa.Row[Any]] = {row.id: row for row in found}
    for dataset_id in ids:
        row = rows.get(dataset_id)
        if row is None:
            raise names.not_found(names.dataset_name(dataset_id), _DATASETS, "Register the dataset first.")
        if row.images_sha256 is None or not row.retain_images:
            name = names.dataset_name(dataset_id)
            raise ImagesMissing(
                f"The registry does not retain the images of {name} ({row.display_name}).",
                remedy="Register the dataset again with its images and retain_images (`search --retain-images`).",
                field=_DATASETS,
                metadata={"resource": name},
            )
    return [rows[dataset_id] for dataset_id in ids]
