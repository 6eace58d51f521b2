"""Immutable sets of named vectors: exact search, and what the snapshots of `registry.index.embedding_index` are made
of.

    Block      columns of rows as they come from the catalog
    FlatStore  exact search over all vectors (float32)
    IvfStore   inverted file (`registry.index.inverted_file`), approximate
    Snapshot   one of the two stores, with the names of its rows

Nothing here is changed after it was made, so any number of threads may search without a lock.

Shapes: n or m rows, d dimensions. Row ids are the catalog's, any int64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import faiss
import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Block",
    "FlatStore",
    "Found",
    "Interrupted",
    "SelfTest",
    "Snapshot",
    "VectorStore",
    "check_interrupted",
    "selector_of",
]

# Concurrent queries are the parallelism; with busy neighbours two OpenMP threads were measured 5 to 30 times slower
# than one.
faiss.omp_set_num_threads(1)

Found: TypeAlias = tuple[NDArray[np.float32], NDArray[np.int64]]
"""Squared distances (ascending) and row ids, both (m,)."""


class Interrupted(Exception):
    """A build was asked to stop; nothing was changed."""


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Rows as columns. A million rows as Python objects would take more room than their vectors."""

    ids: NDArray[np.int64]  # (m,)
    names: NDArray[np.bytes_]  # (m,), UTF-8
    vectors: NDArray[np.float32]  # (m, d)

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def joined(cls, blocks: Sequence[Block]) -> Block:
        """All rows of at least one block."""
        return cls(
            np.concatenate([block.ids for block in blocks]),
            np.concatenate([block.names for block in blocks]),
            np.concatenate([block.vectors for block in blocks]),
        )

    def rows(self, keep: NDArray[np.bool_]) -> Block:
        """The rows that `keep`, shape (m,), marks; itself if that is all."""
        return self if keep.all() else Block(self.ids[keep], self.names[keep], self.vectors[keep])


@dataclass(frozen=True, slots=True)
class SelfTest:
    """What an inverted file found when it searched for stored vectors, against exact search over the same rows."""

    rows: int
    """Rows when it was trained and tested."""
    lists: int
    probes: int
    """Lists that a search visits; the fewest that reached the target, or the most that were tried."""
    recall_at_16: float
    recall_at_64: float
    passed: bool
    remark: str


class VectorStore(Protocol):
    """Vectors by row id."""

    @property
    def tested(self) -> SelfTest | None:
        """The test of the last inverted file that was built of these rows, passed or not; None if none was tried."""

    @property
    def size_bytes(self) -> int:
        """Memory of the vectors."""

    def __len__(self) -> int: ...

    def search(self, query: NDArray[np.float32], k: int, *, gone: int, selector: Any) -> Found:
        """The nearest rows, at most k.

        Args:
            query: (d,).
            gone: number of rows that `selector` leaves out.
            selector: FAISS selector of the rows that are still there; None for all.
        """


class FlatStore:
    """Exact search: every vector in float32, every distance computed."""

    def __init__(self, dimension: int, blocks: Sequence[Block], tested: SelfTest | None = None) -> None:
        self._flat = faiss.IndexFlatL2(dimension)
        self._index = faiss.IndexIDMap(self._flat)
        for block in blocks:
            if len(block):
                self._index.add_with_ids(block.vectors, block.ids)
        self._tested = tested

    @property
    def tested(self) -> SelfTest | None:
        return self._tested

    @property
    def size_bytes(self) -> int:
        return int(self._flat.ntotal) * int(self._flat.d) * 4

    def __len__(self) -> int:
        return int(self._flat.ntotal)

    def search(self, query: NDArray[np.float32], k: int, *, gone: int, selector: Any) -> Found:
        k = min(k, len(self) - gone)
        if k < 1:
            return _NOTHING
        # FAISS writes into the parameters while it searches, so they must not be shared; selectors may be.
        squared, ids = self._index.search(query[None], k, params=_SearchParameters(sel=selector))
        return squared[0], ids[0]

    def extended(self, gone: Sequence[int], block: Block) -> FlatStore:
        """The next store: without some rows, and with new ones. Copies all vectors."""
        ids = faiss.vector_to_array(self._index.id_map)
        size = self._flat.ntotal * self._flat.d
        vectors = faiss.rev_swig_ptr(self._flat.get_xb(), size) if size else _EMPTY
        names = np.empty(len(ids), dtype="S1")  # a store keeps none
        old = Block(ids, names, vectors.reshape(len(ids), self._flat.d))
        kept = old.rows(np.isin(ids, np.array(gone, dtype=np.int64), invert=True))
        return FlatStore(self._flat.d, [kept, block], self._tested)


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """A store and the names of its rows."""

    ids: NDArray[np.int64]  # (n,), ascending
    names: NDArray[np.bytes_]  # (n,), UTF-8, in the order of `ids`
    store: VectorStore

    @classmethod
    def of(cls, blocks: Sequence[Block], store: VectorStore) -> Snapshot:
        """Of a store that was made of these blocks. Their ids are distinct."""
        ids = np.concatenate([_NO_IDS, *(block.ids for block in blocks)])
        names = np.concatenate([_NO_NAMES, *(block.names for block in blocks)])
        order = np.argsort(ids)
        return cls(ids[order], names[order], store)

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, row_id: int) -> bool:
        at = int(np.searchsorted(self.ids, row_id))
        return at < len(self) and bool(self.ids[at] == row_id)

    def name(self, row_id: int) -> str:
        """Name of a row that is there."""
        name: bytes = self.names[np.searchsorted(self.ids, row_id)]
        return name.decode()

    def next(self, gone: Sequence[int], block: Block, store: VectorStore) -> Snapshot:
        """Without some rows, and with new ones; of the store that was extended so."""
        keep = np.isin(self.ids, np.array(gone, dtype=np.int64), invert=True)
        no_vectors = np.empty((len(self), 0), dtype=np.float32)  # the store has them
        return Snapshot.of([Block(self.ids, self.names, no_vectors).rows(keep), block], store)


def selector_of(gone: Sequence[int]) -> Any:
    """A FAISS selector of all rows but those; None if none is gone."""
    if not gone:
        return None
    return faiss.IDSelectorNot(faiss.IDSelectorBatch(np.array(gone, dtype=np.int64)))


def check_interrupted(interrupted: Callable[[], bool]) -> None:
    """Raises Interrupted if so."""
    if interrupted():
        raise Interrupted


_SearchParameters: Any = faiss.SearchParameters  # FAISS's own type stubs leave its keywords out

_EMPTY = np.empty(0, dtype=np.float32)
_NO_IDS = np.empty(0, dtype=np.int64)
_NO_NAMES = np.empty(0, dtype="S1")
_NOTHING: Found = (_EMPTY, _NO_IDS)
