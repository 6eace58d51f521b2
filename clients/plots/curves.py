"""Learning curves: what a warm start saves, one panel a task."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supernet_registry.clients.plots._style import GREY, INK, SCRATCH, WARM, figure, ot, save, short, style, tidy
from supernet_registry.clients.streams.results import StreamRow
from supernet_registry.clients.wire.resources import EpochMetrics, Phase, TasteResult
from supernet_registry.search.errors import InvalidArgument

__all__ = ["Curve", "CurvePanel", "compare", "learning_curves"]

TARGET_MARGIN = 0.01
"""A curve has arrived when it reaches scratch's best accuracy minus this (one point)."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One search: validation accuracy (a fraction) against weight updates, those of the taste included."""

    label: str
    steps: tuple[int, ...]
    accuracies: tuple[float, ...]
    warm: bool

    @classmethod
    def from_epochs(
        cls,
        label: str,
        epochs: Iterable[EpochMetrics],
        *,
        warm: bool,
        taste_steps: int = 0,
        tastes: Iterable[TasteResult] = (),
    ) -> Curve:
        """The search epochs of a job, after all steps of its taste.

        The search goes on from the state that the taste's winner has reached: the curve begins with that accuracy, and
        the winner's own steps, which its epochs go on counting, are not counted twice.
        """
        winner = next((taste for taste in tastes if taste.chosen and taste.steps and taste.val_accuracies), None)
        points = [(taste_steps, winner.val_accuracies[-1])] if winner is not None else []
        before = taste_steps - (winner.steps[-1] if winner is not None else 0)
        judged = [(e.steps, e.val_accuracy) for e in epochs if e.phase is Phase.SEARCH]
        points += [(before + steps, accuracy) for steps, accuracy in judged if accuracy is not None]
        return cls(label, tuple(s for s, _ in points), tuple(a for _, a in points), warm)

    @classmethod
    def from_row(cls, row: StreamRow, label: str | None = None) -> Curve:
        """The curve of a stream's row; its label names the source and the OT distance unless given."""
        if label is None:
            parts = row.source.split("/")
            label = f"← {parts[1]} v{parts[3]}, {ot(row.ot_distance)}".rstrip(", ") if len(parts) == 4 else row.source
        return cls.from_epochs(label, row.curve, warm=bool(row.source), taste_steps=row.taste_steps, tastes=row.tastes)

    @property
    def best(self) -> float:
        return max(self.accuracies, default=math.nan)

    def steps_to(self, accuracy: float) -> int | None:
        """Weight updates after which `accuracy` was first reached, None if never."""
        return next((s for s, a in zip(self.steps, self.accuracies, strict=True) if a >= accuracy), None)


@dataclass(frozen=True, slots=True)
class CurvePanel:
    """One task's curves."""

    title: str
    curves: tuple[Curve, ...]

    @property
    def target(self) -> float | None:
        """Scratch's best accuracy minus one point; None without a scratch curve."""
        bests = [curve.best for curve in self.curves if not curve.warm and curve.accuracies]
        return max(bests) - TARGET_MARGIN if bests else None


def compare(panel: CurvePanel) -> float | None:
    """Steps of the fastest scratch curve to the target over those of the fastest warm curve; None if unknown."""
    target = panel.target
    if target is None:
        return None
    warm = [steps for c in panel.curves if c.warm and (steps := c.steps_to(target)) is not None]
    scratch = [steps for c in panel.curves if not c.warm and (steps := c.steps_to(target)) is not None]
    # A source may be there before its first update; count one, so that the ratio stays a number.
    return min(scratch) / max(min(warm), 1) if warm and scratch else None


def learning_curves(panels: Sequence[CurvePanel], path: str | Path, *, title: str = "") -> Path:
    """Draw one panel a task: validation accuracy against weight updates, warm-started against scratch.

    The dotted line is the target, scratch's best minus one point; a dot marks where each curve reaches it.

    Raises:
        InvalidArgument: no panels.
        OptionalDependency: matplotlib is not installed.
    """
    if not panels:
        raise InvalidArgument("There are no curves to draw.", remedy="Run a stream or a search first.", field="panels")
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    with style():
        drawn = figure(max(4.6, 3.5 * columns), 2.7 * rows + (0.9 if title else 0.6))
        grid = drawn.subplots(rows, columns, squeeze=False)
        for axes, panel in zip(grid.flat, panels, strict=False):
            _draw_panel(axes, panel)
        for axes in list(grid.flat)[len(panels) :]:
            axes.set_visible(False)
        for column in range(columns):
            lowest = max(row for row in range(rows) if row * columns + column < len(panels))
            grid[lowest][column].set_xlabel("weight updates, taste included")
        for row in range(rows):
            grid[row][0].set_ylabel("validation accuracy (%)")
        _draw_legend(drawn, panels)
        if title:
            drawn.suptitle(title, x=0.01, ha="left", fontsize=12)
        return save(drawn, path)


def _draw_panel(axes: Any, panel: CurvePanel) -> None:
    # Alone, a curve from scratch would only be measured against itself.
    from matplotlib.ticker import MaxNLocator

    target = panel.target if any(curve.warm for curve in panel.curves) else None
    lowest, highest = 100.0, 0.0
    for curve in panel.curves:
        colour = WARM if curve.warm else SCRATCH
        percent = [100 * accuracy for accuracy in curve.accuracies]
        lowest, highest = min([lowest, *percent]), max([highest, *percent])
        axes.plot(curve.steps, percent, color=colour, linewidth=1.8, linestyle="-" if curve.warm else (0, (5, 1.5)))
        if len(percent) == 1:  # a line of one point would not be seen
            axes.plot(curve.steps, percent, "o", color=colour, markersize=4)
        reached = curve.steps_to(target) if target is not None else None
        if reached is not None:
            at = percent[curve.steps.index(reached)]
            axes.plot(reached, at, "o", color=colour, markersize=6, markeredgecolor="white", zorder=4)
    if target is not None:
        axes.axhline(100 * target, color=GREY, linewidth=1, linestyle=":")
    subtitle = " · ".join(curve.label for curve in panel.curves if curve.warm and curve.label)
    heading = short(panel.title, 40) + (f"\n{short(subtitle, 46)}" if subtitle else "")
    axes.set_title(heading)
    axes.set_xlim(left=0)
    # At least ten points high: noise of a tenth of a point must not look like a curve.
    room = max((highest - lowest) * 0.08, 1, (10 - (highest - lowest)) / 2)
    axes.set_ylim(max(0, lowest - room), min(101, highest + room))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if target is not None:
        faster = compare(panel)
        note = "target not reached" if faster is None else f"{faster:.1f}× fewer steps"
        if any(curve.warm and curve.steps_to(target) == 0 for curve in panel.curves):
            note = "there before the first step"
        elif faster is not None and faster < 1:
            note = f"{1 / faster:.1f}× more steps"
        axes.text(0.98, 0.05, note, transform=axes.transAxes, ha="right", va="bottom", fontweight="bold", color=INK)
    tidy(axes)


def _draw_legend(drawn: Any, panels: Sequence[CurvePanel]) -> None:
    from matplotlib.lines import Line2D

    curves = [curve for panel in panels for curve in panel.curves]
    entries = []
    if any(curve.warm for curve in curves):
        entries.append(Line2D([], [], color=WARM, linewidth=1.8, label="warm-started"))
    if not all(curve.warm for curve in curves):
        entries.append(Line2D([], [], color=SCRATCH, linewidth=1.8, linestyle=(0, (5, 1.5)), label="from scratch"))
    if any(panel.target is not None and any(curve.warm for curve in panel.curves) for panel in panels):
        entries.append(Line2D([], [], color=GREY, linestyle=":", label="target: scratch's best − 1 point"))
        entries.append(Line2D([], [], color=GREY, marker="o", linestyle="", label="target reached"))
    drawn.legend(handles=entries, loc="outside lower center", ncols=min(len(entries), 4), fontsize=8.5)
