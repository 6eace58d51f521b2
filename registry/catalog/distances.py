"""The cache of transport distances between sketches.

Keyed by the sketches' digests and the version of the transport: under one version a distance never changes.
"""

from __future__ import annotations

import sqlalchemy as sa

from registry.catalog.checks import check_number
from registry.database import run_write, transaction
from registry.schema import datasets, distances
from search.similarity import TRANSPORT_ID

__all__ = ["DistanceCache"]


class DistanceCache:
    """Distances that were computed before, and their distribution: a part of `Datasets`."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def cached_distance(self, digest_a: str, digest_b: str) -> tuple[float, bool] | None:
        """(distance, converged) of two sketches by their digests, in either order; None if not computed yet."""
        statement = sa.select(distances.c.distance, distances.c.converged).where(_pair(digest_a, digest_b))
        with transaction(self._engine, write=False) as connection:
            row = connection.execute(statement).one_or_none()
        return None if row is None else (row.distance, row.converged)

    def store_distance(self, digest_a: str, digest_b: str, distance: float, *, converged: bool) -> None:
        """Remember a distance; a converged one replaces one that was not. Raises NotFinite, InvalidArgument."""
        check_number(distance, "distance", low=0.0)
        first, second = sorted((digest_a, digest_b))

        def store(connection: sa.Connection) -> None:
            found = connection.execute(sa.select(distances.c.converged).where(_pair(first, second))).one_or_none()
            if found is None:
                key = {"digest_a": first, "digest_b": second, "transport": TRANSPORT_ID}
                connection.execute(distances.insert().values(**key, distance=distance, converged=converged))
            elif converged and not found.converged:
                better = distances.update().where(_pair(first, second))
                connection.execute(better.values(distance=distance, converged=True))

        run_write(self._engine, store)

    def all_nearest_distances(self) -> list[float]:
        """For each registered dataset the smallest known distance to another registered one.

        The registry's own yardstick for what is novel; datasets without a known distance are left out.
        """
        one, other = datasets.alias(), datasets.alias()
        a, b, known = distances.c.digest_a, distances.c.digest_b, distances.c.transport == TRANSPORT_ID
        pairs = sa.union_all(
            sa.select(a.label("one"), b.label("other"), distances.c.distance).where(known),
            sa.select(b.label("one"), a.label("other"), distances.c.distance).where(known),
        ).subquery()
        statement = (
            sa.select(sa.func.min(pairs.c.distance))
            .join(one, one.c.sketch_sha256 == pairs.c.one)
            .join(other, other.c.sketch_sha256 == pairs.c.other)
            .where(one.c.row_id != other.c.row_id)
            .group_by(one.c.row_id)
            .order_by(one.c.row_id)
        )
        with transaction(self._engine, write=False) as connection:
            return [float(value) for value in connection.execute(statement).scalars()]


def _pair(digest_a: str, digest_b: str) -> sa.ColumnElement[bool]:
    first, second = sorted((digest_a, digest_b))
    same_pair = (distances.c.digest_a == first) & (distances.c.digest_b == second)
    return same_pair & (distances.c.transport == TRANSPORT_ID)
