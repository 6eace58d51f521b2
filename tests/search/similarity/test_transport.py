"""OTDD against a reference straight from its definition, and the properties of a metric."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from supernet_registry.search.errors import (
    DimensionMismatch,
    EncoderMismatch,
    InvalidArgument,
    NotFinite,
    SupernetRegistryError,
)
from supernet_registry.search.similarity import Sketch, lower_bound, otdd, otdd_samples, sampling_floor
from supernet_registry.search.similarity.transport import label_distances
from tests.search.similarity.reference_transport import cost_matrix, gaussian_distance, otdd_value, sample_gaussians
from tests.search.similarity.small_sketches import random_sketch, reordered

SEEDS = st.integers(0, 10_000)


def reference_labels(a: Sketch, b: Sketch) -> np.ndarray:
    """Label distances of two sketches from their full covariances."""
    moments = [
        [(mean, f.T @ f) for mean, f in zip(s.class_means.astype(float), s.class_factors.astype(float), strict=True)]
        for s in (a, b)
    ]
    return np.array([[gaussian_distance(*one, *other) for other in moments[1]] for one in moments[0]])


def reference_cost(a: Sketch, b: Sketch) -> np.ndarray:
    return cost_matrix(a.features, a.labels, b.features, b.labels, reference_labels(a, b))


def random_samples(seed: int, n: int, d: int, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points, labels and unequal weights; every class has a point or more."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.concatenate([np.arange(k), rng.integers(0, k, n - k)]))
    x = rng.normal(size=(k, d))[labels] * 2 + rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) / 2
    return x, labels, rng.uniform(0.2, 2.0, n)


@pytest.mark.parametrize("seed", range(4))
def test_label_distances_equal_the_textbook(seed: int) -> None:
    a, b = random_sketch(seed), random_sketch(seed + 100, k=4, rank=5)
    np.testing.assert_allclose(label_distances(a, b), reference_labels(a, b), rtol=1e-5)


def test_classes_without_covariance_are_points() -> None:
    """Rank 0: only the means are left."""
    a, b = random_sketch(0, rank=0), random_sketch(1)
    gaps = a.class_means[:, None].astype(float) - b.class_means[None].astype(float)
    spread = (b.class_factors.astype(float) ** 2).sum(axis=(1, 2))
    np.testing.assert_allclose(label_distances(a, b), (gaps**2).sum(axis=2) + spread, rtol=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_the_distance_equals_a_linear_program_over_the_definition(seed: int) -> None:
    a, b = random_sketch(seed, n=12), random_sketch(seed + 100, n=15, k=4, rank=5)
    result = otdd(a, b)
    assert result.converged
    assert result.distance == pytest.approx(otdd_value(reference_cost(a, b), a.weights, b.weights), rel=1e-5)
    np.testing.assert_allclose(result.label_distances, reference_labels(a, b), rtol=1e-5)


@pytest.mark.parametrize(("seed", "n", "d"), [(0, 30, 3), (1, 14, 8), (2, 12, 20)])
@pytest.mark.parametrize("weighted", [False, True])
def test_samples_equal_a_linear_program_over_the_definition(seed: int, n: int, d: int, weighted: bool) -> None:
    """Full covariances of classes with more points than dimensions, with fewer, and with a single one."""
    (x, y, w), (x2, y2, w2) = random_samples(seed, n, d, k=3), random_samples(seed + 50, n - 2, d, k=4)
    if not weighted:
        w, w2 = np.ones(n), np.ones(n - 2)
    labels = np.array(
        [[gaussian_distance(*g, *h) for h in sample_gaussians(x2, y2, w2)] for g in sample_gaussians(x, y, w)]
    )
    expected = otdd_value(cost_matrix(x, y, x2, y2, labels), w / w.sum(), w2 / w2.sum())
    given_weights = {"weights": w, "weights2": w2} if weighted else {}
    result = otdd_samples(x, y, x2, y2, **given_weights)
    assert result.converged
    np.testing.assert_allclose(result.label_distances, labels, rtol=1e-5)
    assert result.distance == pytest.approx(expected, rel=1e-5)


def test_without_labels_on_one_side_it_is_the_transport_of_the_features() -> None:
    (x, y, w), (x2, y2, w2) = random_samples(3, 20, 4, k=3), random_samples(4, 16, 4, k=2)
    cost = ((x[:, None] - x2[None]) ** 2).sum(axis=2)
    expected = otdd_value(cost, w / w.sum(), w2 / w2.sum())
    shapes = {(None, None): (1, 1), ("y", None): (3, 1), (None, "y"): (1, 2)}
    for (left, right), shape in shapes.items():
        result = otdd_samples(x, y if left else None, x2, y2 if right else None, weights=w, weights2=w2)
        assert result.distance == pytest.approx(expected, rel=1e-7)
        assert result.class_coupling.shape == result.label_distances.shape == shape
        assert result.class_coupling.sum() == pytest.approx(1.0)
        assert not result.label_distances.any()


def test_samples_are_symmetric_and_zero_on_themselves() -> None:
    (x, y, w), (x2, y2, w2) = random_samples(5, 40, 6, k=3), random_samples(6, 30, 6, k=3)
    there = otdd_samples(x, y, x2, y2, weights=w, weights2=w2)
    back = otdd_samples(x2, y2, x, y, weights=w2, weights2=w)
    assert there.distance == back.distance
    np.testing.assert_array_equal(there.class_coupling, back.class_coupling.T)
    np.testing.assert_array_equal(there.label_distances, back.label_distances.T)
    same = otdd_samples(x, y, x, y, weights=w, weights2=w)
    assert same.distance == 0.0
    assert not np.diag(same.label_distances).any()
    np.testing.assert_allclose(np.diag(same.class_coupling), np.bincount(y, weights=w) / w.sum())
    renamed = otdd_samples(x, (y + 1) % 3, x2, y2, weights=w, weights2=w2)
    assert renamed.distance == pytest.approx(there.distance, rel=1e-12)


def test_a_sketch_that_keeps_every_point_and_rank_equals_its_samples() -> None:
    x, y, _ = random_samples(7, 24, 5, k=3)
    x2, y2, _ = random_samples(8, 30, 5, k=4)
    expected = otdd_samples(x, y, x2, y2)
    result = otdd(full_sketch(x, y), full_sketch(x2, y2))
    assert result.distance == pytest.approx(expected.distance, rel=1e-6)
    np.testing.assert_allclose(result.label_distances, expected.label_distances, rtol=1e-5)


def full_sketch(x: np.ndarray, y: np.ndarray) -> Sketch:
    """A sketch of all points, with factors of full rank."""
    moments = sample_gaussians(x, y, np.ones(len(y)))
    factors = []
    for _, cov in moments:
        values, vectors = np.linalg.eigh(cov)
        factors.append((vectors * np.sqrt(values.clip(0))).T)
    return Sketch(
        features=x.astype(np.float32),
        labels=y,
        class_means=np.array([mean for mean, _ in moments], dtype=np.float32),
        class_factors=np.array(factors, dtype=np.float32),
        class_counts=np.bincount(y),
        encoder_id="noise-v1",
    )


BAD = np.array([[0.0, np.nan]])
GOOD = np.arange(6.0).reshape(3, 2)


@pytest.mark.parametrize(
    ("arguments", "weights", "error"),
    [
        ((BAD, None, GOOD, None), None, NotFinite),
        ((GOOD[0], None, GOOD, None), None, InvalidArgument),
        ((GOOD.astype(int), None, GOOD, None), None, InvalidArgument),
        ((GOOD, [0, 2, 2], GOOD, None), None, InvalidArgument),
        ((GOOD, [0, 1], GOOD, None), None, InvalidArgument),
        ((GOOD, [0.0, 1.0, 1.0], GOOD, None), None, InvalidArgument),
        ((GOOD, None, GOOD, None), [1.0, 0.0, 1.0], InvalidArgument),
        ((GOOD, None, GOOD[:, :1], None), None, DimensionMismatch),
    ],
)
def test_samples_that_cannot_be_compared_are_refused_with_a_remedy(
    arguments: tuple, weights: list[float] | None, error: type[SupernetRegistryError]
) -> None:
    with pytest.raises(error) as refusal:
        otdd_samples(*arguments, weights=weights)
    assert refusal.value.remedy
    assert refusal.value.field


def test_the_sampling_floor_falls_with_the_size_of_the_sample_and_lies_below_real_differences() -> None:
    x, y, _ = random_samples(9, 600, 5, k=3)
    floors = [sampling_floor(x, y, size=size) for size in (20, 80, 300)]
    assert floors[0] > floors[1] > floors[2] > 0
    assert floors[2] == sampling_floor(x, y, size=10_000), "never more than half of the points"
    assert floors[1] != sampling_floor(x, y, size=80, seed=1)
    assert otdd_samples(x[:300], y[:300], x[300:] + 1, y[300:]).distance > floors[1]


def test_the_sampling_floor_needs_two_points_a_class() -> None:
    x, y, _ = random_samples(10, 20, 2, k=2)
    for arguments in ((x, y, 0), (x[:3], np.array([0, 0, 1]), 1)):
        with pytest.raises(InvalidArgument):
            sampling_floor(arguments[0], arguments[1], size=arguments[2])


def test_with_equal_weights_it_is_the_best_assignment() -> None:
    """The special case that papers describe: as many points on both sides, each of the same mass."""
    a, b = (replace(s, class_counts=np.bincount(s.labels)) for s in (random_sketch(1, n=20), random_sketch(2, n=20)))
    cost = reference_cost(a, b)
    best = cost[linear_sum_assignment(cost)].mean()
    assert otdd(a, b).distance == pytest.approx(np.sqrt(best), rel=1e-5)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, k=st.integers(2, 5), scale=st.sampled_from([1e-3, 1.0, 1e3]))
def test_it_is_a_metric(seed: int, k: int, scale: float) -> None:
    """Zero on itself, symmetric, triangle inequality."""
    a, b, c = (random_sketch(seed + i, k=k, n=15, scale=scale) for i in range(3))
    ab, bc, ac = otdd(a, b).distance, otdd(b, c).distance, otdd(a, c).distance
    assert otdd(a, a).distance == 0.0
    assert otdd(b, a).distance == ab
    assert ac <= (ab + bc) * (1 + 1e-9)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS)
def test_the_order_of_classes_and_points_does_not_matter(seed: int) -> None:
    a, b = random_sketch(seed), random_sketch(seed + 1)
    assert otdd(reordered(a, seed), reordered(b, seed + 1)).distance == pytest.approx(otdd(a, b).distance, rel=1e-7)
    assert otdd(a, reordered(a, seed)).distance < 1e-3


def test_only_labels_tell_two_tasks_on_the_same_pictures_apart() -> None:
    """The same points under other labels: features alone would say zero."""
    a = random_sketch(4)
    other = np.roll(a.labels, 1)
    means = np.stack([a.features[other == c].mean(axis=0) for c in range(3)])
    b = replace(a, labels=other, class_means=means, class_counts=np.bincount(other))
    assert otdd(a, b).distance > 0.5


def test_classes_count_by_their_share_of_the_whole_split() -> None:
    """A sample that favours a rare class does not make it frequent."""
    a = random_sketch(5)
    coupling = otdd(a, random_sketch(6)).class_coupling
    np.testing.assert_allclose(coupling.sum(axis=1), a.class_counts / a.class_counts.sum())


def test_the_class_coupling_finds_the_renamed_classes() -> None:
    a = random_sketch(7, k=4)
    b = reordered(a, 1)
    coupling = otdd(a, b).class_coupling
    new_ids = coupling.argmax(axis=1)
    np.testing.assert_allclose(coupling[np.arange(4), new_ids], a.class_counts / a.class_counts.sum())
    np.testing.assert_array_equal(b.class_means[new_ids], a.class_means)
    np.testing.assert_allclose(otdd(b, a).class_coupling, coupling.T)
    np.testing.assert_allclose(np.diag(otdd(a, a).class_coupling), a.class_counts / a.class_counts.sum())


def test_sketches_of_other_encoders_or_dimensions_do_not_compare() -> None:
    a = random_sketch(0)
    for compare in (otdd, lower_bound):
        with pytest.raises(EncoderMismatch):
            compare(a, replace(a, encoder_id="other-v1"))
        with pytest.raises(DimensionMismatch):
            compare(a, random_sketch(0, d=6))


def test_transport_and_embedding_import_no_torch() -> None:
    """POT would import torch, which must not meet FAISS in the server."""
    program = (
        "import sys, numpy as np\n"
        "from supernet_registry.search.similarity import load_encoder, make_sketch, otdd, embed, lower_bound\n"
        "assert not {'ot', 'torch', 'scipy'} & set(sys.modules), 'at import'\n"
        "from supernet_registry.search.tasks import dataset_from_arrays\n"
        "x = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)\n"
        "sketch = make_sketch(dataset_from_arrays(x, np.arange(40) % 2), load_encoder())\n"
        "other = make_sketch(dataset_from_arrays(255 - x, np.arange(40) % 2), load_encoder())\n"
        "otdd(sketch, other), lower_bound(sketch, other), embed(sketch)\n"
        "assert 'ot' in sys.modules and 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
