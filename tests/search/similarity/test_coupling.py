"""Exact couplings against a linear program, and their certificate."""

from __future__ import annotations

import numpy as np
import ot
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from supernet_registry.search.similarity.coupling import exact_plan, feasible_potentials

SEEDS = st.integers(0, 10_000)


def random_problem(seed: int, n: int, m: int, d: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unequal masses and squared distances of clustered points."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, d)), rng.normal(size=(m, d)) + rng.integers(0, 3, m)[:, None]
    p, q = rng.uniform(0.1, 1.0, n), rng.uniform(0.1, 1.0, m)
    return p / p.sum(), q / q.sum(), ((x[:, None] - y[None]) ** 2).sum(axis=2)


def optimal_value(p: np.ndarray, q: np.ndarray, cost: np.ndarray) -> float:
    n, m = cost.shape
    rows, columns = np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))
    return float(linprog(cost.ravel(), A_eq=np.vstack([rows, columns]), b_eq=np.concatenate([p, q])).fun)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, n=st.integers(1, 14), m=st.integers(1, 14))
def test_a_plan_couples_the_masses_at_the_least_cost(seed: int, n: int, m: int) -> None:
    p, q, cost = random_problem(seed, n, m)
    plan, converged = exact_plan(p, q, cost)
    assert converged
    assert plan.min() >= 0
    np.testing.assert_allclose(plan.sum(axis=1), p, atol=1e-15)
    np.testing.assert_allclose(plan.sum(axis=0), q, atol=1e-15)
    assert (plan * cost).sum() == pytest.approx(optimal_value(p, q, cost), rel=1e-9, abs=1e-15)


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, n=st.integers(65, 180), m=st.integers(65, 180), kind=st.sampled_from(["points", "noise", "ties"]))
def test_pricing_few_arcs_equals_the_simplex_on_all_of_them(seed: int, n: int, m: int, kind: str) -> None:
    """Also where costs have no geometry, and where nearly all of them are equal."""
    p, q, cost = random_problem(seed, n, m)
    rng = np.random.default_rng(seed)
    if kind == "noise":
        cost = rng.random((n, m))
    elif kind == "ties":
        cost = rng.integers(0, 3, (n, m)).astype(float)
    plan, converged = exact_plan(p, q, cost)
    dense = ot.emd(p, q, cost, numItermax=10**6)
    assert converged
    np.testing.assert_allclose(plan.sum(axis=1), p, atol=1e-14)
    np.testing.assert_allclose(plan.sum(axis=0), q, atol=1e-14)
    assert (plan * cost).sum() == pytest.approx((dense * cost).sum(), rel=1e-11, abs=1e-14)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, n=st.integers(1, 60), m=st.integers(1, 60), scale=st.sampled_from([1e-9, 1.0, 1e9]))
def test_potentials_are_feasible_and_bound_every_plan(seed: int, n: int, m: int, scale: float) -> None:
    p, q, cost = random_problem(seed, n, m)
    cost *= scale
    u, v = feasible_potentials(p, q, cost)
    assert (u[:, None] + v - cost).max() <= 1e-14 * cost.max()
    plan, _ = exact_plan(p, q, cost)
    assert p @ u + q @ v <= (plan * cost).sum() + 1e-12 * cost.max()


def test_equal_points_cost_nothing() -> None:
    p = np.full(80, 1 / 80)
    plan, converged = exact_plan(p, p, np.zeros((80, 80)))
    assert converged
    np.testing.assert_allclose(plan.sum(axis=0), p)


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
