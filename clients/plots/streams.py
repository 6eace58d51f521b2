"""Pictures of a stream's result: the summary, the accuracy matrix, and its learning curves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from supernet_registry.clients.plots._style import CHILD, GREY, INK, SCRATCH, WARM, figure, ot, save, short, style, tidy
from supernet_registry.clients.plots.curves import Curve, CurvePanel, learning_curves
from supernet_registry.clients.streams.results import StreamResult, StreamRow
from supernet_registry.search.errors import InvalidArgument

__all__ = ["accuracy_matrix", "stream_curves", "stream_summary"]

_TASTE = "#BDBDBD"


def stream_summary(
    result: StreamResult,
    path: str | Path,
    *,
    scratch: Mapping[int, StreamRow] | None = None,
    title: str = "",
) -> Path:
    """Draw one line a task: test accuracies, steps of taste and search, source and OT distance.

    Args:
        result: the stream.
        path: file to write.
        scratch: rows of the same tasks searched from scratch, by step, for contrast.
        title: heading.

    Raises:
        InvalidArgument: the result has no rows.
        OptionalDependency: matplotlib is not installed.
    """
    rows = _finished(result)
    contrast = scratch or {}
    places = list(range(len(rows)))
    with style():
        drawn = figure(11, 0.42 * len(rows) + 1.8)
        left, right = drawn.subplots(1, 2, sharey=True, width_ratios=(1, 1.25))
        for place, row in zip(places, rows, strict=True):
            _draw_accuracies(left, place, row, contrast.get(row.step))
            _draw_cost(right, place, row, contrast.get(row.step))
        left.set_yticks(places, [f"{row.step}  {short(row.task, 34)}" for row in rows])
        left.set_ylim(len(rows) - 0.4, -0.6)
        left.set_xlabel("test accuracy (%)")
        right.set_xlabel("weight updates")
        _leave_room_for_sources(right, _most_steps(rows, contrast))
        for axes in (left, right):
            tidy(axes, grid="x")
            axes.spines["left"].set_visible(False)
        right.tick_params(labelleft=False)
        _draw_summary_legend(drawn, contrasted=bool(contrast))
        drawn.suptitle(title or f"Stream {result.stream}", x=0.01, ha="left", fontsize=12)
        return save(drawn, path)


def accuracy_matrix(result: StreamResult, path: str | Path, *, child: bool = False, title: str = "") -> Path:
    """Draw the accuracy matrix R as a heat map: row i after step i, column j the test accuracy on task j, in percent.

    Raises:
        InvalidArgument: the result has no matrix.
        OptionalDependency: matplotlib is not installed.
    """
    matrix = result.child_accuracies if child else result.accuracies
    if not matrix:
        raise InvalidArgument("There is no accuracy matrix.", remedy="Run the stream first.", field="result")
    names = [short(row.task, 26) for row in result.rows]
    side = len(names)
    with style():
        import numpy as np

        values = np.array([[np.nan if a is None else 100 * a for a in row] for row in matrix])
        drawn = figure(0.52 * side + 3.6, 0.42 * side + 2.6)
        axes = drawn.subplots()
        axes.set_facecolor("#F7F7F7")
        image = axes.imshow(values, cmap="cividis", vmin=0, vmax=100, aspect="auto")
        for (i, j), value in np.ndenumerate(values):
            if not np.isnan(value):
                ink = "white" if value < 55 else "black"
                axes.text(j, i, f"{value:.0f}", ha="center", va="center", fontsize=7.5 if side <= 20 else 5, color=ink)
        axes.set_xticks(range(side), names, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(side), [f"after {row.step}" for row in result.rows])
        axes.tick_params(length=0)
        axes.set_xlabel("evaluated on task")
        for spine in axes.spines.values():
            spine.set_visible(False)
        drawn.colorbar(image, ax=axes, label="test accuracy (%)", shrink=0.8)
        model = "child networks" if child else "supernets"
        how = "measured" if result.evaluated else "as recorded"
        drawn.suptitle(title or f"Stored {model}, {how}: {result.stream}", x=0.01, ha="left", fontsize=12)
        return save(drawn, path)


def stream_curves(
    result: StreamResult,
    path: str | Path,
    *,
    scratch: Mapping[int, StreamRow] | None = None,
    title: str = "",
    only_contrasted: bool = False,
) -> Path:
    """Draw each task's learning curve, beside that of a search from scratch where there is one.

    Args:
        result: the stream.
        path: file to write.
        scratch: rows of the same tasks searched from scratch, by step.
        title: heading.
        only_contrasted: leave out tasks without a row in `scratch`.
    """
    contrast = scratch or {}
    panels = []
    for row in _finished(result):
        if only_contrasted and row.step not in contrast:
            continue
        curves = [Curve.from_row(row)]
        if row.step in contrast and row.source:
            curves.append(Curve.from_row(contrast[row.step]))
        panels.append(CurvePanel(row.task, tuple(curve for curve in curves if curve.steps)))
    return learning_curves(panels, path, title=title or f"Stream {result.stream}")


def _finished(result: StreamResult) -> list[StreamRow]:
    rows = [row for row in result.rows if row.version]
    if not rows:
        raise InvalidArgument("No task of the stream has a result.", remedy="Run the stream first.", field="result")
    return rows


def _version(name: str) -> str:
    """`supernets/x/versions/3` → `x v3`."""
    parts = name.split("/")
    return f"{parts[1]} v{parts[3]}" if len(parts) == 4 else name


def _most_steps(rows: list[StreamRow], contrast: Mapping[int, StreamRow]) -> int:
    return max([*(row.steps for row in rows), *(row.steps for row in contrast.values()), 1])


def _draw_accuracies(axes: Any, place: int, row: StreamRow, scratch: StreamRow | None) -> None:
    supernet = 100 * row.test_accuracy
    if row.child_test_accuracy is not None:
        child = 100 * row.child_test_accuracy
        axes.plot([supernet, child], [place, place], color=GREY, linewidth=1.2, zorder=2)
        axes.plot(child, place, "s", color=CHILD, markersize=6, zorder=3)
    axes.plot(supernet, place, "o", color=WARM if row.source else SCRATCH, markersize=7, zorder=4)
    if scratch is not None:
        axes.plot(100 * scratch.test_accuracy, place, "|", color=INK, markersize=13, markeredgewidth=2, zorder=3)


def _draw_cost(axes: Any, place: int, row: StreamRow, scratch: StreamRow | None) -> None:
    colour = WARM if row.source else SCRATCH
    axes.barh(place, row.taste_steps, height=0.5, color=_TASTE, zorder=2)
    axes.barh(place, row.search_steps, left=row.taste_steps, height=0.5, color=colour, zorder=2)
    if scratch is not None:
        axes.plot(scratch.steps, place, "|", color=INK, markersize=13, markeredgewidth=2, zorder=3)
    end = max(row.steps, scratch.steps if scratch is not None else 0)
    source = f"← {short(_version(row.source), 30)}  {ot(row.ot_distance)}".rstrip() if row.source else "scratch"
    axes.annotate(source, (end, place), (7, 0), textcoords="offset points", va="center", fontsize=8, color=INK)


def _leave_room_for_sources(axes: Any, most: int) -> None:
    """The sources are written to the right of the bars, where the axis therefore has no ticks."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(0, most * 1.95)
    axes.set_xticks([tick for tick in MaxNLocator(5, integer=True).tick_values(0, most) if tick <= most * 1.05])


def _draw_summary_legend(drawn: Any, *, contrasted: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = [
        Line2D([], [], marker="o", color=WARM, linestyle="", markersize=7, label="supernet"),
        Line2D([], [], marker="s", color=CHILD, linestyle="", label="child network"),
        Patch(color=_TASTE, label="taste"),
        Patch(color=WARM, label="search, warm-started"),
        Patch(color=SCRATCH, label="search from scratch"),
    ]
    if contrasted:
        mark: dict[str, Any] = {"marker": "|", "color": INK, "linestyle": "", "markersize": 12, "markeredgewidth": 2}
        handles.append(Line2D([], [], **mark, label="the same from scratch"))
    drawn.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8.5)
