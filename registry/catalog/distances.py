"""The cache of transport distances between sketches.

Keyed by the sketches' digests and the version of the transport: under one version a distance never changes, but for one
that was not proven optimal and is replaced by one that is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import sqlalchemy as sa

from supernet_registry.registry.catalog.checks import check_number
from supernet_registry.registry.catalog.records import next_count
from supernet_registry.registry.catalog.versions import batches
from supernet_registry.registry.storage.database import run_write, transaction
from supernet_registry.registry.storage.schema import counters, dataset_tombstones, datasets, distances
from supernet_registry.search.similarity import TRANSPORT_ID

__all__ = ["Distance", "DistanceCache", "DistanceChanges", "Pair", "pair"]

Pair: TypeAlias = tuple[str, str]
"""Digests of two sketches, the lesser first."""


class Distance(NamedTuple):
    """√OTDD of a pair of sketches."""

    value: float
    converged: bool
    """Whether it is proven; otherwise it is an upper bound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DistanceChanges:
    """What an extract of all distances between registered datasets must learn; applying it twice does no harm."""

    index_sequence: int
    distance_sequence: int
    registered: Sequence[tuple[int, str]]
    """(row id, sketch digest) of datasets that are new or have a new sketch."""
    deleted: Sequence[int]
    """Row ids."""
    measured: Sequence[tuple[str, str, float]]
    """(digest, digest, distance), also of sketches that belong to no dataset."""


# Built once: composing a statement takes longer than running it.
_AMONG = sa.select(distances.c.digest_a, distances.c.digest_b, distances.c.distance, distances.c.converged).where(
    distances.c.transport == TRANSPORT_ID,
    distances.c.digest_a.in_(sa.bindparam("firsts", expanding=True)),
    distances.c.digest_b.in_(sa.bindparam("seconds", expanding=True)),
)
_COUNTERS = sa.select(counters)


def pair(digest_a: str, digest_b: str) -> Pair:
    """The key of two sketches in either order."""
    return (digest_a, digest_b) if digest_a <= digest_b else (digest_b, digest_a)


class DistanceCache:
    """Distances that were computed before, and their distribution."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def cached_distance(self, digest_a: str, digest_b: str) -> tuple[float, bool] | None:
        """(distance, converged) of two sketches by their digests, in either order; None if not computed yet."""
        return self.cached_distances({digest_a, digest_b}).get(pair(digest_a, digest_b))

    def cached_distances(self, digests: Collection[str]) -> dict[Pair, Distance]:
        """Every known distance between two of the given sketches, also of one from itself.

        Args:
            digests: a few hundred at most.
        """
        with transaction(self._engine, write=False) as connection:
            return _among(connection, digests)

    def store_distance(self, digest_a: str, digest_b: str, distance: float, *, converged: bool) -> None:
        """Remember a distance; a converged one replaces one that was not. Raises NotFinite, InvalidArgument."""
        self.store_distances({pair(digest_a, digest_b): Distance(distance, converged)})

    def store_distances(self, found: Mapping[Pair, Distance]) -> None:
        """Remember distances in one transaction, each as `store_distance`. Raises NotFinite, InvalidArgument."""
        for distance in found.values():
            check_number(distance.value, "distance", low=0.0)

        def store(connection: sa.Connection) -> None:
            known = _among(connection, {digest for key in found for digest in key})
            fresh = {key: distance for key, distance in found.items() if key not in known}
            better = {
                key: distance
                for key, distance in found.items()
                if key in known and distance.converged and not known[key].converged
            }
            if not fresh and not better:
                return
            sequence = next_count(connection, "distance")
            if fresh:
                connection.execute(distances.insert(), [_row(key, fresh[key], sequence) for key in fresh])
            for key, distance in better.items():
                statement = distances.update().where(_is_pair(key))
                connection.execute(statement.values(distance=distance.value, converged=True, sequence=sequence))

        if found:
            run_write(self._engine, store)

    def distance_changes(self, *, after_index: int, after_distance: int) -> DistanceChanges:
        """What is new since two sequences that an earlier answer gave; -1 for everything."""
        with transaction(self._engine, write=False) as connection:
            # Counters first: whatever is committed under them is then visible to the statements that follow, on
            # PostgreSQL too, where each statement sees a later state. What is newer still comes again next time.
            now = {row.name: int(row.value) for row in connection.execute(_COUNTERS)}
            registered: list[tuple[int, str]] = []
            deleted: list[int] = []
            measured: list[tuple[str, str, float]] = []
            if now["index"] > after_index:
                live = sa.select(datasets.c.row_id, datasets.c.sketch_sha256)
                rows = connection.execute(live.where(datasets.c.index_sequence > after_index))
                registered = [(row.row_id, row.sketch_sha256) for row in rows]
                gone = sa.select(dataset_tombstones.c.dataset_row)
                found = connection.execute(gone.where(dataset_tombstones.c.index_sequence > after_index))
                deleted = list(found.scalars())
            if now["distance"] > after_distance:
                new = _measured().where(distances.c.sequence > after_distance)
                measured = _triples(connection.execute(new))
        return DistanceChanges(
            index_sequence=now["index"],
            distance_sequence=now["distance"],
            registered=registered,
            deleted=deleted,
            measured=measured,
        )

    def distances_from(self, digests: Iterable[str]) -> list[tuple[str, str, float]]:
        """(digest, digest, distance) of every known distance from one of the given sketches to any other."""
        result: list[tuple[str, str, float]] = []
        with transaction(self._engine, write=False) as connection:
            for batch in batches(digests):
                for end in (distances.c.digest_a, distances.c.digest_b):
                    result += _triples(connection.execute(_measured().where(end.in_(batch))))
        return result


def _measured() -> sa.Select[Any]:
    columns = distances.c.digest_a, distances.c.digest_b, distances.c.distance
    return sa.select(*columns).where(distances.c.transport == TRANSPORT_ID)


def _triples(rows: sa.CursorResult[Any]) -> list[tuple[str, str, float]]:
    return [(row.digest_a, row.digest_b, row.distance) for row in rows]


def _among(connection: sa.Connection, digests: Collection[str]) -> dict[Pair, Distance]:
    wanted = list(digests)
    return {
        (row.digest_a, row.digest_b): Distance(row.distance, row.converged)
        for batch in batches(wanted)
        for row in connection.execute(_AMONG, {"firsts": batch, "seconds": wanted})
    }


def _row(key: Pair, distance: Distance, sequence: int) -> dict[str, object]:
    return {
        "digest_a": key[0],
        "digest_b": key[1],
        "transport": TRANSPORT_ID,
        "distance": distance.value,
        "converged": distance.converged,
        "sequence": sequence,
    }


def _is_pair(key: Pair) -> sa.ColumnElement[bool]:
    same_pair = (distances.c.digest_a == key[0]) & (distances.c.digest_b == key[1])
    return same_pair & (distances.c.transport == TRANSPORT_ID)
