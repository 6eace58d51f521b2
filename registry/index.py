"""The embedding index: which stored datasets lie near a query, by the Euclidean distance of their embeddings.

FAISS in memory, exact (`IndexFlatL2`), always rebuilt from the catalog and never loaded from a file: the database is
the truth, and a flipped bit in an index file would go unnoticed. The index is a chain of immutable states, so readers
take no lock:

    state = main snapshot  +  small delta of newer rows  -  set of rows of the snapshot that are gone

A writer builds the next state and swaps one reference. When delta and gone rows outgrow about the square root of the
snapshot, the next state starts from a new snapshot. FAISS keeps duplicate ids silently and cannot be searched while it
is being changed; with immutable states neither can happen.

Threads: one OpenMP thread. Concurrent queries are the parallelism; with busy neighbours two OpenMP threads were
measured 5 to 30 times slower than one.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import faiss
import numpy as np
from numpy.typing import NDArray

from search.errors import DimensionMismatch, InvalidArgument, NotFinite

__all__ = ["EmbeddingIndex", "Hit", "Row"]

faiss.omp_set_num_threads(1)

_SMALLEST_REBUILD = 256
"""Rows of delta and gone rows that are always tolerated before a new snapshot is built."""


class Row(Protocol):
    """One change in the catalog, in the order of `sequence`."""

    @property
    def sequence(self) -> int: ...
    @property
    def row_id(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def embedding(self) -> NDArray[np.float32] | None:
        """Shape (d,); None if the dataset was deleted."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One stored dataset near a query."""

    row_id: int
    name: str
    distance: float


@dataclass(frozen=True, slots=True)
class _State:
    sequence: int
    main: Any
    delta: Any
    delta_rows: Mapping[int, NDArray[np.float32]]
    gone: frozenset[int]
    names: Mapping[int, str]


class EmbeddingIndex:
    """Exact nearest neighbours among the embeddings of all datasets.

    Args:
        dimension: length d of an embedding.
        read_changes: returns the catalog's changes after a sequence, in order; see `catch_up`.
    """

    def __init__(self, dimension: int, read_changes: Callable[[int], Sequence[Row]] | None = None) -> None:
        self._dimension = dimension
        self._read_changes = read_changes or (lambda _: ())
        self._write_lock = threading.Lock()
        empty = _flat_index(dimension, {})
        self._state = _State(0, empty, empty, {}, frozenset(), {})

    @property
    def sequence(self) -> int:
        """Sequence of the last change that queries see."""
        return self._state.sequence

    def __len__(self) -> int:
        return len(self._state.names)

    def catch_up(self, min_sequence: int = 0) -> int:
        """Apply the catalog's changes up to now, and return the sequence that the index then reflects.

        Called after every commit that changes a dataset, at start, and from time to time. Because the rows are read
        back from the catalog in the order of their sequence, it does not matter which of two commits calls first.

        Args:
            min_sequence: a sequence that the caller was told; the catalog is only read if the index is behind it.

        Raises:
            InvalidArgument: the catalog has not issued `min_sequence` yet.
        """
        if self.sequence < min_sequence or not min_sequence:
            with self._write_lock:
                self._apply(self._read_changes(self._state.sequence))
        if self.sequence < min_sequence:
            raise InvalidArgument(
                f"Index sequence {min_sequence} has not been issued yet; the latest is {self.sequence}.",
                field="min_index_sequence",
                remedy="Use the index_sequence of a dataset of this registry.",
            )
        return self.sequence

    def apply(self, rows: Sequence[Row]) -> None:
        """Add, replace and remove rows. Nothing is applied if one of them is invalid.

        Raises:
            DimensionMismatch: an embedding is not of shape (d,).
            NotFinite: an embedding holds NaN or infinity.
        """
        with self._write_lock:
            self._apply(rows)

    def search(self, query: NDArray[np.float32], k: int) -> list[Hit]:
        """Return the k nearest rows, nearest first; fewer if the index holds fewer.

        Equal distances are ordered by row id, except where k cuts through them.

        Args:
            query: embedding, shape (d,).
            k: number of rows, at least 1.

        Raises:
            DimensionMismatch, NotFinite, InvalidArgument: see the arguments.
        """
        vector = _checked(query, self._dimension, field="embedding")
        if k < 1:
            raise InvalidArgument(f"k is {k}.", field="k", remedy="Ask for at least one row.")
        state = self._state  # one reference: this query sees one consistent state
        # Gone rows are still in the snapshot, so as many more are asked for and dropped.
        found = _nearest(state.main, vector, k + len(state.gone))
        hits = [(distance, row) for distance, row in found if row not in state.gone]
        hits += _nearest(state.delta, vector, k)
        hits.sort()
        return [Hit(row, state.names[row], distance) for distance, row in hits[:k]]

    def _apply(self, rows: Sequence[Row]) -> None:
        vectors = [
            None if row.embedding is None else _checked(row.embedding, self._dimension, field="embedding")
            for row in rows
        ]
        if not rows:
            return
        old = self._state
        names, delta, gone = dict(old.names), dict(old.delta_rows), set(old.gone)
        for row, vector in zip(rows, vectors, strict=True):
            if row.row_id in names and row.row_id not in delta:
                gone.add(row.row_id)
            names.pop(row.row_id, None)
            delta.pop(row.row_id, None)
            if vector is not None:
                names[row.row_id] = row.name
                delta[row.row_id] = vector
        sequence = max(old.sequence, *(row.sequence for row in rows))
        tolerated = max(_SMALLEST_REBUILD, 4 * math.isqrt(old.main.ntotal))
        if len(delta) + len(gone) > tolerated:
            kept = _rows_of(old.main, (row for row in names if row not in delta))
            main = _flat_index(self._dimension, kept | delta)
            self._state = _State(sequence, main, _flat_index(self._dimension, {}), {}, frozenset(), names)
        else:
            self._state = _State(sequence, old.main, _flat_index(self._dimension, delta), delta, frozenset(gone), names)


def _checked(vector: NDArray[np.float32], dimension: int, *, field: str) -> NDArray[np.float32]:
    """Return the vector as contiguous float32, or say what is wrong: FAISS itself accepts NaN without a word."""
    array = np.ascontiguousarray(vector, dtype=np.float32)
    if array.shape != (dimension,):
        raise DimensionMismatch(
            f"An embedding has shape {array.shape}, the index holds ({dimension},).",
            field=field,
            remedy="Compute it with the encoder and embedding of this registry.",
        )
    # The squared norm must be finite as well: float32 overflows at 1.8e19, and all distances would be infinite.
    with np.errstate(over="ignore", invalid="ignore"):
        finite = bool(np.isfinite(array @ array))
    if not finite:
        raise NotFinite(
            "An embedding holds NaN, infinity or values too large to square.",
            field=field,
            remedy="Check the features of the sketch.",
        )
    return array


def _flat_index(dimension: int, rows: Mapping[int, NDArray[np.float32]]) -> Any:
    index = faiss.IndexIDMap2(faiss.IndexFlatL2(dimension))
    if rows:
        index.add_with_ids(np.stack(list(rows.values())), np.fromiter(rows, dtype=np.int64))
    return index


def _rows_of(index: Any, rows: Iterable[int]) -> dict[int, NDArray[np.float32]]:
    """Read vectors back from a snapshot; it is the only place that keeps them."""
    wanted = list(rows)
    if not wanted:
        return {}
    vectors = index.reconstruct_batch(np.array(wanted, dtype=np.int64))
    return dict(zip(wanted, vectors, strict=True))


def _nearest(index: Any, vector: NDArray[np.float32], k: int) -> list[tuple[float, int]]:
    if not index.ntotal:
        return []
    squared, ids = index.search(vector[None], min(k, index.ntotal))
    return [
        (math.sqrt(max(0.0, float(value))), int(row))
        for value, row in zip(squared[0], ids[0], strict=True)
        if row >= 0  # FAISS pads with -1
    ]
