"""The embedding index against the slow, obvious way: numpy over all rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from registry import index as index_module
from registry.index import EmbeddingIndex, Hit
from search.errors import DimensionMismatch, InvalidArgument, NotFinite

DIMENSION = 4


@dataclass(frozen=True)
class Change:
    sequence: int
    row_id: int
    name: str
    embedding: NDArray[np.float32] | None


def vector(seed: int) -> NDArray[np.float32]:
    # Small integers: distances are exact in float32, and equal ones occur.
    return np.random.default_rng(seed).integers(-3, 4, DIMENSION).astype(np.float32)


def brute_force(rows: dict[int, NDArray[np.float32]], query: NDArray[np.float32], k: int) -> list[float]:
    """Distances of the k nearest rows, ascending."""
    return sorted(float(np.linalg.norm(row - query)) for row in rows.values())[:k]


def check_against_brute_force(index: EmbeddingIndex, rows: dict[int, NDArray[np.float32]], seed: int, k: int) -> None:
    query = vector(seed)
    hits = index.search(query, k)
    assert [hit.distance for hit in hits] == pytest.approx(brute_force(rows, query, k), abs=1e-6)
    assert len({hit.row_id for hit in hits}) == len(hits)
    for hit in hits:
        assert hit.name == f"row{hit.row_id}"
        assert hit.distance == pytest.approx(float(np.linalg.norm(rows[hit.row_id] - query)), abs=1e-6)


# (row id, seed of the new embedding or None for a removal)
changes = st.lists(st.tuples(st.integers(0, 12), st.none() | st.integers(0, 50)), max_size=60)


@settings(max_examples=60, deadline=None)
@given(batches=st.lists(changes, max_size=6), tolerated=st.sampled_from([0, 3, 1000]), k=st.integers(1, 20))
def test_any_sequence_of_adds_replacements_and_removals_equals_brute_force(batches, tolerated, k):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_module, "_SMALLEST_REBUILD", tolerated)  # so that small examples reach every rebuild
        index = EmbeddingIndex(DIMENSION)
        rows: dict[int, NDArray[np.float32]] = {}
        sequence = 0
        for batch in batches:
            applied = []
            for row_id, seed in batch:
                sequence += 1
                embedding = None if seed is None else vector(seed)
                applied.append(Change(sequence, row_id, f"row{row_id}", embedding))
                rows.pop(row_id, None)
                if embedding is not None:
                    rows[row_id] = embedding
            index.apply(applied)
            assert index.sequence == sequence
            assert len(index) == len(rows)
            check_against_brute_force(index, rows, seed=99, k=k)


def test_removed_rows_of_a_large_snapshot_never_come_back():
    """Rows in the snapshot are only marked as gone; searches look past them, and the next snapshot drops them."""
    index = EmbeddingIndex(DIMENSION)
    rows = {i: np.full(DIMENSION, i, dtype=np.float32) for i in range(2000)}
    index.apply([Change(i + 1, i, f"row{i}", row) for i, row in rows.items()])
    for i in range(300):
        index.apply([Change(3000 + i, i, f"row{i}", None)])
        del rows[i]
    assert index.search(np.zeros(DIMENSION, dtype=np.float32), 3) == [
        Hit(i, f"row{i}", pytest.approx(2.0 * i)) for i in (300, 301, 302)
    ]


def test_a_reader_keeps_the_state_it_began_with():
    index = EmbeddingIndex(DIMENSION)
    index.apply([Change(1, 7, "row7", vector(7))])
    state = index._state
    index.apply([Change(2, 7, "row7", None)])
    assert state.names == {7: "row7"}
    assert state.delta.ntotal == 1
    assert index.search(vector(7), 5) == []


@pytest.mark.parametrize(
    ("embedding", "error"),
    [
        (np.array([1, 2, np.nan, 4], dtype=np.float32), NotFinite),
        (np.array([1, 2, np.inf, 4], dtype=np.float32), NotFinite),
        (np.full(DIMENSION, 1e38, dtype=np.float32), NotFinite),
        (np.zeros(DIMENSION + 1, dtype=np.float32), DimensionMismatch),
        (np.zeros((1, DIMENSION), dtype=np.float32), DimensionMismatch),
    ],
)
def test_bad_embeddings_are_refused_and_change_nothing(embedding, error):
    """FAISS itself would take NaN without a word and answer with row -1 from then on."""
    index = EmbeddingIndex(DIMENSION)
    index.apply([Change(1, 1, "row1", vector(1))])
    with pytest.raises(error):
        index.apply([Change(2, 2, "row2", vector(2)), Change(3, 3, "row3", embedding)])
    with pytest.raises(error):
        index.search(embedding, 1)
    assert index.sequence == 1
    assert [hit.row_id for hit in index.search(vector(1), 5)] == [1]


def test_an_empty_index_finds_nothing():
    assert EmbeddingIndex(DIMENSION).search(vector(0), 3) == []


def test_it_must_be_asked_for_at_least_one_row():
    with pytest.raises(InvalidArgument):
        EmbeddingIndex(DIMENSION).search(vector(0), 0)


def test_it_catches_up_with_the_catalog_from_where_it_is():
    log = [Change(i, i, f"row{i}", vector(i)) for i in (1, 2, 3)]
    asked_for = []

    def read_changes(after_sequence):
        asked_for.append(after_sequence)
        return [change for change in log if change.sequence > after_sequence]

    index = EmbeddingIndex(DIMENSION, read_changes)
    assert index.catch_up() == 3
    log.append(Change(4, 2, "row2", None))
    assert index.catch_up(min_sequence=4) == 4
    assert index.catch_up(min_sequence=4) == 4, "it is there already: the catalog is not read again"
    assert asked_for == [0, 3]
    with pytest.raises(InvalidArgument, match="not been issued"):
        index.catch_up(min_sequence=5)
