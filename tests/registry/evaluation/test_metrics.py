"""Each metric by hand, and against a slow reference."""

from __future__ import annotations

import math
from statistics import fmean, median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supernet_registry.registry.evaluation.metrics import (
    average_accuracy,
    backward_transfer,
    bootstrap,
    curve_height,
    forgetting,
    learning_accuracy,
    median_of_censored,
    origins,
)
from supernet_registry.search.errors import InvalidArgument

MATRIX = [[0.5, None, None], [0.75, 0.25, None], [0.25, 0.5, 1.0]]


def test_metrics_of_an_accuracy_matrix() -> None:
    assert average_accuracy(MATRIX) == pytest.approx((0.25 + 0.5 + 1.0) / 3)
    assert learning_accuracy(MATRIX) == pytest.approx((0.5 + 0.25 + 1.0) / 3)
    assert backward_transfer(MATRIX) == pytest.approx(((0.25 - 0.5) + (0.5 - 0.25)) / 2)
    assert forgetting(MATRIX) == pytest.approx(((0.75 - 0.25) + (0.25 - 0.5)) / 2)


def test_a_failed_task_is_left_out() -> None:
    holed = [[0.5, None, None], [0.5, None, None], [0.5, None, 1.0]]
    assert average_accuracy(holed) == 0.75
    assert learning_accuracy(holed) == 0.75
    assert backward_transfer(holed) == forgetting(holed) == 0
    assert average_accuracy([]) is learning_accuracy([]) is backward_transfer([]) is forgetting([]) is None


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8))
def test_what_does_not_change_is_not_forgotten(accuracies: list[float]) -> None:
    size = len(accuracies)
    matrix = [[accuracies[j] if j <= i else None for j in range(size)] for i in range(size)]
    assert backward_transfer(matrix) == forgetting(matrix) == 0


def test_the_height_of_a_curve_by_hand() -> None:
    """From 10 to 30: rises from 0.2 to 0.6 until 20, then stays, since the fall to 0.1 is not kept."""
    assert curve_height([10, 20, 30], [0.2, 0.6, 0.1], 10, 30) == pytest.approx((0.4 + 0.6) / 2)
    assert curve_height([5], [0.3], 0, 100) == pytest.approx(0.3)
    for steps, start, stop in [([], 0, 1), ([1], 2, 2)]:
        with pytest.raises(InvalidArgument):
            curve_height(steps, [0.0] * len(steps), start, stop)


def kaplan_meier_median(values: list[float], censored: list[bool]) -> float:
    """The product-limit estimator as its paper has it, one event after another."""
    survival, half = 1.0, None
    for time in sorted(set(values)):
        at_risk = sum(value >= time for value in values)
        deaths = sum(value == time and not bound for value, bound in zip(values, censored, strict=True))
        survival *= 1 - deaths / at_risk
        if not deaths:
            continue
        if half is not None:
            return (half + time) / 2
        if survival < 0.5 - 1e-9:
            return time
        if survival < 0.5 + 1e-9:
            half = time
    return math.inf


@settings(deadline=None)  # the first example imports scipy
@given(st.lists(st.tuples(st.integers(1, 12), st.booleans()), min_size=1, max_size=25))
def test_the_median_of_censored_values_is_that_of_kaplan_and_meier(sample: list[tuple[int, bool]]) -> None:
    values, censored = [float(value) for value, _ in sample], [bound for _, bound in sample]
    assert median_of_censored(values, censored) == pytest.approx(kaplan_meier_median(values, censored))


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=25, unique=True))
def test_without_censoring_it_is_the_median(values: list[float]) -> None:
    assert median_of_censored(values, [False] * len(values)) == pytest.approx(median(values))


def test_a_bound_moves_the_median_up_and_nothing_else() -> None:
    assert median_of_censored([1, 2, 3], [True, False, False]) == 2.5
    assert median_of_censored([1, 2, 3], [False, True, True]) == math.inf
    assert median_of_censored([5], [True]) == math.inf
    with pytest.raises(InvalidArgument):
        median_of_censored([], [])


def test_the_interval_of_a_constant_is_the_constant() -> None:
    assert bootstrap([[2.0, 2.0], [], [2.0]], fmean) == (2.0, 2.0, 2.0)
    with pytest.raises(InvalidArgument):
        bootstrap([[]], fmean)


def test_the_interval_counts_tasks_not_seeds() -> None:
    """A hundred seeds of two tasks that differ say no more about tasks than two seeds do."""
    few, many = ([[0.0] * n, [1.0] * n] for n in (2, 100))
    for groups in (few, many):
        value, low, high = bootstrap(groups, fmean)
        assert (value, low, high) == (0.5, 0.0, 1.0)


def test_an_interval_covers_the_mean_of_normal_tasks() -> None:
    """Nominal 95 %: about the standard error to either side, for forty tasks of variance one."""
    import numpy as np

    values = np.random.default_rng(0).normal(size=40)
    _, low, high = bootstrap([[float(v)] for v in values], fmean, resamples=4000)
    error = values.std() / math.sqrt(40)
    assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.08)


def test_relatives_have_one_origin() -> None:
    assert origins([None, 0, None, 1, 2, 3]) == [0, 0, 2, 0, 2, 0]
