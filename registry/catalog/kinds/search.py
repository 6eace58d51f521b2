"""Kind of work `search`: an architecture search on one dataset."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from supernet_registry.clients.wire.resources import Executor, SearchJob, SearchSpec, SourcePolicy, TransferMode
from supernet_registry.registry.catalog import names
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
from supernet_registry.registry.catalog.spaces import describe_space
from supernet_registry.registry.catalog.versions import find_version
from supernet_registry.registry.storage.schema import datasets
from supernet_registry.search.errors import ImagesMissing, InvalidArgument
from supernet_registry.search.recipe import Recipe

__all__ = ["Search"]

_WORK = f"{SPEC}.search"
_SOURCE = f"{_WORK}.source_version"
_DATASET = "search_job.dataset"


class Search:
    """See `Kind`."""

    def check(self, job: SearchJob) -> SearchJob:
        spec = job.spec or SearchSpec()
        work = spec.search
        assert work is not None
        names.dataset_id(job.dataset, _DATASET)
        policy = SourcePolicy.AUTO if work.source_policy is SourcePolicy.UNSPECIFIED else work.source_policy
        if (policy is SourcePolicy.VERSION) != bool(work.source_version):
            raise InvalidArgument(
                f"Source policy {policy} with source_version {work.source_version[:200]!r}.",
                remedy="Name a source_version with policy VERSION, and with no other.",
                field=_SOURCE,
            )
        if work.source_version:
            names.version_key(work.source_version, _SOURCE)
        mode = _check_transfer_mode(work.transfer_mode, policy)
        return check_job(
            job,
            replace(
                spec,
                search_space=given_space(spec),
                executor=Executor.POOL if spec.executor is Executor.UNSPECIFIED else spec.executor,
                search=replace(work, source_policy=policy, transfer_mode=mode),
            ),
        )

    def plan(self, connection: sa.Connection, draft: SearchJob) -> Plan:
        spec = draft.spec
        assert spec is not None
        work = spec.search
        assert work is not None
        dataset = _find_dataset(connection, draft)
        if spec.executor is Executor.POOL and dataset.images_sha256 is None:
            raise ImagesMissing(
                f"The registry has no images of {draft.dataset}.",
                remedy="Upload the images with the dataset, or run the search where they are (`--here`).",
                field=_DATASET,
                metadata={"resource": draft.dataset},
            )
        supernet = find_supernet(connection, draft.supernet)
        space = space_of(draft, supernet)
        check_recipe(Recipe.for_space(space), spec.recipe).check_space(space, field=f"{SPEC}.recipe.variant")
        if work.source_version:
            source = find_version(connection, work.source_version, _SOURCE)
            work = replace(work, source_version=check_source(connection, source, space, _SOURCE))
        return Plan(replace(spec, search_space=describe_space(space), search=work), space, [dataset], supernet)


def _check_transfer_mode(mode: TransferMode, policy: SourcePolicy) -> TransferMode:
    scratch = policy is SourcePolicy.SCRATCH
    if mode is TransferMode.UNSPECIFIED:
        return TransferMode.SCRATCH if scratch else TransferMode.WEIGHTS_AND_ALPHAS
    if (mode is TransferMode.SCRATCH) != scratch:
        raise InvalidArgument(
            f"Transfer mode {mode} does not go with source policy {policy}.",
            remedy="Use SCRATCH for both, or for neither.",
            field=f"{_WORK}.transfer_mode",
        )
    return mode


def _find_dataset(connection: sa.Connection, draft: SearchJob) -> sa.Row[Any]:
    dataset_id = names.dataset_id(draft.dataset, _DATASET)
    # Shared lock: the images cannot be detached before the job that needs them is in the table.
    statement = datasets.select().where(datasets.c.id == dataset_id).with_for_update(read=True)
    row = connection.execute(statement).one_or_none()
    if row is None:
        raise names.not_found(draft.dataset, _DATASET, "Register the dataset first.")
    return row
