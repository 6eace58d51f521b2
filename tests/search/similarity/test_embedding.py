"""The embedding tracks the distance; how well, on all benchmark tasks."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import spearmanr
from small_sketches import random_sketch, reordered

from search.similarity import EMBEDDING_DIMENSION, embed, embedding_id, load_encoder, make_sketch, otdd
from search.tasks import ImageDataset


def test_an_embedding_is_a_finite_vector_fixed_by_the_sketch() -> None:
    vector = embed(random_sketch(0))
    assert vector.shape == (EMBEDDING_DIMENSION,)
    assert vector.dtype == np.float32
    assert np.isfinite(vector).all()
    np.testing.assert_array_equal(vector, embed(random_sketch(0)))


def test_the_order_of_classes_and_points_does_not_matter() -> None:
    sketch = random_sketch(1)
    np.testing.assert_allclose(embed(reordered(sketch, 2)), embed(sketch), atol=1e-5)


def test_moving_a_dataset_moves_its_embedding_by_the_distance() -> None:
    """Linear OT is exact for translations; the projection keeps lengths within a few per cent."""
    a = random_sketch(2, n=60, d=20)
    b = replace(a, features=a.features + 1.5, class_means=a.class_means + 1.5)
    assert np.linalg.norm(embed(a) - embed(b)) == pytest.approx(otdd(a, b).distance, rel=0.15)


def test_other_labels_on_the_same_points_have_another_embedding() -> None:
    a = random_sketch(3)
    other = np.roll(a.labels, 1)
    means = np.stack([a.features[other == c].mean(axis=0) for c in range(3)])
    b = replace(a, labels=other, class_means=means, class_counts=np.bincount(other))
    assert np.linalg.norm(embed(a) - embed(b)) > 0.3 * otdd(a, b).distance


def test_the_embedding_id_is_fixed_and_differs_between_encoders_and_dimensions() -> None:
    """An index built under one id is never searched with a vector of another."""
    encoder = load_encoder()
    assert embedding_id(encoder.id, encoder.dimension) == "linear-ot-v1-55140e18ef56c265"
    assert len({embedding_id(e, d) for e in ("a", "b") for d in (4, 5)}) == 4


@pytest.mark.shared_tasks
def test_it_tracks_the_distance_on_all_benchmark_tasks(shared_tasks: dict[str, ImageDataset]) -> None:
    """All pairs of a third of the tasks, small sketches; `benchmarks/similarity.py` measures the whole."""
    sketches = [make_sketch(task, load_encoder(), size=96) for task in list(shared_tasks.values())[::3]]
    vectors = [embed(sketch) for sketch in sketches]
    pairs = list(combinations(range(len(sketches)), 2))
    exact = [otdd(sketches[i], sketches[j]).distance for i, j in pairs]
    approximate = [float(np.linalg.norm(vectors[i] - vectors[j])) for i, j in pairs]
    assert spearmanr(exact, approximate).statistic > 0.93


@pytest.mark.shared_tasks
def test_relatives_are_nearest(shared_tasks: dict[str, ImageDataset]) -> None:
    """Near relatives with few images find each other among tasks of other domains."""
    from search.tasks import Derivation, derive

    sources = ("fashion_tops", "mnist_0to4", "print_latin_upper_wild", "emoji_food", "omni_balinese", "texture3")
    stored = {name: make_sketch(shared_tasks[name], load_encoder(), size=96) for name in sources}
    for target, relative in (
        ("fashion_tops_twin", "fashion_tops"),
        ("mnist_5to9", "mnist_0to4"),
        ("print_digits_wild", "print_latin_upper_wild"),
        ("emoji_animals", "emoji_food"),
        ("omni_tagalog", "omni_balinese"),
    ):
        query = make_sketch(derive(shared_tasks[target], Derivation(n_train=8)), load_encoder(), size=96)
        assert min(stored, key=lambda name: otdd(query, stored[name]).distance) == relative
