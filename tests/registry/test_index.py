"""The embedding index against the slow, obvious way: numpy over all rows."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from supernet_registry.registry.index.embedding_index import EmbeddingIndex, Hit
from supernet_registry.search.errors import DimensionMismatch, InvalidArgument, NotFinite
from tests.registry.index_tools import Change, History, check_hits, nearest, recall

DIMENSION = 4


def vector(seed: int) -> NDArray[np.float32]:
    # Small integers: distances are exact in float32, and equal ones occur.
    return np.random.default_rng(seed).integers(-3, 4, DIMENSION).astype(np.float32)


def clustered(count: int, seed: int) -> NDArray[np.float32]:
    """Rows in 40 clusters, as the datasets of a registry come in families."""
    centres = np.random.default_rng(0).normal(size=(40, DIMENSION)) * 5
    random = np.random.default_rng(seed)
    return (centres[random.integers(0, 40, count)] + random.normal(size=(count, DIMENSION))).astype(np.float32)


def filled(count: int, **options: int) -> tuple[History, EmbeddingIndex]:
    """A history of clustered rows and an index that has caught up with it."""
    history = History()
    for row_id, embedding in enumerate(clustered(count, seed=1)):
        history.put(row_id, embedding)
    index = EmbeddingIndex(DIMENSION, history.read, **options)
    index.catch_up()
    return history, index


# (row id, seed of the new embedding or None for a removal)
changes = st.lists(st.tuples(st.integers(0, 12), st.none() | st.integers(0, 50)), max_size=60)


@settings(max_examples=60, deadline=None)
@given(batches=st.lists(changes, max_size=6), tolerated=st.sampled_from([0, 3, 1000]), k=st.integers(1, 20))
def test_any_history_of_additions_replacements_and_removals_equals_brute_force(batches, tolerated, k):
    history = History()
    index = EmbeddingIndex(DIMENSION, history.read, smallest_rebuild=tolerated)
    for batch in batches:
        for row_id, seed in batch:
            history.remove(row_id) if seed is None else history.put(row_id, vector(seed))
        assert index.catch_up() == len(history.changes)
        assert len(index) == len(history.rows)
        check_hits(index, history.rows, vector(99), k)
        expected = [distance for distance, _ in nearest(history.rows, vector(99), k)]
        assert [hit.distance for hit in index.search(vector(99), k)] == pytest.approx(expected, abs=1e-6)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    batches=st.lists(
        st.tuples(st.sampled_from(["add", "replace", "remove"]), st.integers(1, 300), st.booleans()), max_size=6
    ),
    seed=st.integers(0, 1000),
    k=st.integers(1, 900),
)
def test_any_history_of_an_inverted_file_keeps_its_recall(batches, seed, k):
    """Hits are always distinct, alive and rightly measured, and as many as asked for; the nearest are 99 % of them."""
    random = np.random.default_rng(seed)
    history, index = filled(900, exact_rows=300, smallest_rebuild=50)
    for kind, count, rebuild in batches:
        alive = np.array(list(history.rows))
        known = random.choice(alive, min(count, max(0, len(alive) - 64)), replace=False)
        if kind == "remove":
            for row_id in known:
                history.remove(int(row_id))
        else:
            first = len(history.changes)
            row_ids = known if kind == "replace" else range(first, first + count)
            for row_id, embedding in zip(row_ids, clustered(count, seed=first), strict=False):
                history.put(int(row_id), embedding)
        index.catch_up()
        if rebuild:
            index.rebuild_if_due()
        assert len(index) == len(history.rows)
        check_hits(index, history.rows, clustered(1, seed)[0], k)
    queries = np.stack(list(history.rows.values()))[:200]
    assert recall(index, history.rows, queries, 16) >= 0.98, "0.99 is promised of other queries"


def test_the_kind_changes_at_the_limit_and_back():
    history, index = filled(300, exact_rows=300, smallest_rebuild=50)
    assert index.describe().kind == "exact"
    assert index.describe().tested is None
    for row_id, embedding in enumerate(clustered(600, seed=2), start=300):
        history.put(row_id, embedding)
    index.catch_up()
    assert index.describe().kind == "exact", "whoever brings a change does not build an inverted file"
    assert index.rebuild_if_due()
    assert index.describe().kind == "inverted file"
    assert index.describe().tested.recall_at_16 >= 0.99
    assert (index.describe().delta_rows, index.describe().gone_rows) == (0, 0)
    for row_id in range(600):
        history.remove(row_id)
    index.catch_up()
    assert index.rebuild_if_due()
    assert index.describe().kind == "exact"
    query = clustered(1, seed=3)[0]
    expected = [(pytest.approx(distance, rel=1e-5), row_id) for distance, row_id in nearest(history.rows, query, 10)]
    assert [(hit.distance, hit.row_id) for hit in index.search(query, 10)] == expected, "and exact to the last digit"


def test_data_without_structure_stay_exact_and_the_index_says_so():
    """Of vectors that are all about equally far from each other, no few lists hold the nearest."""
    history = History()
    for row_id, embedding in enumerate(np.random.default_rng(0).normal(size=(500, 64)).astype(np.float32)):
        history.put(row_id, embedding)
    index = EmbeddingIndex(64, history.read, exact_rows=300, smallest_rebuild=50)
    index.catch_up()
    described = index.describe()
    assert described.kind == "exact"
    assert not described.tested.passed
    assert described.tested.recall_at_64 < 0.99
    for row_id in range(100):
        history.remove(row_id)
    index.catch_up()
    assert index.rebuild_if_due()
    assert index.describe().tested == described.tested, "it is not tried again before the rows have doubled"
    check_hits(index, history.rows, np.zeros(64, dtype=np.float32), 450)


def test_an_inverted_file_is_extended_until_its_rows_have_doubled_and_then_trained_anew():
    history, index = filled(600, exact_rows=300, smallest_rebuild=50)
    trained = []
    for batch in range(4):
        for row_id, embedding in enumerate(clustered(200, seed=5 + batch), start=600 + 200 * batch):
            history.put(row_id, embedding)
        index.catch_up()
        assert index.rebuild_if_due()
        assert not index.rebuild_if_due(), "nothing is due any more"
        trained.append(index.describe().tested.rows)
    assert trained == [600, 600, 1200, 1200]


def test_an_inverted_file_whose_lists_have_become_uneven_is_trained_anew():
    history, index = filled(600, exact_rows=300, smallest_rebuild=50)
    far = np.full(DIMENSION, 100, dtype=np.float32)
    for row_id in range(600, 1100):  # a new family: all in one list
        history.put(row_id, far + vector(row_id))
    index.catch_up()
    assert index.rebuild_if_due()
    assert index.describe().tested.rows == 600
    for row_id in range(51 + 4 * 34):
        history.remove(row_id)
    index.catch_up()
    assert index.rebuild_if_due()
    assert index.describe().tested.rows == len(history.rows)


def test_a_row_too_large_for_float16_makes_the_index_exact_again():
    history, index = filled(600, exact_rows=300, smallest_rebuild=50)
    huge = np.full(DIMENSION, 1e6, dtype=np.float32)
    for row_id in range(600, 800):
        history.put(row_id, huge + row_id)
    index.catch_up()
    assert index.rebuild_if_due()
    assert index.describe().kind == "exact"
    assert [hit.row_id for hit in index.search(huge + 700, 1)] == [700]


def test_readers_and_small_changes_go_on_while_an_inverted_file_is_built():
    """Changes that were committed while it was built are in it when it is swapped in."""
    history, index = filled(400, exact_rows=300, smallest_rebuild=50)
    for row_id, embedding in enumerate(clustered(500, seed=2), start=400):
        history.put(row_id, embedding)
    index.catch_up()
    added, removed = np.full(DIMENSION, 50, dtype=np.float32), 7

    def in_the_middle() -> bool:
        if 5000 not in history.rows:
            history.put(5000, added)
            history.remove(removed)
            sequence = index.catch_up()
            assert index.catch_up(min_sequence=sequence) == sequence
            assert index.search(added, 1)[0].row_id == 5000, "seen before the new snapshot is there"
        return False

    assert index.rebuild_if_due(in_the_middle)
    assert index.describe().kind == "inverted file"
    assert index.sequence == len(history.changes)
    assert index.search(added, 1)[0].row_id == 5000
    assert removed not in {hit.row_id for hit in index.search(history.rows[8], 1000)}
    check_hits(index, history.rows, added, 1000)


def test_concurrent_readers_see_complete_states_only():
    """Rows that nobody touches are found by every search, whatever is rebuilt meanwhile, and none twice."""
    history, index = filled(600, exact_rows=300, smallest_rebuild=50)
    fixed = {row_id: history.rows[row_id] for row_id in range(50)}
    ended, searches, problems = threading.Event(), [0] * 3, []

    def read(reader: int) -> None:
        while not ended.is_set() or not searches[reader]:
            row_id = searches[reader] % len(fixed)
            hits = index.search(fixed[row_id], 64)
            found = [hit.row_id for hit in hits]
            nearest_ids = [hit.row_id for hit in hits if hit.distance < 1e-2]
            if len(set(found)) != len(found) or row_id not in nearest_ids:
                problems.append((row_id, found))
            searches[reader] += 1

    readers = [threading.Thread(target=read, args=(number,)) for number in range(3)]
    for reader in readers:
        reader.start()
    try:
        for batch in range(8):
            for row_id, embedding in zip(range(50, 400), clustered(350, seed=batch), strict=True):
                history.put(row_id + 400 * (batch % 2), embedding)
            index.catch_up()
            index.rebuild_if_due()
    finally:
        ended.set()
        for reader in readers:
            reader.join()
    assert not problems
    assert all(searches)


@pytest.mark.parametrize("patience", [0, 3, 10, 13, 14])
def test_an_interrupted_build_changes_nothing(patience):
    history, index = filled(300, exact_rows=300, smallest_rebuild=50)
    for row_id, embedding in enumerate(clustered(300, seed=2), start=300):
        history.put(row_id, embedding)
    index.catch_up()
    asked = itertools.count()
    assert not index.rebuild_if_due(lambda: next(asked) >= patience)
    assert next(asked) == patience + 1, "it stops at once"
    assert index.describe().kind == "exact"
    check_hits(index, history.rows, clustered(1, seed=3)[0], 600)
    assert index.rebuild_if_due(), "and can be begun again"


def test_removed_rows_of_a_large_snapshot_never_come_back():
    """Rows in the snapshot are only marked as gone; searches look past them, and the next snapshot drops them."""
    history = History()
    for row_id in range(2000):
        history.put(row_id, np.full(DIMENSION, row_id, dtype=np.float32))
    index = EmbeddingIndex(DIMENSION, history.read)
    index.catch_up()
    for row_id in range(300):
        history.remove(row_id)
        index.catch_up()
    assert index.search(np.zeros(DIMENSION, dtype=np.float32), 3) == [
        Hit(i, f"row{i}", pytest.approx(2.0 * i)) for i in (300, 301, 302)
    ]


def test_a_row_that_changes_between_two_pages_of_the_first_read_is_there_once():
    """The catalog gives a row again, under its new sequence, if it changed after its page was read."""
    first = [Change(i + 1, i, f"row{i}", vector(i)) for i in range(4096)]
    later = [Change(5000, 17, "row17", vector(1)), Change(5001, 18, "row18", None)]

    def read(after_sequence: int, limit: int) -> list[Change]:
        return [change for change in first + later if change.sequence > after_sequence][:limit]

    index = EmbeddingIndex(DIMENSION, read)
    assert index.catch_up() == 5001
    assert len(index) == 4095
    hits = {hit.row_id: hit.distance for hit in index.search(vector(1), 4096)}
    assert len(hits) == 4095
    assert hits[17] == 0.0
    assert 18 not in hits


def test_a_small_change_does_not_touch_the_snapshot():
    history, index = filled(2000)
    before = index._state
    history.put(5, vector(5))
    history.remove(6)
    index.catch_up()
    assert index._state.snapshot is before.snapshot
    assert set(index._state.delta) == {5}
    assert index._state.gone == {5, 6}
    assert not before.gone, "a reader that began before keeps its state"


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
    history = History()
    history.put(1, vector(1))
    index = EmbeddingIndex(DIMENSION, history.read)
    index.catch_up()
    history.put(2, vector(2))
    history.put(3, embedding)
    with pytest.raises(error):
        index.catch_up()
    with pytest.raises(error):
        EmbeddingIndex(DIMENSION, history.read).catch_up()
    with pytest.raises(error):
        index.search(embedding, 1)
    assert index.sequence == 1
    assert [hit.row_id for hit in index.search(vector(1), 5)] == [1]


def test_an_empty_index_finds_nothing():
    index = EmbeddingIndex(DIMENSION, History().read)
    assert index.catch_up() == 0
    assert index.search(vector(0), 3) == []


def test_it_must_be_asked_for_at_least_one_row():
    with pytest.raises(InvalidArgument):
        EmbeddingIndex(DIMENSION, History().read).search(vector(0), 0)


def test_it_catches_up_with_the_catalog_from_where_it_is():
    history = History()
    for row_id in (1, 2, 3):
        history.put(row_id, vector(row_id))
    index = EmbeddingIndex(DIMENSION, history.read)
    assert index.catch_up() == 3
    history.remove(2)
    assert index.catch_up(min_sequence=4) == 4
    assert index.catch_up(min_sequence=4) == 4, "it is there already: the catalog is not read again"
    assert history.asked_for == [0, 3]
    with pytest.raises(InvalidArgument, match="not been issued"):
        index.catch_up(min_sequence=5)
