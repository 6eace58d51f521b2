"""What a map of datasets shows of each: its embedding, its name, and the best version searched on it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from supernet_registry.clients.wire.resources import Metrics
from supernet_registry.registry.catalog import names
from supernet_registry.registry.catalog.generalists import is_generalist
from supernet_registry.registry.catalog.records import from_json
from supernet_registry.registry.catalog.versions import batches
from supernet_registry.registry.storage.database import transaction
from supernet_registry.registry.storage.schema import datasets, supernets, versions
from supernet_registry.v1.supernets_pb2 import Metrics as MetricsMessage

__all__ = ["DatasetPoints", "StoredPoint"]

_LITTLE_ENDIAN = np.dtype("<f4")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StoredPoint:
    """A stored dataset as a point in the space of embeddings."""

    name: str
    display_name: str
    sketch_digest: str
    embedding: NDArray[np.float32]
    """Shape (d,)."""
    version: str
    """The version of the highest validation accuracy, the newest of equals; empty if there is none."""


class DatasetPoints:
    """Reads points. Thread-safe; each call sees one state of the database."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def among(self, dataset_names: Iterable[str], *, embedding_id: str) -> list[StoredPoint]:
        """The named datasets that were embedded for `embedding_id`, in the order of the names.

        Names of nothing are left out. Raises InvalidArgument for what is no name.
        """
        ids = [names.dataset_id(name) for name in dataset_names]
        found: dict[str, StoredPoint] = {}
        with transaction(self._engine, write=False) as connection:
            for batch in batches(ids):
                statement = _select(embedding_id).where(datasets.c.id.in_(batch))
                found.update((point.name, point) for point in _points(connection, statement))
        return [found[name] for name in map(names.dataset_name, ids) if name in found]

    def newest(self, count: int, *, embedding_id: str) -> list[StoredPoint]:
        """The `count` datasets registered last, newest first, of those that were embedded for `embedding_id`."""
        with transaction(self._engine, write=False) as connection:
            return _points(connection, _select(embedding_id).order_by(datasets.c.row_id.desc()).limit(count))


def _select(embedding_id: str) -> sa.Select[Any]:
    return sa.select(
        datasets.c.row_id,
        datasets.c.id,
        datasets.c.display_name,
        datasets.c.sketch_sha256,
        datasets.c.embedding,
    ).where(datasets.c.embedding_id == embedding_id)


def _points(connection: sa.Connection, statement: sa.Select[Any]) -> list[StoredPoint]:
    rows = list(connection.execute(statement))
    best = _best_versions(connection, [row.row_id for row in rows])
    return [
        StoredPoint(
            name=names.dataset_name(row.id),
            display_name=row.display_name,
            sketch_digest=row.sketch_sha256,
            embedding=np.frombuffer(row.embedding, dtype=_LITTLE_ENDIAN).astype(np.float32),
            version=best.get(row.row_id, ""),
        )
        for row in rows
    ]


def _best_versions(connection: sa.Connection, dataset_rows: Collection[int]) -> dict[int, str]:
    """Name of the best version by row of the dataset that it was searched on."""
    best: dict[int, tuple[float, int, str]] = {}
    statement = sa.select(
        versions.c.row_id, versions.c.dataset_row, versions.c.number, versions.c.metrics, supernets.c.id
    ).join(supernets, versions.c.supernet_row == supernets.c.row_id)
    statement = statement.where(~is_generalist())
    for batch in batches(dataset_rows):
        for row in connection.execute(statement.where(versions.c.dataset_row.in_(batch))):
            accuracy = from_json(row.metrics, MetricsMessage, Metrics).val_accuracy
            rival = (accuracy, row.row_id, names.version_name(row.id, row.number))
            best[row.dataset_row] = max(best.get(row.dataset_row, rival), rival)
    return {dataset_row: name for dataset_row, (_, _, name) in best.items()}
