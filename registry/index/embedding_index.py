"""The embedding index: which stored datasets lie near a query, by the Euclidean distance of their embeddings.

FAISS in memory, always rebuilt from the catalog and never loaded from a file: the database is the truth, and a
flipped bit in an index file would go unnoticed. The index is a chain of immutable states, so readers take no lock:

    state = snapshot  -  set of its rows that are gone  +  small delta of newer rows

A writer makes the next state and swaps one reference. It works on the delta and the gone rows alone, which are kept
at about the square root of the snapshot; beyond that, they go into a new snapshot:

    up to 200,000 rows    exact search, rebuilt by whoever brings the change (a copy of memory)
    above                 an inverted file with tested recall, built by `rebuild_if_due` in the background, while
                          changes go on being applied to the old state; those are read from the catalog again and
                          applied to the new one before it is swapped in

FAISS keeps duplicate ids silently and cannot be searched while it is being changed; with immutable states neither can
happen.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from supernet_registry.registry.index.inverted_file import IvfStore, build_inverted_file
from supernet_registry.registry.index.rows import Delta, ReadChanges, Row, block_of, checked, pages, read_all
from supernet_registry.registry.index.vector_store import (
    Block,
    FlatStore,
    Interrupted,
    SelfTest,
    Snapshot,
    VectorStore,
    selector_of,
)
from supernet_registry.search.errors import InvalidArgument

__all__ = ["EXACT_ROWS", "EmbeddingIndex", "Hit", "IndexDescription"]

_log = logging.getLogger(__name__)

EXACT_ROWS = 200_000
"""Up to so many rows the search is exact."""
SMALLEST_REBUILD = 256
"""Rows of delta and gone rows that are always tolerated before a new snapshot is built."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One stored dataset near a query."""

    row_id: int
    name: str
    distance: float


@dataclass(frozen=True, slots=True)
class IndexDescription:
    """What the index is made of."""

    kind: Literal["exact", "inverted file"]
    rows: int
    delta_rows: int
    gone_rows: int
    size_bytes: int
    """Memory of the vectors."""
    tested: SelfTest | None
    """Lists, probes and recall of the last inverted file that was tried; None if none was."""


@dataclass(frozen=True)
class _State:
    """One immutable state."""

    sequence: int
    snapshot: Snapshot
    gone: frozenset[int]
    delta: Delta
    delta_store: FlatStore

    def __len__(self) -> int:
        return len(self.snapshot) - len(self.gone) + len(self.delta)

    @property
    def changed(self) -> int:
        """Rows that a new snapshot would take up or drop."""
        return len(self.gone) + len(self.delta)

    @cached_property
    def selector(self) -> Any:
        """FAISS selector of the snapshot's rows that are not gone."""
        return selector_of(tuple(self.gone))

    def name(self, row_id: int) -> str:
        """Name of a row that is there."""
        return self.delta[row_id][0] if row_id in self.delta else self.snapshot.name(row_id)


class EmbeddingIndex:
    """Nearest neighbours among the embeddings of all datasets. Thread-safe.

    Args:
        dimension: length d of an embedding.
        read_changes: see `ReadChanges`; the index reads it whole when it is empty or is built anew.
        exact_rows: up to so many rows the search is exact.
        smallest_rebuild: changes that are always tolerated before a new snapshot is built.
    """

    def __init__(
        self,
        dimension: int,
        read_changes: ReadChanges,
        *,
        exact_rows: int = EXACT_ROWS,
        smallest_rebuild: int = SMALLEST_REBUILD,
    ) -> None:
        self._dimension = dimension
        self._read_changes = read_changes
        self._exact_rows = exact_rows
        self._smallest_rebuild = smallest_rebuild
        self._write_lock = threading.Lock()
        self._rebuild_lock = threading.Lock()
        self._state = self._fresh(0, Snapshot.of([], FlatStore(dimension, [])))

    @property
    def sequence(self) -> int:
        """Sequence of the last change that queries see."""
        return self._state.sequence

    def __len__(self) -> int:
        return len(self._state)

    def describe(self) -> IndexDescription:
        """Kind, size, and what was tested."""
        state = self._state
        store = state.snapshot.store
        return IndexDescription(
            kind="inverted file" if isinstance(store, IvfStore) else "exact",
            rows=len(state),
            delta_rows=len(state.delta),
            gone_rows=len(state.gone),
            size_bytes=store.size_bytes + state.delta_store.size_bytes,
            tested=store.tested,
        )

    def catch_up(self, min_sequence: int = 0) -> int:
        """Apply the catalog's changes up to now, and return the sequence that the index then reflects.

        Called after every commit that changes a dataset, at start, and from time to time. Because the rows are read
        back from the catalog in the order of their sequence, it does not matter which of two commits calls first. The
        first call builds the whole index; later ones work on the new rows alone.

        Args:
            min_sequence: a sequence that the caller was told; the catalog is only read if the index is behind it.

        Raises:
            InvalidArgument: the catalog has not issued `min_sequence` yet.
            DimensionMismatch: an embedding is not of shape (d,); the page with it was not applied.
            NotFinite: an embedding holds NaN or infinity; likewise.
        """
        if self.sequence < min_sequence or not min_sequence:
            with self._write_lock:
                if not self.sequence:
                    self._state = self._load(lambda: False)
                else:
                    for rows in pages(self._read_changes, self.sequence):
                        self._state = self._applied(self._state, rows)
        if self.sequence < min_sequence:
            raise InvalidArgument(
                f"Index sequence {min_sequence} has not been issued yet; the latest is {self.sequence}.",
                field="min_index_sequence",
                remedy="Use the index_sequence of a dataset of this registry.",
            )
        return self.sequence

    def rebuild_if_due(self, interrupted: Callable[[], bool] = lambda: False) -> bool:
        """Build a new snapshot if the index is large and many rows have changed; returns whether it did.

        To be called in the background from time to time. Searches and `catch_up` go on meanwhile. The inverted file
        is trained anew when the rows have doubled since, or when its lists have become twice as uneven.

        Args:
            interrupted: asked every second or so; True gives up.
        """
        with self._rebuild_lock:
            old = self._state
            if not self._is_due(old):
                return False
            try:
                new = self._next(old, interrupted)
            except Interrupted:
                return False
            with self._write_lock:
                for rows in pages(self._read_changes, new.sequence):
                    new = self._applied(new, rows)
                self._state = new
            return True

    def search(self, query: NDArray[np.float32], k: int) -> list[Hit]:
        """Return the k nearest rows, nearest first; fewer if the index holds fewer.

        Equal distances are ordered by row id, except where k cuts through them. An inverted file finds 99 % of the
        nearest, and its distances are rounded to about 1e-3; see `registry.index.inverted_file`.

        Args:
            query: embedding, shape (d,).
            k: number of rows, at least 1.

        Raises:
            DimensionMismatch, NotFinite, InvalidArgument: see the arguments.
        """
        vector = checked(query, self._dimension)
        if k < 1:
            raise InvalidArgument(f"k is {k}.", field="k", remedy="Ask for at least one row.")
        state = self._state  # one reference: this query sees one consistent state
        older = state.snapshot.store.search(vector, k, gone=len(state.gone), selector=state.selector)
        newer = state.delta_store.search(vector, k, gone=0, selector=None)
        squared, ids = np.concatenate([older[0], newer[0]]), np.concatenate([older[1], newer[1]])
        nearest = np.lexsort((ids, squared))[:k]
        distances = np.sqrt(np.maximum(squared[nearest], 0.0))
        return [
            Hit(row, state.name(row), distance)
            for row, distance in zip(ids[nearest].tolist(), distances.tolist(), strict=True)
        ]

    def _is_due(self, state: _State) -> bool:
        large = len(state) > self._exact_rows or isinstance(state.snapshot.store, IvfStore)
        return large and state.changed > self._tolerated(state)

    def _tolerated(self, state: _State) -> int:
        return max(self._smallest_rebuild, 4 * math.isqrt(len(state.snapshot)))

    def _next(self, old: _State, interrupted: Callable[[], bool]) -> _State:
        """The state with a new snapshot, as of `old` or later."""
        store, gone, newer = old.snapshot.store, tuple(old.gone), block_of(old.delta, self._dimension)
        grown = store.tested is None or len(old) >= 2 * store.tested.rows
        if isinstance(store, FlatStore) and not grown:
            return self._merged(old, store)
        if isinstance(store, IvfStore) and not (grown or store.uneven or len(old) <= self._exact_rows):
            extended = store.extended(gone, newer)
            if extended is not None:
                return self._fresh(old.sequence, old.snapshot.next(gone, newer, extended))
        return self._load(interrupted)

    def _load(self, interrupted: Callable[[], bool]) -> _State:
        """The state of all that the catalog holds now.

        Read anew even where the old snapshot holds most of it: what an inverted file keeps is rounded.
        """
        sequence, blocks = read_all(self._read_changes, self._dimension, interrupted)
        return self._fresh(sequence, Snapshot.of(blocks, self._store_of(blocks, interrupted)))

    def _store_of(self, blocks: Sequence[Block], interrupted: Callable[[], bool]) -> VectorStore:
        test = None
        if sum(len(block) for block in blocks) > self._exact_rows:
            store, test = build_inverted_file(blocks, interrupted=interrupted)
            if store is not None:
                return store
            _log.warning("the index stays exact: %s", test.remark)
        return FlatStore(self._dimension, blocks, test)

    def _merged(self, old: _State, store: FlatStore) -> _State:
        """The same rows as one exact snapshot."""
        gone, newer = tuple(old.gone), block_of(old.delta, self._dimension)
        return self._fresh(old.sequence, old.snapshot.next(gone, newer, store.extended(gone, newer)))

    def _applied(self, old: _State, rows: Sequence[Row]) -> _State:
        """The state after some changes: work on delta and gone rows only, whatever the size of the snapshot."""
        vectors = [None if row.embedding is None else checked(row.embedding, self._dimension) for row in rows]
        delta, gone = dict(old.delta), set(old.gone)
        for row, vector in zip(rows, vectors, strict=True):
            if row.row_id in old.snapshot:
                gone.add(row.row_id)
            delta.pop(row.row_id, None)
            if vector is not None:
                delta[row.row_id] = (row.name, vector)
        store = FlatStore(self._dimension, [block_of(delta, self._dimension)])
        new = _State(rows[-1].sequence, old.snapshot, frozenset(gone), delta, store)
        snapshot = old.snapshot.store
        if isinstance(snapshot, FlatStore) and len(new) <= self._exact_rows and new.changed > self._tolerated(new):
            return self._merged(new, snapshot)
        return new

    def _fresh(self, sequence: int, snapshot: Snapshot) -> _State:
        return _State(sequence, snapshot, frozenset(), {}, FlatStore(self._dimension, []))
