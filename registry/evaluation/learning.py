"""Learning curves of searches, and two of them compared."""

from __future__ import annotations

from typing import NamedTuple

from supernet_registry.clients.streams.results import StreamRow
from supernet_registry.clients.wire.resources import Phase
from supernet_registry.registry.evaluation.metrics import curve_height
from supernet_registry.registry.evaluation.records import Race

__all__ = ["Point", "race", "search_curve", "zero_step_accuracy"]

_LEAST_LEARNT = 0.1
"""Share of the way from guessing to perfect that a search from scratch must make to set a target."""


class Point(NamedTuple):
    """Validation accuracy after so many weight steps, which took so many seconds; taste and preparation included."""

    steps: int
    accuracy: float
    seconds: float


def search_curve(row: StreamRow, *, before: float | None = None) -> list[Point]:
    """The curve of a row's supernet; empty for a fixed network.

    After a taste it begins with the winner as the taste left it: before, nobody knew who would win. Its epochs go on
    counting the winner's own taste steps, so the others' are added.

    Args:
        row: a finished search.
        before: accuracy before the first step, if it is known otherwise.
    """
    winner = next((taste for taste in row.tastes if taste.chosen and taste.steps and taste.val_accuracies), None)
    seconds = row.prepare_seconds + row.taste_seconds
    points = [] if before is None else [Point(0, before, seconds)]
    if winner is not None:
        points = [Point(row.taste_steps, winner.val_accuracies[-1], seconds)]
    others = row.taste_steps - (winner.steps[-1] if winner is not None else 0)
    for epoch in row.curve:
        if epoch.phase is Phase.SEARCH:
            seconds += epoch.seconds
            if epoch.val_accuracy is not None:
                points.append(Point(others + epoch.steps, epoch.val_accuracy, seconds))
    return points


def zero_step_accuracy(row: StreamRow) -> float | None:
    """Validation accuracy of a search from scratch before its first step, where a taste has measured it."""
    scratch = next((taste for taste in row.tastes if not taste.version and taste.steps == (0, *taste.steps[1:])), None)
    return scratch.val_accuracies[0] if scratch is not None and scratch.val_accuracies else None


def race(row: StreamRow, scratch: StreamRow, *, before: float | None, target_share: float) -> Race:
    """Compare two searches of the same task.

    Whoever is at the target before the first step is counted with one pass over the training images, which is what the
    prototype head costs, and more. There is no target where scratch has learnt nothing.

    Args:
        row: the search in question.
        scratch: the one from scratch.
        before: scratch's accuracy before the first step, if known.
        target_share: of scratch's best validation accuracy.
    """
    theirs, ours = search_curve(scratch, before=before), search_curve(row)
    first = next((epoch.steps for epoch in scratch.curve if epoch.phase is Phase.SEARCH), 0)
    if not first or not ours:
        return Race()
    last = theirs[-1].steps
    area = None
    if last > first:
        heights = [curve_height([p.steps for p in c], [p.accuracy for p in c], first, last) for c in (ours, theirs)]
        area = heights[0] - heights[1]
    best, chance = max(point.accuracy for point in theirs), 1 / max(1, scratch.classes)
    if best < chance + _LEAST_LEARNT * (1 - chance):
        return Race(observed_steps=ours[-1].steps, area_gain=area)
    target = target_share * best
    goal = _first(theirs, target)
    assert goal is not None, "scratch reaches a share of its own best"
    reached = _first(ours, target)
    end = reached or ours[-1]
    least = scratch.pass_steps or first
    return Race(
        target=target,
        scratch_steps=max(least, goal.steps),
        steps=None if reached is None else max(least, reached.steps),
        observed_steps=ours[-1].steps,
        observed_seconds=ours[-1].seconds,
        scratch_seconds=goal.seconds,
        seconds=None if reached is None else reached.seconds,
        cost_ratio=max(least, end.steps) / max(least, goal.steps),
        censored=reached is None,
        area_gain=area,
    )


def _first(curve: list[Point], accuracy: float) -> Point | None:
    return next((point for point in curve if point.accuracy >= accuracy), None)
