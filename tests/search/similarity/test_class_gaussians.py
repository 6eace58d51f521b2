"""Label distances at the edge of their precision, and factors of samples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supernet_registry.search.similarity.class_gaussians import ClassGaussians, bures_wasserstein, squared_distances

SEEDS = st.integers(0, 10_000)


def by_singular_values(a: ClassGaussians, b: ClassGaussians) -> np.ndarray:
    """One pair of classes after another, by singular values."""
    found = np.empty((len(a), len(b)))
    for i, (mean, f) in enumerate(zip(a.means, a, strict=True)):
        for j, (mean2, g) in enumerate(zip(b.means, b, strict=True)):
            nuclear = np.linalg.svd(f @ g.T, compute_uv=False).sum() if len(f) and len(g) else 0.0
            found[i, j] = ((mean - mean2) ** 2).sum() + (f**2).sum() + (g**2).sum() - 2 * nuclear
    return found


def random_gaussians(seed: int, k: int, d: int, ranks: list[int], decay: float = 1.0) -> ClassGaussians:
    rng = np.random.default_rng(seed)
    factors = [rng.normal(size=(r, d)) * np.geomspace(1.0, decay, max(r, 1))[:r, None] for r in ranks]
    return ClassGaussians(rng.normal(size=(k, d)), np.concatenate(factors), np.array(ranks))


@settings(max_examples=40, deadline=None)
@given(
    seed=SEEDS,
    ranks=st.lists(st.integers(0, 9), min_size=1, max_size=4),
    ranks2=st.lists(st.integers(0, 9), min_size=1, max_size=4),
    decay=st.sampled_from([1.0, 1e-3, 1e-7]),
)
def test_classes_of_any_rank_equal_singular_values(
    seed: int, ranks: list[int], ranks2: list[int], decay: float
) -> None:
    a = random_gaussians(seed, len(ranks), 6, ranks, decay)
    b = random_gaussians(seed + 1, len(ranks2), 6, ranks2, decay)
    np.testing.assert_allclose(bures_wasserstein(a, b), by_singular_values(a, b), rtol=1e-8)


def test_singular_values_that_vanish_are_not_blurred() -> None:
    """Twelve rows in a plane: ten singular values are zero, which eigenvalues of M Mᵀ miss by 1e-8 each."""
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(2, 30))
    a = ClassGaussians(np.zeros((1, 30)), rng.normal(size=(12, 2)) @ plane, np.array([12]))
    b = ClassGaussians(np.zeros((1, 30)), rng.normal(size=(12, 2)) @ plane, np.array([12]))
    np.testing.assert_allclose(bures_wasserstein(a, b), by_singular_values(a, b), rtol=1e-10)


@pytest.mark.parametrize("difference", [1e-1, 1e-2, 1e-3])
def test_nearly_equal_covariances_keep_their_digits(difference: float) -> None:
    """The part that is left is `difference` squared of the traces, and known in closed form."""
    factor = np.diag(np.geomspace(1.0, 0.01, 8))
    a = ClassGaussians(np.zeros((1, 8)), factor, np.array([8]))
    b = ClassGaussians(np.zeros((1, 8)), factor * (1 + difference), np.array([8]))
    expected = difference**2 * (factor**2).sum()
    assert bures_wasserstein(a, b)[0, 0] == pytest.approx(expected, rel=1e-6)


def test_equal_covariances_differ_by_exactly_nothing() -> None:
    a = random_gaussians(1, 3, 12, [4, 7, 12])
    moved = ClassGaussians(a.means + 1.0, a.factors, a.ranks)
    np.testing.assert_allclose(np.diag(bures_wasserstein(a, moved)), 12.0, rtol=1e-14)


@pytest.mark.parametrize(("n", "d"), [(9, 4), (5, 4), (4, 4), (2, 4), (1, 4)])
def test_the_factor_of_a_sample_has_its_covariance_and_no_row_too_many(n: int, d: int) -> None:
    rng = np.random.default_rng(n)
    x, w = rng.normal(size=(n, d)) + 5, rng.uniform(0.1, 1, n)
    share = w / w.sum()
    gaussians = ClassGaussians.of_samples(x, np.zeros(n, dtype=np.intp), share)
    centred = x - share @ x
    np.testing.assert_allclose(gaussians.means[0], share @ x, rtol=1e-13)
    np.testing.assert_allclose(gaussians.factors.T @ gaussians.factors, centred.T @ (share[:, None] * centred))
    assert gaussians.ranks.tolist() == [min(n - 1, d)]


def test_distances_of_points_far_from_the_origin_keep_their_digits() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 5)), rng.normal(size=(30, 5))
    expected = ((x[:, None] - y[None]) ** 2).sum(axis=2)
    np.testing.assert_allclose(squared_distances(x, y), expected, rtol=1e-12)
    np.testing.assert_allclose(squared_distances(x + 1e6, y + 1e6), expected, rtol=1e-8)
