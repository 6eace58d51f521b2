"""Write-back: how a finished search becomes a version, the one promise that everything else serves.

The weights are in the blob store already (durably, by upload). They are checked here before anything is written; then
ONE transaction checks the fencing token, inserts version, parents, figures and outbox rows, ends the job, and moves
`head` by compare-and-swap from the job's base. If `head` has moved meanwhile the version stays as a sibling. A crash
anywhere leaves either nothing but an unreferenced blob, or all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import sqlalchemy as sa

from supernet_registry.clients.wire.resources import (
    Cost,
    JobState,
    Metrics,
    ParentRole,
    SearchSpec,
    SourceDecision,
    SupernetVersion,
    TransferMode,
)
from supernet_registry.registry.catalog import names
from supernet_registry.registry.catalog.blobs import Blobs
from supernet_registry.registry.catalog.checks import check_number, check_text
from supernet_registry.registry.catalog.generalists import generalist_datasets
from supernet_registry.registry.catalog.job_rows import find_job, lease_lost, leased_job
from supernet_registry.registry.catalog.outbox import announce
from supernet_registry.registry.catalog.records import from_json, to_json
from supernet_registry.registry.catalog.supernets import find_supernet, move_head
from supernet_registry.registry.catalog.versions import find_version, to_versions
from supernet_registry.registry.clock import Clock
from supernet_registry.registry.settings import Settings
from supernet_registry.registry.storage import failpoints
from supernet_registry.registry.storage.database import run_write, transaction
from supernet_registry.registry.storage.schema import parents, supernets, versions
from supernet_registry.search.errors import (
    DimensionMismatch,
    InvalidArgument,
    SpaceMismatch,
    SupernetRegistryError,
    UnsafeWeights,
    WeightsTooLarge,
)
from supernet_registry.search.storage.head_rows import heads_of
from supernet_registry.search.storage.weights import WeightsInfo, check_weights
from supernet_registry.v1.searches_pb2 import SearchSpec as SpecMessage
from supernet_registry.v1.searches_pb2 import SourceDecision as DecisionMessage
from supernet_registry.v1.supernets_pb2 import Cost as CostMessage
from supernet_registry.v1.supernets_pb2 import Metrics as MetricsMessage

__all__ = ["WriteBack"]

_LONGEST_GENOTYPE = 20_000
_ACCURACIES = frozenset({"val_accuracy", "test_accuracy", "child_val_accuracy", "child_test_accuracy"})


class WriteBack:
    """The one way by which versions come into being."""

    def __init__(self, engine: sa.Engine, blobs: Blobs, settings: Settings, clock: Clock) -> None:
        self._engine = engine
        self._blobs = blobs
        self._settings = settings
        self._clock = clock

    def complete(self, job: str, fence: int, draft: SupernetVersion) -> tuple[SupernetVersion, bool]:
        """Write a job's result back; repeated with the same fence after success, the same answer.

        Args:
            draft: weights_blob, child_blob (or ""), genotype, metrics, cost; the rest is filled in here.

        Returns:
            (version, whether the head had moved meanwhile, so that the version is a sibling)

        Raises:
            LeaseLost: another attempt owns the job, or it ended otherwise.
            NotFound: job or blob.
            InvalidArgument, NotFinite: genotype or figures.
            UnsafeWeights, WeightsTooLarge, NotFinite, SpaceMismatch, DimensionMismatch: the weights.
            BlobCorrupt, DiskFull.
        """
        with transaction(self._engine, write=False) as connection:
            row = find_job(connection, job, "job")
            if (done := _already_done(connection, row, fence)) is not None:
                return done
            leased_job(connection, job, fence, self._clock())  # before the work of reading the weights
            supernet = find_supernet(connection, row.supernet_id)
            learnt = generalist_datasets(connection, [row.row_id]).get(row.row_id, [])
        assert supernet is not None, "a supernet with unfinished jobs is not deleted"
        _check_figures(draft)
        space_id, class_count = supernet.space_id, sum(dataset.class_count for dataset in learnt) or row.class_count
        info = self._check_weights(draft.weights_blob, "supernet", space_id, class_count, "version.weights_blob")
        _check_heads(info, learnt)
        if draft.child_blob:
            self._check_weights(draft.child_blob, "child", space_id, class_count, "version.child_blob")
        failpoints.hit("write_back.checked")
        answer = run_write(self._engine, lambda connection: self._write(connection, job, fence, draft))
        failpoints.hit("write_back.committed")
        return answer

    def _write(
        self, connection: sa.Connection, job: str, fence: int, draft: SupernetVersion
    ) -> tuple[SupernetVersion, bool]:
        row = find_job(connection, job, "job", lock=True)
        if (done := _already_done(connection, row, fence)) is not None:
            return done
        change = leased_job(connection, job, fence, self._clock())
        row = change.row
        number, supernet_row = self._take_number(connection, row.supernet_id)
        failpoints.hit("write_back.numbered")
        decision = _decision(row)
        version_row = self._insert_version(connection, row, supernet_row, number, draft, decision.transfer_mode)
        failpoints.hit("write_back.version")
        _insert_parents(connection, version_row, row, decision.source)
        failpoints.hit("write_back.parents")
        head_moved = not move_head(connection, supernet_row, row.base_number, number)
        failpoints.hit("write_back.head")
        name = names.version_name(row.supernet_id, number)
        change.set(version_name=name, head_moved=head_moved)
        change.enter(JobState.SUCCEEDED)
        change.save()
        failpoints.hit("write_back.job")
        announce(connection, "supernet", names.supernet_name(row.supernet_id), change.now)
        failpoints.hit("write_back.outbox")
        return to_versions(connection, [find_version(connection, name)])[0], head_moved

    def _take_number(self, connection: sa.Connection, supernet_id: str) -> tuple[int, int]:
        """(number of the new version, row of its supernet); locks the supernet, so numbers have no gaps or twins."""
        statement = (
            supernets.update()
            .where(supernets.c.id == supernet_id)
            .values(
                version_count=supernets.c.version_count + 1,
                update_time=self._clock(),
                revision=supernets.c.revision + 1,
            )
            .returning(supernets.c.version_count, supernets.c.row_id)
        )
        number, supernet_row = connection.execute(statement).one()
        return int(number), int(supernet_row)

    def _insert_version(
        self,
        connection: sa.Connection,
        job: sa.Row[Any],
        supernet_row: int,
        number: int,
        draft: SupernetVersion,
        transfer_mode: TransferMode,
    ) -> int:
        child = self._blobs.refer(connection, draft.child_blob, "version.child_blob") if draft.child_blob else None
        statement = versions.insert().values(
            supernet_row=supernet_row,
            number=number,
            weights_sha256=self._blobs.refer(connection, draft.weights_blob, "version.weights_blob"),
            child_sha256=child,
            genotype=draft.genotype,
            dataset_row=job.dataset_row,
            job_row=job.row_id,
            transfer_mode=transfer_mode.value,
            metrics=to_json(draft.metrics, MetricsMessage),
            cost=to_json(draft.cost or Cost(), CostMessage),
            create_time=self._clock(),
        )
        return int(connection.execute(statement.returning(versions.c.row_id)).scalar_one())

    def _check_weights(self, blob: str, kind: str, space_id: str, n_classes: int, field: str) -> WeightsInfo:
        limit = self._settings.max_weights_bytes
        size = self._blobs.size(blob, field)
        if size > limit:
            raise WeightsTooLarge(
                f"{blob} has {size} bytes, the limit is {limit}.",
                remedy="Use a smaller search space, or raise max_weights_bytes of the server.",
                field=field,
            )
        try:
            with self._blobs.open_verified(blob, field) as file:
                info = check_weights(file, max_bytes=limit, max_tensors=self._settings.max_weights_tensors)
        except SupernetRegistryError as error:
            error.field = field
            raise
        if info.kind != kind:
            raise UnsafeWeights(
                f"{blob} holds the weights of a {info.kind}, not of a {kind}.",
                remedy=f"Name the {kind}'s weights here.",
                field=field,
            )
        if info.space_id != space_id:
            raise SpaceMismatch(
                f"The weights are of search space {info.space_id}, the supernet's is {space_id}.",
                remedy="Search in the job's own space.",
                field=field,
                metadata={"weightsSpace": info.space_id, "supernetSpace": space_id},
            )
        if info.n_classes != n_classes:
            raise DimensionMismatch(
                f"The weights have a head of {info.n_classes} classes, the dataset has {n_classes}.",
                remedy="Train the head of the job's dataset.",
                field=field,
            )
        return info


def _check_heads(info: WeightsInfo, learnt: Sequence[sa.Row[Any]]) -> None:
    """A generalist's blob has one head for each of its job's datasets, in their order; no blob may claim nonsense."""
    field = "version.weights_blob"
    try:
        told = [(head.dataset, head.n_classes) for head in heads_of(info)]
    except UnsafeWeights as error:
        error.field = field
        raise
    if learnt and told != [(dataset.digest, dataset.class_count) for dataset in learnt]:
        raise DimensionMismatch(
            f"The weights' {len(told)} heads are not those of the job's {len(learnt)} datasets.",
            remedy="Store a head for each dataset of the job, in its order.",
            field=field,
        )


def _already_done(connection: sa.Connection, job: sa.Row[Any], fence: int) -> tuple[SupernetVersion, bool] | None:
    """The answer of an earlier, equal call."""
    if job.state != JobState.SUCCEEDED.value:
        return None
    if job.fence != fence:
        raise lease_lost(job, fence)
    return to_versions(connection, [find_version(connection, job.version_name)])[0], bool(job.head_moved)


def _decision(job: sa.Row[Any]) -> SourceDecision:
    """What the worker reported; without a report, what the job's policy leaves no choice about."""
    if job.decision is not None:
        return from_json(job.decision, DecisionMessage, SourceDecision)
    spec = from_json(job.spec, SpecMessage, SearchSpec)
    if spec.source_version:
        mode = spec.search.transfer_mode if spec.search is not None else TransferMode.WEIGHTS_AND_ALPHAS
        return SourceDecision(source=spec.source_version, transfer_mode=mode)
    return SourceDecision(transfer_mode=TransferMode.SCRATCH)


def _insert_parents(connection: sa.Connection, version_row: int, job: sa.Row[Any], source: str) -> None:
    roles = {ParentRole.SOURCE: source}
    if job.base_number is not None:
        roles[ParentRole.PREVIOUS_HEAD] = names.version_name(job.supernet_id, job.base_number)
    for role, name in roles.items():
        if name:
            parent_row = find_version(connection, name, "job").row_id
            connection.execute(parents.insert().values(child_row=version_row, parent_row=parent_row, role=role.value))


def _check_figures(draft: SupernetVersion) -> None:
    check_text(draft.genotype, "version.genotype", max_length=_LONGEST_GENOTYPE, required=True)
    if draft.metrics is None:
        raise InvalidArgument("No metrics.", remedy="Report the version's quality.", field="version.metrics")
    for item in fields(Metrics):
        high = 1.0 if item.name in _ACCURACIES else float("inf")
        value = getattr(draft.metrics, item.name)
        if value is not None:
            check_number(value, f"version.metrics.{item.name}", low=0, high=high)
    cost = draft.cost or Cost()
    for item in fields(Cost):
        if item.name != "device":
            check_number(getattr(cost, item.name), f"version.cost.{item.name}", low=0)
    check_text(cost.device, "version.cost.device", max_length=200)
