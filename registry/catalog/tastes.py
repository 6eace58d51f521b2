"""What the registry's own finished jobs have seen of sources: the gain of each one that was tasted.

A job's decision lists its tastes. The validation accuracy that a source gives before any step, less that of scratch, is
the observed gain of the pair (source, target). With it goes what can be known of a pair before any taste.

Distances are read from the cache of distances, by the sketches and the transport of today, and not from the decision:
those that an earlier encoder or transport has measured do not compare with those of a query now, so a pair without a
present distance is left out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import sqlalchemy as sa

from supernet_registry.clients.wire.resources import (
    JobState,
    Metrics,
    SearchSpec,
    SourceDecision,
    TasteResult,
    TransferMode,
)
from supernet_registry.registry.catalog import names
from supernet_registry.registry.catalog.distances import Pair, pair
from supernet_registry.registry.catalog.generalists import is_generalist
from supernet_registry.registry.catalog.records import from_json
from supernet_registry.registry.catalog.versions import batches
from supernet_registry.registry.storage.database import transaction
from supernet_registry.registry.storage.schema import datasets, distances, jobs, supernets, versions
from supernet_registry.search.similarity import TRANSPORT_ID
from supernet_registry.v1.searches_pb2 import SearchSpec as SpecMessage
from supernet_registry.v1.searches_pb2 import SourceDecision as DecisionMessage
from supernet_registry.v1.supernets_pb2 import Metrics as MetricsMessage

__all__ = ["TastedJob", "TastedSource", "Tastes"]

_KEYS_A_STATEMENT = 200
"""Pairs of values in one IN (...)."""

VersionKey: TypeAlias = tuple[str, int]
Gains: TypeAlias = Mapping[VersionKey, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class TastedSource:
    """A source that a job has tried, as it was known before, and what it gained."""

    version: str
    ot_distance: float
    same_dataset: bool
    """Whether it was searched on the job's own dataset."""
    val_accuracy: float
    """On its own dataset."""
    class_count: int
    train_count: int
    gain: float
    """Validation accuracy on the target before any step, less scratch's, in [-1, 1]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TastedJob:
    """A finished job that has tasted at least one source whose distance is known."""

    row_id: int
    dataset: str
    class_count: int
    train_count: int
    sources: tuple[TastedSource, ...]
    """In the decision's order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """A version and the dataset that it was searched on."""

    sketch_sha256: str
    val_accuracy: float
    class_count: int
    train_count: int


class Tastes:
    """Reads them. Thread-safe; each call sees one state of the database."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def finished_jobs(self, limit: int) -> list[int]:
        """Row ids of the newest jobs that succeeded, newest first.

        Jobs do not finish in the order of any column: row ids follow creation, times the clocks of several servers. So
        whoever reads incrementally compares these ids, which an index alone answers, with those that it has seen.
        """
        statement = sa.select(jobs.c.row_id).where(jobs.c.state == JobState.SUCCEEDED.value)
        with transaction(self._engine, write=False) as connection:
            return list(connection.execute(statement.order_by(jobs.c.row_id.desc()).limit(limit)).scalars())

    def of_jobs(self, job_rows: Collection[int]) -> list[TastedJob]:
        """Those of the given finished jobs that have tasted anything, by row id. A finished job never changes."""
        statement: sa.Select[Any] = (
            sa.select(
                jobs.c.row_id,
                jobs.c.spec,
                jobs.c.decision,
                datasets.c.id.label("dataset_id"),
                datasets.c.class_count,
                datasets.c.train_count,
                datasets.c.sketch_sha256,
            )
            .join(datasets, jobs.c.dataset_row == datasets.c.row_id)
            .where(jobs.c.decision.is_not(None))
        )
        result: list[TastedJob] = []
        with transaction(self._engine, write=False) as connection:
            for batch in batches(sorted(job_rows)):
                rows = connection.execute(statement.where(jobs.c.row_id.in_(batch)).order_by(jobs.c.row_id)).all()
                result += _tasted_jobs(connection, [(row, gains) for row in rows if (gains := _gains(row))])
        return result


def _gains(job: sa.Row[Any]) -> Gains:
    """Observed gain by source; empty where there is none, or another one than the gain of transferred weights."""
    work = from_json(job.spec, SpecMessage, SearchSpec).search
    if work is None or work.transfer_mode not in (
        TransferMode.UNSPECIFIED,
        TransferMode.WEIGHTS_AND_ALPHAS,
        TransferMode.WEIGHTS_ONLY,
    ):
        return {}
    tastes = [t for t in from_json(job.decision, DecisionMessage, SourceDecision).tastes if _is_scored_untrained(t)]
    scratch = next((taste.val_accuracies[0] for taste in tastes if not taste.version), None)
    if scratch is None:
        return {}
    gains = {}
    for taste in tastes:
        if taste.version:
            supernet, number = names.version_key(taste.version)
            if number != "head":  # an alias, which has moved since
                gains[supernet, number] = taste.val_accuracies[0] - scratch
    return gains


def _is_scored_untrained(taste: TasteResult) -> bool:
    """Sources that fail the taste's own gate are listed without scores."""
    return bool(taste.steps and taste.val_accuracies) and taste.steps[0] == 0


def _tasted_jobs(connection: sa.Connection, found: Collection[tuple[sa.Row[Any], Gains]]) -> Iterator[TastedJob]:
    """Complete jobs and their gains by what the catalog knows of sources and distances."""
    sources = _sources(connection, {key for _, gains in found for key in gains})
    known = _distances(
        connection,
        {
            pair(job.sketch_sha256, sources[key].sketch_sha256)
            for job, gains in found
            for key in gains
            if key in sources
        },
    )
    for job, gains in found:
        tasted = tuple(
            TastedSource(
                version=names.version_name(*key),
                ot_distance=distance,
                same_dataset=source.sketch_sha256 == job.sketch_sha256,
                val_accuracy=source.val_accuracy,
                class_count=source.class_count,
                train_count=source.train_count,
                gain=gain,
            )
            for key, gain in gains.items()
            if (source := sources.get(key)) is not None
            if (distance := known.get(pair(job.sketch_sha256, source.sketch_sha256))) is not None
        )
        if tasted:
            yield TastedJob(
                row_id=job.row_id,
                dataset=names.dataset_name(job.dataset_id),
                class_count=job.class_count,
                train_count=job.train_count,
                sources=tasted,
            )


def _sources(connection: sa.Connection, keys: Collection[VersionKey]) -> dict[VersionKey, _Source]:
    """What is known of versions, without those that were deleted since."""
    statement = (
        sa.select(
            supernets.c.id,
            versions.c.number,
            versions.c.metrics,
            datasets.c.class_count,
            datasets.c.train_count,
            datasets.c.sketch_sha256,
        )
        .join(supernets, versions.c.supernet_row == supernets.c.row_id)
        .join(datasets, versions.c.dataset_row == datasets.c.row_id)
        .where(~is_generalist())  # it has no distance from a target, so there is nothing to learn from its gain
    )
    key = sa.tuple_(supernets.c.id, versions.c.number)
    return {
        (row.id, row.number): _Source(
            sketch_sha256=row.sketch_sha256,
            val_accuracy=from_json(row.metrics, MetricsMessage, Metrics).val_accuracy,
            class_count=row.class_count,
            train_count=row.train_count,
        )
        for row in _matching(connection, statement, key, keys)
    }


def _distances(connection: sa.Connection, pairs: Collection[Pair]) -> dict[Pair, float]:
    columns = distances.c.digest_a, distances.c.digest_b
    statement = sa.select(*columns, distances.c.distance).where(distances.c.transport == TRANSPORT_ID)
    rows = _matching(connection, statement, sa.tuple_(*columns), pairs)
    return {(row.digest_a, row.digest_b): row.distance for row in rows}


def _matching(
    connection: sa.Connection, statement: sa.Select[Any], key: sa.Tuple, wanted: Collection[tuple[str, Any]]
) -> Iterator[sa.Row[Any]]:
    """Rows whose key is wanted."""
    ordered = sorted(wanted)
    for start in range(0, len(ordered), _KEYS_A_STATEMENT):
        yield from connection.execute(statement.where(key.in_(ordered[start : start + _KEYS_A_STATEMENT])))
