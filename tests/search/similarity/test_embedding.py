"""The embedding: what it depends on, that it is what its definition says, and how well it tracks the distance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import numpy as np
import ot
import pytest
from scipy.stats import spearmanr

from supernet_registry.search.similarity import (
    EMBEDDING_DIMENSION,
    Sketch,
    embed,
    embedding_id,
    load_encoder,
    make_sketch,
    otdd,
)
from supernet_registry.search.similarity import embedding as module
from supernet_registry.search.tasks import ImageDataset, Split, TaskDerivation, derive
from tests.search.similarity.small_sketches import random_sketch, reordered

Shipped = Callable[[str], ImageDataset]


def test_an_embedding_is_a_finite_vector_fixed_by_the_sketch() -> None:
    vector = embed(random_sketch(0))
    assert vector.shape == (EMBEDDING_DIMENSION,)
    assert vector.dtype == np.float32
    assert np.isfinite(vector).all()
    np.testing.assert_array_equal(vector, embed(random_sketch(0)))


def test_the_order_of_classes_and_points_does_not_matter() -> None:
    sketch = random_sketch(1)
    np.testing.assert_allclose(embed(reordered(sketch, 2)), embed(sketch), atol=1e-5)


def test_it_is_what_its_definition_says() -> None:
    """Against the formula with matrix roots by scipy, the plan by a linear program, a dense projection."""
    sketch = random_sketch(1, n=60, d=7, k=5, rank=9)
    np.testing.assert_allclose(embed(sketch), _by_definition(sketch), atol=1e-5)


def test_only_the_moments_matter(shipped: Shipped) -> None:
    """Other images sampled, more or fewer of them, or points drawn from the moments: one embedding."""
    task, encoder = shipped("print_digits"), load_encoder()
    vector = embed(make_sketch(task, encoder))
    np.testing.assert_array_equal(vector, embed(make_sketch(task, encoder, seed=1, size=40)))
    np.testing.assert_array_equal(vector, embed(make_sketch(task, encoder, moments_only=True)))


def test_another_factor_of_the_same_covariance_makes_no_difference() -> None:
    sketch = random_sketch(4)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0].astype(np.float32)
    np.testing.assert_allclose(
        embed(replace(sketch, class_factors=turn @ sketch.class_factors)), embed(sketch), atol=1e-5
    )


def test_factors_without_variance_are_embedded_too() -> None:
    """One image in every class: all roots are zero, and nothing divides by them."""
    sketch = random_sketch(5)
    assert np.isfinite(embed(replace(sketch, class_factors=np.zeros((3, 3, 5), np.float32)))).all()
    assert np.isfinite(embed(replace(sketch, class_factors=np.zeros((3, 0, 5), np.float32)))).all()


def test_moving_a_dataset_moves_its_embedding_by_the_distance() -> None:
    """Translations are exact in both parts; the projection keeps lengths within a few per cent."""
    a = random_sketch(2, n=60, d=20)
    b = replace(a, features=a.features + 1.5, class_means=a.class_means + 1.5)
    assert np.linalg.norm(embed(a) - embed(b)) == pytest.approx(otdd(a, b).distance, rel=0.1)


def test_features_of_many_dimensions_keep_the_distance_between_unlike_spreads() -> None:
    """Beyond 128 dimensions roots are taken of projected covariances."""
    a = random_sketch(6, d=300, rank=20)
    b = replace(a, class_factors=3 * a.class_factors)
    expected = np.sqrt(2 * 4 * np.mean((a.class_factors**2).sum(axis=(1, 2))))  # features and labels, about
    assert np.linalg.norm(embed(a) - embed(b)) == pytest.approx(expected, rel=0.3)


def test_other_shares_of_the_classes_have_another_embedding() -> None:
    a = random_sketch(7)
    b = replace(a, class_counts=a.class_counts * np.array([1, 1, 50]))
    assert np.linalg.norm(embed(a) - embed(b)) > 0.3 * otdd(a, b).distance


@pytest.mark.parametrize("change", ["random", "merged"])
def test_the_same_images_under_other_labels_lie_apart(shipped: Shipped, change: str) -> None:
    """About as far as the distance says, of which a good part is the sampling error that the embedding lacks."""
    task = shipped("optdigits")
    other = derive(task, TaskDerivation(labels="random")) if change == "random" else _with_merged_classes(task)
    a, b = (make_sketch(data, load_encoder()) for data in (task, other))
    assert 0.4 * otdd(a, b).distance < np.linalg.norm(embed(a) - embed(b)) < 1.5 * otdd(a, b).distance


def test_renamed_classes_make_no_difference(shipped: Shipped) -> None:
    task = shipped("optdigits")
    renamed = derive(task, TaskDerivation(labels="shuffle_ids"))
    a, b = (embed(make_sketch(data, load_encoder())) for data in (task, renamed))
    np.testing.assert_allclose(a, b, atol=1e-4)


def test_the_embedding_id_is_fixed_and_differs_between_encoders_and_dimensions() -> None:
    """An index built under one id is never searched with a vector of another."""
    encoder = load_encoder()
    assert embedding_id(encoder.id, encoder.dimension) == "linear-ot-v2-8eaf56ec180087cb"
    assert len({embedding_id(e, d) for e in ("a", "b") for d in (4, 5)}) == 4


@pytest.mark.shared_tasks
def test_it_tracks_the_distance_on_all_benchmark_tasks(shared_tasks: dict[str, ImageDataset]) -> None:
    """All pairs of a third of the tasks, small sketches; `python -m benchmarks similarity` measures the whole."""
    sketches = [make_sketch(task, load_encoder(), size=96) for task in list(shared_tasks.values())[::3]]
    vectors = [embed(sketch) for sketch in sketches]
    pairs = list(combinations(range(len(sketches)), 2))
    exact = [otdd(sketches[i], sketches[j]).distance for i, j in pairs]
    approximate = [float(np.linalg.norm(vectors[i] - vectors[j])) for i, j in pairs]
    assert spearmanr(exact, approximate).statistic > 0.93


@pytest.mark.shared_tasks
def test_relatives_are_nearest(shared_tasks: dict[str, ImageDataset]) -> None:
    """Near relatives with few images find each other among tasks of other domains."""
    sources = ("fashion_tops", "mnist_0to4", "print_latin_upper_wild", "emoji_food", "omni_balinese", "texture3")
    stored = {name: make_sketch(shared_tasks[name], load_encoder(), size=96) for name in sources}
    for target, relative in (
        ("fashion_tops_twin", "fashion_tops"),
        ("mnist_5to9", "mnist_0to4"),
        ("print_digits_wild", "print_latin_upper_wild"),
        ("emoji_animals", "emoji_food"),
        ("omni_tagalog", "omni_balinese"),
    ):
        query = make_sketch(derive(shared_tasks[target], TaskDerivation(n_train=8)), load_encoder(), size=96)
        assert min(stored, key=lambda name: otdd(query, stored[name]).distance) == relative


def _by_definition(sketch: Sketch) -> np.ndarray:
    d, k = sketch.dimension, sketch.n_classes
    shares = sketch.class_counts / sketch.class_counts.sum()
    means = sketch.class_means.astype(np.float64)
    covariances = [f.T @ f for f in sketch.class_factors.astype(np.float64)]
    mean = sum(share * mu for share, mu in zip(shares, means, strict=True))
    total = sum(
        share * (sigma + np.outer(mu - mean, mu - mean))
        for share, sigma, mu in zip(shares, covariances, means, strict=True)
    )
    compression = module._class_compression(d)
    z = np.array([[*means[c], *(_half(_root(covariances[c])) @ compression)] for c in range(k)])
    reference = module._reference(sketch.encoder_id, d)
    cost = np.array([[((r - point) ** 2).sum() for point in z] for r in reference])
    plan = ot.emd(np.full(len(reference), 1 / len(reference)), shares, cost)
    transported = [plan[i] @ z / plan[i].sum() / np.sqrt(len(reference)) for i in range(len(reference))]
    values = np.concatenate([mean, _half(_root(total)), *transported])
    buckets, signs = module._landings(len(values))
    result = np.zeros((len(buckets), EMBEDDING_DIMENSION // len(buckets)))
    for block, (bucket, sign) in enumerate(zip(buckets, signs, strict=True)):
        for position, value in enumerate(values):
            result[block, bucket[position]] += sign[position] * value / np.sqrt(len(buckets))
    return result.ravel()


def _root(covariance: np.ndarray) -> np.ndarray:
    """The symmetric root; a general-purpose matrix root warns of singular covariances, of which there are many here."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(values.clip(min=0.0))) @ vectors.T


def _half(root: np.ndarray) -> np.ndarray:
    """A symmetric matrix as a vector of the same norm."""
    n = len(root)
    return np.array([root[i, j].real * (1 if i == j else np.sqrt(2)) for i in range(n) for j in range(i, n)])


def _with_merged_classes(task: ImageDataset) -> ImageDataset:
    splits = {name: Split(split.images, split.labels // 2) for name, split in task.splits()}
    names = tuple(str(c) for c in range((task.n_classes + 1) // 2))
    return ImageDataset(task.name, splits["train"], splits["val"], splits["test"], names)
