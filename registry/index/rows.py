"""The catalog's changes, as the vector index reads them: in pages, checked, as columns."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from supernet_registry.registry.index.vector_store import Block, check_interrupted
from supernet_registry.search.errors import DimensionMismatch, NotFinite

__all__ = ["Delta", "ReadChanges", "Row", "block_of", "checked", "pages", "read_all"]

PAGE_ROWS = 4096
_PAGES_A_BLOCK = 16
"""Blocks of tens of MB are given back to the operating system when they are freed; memory of single pages is not."""


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


ReadChanges: TypeAlias = Callable[[int, int], Sequence[Row]]
"""`read(after_sequence, limit)`: the catalog's first `limit` changes after a sequence, ascending."""

Delta: TypeAlias = Mapping[int, tuple[str, NDArray[np.float32]]]
"""Name and vector by row id."""


def pages(read_changes: ReadChanges, after_sequence: int) -> Iterator[Sequence[Row]]:
    """All changes after a sequence; no page is empty."""
    while rows := read_changes(after_sequence, PAGE_ROWS):
        yield rows
        if len(rows) < PAGE_ROWS:
            return
        after_sequence = rows[-1].sequence


def read_all(read_changes: ReadChanges, dimension: int, interrupted: Callable[[], bool]) -> tuple[int, list[Block]]:
    """The last sequence, and all rows that are there by then, each once.

    Raises:
        DimensionMismatch, NotFinite: an embedding is not of shape (d,), or not finite.
        Interrupted: it was asked to stop.
    """
    sequence = 0
    blocks, recent = list[Block](), list[Block]()
    ids, there = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=bool)]
    for rows in pages(read_changes, 0):
        check_interrupted(interrupted)
        sequence = rows[-1].sequence
        ids.append(np.array([row.row_id for row in rows], dtype=np.int64))
        there.append(np.array([row.embedding is not None for row in rows], dtype=bool))
        found = [(row.name, checked(row.embedding, dimension)) for row in rows if row.embedding is not None]
        recent.append(_block(ids[-1][there[-1]], found, dimension))
        if len(recent) == _PAGES_A_BLOCK:
            blocks.append(Block.joined(recent))
            recent.clear()
    blocks += recent
    # A row may have changed again between two pages: only the last of its changes counts.
    everything = np.concatenate(ids)
    last = np.zeros(len(everything), dtype=bool)
    last[len(everything) - 1 - np.unique(everything[::-1], return_index=True)[1]] = True
    keep = np.split(last[np.concatenate(there)], np.cumsum([len(block) for block in blocks]))
    return sequence, [block.rows(kept) for block, kept in zip(blocks, keep, strict=False)]


def block_of(delta: Delta, dimension: int) -> Block:
    """The rows of a delta, whose vectors were checked before."""
    return _block(np.fromiter(delta, dtype=np.int64, count=len(delta)), delta.values(), dimension)


def checked(vector: NDArray[np.float32], dimension: int) -> NDArray[np.float32]:
    """Return the vector as contiguous float32, or say what is wrong: FAISS itself accepts NaN without a word."""
    array = np.ascontiguousarray(vector, dtype=np.float32)
    if array.shape != (dimension,):
        raise DimensionMismatch(
            f"An embedding has shape {array.shape}, the index holds ({dimension},).",
            field="embedding",
            remedy="Compute it with the encoder and embedding of this registry.",
        )
    # The squared norm must be finite as well: float32 overflows at 1.8e19, and all distances would be infinite.
    with np.errstate(over="ignore", invalid="ignore"):
        finite = bool(np.isfinite(array @ array))
    if not finite:
        raise NotFinite(
            "An embedding holds NaN, infinity or values too large to square.",
            field="embedding",
            remedy="Check the features of the sketch.",
        )
    return array


def _block(ids: NDArray[np.int64], rows: Collection[tuple[str, NDArray[np.float32]]], dimension: int) -> Block:
    names = np.array([name.encode() for name, _ in rows], dtype=np.bytes_)
    vectors = np.array([vector for _, vector in rows], dtype=np.float32)
    return Block(ids, names, vectors.reshape(len(rows), dimension))
