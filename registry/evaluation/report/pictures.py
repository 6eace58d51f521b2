"""Pictures of an evaluation. Each function draws one file and returns its path."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from supernet_registry.clients.plots._style import (
    CHILD,
    GREY,
    INK,
    PALE,
    SCRATCH,
    WARM,
    figure,
    save,
    short,
    style,
    tidy,
)
from supernet_registry.clients.streams.results import StreamRow
from supernet_registry.clients.wire.resources import (
    Lineage,
    LineageEdge,
    Metrics,
    Parent,
    ParentRole,
    SupernetVersion,
    TransferMode,
)
from supernet_registry.registry.evaluation.learning import search_curve
from supernet_registry.registry.evaluation.policies import Policy
from supernet_registry.registry.evaluation.records import Accumulation, Comparison, Run, Summary, TaskSummary

__all__ = ["accumulation", "learning_curves", "lineage_of", "main_figure", "speed_ups"]

COLOURS = {
    Policy.REGISTRY: WARM,
    Policy.SCRATCH: SCRATCH,
    Policy.FIXED_COLD: GREY,
    Policy.FIXED_WARM: INK,
    Policy.NEAREST_ONLY: "#56B4E9",
    Policy.FINETUNE_PREVIOUS: CHILD,
    Policy.RANDOM_SOURCE: "#CC79A7",
    Policy.GENERALIST: "#E69F00",
}
"""From Okabe & Ito's palette."""
_MOST_COST, _LEAST_COST = 2.5, 0.05
_ROLLING = 9
"""Tasks over which the accumulation curve of a long stream is smoothed."""


def main_figure(summary: Summary, path: Path) -> Path:
    """Does knowledge build up: each task's cost, and final accuracy, against independent training."""
    tasks = [t for t in summary.tasks if t.policy == Policy.REGISTRY and t.speed_up is not None]
    streams = list(dict.fromkeys(t.stream for t in tasks))
    with style():
        drawn = figure(9.6, 1.9 + 0.34 * len(streams))
        left, right = drawn.subplots(1, 2, sharey=True)
        for place, stream in enumerate(streams):
            mine = [t for t in tasks if t.stream == stream]
            _dots(left, place, [(_cost(t), t.related) for t in mine])
            _dots(right, place, [(100 * t.child_gain, t.related) for t in mine])
        left.set_yticks(range(len(streams)), streams)
        left.set_ylim(len(streams) - 0.4, -0.6)
        left.set_xscale("log")
        left.set_xlim(_LEAST_COST, _MOST_COST)
        ticks = [1 / 20, 1 / 10, 1 / 5, 1 / 2, 1, 2]
        left.set_xticks(ticks, ["1/20", "1/10", "1/5", "1/2", "1", "2×"])
        left.minorticks_off()
        left.axvline(1, color=SCRATCH, linewidth=1.2)
        left.axvline(1 / 5, color=GREY, linewidth=1, linestyle=":")
        left.set_xlabel("steps to scratch's accuracy, as a share of scratch's")
        left.set_title("What a new task costs")
        right.axvline(0, color=SCRATCH, linewidth=1.2)
        right.set_xscale("symlog", linthresh=5)
        right.set_xticks([-20, -5, -2, 0, 2, 5, 20, 50], ["−20", "−5", "−2", "0", "+2", "+5", "+20", "+50"])
        right.minorticks_off()
        right.set_xlabel("points of test accuracy, child network")
        right.set_title("What it gains over scratch")
        for axes in (left, right):
            tidy(axes, grid="x")
            axes.spines["left"].set_visible(False)
        _legend(drawn)
        return save(drawn, path)


def _cost(task: TaskSummary) -> float:
    """Its share of scratch's cost, within the axis; at the right edge where it never got there."""
    most = _MOST_COST * 0.96
    return min(most, max(_LEAST_COST, 1 / task.speed_up)) if task.speed_up else most


def _dots(axes: Any, place: int, values: Sequence[tuple[float, bool]]) -> None:
    spread = np.linspace(-0.22, 0.22, len(values)) if len(values) > 1 else [0.0]
    for shift, (value, related) in zip(spread, values, strict=True):
        face = WARM if related else "white"
        axes.plot(value, place + shift, "o", markersize=5, markerfacecolor=face, markeredgecolor=WARM, clip_on=False)


def _legend(drawn: Any) -> None:
    from matplotlib.lines import Line2D

    dot: dict[str, Any] = {"marker": "o", "linestyle": "", "markeredgecolor": WARM, "markersize": 5}
    drawn.legend(
        handles=[
            Line2D([], [], markerfacecolor=WARM, label="a source is expected", **dot),
            Line2D([], [], markerfacecolor="white", label="none is", **dot),
            Line2D([], [], color=SCRATCH, label="from scratch"),
        ],
        loc="outside lower center",
        ncols=3,
        fontsize=8.5,
    )


def learning_curves(runs: Sequence[Run], stream: str, steps: Sequence[int], path: Path) -> Path:
    """Validation accuracy against weight updates, registry and scratch: mean over seeds, band from least to most."""
    rows: dict[tuple[str, int], list[StreamRow]] = {}
    for run in runs:
        if run.stream == stream and run.policy in (Policy.REGISTRY, Policy.SCRATCH):
            for row in run.result.rows:
                if row.step in steps and row.curve:
                    rows.setdefault((run.policy, row.step), []).append(row)
    columns = min(4, max(1, len(steps)))
    lines = -(-len(steps) // columns)
    with style():
        drawn = figure(2.6 * columns + 0.4, 2.0 * lines + 0.5)
        grid = list(drawn.subplots(lines, columns, squeeze=False).flat)
        for axes, step in zip(grid, steps, strict=False):
            for policy in (Policy.SCRATCH, Policy.REGISTRY):
                _band(axes, rows.get((policy, step), []), COLOURS[policy])
            name = next((r.task for (_, s), found in rows.items() if s == step for r in found), "")
            axes.set_title(f"{step}  {short(name, 30)}", fontsize=8)
            axes.set_xlim(left=0)
            tidy(axes)
        for axes in grid[len(steps) :]:
            axes.set_visible(False)
        from matplotlib.lines import Line2D

        names = {Policy.REGISTRY: "registry", Policy.SCRATCH: "from scratch"}
        drawn.legend(
            handles=[Line2D([], [], color=COLOURS[policy], label=name) for policy, name in names.items()],
            loc="outside lower right",
            ncols=2,
            fontsize=8,
        )
        drawn.supylabel("validation accuracy (%)", fontsize=8.5)
        drawn.supxlabel("weight updates, taste included", fontsize=8.5)
        return save(drawn, path)


def _band(axes: Any, rows: Sequence[StreamRow], colour: str) -> None:
    """Best so far: the supernet that would be stored if the search ended there."""
    curves = [curve for row in rows if (curve := search_curve(row))]
    if not curves:
        return
    grid = np.linspace(min(c[0].steps for c in curves), max(c[-1].steps for c in curves), 60)
    heights = []
    for curve in curves:
        best = np.maximum.accumulate([100 * point.accuracy for point in curve])
        heights.append(np.interp(grid, [point.steps for point in curve], best))
    values = np.array(heights)
    if len(grid) > 1 and grid[0] == grid[-1]:
        axes.plot(grid[:1], values.mean(axis=0)[:1], "o", color=colour, markersize=4)
    axes.fill_between(grid, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.18, linewidth=0)
    axes.plot(grid, values.mean(axis=0), color=colour, linewidth=1.6)


def speed_ups(comparisons: Iterable[Comparison], path: Path) -> Path:
    """For each policy, the share of tasks that have reached scratch's accuracy within a share of its cost."""
    by_policy: dict[str, list[Comparison]] = {}
    for c in comparisons:
        if c.cost_ratio is not None and c.stored and c.policy != Policy.SCRATCH:
            by_policy.setdefault(c.policy, []).append(c)
    with style():
        drawn = figure(6.4, 3.4)
        axes = drawn.subplots()
        for policy, found in by_policy.items():
            reached = sorted(c.cost_ratio for c in found if c.cost_ratio is not None and not c.censored)
            share = 100 * np.arange(1, len(reached) + 1) / len(found)
            never = len(found) - len(reached)
            label = f"{policy} ({never} of {len(found)} never)" if never else policy
            axes.step(reached, share, where="post", color=COLOURS[Policy(policy)], label=label, linewidth=1.8)
        axes.axvline(1, color=GREY, linewidth=1)
        axes.axvline(1 / 5, color=GREY, linewidth=1, linestyle=":")
        axes.set_xscale("log")
        axes.set_xticks([1 / 10, 1 / 5, 1 / 2, 1, 2], ["1/10", "1/5", "1/2", "1", "2×"])
        axes.minorticks_off()
        axes.set_ylim(0, 101)
        axes.set_xlabel("steps, as a share of scratch's")
        axes.set_ylabel("tasks at scratch's accuracy (%)")
        axes.legend(fontsize=8, loc="lower right")
        tidy(axes)
        return save(drawn, path)


def accumulation(found: Sequence[Accumulation], path: Path) -> Path:
    """Cost of a new task against what is stored, one panel a stream."""
    streams = list(dict.fromkeys(a.stream for a in found))
    columns = min(3, len(streams))
    lines = -(-len(streams) // columns)
    with style():
        drawn = figure(3.1 * columns + 0.4, 2.2 * lines + 0.6)
        grid = list(drawn.subplots(lines, columns, squeeze=False).flat)
        for axes, stream in zip(grid, streams, strict=False):
            for a in (a for a in found if a.stream == stream):
                _draw_accumulation(axes, a)
            axes.set_title(stream)
            axes.axhline(1, color=SCRATCH, linewidth=1)
            axes.set_yscale("log")
            axes.set_ylim(_LEAST_COST, _MOST_COST)
            axes.set_yticks([0.1, 0.2, 0.5, 1, 2], ["1/10", "1/5", "1/2", "1", "2×"])
            axes.minorticks_off()
            tidy(axes)
        for axes in grid[len(streams) :]:
            axes.set_visible(False)
        drawn.supxlabel("versions stored", fontsize=8.5)
        drawn.supylabel("cost over scratch's", fontsize=8.5)
        return save(drawn, path)


def _draw_accumulation(axes: Any, a: Accumulation) -> None:
    known = [(s, min(_MOST_COST, c)) for s, c in zip(a.stored, a.cost_ratio, strict=True) if c is not None]
    if not known:
        return
    stored, costs = (np.array(values, float) for values in zip(*known, strict=True))
    colour = COLOURS[Policy(a.policy)]
    if len(known) > 2 * _ROLLING:
        axes.plot(stored, costs, "o", color=PALE, markersize=3.5, markeredgecolor=colour, markeredgewidth=0.4)
        costs = np.array(
            [np.median(costs[max(0, i - _ROLLING // 2) : i + _ROLLING // 2 + 1]) for i in range(len(costs))]
        )
        axes.plot(stored, costs, color=colour, linewidth=1.8, label=a.policy)
    else:
        axes.plot(stored, costs, "o-", color=colour, markersize=3.5, linewidth=1.5, label=a.policy)


def lineage_of(run: Run) -> tuple[Lineage, Mapping[str, float]]:
    """The lineage that a run has left, and the OT distances of its sources, from its rows."""
    versions: list[SupernetVersion] = []
    distances: dict[str, float] = {}
    heads: dict[str, str] = {}
    for row in run.result.rows:
        if not row.version:
            continue
        parents = [Parent(version=row.source, role=ParentRole.SOURCE)] if row.source else []
        if row.supernet in heads:
            parents.append(Parent(version=heads[row.supernet], role=ParentRole.PREVIOUS_HEAD))
        heads[row.supernet] = row.version
        metrics = Metrics(test_accuracy=row.test_accuracy, child_test_accuracy=row.child_test_accuracy)
        mode = TransferMode(row.transfer_mode) if row.transfer_mode else TransferMode.UNSPECIFIED
        versions.append(
            SupernetVersion(
                name=row.version,
                dataset=row.dataset,
                dataset_display_name=row.task,
                parents=tuple(parents),
                transfer_mode=mode,
                metrics=metrics,
            )
        )
        if row.ot_distance is not None:
            distances[row.version] = row.ot_distance
    edges = tuple(LineageEdge(child=version.name, parent=parent) for version in versions for parent in version.parents)
    return Lineage(versions=tuple(versions), edges=edges), distances
