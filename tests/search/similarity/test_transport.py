"""OTDD against a reference straight from its definition, and the properties of a metric."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from scipy.optimize import linear_sum_assignment, linprog
from small_sketches import random_sketch, reordered

from search.errors import DimensionMismatch, EncoderMismatch
from search.similarity import Sketch, lower_bound, otdd
from search.similarity.transport import exact_plan, label_distances

SEEDS = st.integers(0, 10_000)


def reference_label_distance(a: Sketch, i: int, b: Sketch, j: int) -> float:
    """Squared W₂ of two Gaussians as textbooks write it, with full covariances and matrix square roots."""
    cov_a = a.class_factors[i].astype(float).T @ a.class_factors[i].astype(float)
    cov_b = b.class_factors[j].astype(float).T @ b.class_factors[j].astype(float)
    # The square root of a singular matrix is what scipy does badly: lift both a little.
    lift = 1e-12 * np.eye(a.dimension)
    root = sqrtm(cov_a + lift)
    cross = sqrtm(root @ (cov_b + lift) @ root)
    gap = a.class_means[i].astype(float) - b.class_means[j].astype(float)
    return float(gap @ gap + np.trace(cov_a + cov_b - 2 * np.real(cross)))


def reference_cost(a: Sketch, b: Sketch) -> np.ndarray:
    """Ground cost, one pair of points at a time."""
    labels = [[reference_label_distance(a, i, b, j) for j in range(b.n_classes)] for i in range(a.n_classes)]
    cost = np.empty((len(a.labels), len(b.labels)))
    for i, (x, p) in enumerate(zip(a.features.astype(float), a.labels, strict=True)):
        for j, (y, q) in enumerate(zip(b.features.astype(float), b.labels, strict=True)):
            cost[i, j] = ((x - y) ** 2).sum() + labels[p][q]
    return cost


def reference_otdd(a: Sketch, b: Sketch) -> float:
    """The least cost over all couplings, as a linear program in n m variables."""
    cost = reference_cost(a, b)
    n, m = cost.shape
    rows = np.kron(np.eye(n), np.ones(m))
    columns = np.kron(np.ones(n), np.eye(m))
    masses = np.concatenate([a.weights, b.weights])
    solution = linprog(cost.ravel(), A_eq=np.vstack([rows, columns])[:-1], b_eq=masses[:-1])
    return float(np.sqrt(solution.fun))


@pytest.mark.parametrize("seed", range(4))
def test_label_distances_equal_the_textbook(seed: int) -> None:
    a, b = random_sketch(seed), random_sketch(seed + 100, k=4, rank=5)
    expected = [[reference_label_distance(a, i, b, j) for j in range(4)] for i in range(3)]
    np.testing.assert_allclose(label_distances(a, b), expected, rtol=1e-5)


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
    assert result.distance == pytest.approx(reference_otdd(a, b), rel=1e-5)


def test_with_equal_weights_it_is_the_best_assignment() -> None:
    """The special case that papers describe: as many points on both sides, each of the same mass."""
    a, b = (replace(s, class_counts=np.bincount(s.labels)) for s in (random_sketch(1, n=20), random_sketch(2, n=20)))
    cost = reference_cost(a, b)
    best = cost[linear_sum_assignment(cost)].mean()
    assert otdd(a, b).distance == pytest.approx(np.sqrt(best), rel=1e-5)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, k=st.integers(2, 5), scale=st.sampled_from([1e-3, 1.0, 1e3]))
def test_it_is_a_metric_and_never_below_its_bound(seed: int, k: int, scale: float) -> None:
    """Zero on itself, symmetric, triangle inequality, lower bound."""
    a, b, c = (random_sketch(seed + i, k=k, n=15, scale=scale) for i in range(3))
    ab, bc, ac = otdd(a, b).distance, otdd(b, c).distance, otdd(a, c).distance
    assert otdd(a, a).distance == 0.0
    assert otdd(b, a).distance == ab
    assert ac <= (ab + bc) * (1 + 1e-9)
    assert lower_bound(a, b) <= ab * (1 + 1e-9)
    assert lower_bound(a, a) == 0.0


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS)
def test_the_order_of_classes_and_points_does_not_matter(seed: int) -> None:
    a, b = random_sketch(seed), random_sketch(seed + 1)
    assert otdd(reordered(a, seed), reordered(b, seed + 1)).distance == pytest.approx(otdd(a, b).distance, rel=1e-7)
    assert otdd(a, reordered(a, seed)).distance < 1e-3


def test_the_bound_is_tight_for_shifted_copies() -> None:
    """Where one dataset is the other moved, nothing is lost."""
    a = random_sketch(3)
    b = replace(a, features=a.features + 2, class_means=a.class_means + 2)
    assert lower_bound(a, b) == pytest.approx(otdd(a, b).distance, rel=1e-5)


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


def test_a_plan_that_is_not_proven_optimal_says_so() -> None:
    """POT only warns; the flag reaches the caller."""
    cost = np.random.default_rng(0).random((80, 80))
    mass = np.full(80, 1 / 80)
    with pytest.warns(UserWarning, match="numItermax"):
        plan, converged = exact_plan(mass, mass, cost, max_iterations=10)
    assert not converged
    np.testing.assert_allclose(plan.sum(axis=1), mass)
    np.testing.assert_allclose(plan.sum(axis=0), mass)
    best, proven = exact_plan(mass, mass, cost)
    assert proven
    assert (best * cost).sum() < (plan * cost).sum()


def test_tiny_costs_are_solved_as_exactly_as_large_ones() -> None:
    cost = np.random.default_rng(0).random((60, 50))
    p, q = np.full(60, 1 / 60), np.full(50, 1 / 50)
    values = [(exact_plan(p, q, cost * scale)[0] * cost).sum() for scale in (1.0, 1e-12, 1e12)]
    assert values == pytest.approx([values[0]] * 3, rel=1e-9)


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
        "from search.similarity import load_encoder, make_sketch, otdd, embed\n"
        "assert not {'ot', 'torch', 'scipy'} & set(sys.modules), 'at import'\n"
        "from search.tasks import dataset_from_arrays\n"
        "x = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)\n"
        "sketch = make_sketch(dataset_from_arrays(x, np.arange(40) % 2), load_encoder())\n"
        "other = make_sketch(dataset_from_arrays(255 - x, np.arange(40) % 2), load_encoder())\n"
        "otdd(sketch, other), embed(sketch)\n"
        "assert 'ot' in sys.modules and 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
