"""Metrics of continual learning and transfer, each a small function of plain numbers.

An accuracy matrix R has R[i][j], the accuracy on task j after task i was learnt, None for j > i and where unknown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import TypeVar

import numpy as np

from supernet_registry.registry.evaluation.records import Interval
from supernet_registry.search.errors import InvalidArgument

__all__ = [
    "average_accuracy",
    "backward_transfer",
    "bootstrap",
    "curve_height",
    "forgetting",
    "learning_accuracy",
    "median_of_censored",
    "origins",
]

T = TypeVar("T")
Matrix = Sequence[Sequence[float | None]]


def average_accuracy(matrix: Matrix) -> float | None:
    """ACC: mean of the last row (Lopez-Paz & Ranzato 2017, eq. 2)."""
    known = [value for value in matrix[-1] if value is not None] if matrix else []
    return fmean(known) if known else None


def learning_accuracy(matrix: Matrix) -> float | None:
    """LA: mean of R[j][j], the accuracy on every task right after it was learnt (Riemer et al. 2019)."""
    known = [value for j, row in enumerate(matrix) if (value := row[j]) is not None]
    return fmean(known) if known else None


def backward_transfer(matrix: Matrix) -> float | None:
    """BWT: mean over j < T of R[T][j] − R[j][j] (Lopez-Paz & Ranzato 2017, eq. 3); None for fewer than two tasks."""
    changes = [
        last - own
        for j in range(len(matrix) - 1)
        if (last := matrix[-1][j]) is not None and (own := matrix[j][j]) is not None
    ]
    return fmean(changes) if changes else None


def forgetting(matrix: Matrix) -> float | None:
    """Mean over j < T of max over i < T of R[i][j] − R[T][j] (Chaudhry et al. 2018, eq. 3); 0 if nothing changes."""
    losses = []
    for j in range(len(matrix) - 1):
        earlier = [value for row in matrix[j:-1] if (value := row[j]) is not None]
        last = matrix[-1][j]
        if earlier and last is not None:
            losses.append(max(earlier) - last)
    return fmean(losses) if losses else None


def curve_height(steps: Sequence[float], accuracies: Sequence[float], start: float, stop: float) -> float:
    """Mean height between two steps of the best accuracy so far, linear between points, flat beyond the last ones.

    Raises:
        InvalidArgument: no points, or an empty range.
    """
    if not steps or stop <= start:
        raise InvalidArgument("A curve needs a point and a range.", remedy="Leave this curve out.", field="steps")
    best = np.maximum.accumulate(np.asarray(accuracies, float))
    inside = [step for step in steps if start < step < stop]
    grid = np.array([start, *inside, stop], float)
    heights = np.interp(grid, np.asarray(steps, float), best)
    return float(np.trapezoid(heights, grid) / (stop - start))


def median_of_censored(values: Sequence[float], censored: Sequence[bool]) -> float:
    """The median of values of which some are only lower bounds: the Kaplan–Meier estimator (1958).

    Where the estimated survival is exactly one half between two values, it is their mean, so that without censoring
    this is the plain median. Infinity where so many are censored that the median is never reached.

    Raises:
        InvalidArgument: there are no values.
    """
    if not values:
        raise InvalidArgument("There is no value to take the median of.", remedy="Leave it out.", field="values")
    from scipy.stats import CensoredData, ecdf

    exact = [value for value, bound in zip(values, censored, strict=True) if not bound]
    if not exact:
        return math.inf
    bounds = [value for value, bound in zip(values, censored, strict=True) if bound]
    survival = ecdf(CensoredData(uncensored=exact, right=bounds)).sf
    at_half = np.isclose(survival.probabilities, 0.5)
    below = survival.probabilities < 0.5
    reached = survival.quantiles[at_half | below]
    if not len(reached):
        return math.inf
    first = float(reached[0])
    if not at_half.any():
        return first
    later = survival.quantiles[below & ~at_half]
    return (first + float(later[0])) / 2 if len(later) else math.inf


def bootstrap(
    groups: Sequence[Sequence[T]], statistic: Callable[[Sequence[T]], float], *, resamples: int = 2000, seed: int = 0
) -> Interval:
    """A statistic of all members, with the 95 % percentile interval of a bootstrap in two stages (Davison & Hinkley
    1997, 3.8): groups (tasks) are drawn with replacement, then members (seeds) within each.

    Args:
        groups: members of each group; empty groups are left out.
        statistic: of a sequence of members.
        resamples: how many samples are drawn.
        seed: of the draws.

    Raises:
        InvalidArgument: there is no member.
    """
    filled = [group for group in groups if group]
    if not filled:
        raise InvalidArgument("There is nothing to draw samples from.", remedy="Leave it out.", field="groups")
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(resamples):
        sample: list[T] = []
        for g in rng.integers(len(filled), size=len(filled)):
            group = filled[g]
            sample.extend(group[m] for m in rng.integers(len(group), size=len(group)))
        drawn.append(statistic(sample))
    low, high = np.quantile(drawn, [0.025, 0.975], method="nearest")
    return Interval(statistic([member for group in filled for member in group]), float(low), float(high))


def origins(expected: Sequence[int | None]) -> list[int]:
    """For each step of a stream the first step that its expected sources lead back to: itself where none is expected.

    A source hits an expectation if both lead back to the same step: any relative of the expected one is as good.
    """
    found: list[int] = []
    for step, source in enumerate(expected):
        found.append(step if source is None else found[source])
    return found
