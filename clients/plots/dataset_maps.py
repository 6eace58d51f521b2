"""The map of datasets: points on a plane, and which warm starts have led from one to another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from supernet_registry.clients.plots._style import GREY, INK, SCRATCH, WARM, figure, save, short, style
from supernet_registry.clients.wire.resources import DatasetMap, DatasetPoint
from supernet_registry.search.errors import InvalidArgument

__all__ = ["dataset_map_picture"]

_SIDES: Sequence[tuple[float, float]] = (
    (1, 0),
    (-1, 0),
    (0, 1),
    (0, -1),
    (0.8, 0.8),
    (-0.8, 0.8),
    (0.8, -0.8),
    (-0.8, -0.8),
)
"""Where a label may stand, as directions from its point, the most readable first."""
_FROM_POINT = 5.5
"""Points (1/72 inch) between the middle of a point and its label."""
_WIDTH = 9.0
"""Inches."""
_FLATTEST = 0.55
"""Height of a map over its width, at least; at most 1."""
_MANY = 60
"""With more points than this, labels and arrows are drawn smaller and paler."""


def dataset_map_picture(
    found: DatasetMap,
    path: str | Path,
    *,
    target: str = "target",
    warm_starts: Iterable[tuple[str, str]] = (),
    title: str = "",
) -> Path:
    """Draw a map.

    Datasets that hold a version are filled, the others hollow; the target is a star. Labels are never drawn over each
    other: where there is no room the datasets without a version lose theirs first, and the picture says how many did.

    Args:
        found: as `map_datasets` returns it.
        path: file to write.
        target: label of the target, if it is not registered.
        warm_starts: (dataset of the source, dataset that was searched) by name; those outside of the map are left out.
        title: heading.

    Raises:
        InvalidArgument: no dataset is on the map.
        OptionalDependency: matplotlib is not installed.
    """
    if not found.points:
        raise InvalidArgument("The map is empty.", remedy="Register a dataset first.", field="points")
    with style():
        wide, high = _view(found.points)
        drawn = figure(_WIDTH, _WIDTH * (high[1] - high[0]) / (wide[1] - wide[0]) + 0.8)
        axes = drawn.subplots()
        axes.set(xlim=wide, ylim=high, aspect="equal")
        arrows = _draw_arrows(axes, found.points, warm_starts)
        for point in found.points:
            _draw_point(axes, point, small=len(found.points) > _MANY)
        axes.set_xlabel(f"units of the embedding distance; the plane shows {found.explained_share:.0%} of the variance")
        axes.tick_params(length=0, colors=GREY, labelsize=7.5)
        _draw_legend(drawn, found.points, arrows=arrows)
        if title:
            drawn.suptitle(title, x=0.01, ha="left", fontsize=12)
        unnamed = _draw_labels(drawn, axes, found.points, target)
        if unnamed:
            note = f"{unnamed} name{'s' * (unnamed > 1)} left out for want of room"
            axes.text(0.995, 0.008, note, transform=axes.transAxes, ha="right", fontsize=7, color=GREY)
        return save(drawn, path)


def _view(points: Sequence[DatasetPoint]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Limits of both axes in one scale, since distances are what the map is for, with room for labels at the edges."""
    xs, ys = [point.x for point in points], [point.y for point in points]
    (left, right), (low, high) = (min(xs), max(xs)), (min(ys), max(ys))
    width = 1.24 * max(right - left, high - low, 1e-6)
    height = max(1.16 * (high - low), _FLATTEST * width)
    return (
        ((left + right - width) / 2, (left + right + width) / 2),
        ((low + high - height) / 2, (low + high + height) / 2),
    )


def _draw_point(axes: Any, point: DatasetPoint, *, small: bool) -> None:
    if point.target:
        axes.plot(point.x, point.y, "*", color=SCRATCH, markersize=15, markeredgecolor="white", zorder=5)
        return
    fill = WARM if point.version else "white"
    edge = "white" if point.version else GREY
    size = (5.0 if small else 7.5) if point.version else (3.5 if small else 5.5)
    axes.plot(
        point.x, point.y, "o", color=fill, markeredgecolor=edge, markersize=size, zorder=4 if point.version else 3
    )


def _draw_arrows(axes: Any, points: Sequence[DatasetPoint], warm_starts: Iterable[tuple[str, str]]) -> int:
    places = {point.dataset: (point.x, point.y) for point in points if point.dataset}
    pairs = sorted({pair for pair in warm_starts if pair[0] != pair[1] and set(pair) <= places.keys()})
    alpha = 0.75 if len(pairs) <= _MANY else 0.35
    arrow = {"arrowstyle": "-|>", "color": WARM, "linewidth": 1.1, "alpha": alpha, "shrinkA": 5, "shrinkB": 6}
    for source, searched in pairs:
        bent = {**arrow, "connectionstyle": "arc3,rad=0.12"}
        axes.annotate("", xy=places[searched], xytext=places[source], arrowprops=bent, zorder=2)
    return len(pairs)


def _draw_labels(drawn: Any, axes: Any, points: Sequence[DatasetPoint], target: str) -> int:
    """Labels beside their points, each on the first side where it covers nothing; how many found no place.

    The target and datasets with a version come first, and may, where nothing else is free, cover a point without one.
    """
    from matplotlib.transforms import Bbox

    drawn.draw_without_rendering()  # the size of a text is known in pixels, and only after the layout
    drawn.set_layout_engine("none")
    pixels = drawn.dpi / 72
    room = axes.get_window_extent()
    places = axes.transData.transform([(point.x, point.y) for point in points])  # (n, 2), pixels
    radius = 3.5 * pixels
    marks = [Bbox.from_extents(x - radius, y - radius, x + radius, y + radius) for x, y in places]
    heavy = [mark for mark, point in zip(marks, points, strict=True) if point.target or point.version]
    labels: list[Any] = []
    for i in sorted(range(len(points)), key=lambda i: (not points[i].target, not points[i].version)):
        label = _label(axes, points[i], target, small=len(points) > _MANY)
        box = label.get_window_extent()
        gap = _FROM_POINT * pixels * (1.6 if points[i].target else 1.0)
        shifts = [(across * (gap + box.width / 2), up * (gap + box.height / 2)) for across, up in _SIDES]
        shift = next(
            (
                shift
                for obstacles in ([marks, heavy] if marks[i] in heavy else [marks])
                for shift in shifts
                if _is_free(box.translated(*shift), room, [*labels, *obstacles])
            ),
            None,
        )
        if shift is None:
            label.remove()
            continue
        label.xyann = (shift[0] / pixels, shift[1] / pixels)
        labels.append(box.translated(*shift))
    return len(points) - len(labels)


def _is_free(place: Any, room: Any, taken: Sequence[Any]) -> bool:
    inside = all(room.fully_contains(*corner) for corner in (place.min, place.max))
    return inside and not place.count_overlaps(taken)


def _label(axes: Any, point: DatasetPoint, target: str, *, small: bool) -> Any:
    """The label, on its point for the moment."""
    name = point.display_name or (target if point.target else point.dataset.removeprefix("datasets/")[:8])
    colour = SCRATCH if point.target else INK if point.version else "#666666"
    return axes.annotate(
        short(name, 24),
        (point.x, point.y),
        (0, 0),
        textcoords="offset points",
        ha="center",
        va="center",
        fontsize=6.0 if small else 7.5,
        fontweight="bold" if point.target else "normal",
        color=colour,
        zorder=6,
    )


def _draw_legend(drawn: Any, points: Sequence[DatasetPoint], *, arrows: int) -> None:
    from matplotlib.lines import Line2D

    def mark(label: str, **look: Any) -> Any:
        return Line2D([], [], linestyle="", label=label, **look)

    handles = []
    if any(point.target for point in points):
        handles.append(mark("target", marker="*", color=SCRATCH, markersize=12, markeredgecolor="white"))
    if any(point.version for point in points):
        handles.append(mark("searched: holds a version", marker="o", color=WARM, markersize=7, markeredgecolor="white"))
    if any(not point.version and not point.target for point in points):
        handles.append(mark("registered only", marker="o", color="white", markersize=5.5, markeredgecolor=GREY))
    if arrows:
        handles.append(
            Line2D([], [], color=WARM, linewidth=1.1, marker=">", markersize=4, label="warm start: source → task")
        )
    drawn.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8.5)
