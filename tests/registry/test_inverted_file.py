"""The inverted file: its self-test tells the truth, and its searches are complete however many rows are gone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from supernet_registry.registry.index.inverted_file import TARGET_RECALL, IvfStore, build_inverted_file
from supernet_registry.registry.index.vector_store import Block, selector_of

DIMENSION = 8


def rows_in_families(count: int, *, offset: float = 0.0, seed: int = 0) -> NDArray[np.float32]:
    """Rows around 50 centres, shifted as a whole."""
    random = np.random.default_rng(seed)
    centres = 5 * np.random.default_rng(1).normal(size=(50, DIMENSION))
    rows = centres[random.integers(0, 50, count)] + random.normal(size=(count, DIMENSION))
    return (rows + offset).astype(np.float32)


def blocks_of(vectors: NDArray[np.float32], parts: int = 3) -> list[Block]:
    """Blocks of a catalog whose row ids are 7, 10, 13, ..."""
    ids = 7 + 3 * np.arange(len(vectors))
    names = np.array([f"row{row_id}".encode() for row_id in ids], dtype=np.bytes_)
    pieces = np.array_split(np.arange(len(vectors)), parts)
    return [Block(ids[piece], names[piece], vectors[piece]) for piece in pieces]


def built(vectors: NDArray[np.float32]) -> IvfStore:
    """The inverted file of these rows, which passes its test."""
    store, test = build_inverted_file(blocks_of(vectors), interrupted=lambda: False)
    assert store is not None, test
    return store


def measured_recall(store: IvfStore, vectors: NDArray[np.float32], k: int) -> float:
    """Of every stored vector's k nearest others, the share that is found."""
    found = []
    for i, query in enumerate(vectors):
        distances = np.delete(np.linalg.norm(vectors - query, axis=1), i)
        limit = np.sort(distances)[k - 1] * 1.001
        _, ids = store.search(query, k + 1, gone=0, selector=None)
        others = (ids[ids != 7 + 3 * i] - 7) // 3
        found.append((np.linalg.norm(vectors[others[:k]] - query, axis=1) <= limit).sum() / k)
    return float(np.mean(found))


def test_the_recall_that_it_states_is_the_recall_that_it_has():
    vectors = rows_in_families(2000)
    store = built(vectors)
    assert store.tested.passed
    assert store.tested.rows == 2000
    assert store.tested.probes < store.tested.lists
    for k, stated in ((16, store.tested.recall_at_16), (64, store.tested.recall_at_64)):
        assert stated >= TARGET_RECALL
        assert measured_recall(store, vectors, k) == pytest.approx(stated, abs=0.01), "200 queries stand for all"


def test_far_fewer_probes_would_miss_the_target():
    vectors = rows_in_families(2000)
    store = built(vectors)
    few = replace(store, tested=replace(store.tested, probes=store.tested.probes // 4))
    assert few.tested.probes >= 1
    assert measured_recall(few, vectors, 64) < TARGET_RECALL


def test_datasets_with_one_and_the_same_embedding_are_no_misses():
    """Which 16 of 500 equal rows are found does not matter; comparing ids would call it a recall of 3 %."""
    vectors = rows_in_families(1000)
    vectors[:500] = vectors[0]
    store, test = build_inverted_file(blocks_of(vectors), interrupted=lambda: False)
    assert store is not None, test


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_distances_are_right_however_far_the_data_lie_from_the_origin(offset):
    """float16 itself resolves only 0.5 at 1000: that is why residuals are stored."""
    vectors = rows_in_families(2000, offset=offset)
    store = built(vectors)
    query = rows_in_families(1, offset=offset, seed=5)[0]
    squared, ids = store.search(query, 64, gone=0, selector=None)
    true = np.linalg.norm(vectors[(ids - 7) // 3] - query, axis=1)
    np.testing.assert_allclose(np.sqrt(squared), true, rtol=3e-3, atol=3e-3)


@pytest.mark.parametrize("left", [1, 20, 1000])
def test_rows_that_are_left_are_found_wherever_they_are(left):
    """The probed lists may hold none of them: then more are visited, up to all."""
    vectors = rows_in_families(2000)
    store = built(vectors)
    alive = 7 + 3 * np.random.default_rng(3).choice(2000, left, replace=False)
    gone = np.setdiff1d(7 + 3 * np.arange(2000), alive)
    _, ids = store.search(vectors[0], 2000, gone=len(gone), selector=selector_of(gone.tolist()))
    assert sorted(ids.tolist()) == sorted(alive.tolist())


def test_an_extended_file_has_the_new_rows_and_the_old_one_is_as_it_was():
    vectors = rows_in_families(2000)
    store = built(vectors)
    new = Block(np.array([7, 100_000]), np.array([b"row7", b"row100000"]), rows_in_families(2, seed=9))
    extended = store.extended([7, 10], new)
    assert extended is not None
    assert (len(store), len(extended)) == (2000, 2000)
    nearest = [int(extended.search(vector, 1, gone=0, selector=None)[1][0]) for vector in new.vectors]
    assert nearest == [7, 100_000]
    everything = extended.search(vectors[0], 5000, gone=0, selector=None)[1]
    assert len(everything) == len(set(everything.tolist())) == 2000
    assert 10 not in everything
    assert int(store.search(vectors[1], 1, gone=0, selector=None)[1][0]) == 10


@pytest.mark.parametrize("value", [40_000.0, -1e10])
def test_values_that_float16_cannot_hold_are_refused(value):
    vectors = rows_in_families(500)
    vectors[3, 2] = value
    store, test = build_inverted_file(blocks_of(vectors), interrupted=lambda: False)
    assert store is None
    assert "float16" in test.remark
    fitting = built(rows_in_families(2000))
    assert fitting.extended([], blocks_of(vectors)[0]) is None


def test_the_same_rows_give_the_same_file():
    first, second = (built(rows_in_families(1000)) for _ in range(2))
    assert first.tested == second.tested
    query = rows_in_families(1, seed=4)[0]
    for one, other in zip(*(store.search(query, 30, gone=0, selector=None) for store in (first, second)), strict=True):
        np.testing.assert_array_equal(one, other)
