"""The taste that decided a source: every contender's validation accuracy against its steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from supernet_registry.clients.plots._style import CHILD, GREY, SCRATCH, WARM, figure, ot, save, short, style, tidy
from supernet_registry.clients.wire.resources import SourceDecision, TasteResult
from supernet_registry.search.errors import InvalidArgument

__all__ = ["taste_curves"]

_COLOURS = (WARM, CHILD, "#CC79A7", "#E69F00", "#56B4E9", GREY)
"""Okabe & Ito's, without scratch's; more contenders than colours share them in turn."""


def taste_curves(decision: SourceDecision, path: str | Path, *, title: str = "") -> Path:
    """Draw one line a contender; the chosen one is thick. One that was judged before any step is a single point.

    Raises:
        InvalidArgument: nothing was tasted.
        OptionalDependency: matplotlib is not installed.
    """
    tried = [taste for taste in decision.tastes if taste.steps and len(taste.steps) == len(taste.val_accuracies)]
    if not tried:
        raise InvalidArgument(
            "The job made no taste.", remedy="Only a search with `--source auto` tastes.", field="decision"
        )
    with style():
        from matplotlib.ticker import MaxNLocator

        drawn = figure(6.4, 3.6)
        axes = drawn.subplots()
        sources = [taste for taste in tried if taste.version]
        for taste in tried:
            colour = _COLOURS[sources.index(taste) % len(_COLOURS)] if taste.version else SCRATCH
            _draw(axes, taste, colour)
        axes.set_xlabel("weight updates of the trial")
        axes.set_ylabel("validation accuracy (%)")
        longest = max(1, *(taste.steps[-1] for taste in tried))
        axes.set_xlim(-0.04 * longest, 1.04 * longest)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        # At least ten points high: noise of a tenth of a point must not look like a lead.
        low, high = axes.get_ylim()
        room = max(0.0, 10 - (high - low)) / 2
        axes.set_ylim(max(0, low - room), min(101, high + room))
        tidy(axes)
        drawn.legend(loc="outside right upper", fontsize=8.5)
        drawn.suptitle(title or "Taste", x=0.01, ha="left", fontsize=11)
        return save(drawn, path)


def _draw(axes: Any, taste: TasteResult, colour: str) -> None:
    parts = taste.version.split("/")
    name = f"{short(parts[1], 24)} v{parts[3]}, {ot(taste.ot_distance)}".rstrip(", ") if len(parts) == 4 else "scratch"
    axes.plot(
        taste.steps,
        [100 * accuracy for accuracy in taste.val_accuracies],
        color=colour,
        marker="o",
        markersize=6 if taste.chosen else 4,
        linewidth=2.4 if taste.chosen else 1.2,
        linestyle="-" if taste.version else (0, (5, 1.5)),
        label=name + (" (chosen)" if taste.chosen else ""),
        zorder=4 if taste.chosen else 3,
    )
