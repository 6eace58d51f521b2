"""No bound ever exceeds the exact distance, and on sketches as they are served it is near it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supernet_registry.search.similarity import Sketch, TransportProblem, load_encoder, lower_bound, make_sketch, otdd
from supernet_registry.search.similarity.bounds import bures_wasserstein_bound
from supernet_registry.search.similarity.class_gaussians import ClassGaussians, bures_wasserstein
from supernet_registry.search.tasks import ImageDataset
from tests.search.similarity.small_sketches import random_sketch

SEEDS = st.integers(0, 10_000)
SCALES = st.sampled_from([1e-6, 1e-3, 1.0, 1e3])


def gaussians(sketch: Sketch) -> ClassGaussians:
    return ClassGaussians.of_factors(sketch.class_means, sketch.class_factors)


def with_orthogonal_factors(sketch: Sketch) -> Sketch:
    """The same covariances, factors along their axes, as `make_sketch` writes them."""
    factors = [np.linalg.svd(f.astype(float), full_matrices=False) for f in sketch.class_factors]
    return replace(sketch, class_factors=np.array([s[:, None] * vt for _, s, vt in factors], dtype=np.float32))


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, k=st.integers(2, 6), rank=st.integers(0, 5), n=st.integers(6, 90), scale=SCALES)
def test_the_bound_never_exceeds_the_distance(seed: int, k: int, rank: int, n: int, scale: float) -> None:
    a, b = random_sketch(seed, n=n, k=k, rank=rank, scale=scale), random_sketch(seed + 1, n=2 * n, scale=scale)
    distance = otdd(a, b).distance
    assert 0.0 <= lower_bound(a, b) <= distance * (1 + 1e-12)
    assert lower_bound(a, b) == lower_bound(b, a) == TransportProblem(a, b).lower_bound()
    assert lower_bound(a, a) == 0.0


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, rank=st.integers(0, 5), scale=SCALES, contrast=st.sampled_from([1e-6, 1e-3, 1.0]))
def test_bounds_of_label_distances_never_exceed_them(seed: int, rank: int, scale: float, contrast: float) -> None:
    """Also between classes whose spreads are of another order of magnitude, and near-equal ones."""
    a = random_sketch(seed, rank=rank, scale=scale)
    shrunk = a.class_factors * np.array([1.0, contrast, 0.0], dtype=np.float32)[:, None, None]
    a = with_orthogonal_factors(replace(a, class_factors=shrunk))
    for b in (random_sketch(seed + 1, scale=scale), replace(a, class_factors=a.class_factors * np.float32(1.001))):
        exact = bures_wasserstein(gaussians(a), gaussians(b))
        assert (bures_wasserstein_bound(gaussians(a), gaussians(b)) <= exact * (1 + 1e-12)).all()


def test_a_problem_solves_what_it_bounds() -> None:
    a, b = random_sketch(1), random_sketch(2)
    problem = TransportProblem(a, b)
    bound = problem.lower_bound()
    result = problem.solve()
    assert bound <= result.distance == otdd(a, b).distance
    np.testing.assert_array_equal(TransportProblem(b, a).solve().class_coupling, result.class_coupling.T)


def test_label_bounds_are_tight_where_covariances_share_their_axes() -> None:
    a = with_orthogonal_factors(random_sketch(3))
    b = replace(a, class_factors=a.class_factors * 2, class_means=a.class_means + 1)
    exact = np.diag(bures_wasserstein(gaussians(a), gaussians(b)))
    np.testing.assert_allclose(np.diag(bures_wasserstein_bound(gaussians(a), gaussians(b))), exact, rtol=1e-4)


@pytest.mark.shared_tasks
def test_on_the_benchmark_tasks_the_bound_reaches_nine_tenths(shared_tasks: dict[str, ImageDataset]) -> None:
    encoder = load_encoder()
    names = ["mnist_all10", "fashion_all10", "omni_greek", "pneumonia"]
    sketches = [make_sketch(shared_tasks[name], encoder) for name in names]
    for i, a in enumerate(sketches):
        for b in sketches[:i]:
            assert 0.9 <= lower_bound(a, b) / otdd(a, b).distance <= 1.0


def test_on_shipped_tasks_it_is_nearly_as_good(shipped: Callable[[str], ImageDataset]) -> None:
    encoder = load_encoder()
    a, b = (make_sketch(shipped(name), encoder, size=64) for name in ("optdigits", "print_greek"))
    assert 0.85 <= lower_bound(a, b) / otdd(a, b).distance <= 1.0
