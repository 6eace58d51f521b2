"""A catalog of embeddings in a list, and the slow, obvious search over it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from supernet_registry.registry.index.embedding_index import EmbeddingIndex


@dataclass(frozen=True)
class Change:
    """One row of the catalog's history."""

    sequence: int
    row_id: int
    name: str
    embedding: NDArray[np.float32] | None


@dataclass
class History:
    """All changes in their order, as the catalog would give them; a later one of a row replaces an earlier one."""

    changes: list[Change] = field(default_factory=list)
    rows: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    asked_for: list[int] = field(default_factory=list)

    def put(self, row_id: int, embedding: NDArray[np.float32]) -> None:
        """Add or replace a row."""
        self._append(row_id, embedding)
        self.rows[row_id] = embedding

    def remove(self, row_id: int) -> None:
        """Remove a row; no error if it is absent."""
        self._append(row_id, None)
        self.rows.pop(row_id, None)

    def read(self, after_sequence: int, limit: int) -> Sequence[Change]:
        """What `EmbeddingIndex` reads; like the catalog it gives the last change of a row only."""
        with self.lock:
            self.asked_for.append(after_sequence)
            last = {change.row_id: change for change in self.changes[after_sequence:]}
        return sorted(last.values(), key=lambda change: change.sequence)[:limit]

    def _append(self, row_id: int, embedding: NDArray[np.float32] | None) -> None:
        with self.lock:
            self.changes.append(Change(len(self.changes) + 1, row_id, f"row{row_id}", embedding))


def nearest(rows: dict[int, NDArray[np.float32]], query: NDArray[np.float32], k: int) -> list[tuple[float, int]]:
    """(distance, row id) of the k nearest rows, ascending, by brute force."""
    if not rows:
        return []
    distances = np.linalg.norm(np.stack(list(rows.values())) - query, axis=1)
    return sorted(zip(distances.tolist(), rows, strict=True))[:k]


def check_hits(index: EmbeddingIndex, rows: dict[int, NDArray[np.float32]], query: NDArray[np.float32], k: int) -> None:
    """What holds for every kind: as many hits as there can be, ascending, distinct, alive and rightly measured."""
    hits = index.search(query, k)
    assert len(hits) == min(k, len(rows))
    assert len({hit.row_id for hit in hits}) == len(hits)
    assert [hit.distance for hit in hits] == sorted(hit.distance for hit in hits)
    for hit in hits:
        assert hit.name == f"row{hit.row_id}"
        true = float(np.linalg.norm(rows[hit.row_id] - query))
        assert abs(hit.distance - true) <= 5e-3 * (1.0 + true)


def recall(index: EmbeddingIndex, rows: dict[int, NDArray[np.float32]], queries: NDArray[np.float32], k: int) -> float:
    """Share of the true k nearest that the index finds, over all queries; equal distances count."""
    matrix = np.stack(list(rows.values()))
    found = []
    for query in queries:
        distances = np.sort(np.linalg.norm(matrix - query, axis=1))[:k]
        hits = np.stack([rows[hit.row_id] for hit in index.search(query, k)])
        near = np.linalg.norm(hits - query, axis=1) <= distances[-1] * 1.001 + 1e-6
        found.append(near.sum() / len(distances))
    return float(np.mean(found))
