"""The lineage picture: versions as cards, arrows from the source that each was warm-started from.

Layout: a forest drawn from left to right. A version's place comes from its main parent (its source, else the previous
head); leaves take one row each, and a parent shares the row of its first child. Main arrows can therefore neither
cross each other nor a card. Previous heads that are not the source are dashed and run behind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supernet_registry.clients.plots._style import GREY, INK, WARM, figure, save, short, style
from supernet_registry.clients.wire.resources import Lineage, ParentRole, SupernetVersion
from supernet_registry.search.errors import InvalidArgument

__all__ = ["lineage_picture"]

_ROW = 0.74
_CARD_HEIGHT = 0.48
_GAP = 1.0
_MARGIN = 0.25
_DASHES = (0, (4, 2))


@dataclass(frozen=True, slots=True)
class _Place:
    column: int
    row: int


def lineage_picture(
    lineage: Lineage, path: str | Path, *, distances: Mapping[str, float] | None = None, title: str = ""
) -> Path:
    """Draw a lineage.

    Args:
        lineage: as `query_lineage` returns it; arrows to versions outside of it are left out.
        path: file to write.
        distances: OT distance of a version to the dataset of its source, by the version's name; labels its arrow.
        title: heading.

    Raises:
        InvalidArgument: the lineage is empty.
        OptionalDependency: matplotlib is not installed.
    """
    if not lineage.versions:
        raise InvalidArgument("The lineage is empty.", remedy="Finish a search first.", field="lineage")
    sources = _parents(lineage, ParentRole.SOURCE)
    heads = _parents(lineage, ParentRole.PREVIOUS_HEAD)
    places = _arrange(lineage.versions, {**heads, **sources})
    labels = {version.name: _label(version) for version in lineage.versions}
    card = 0.3 + 0.074 * max(len(line) for lines in labels.values() for line in lines)
    width = _MARGIN * 2 + (card + _GAP) * (1 + max(p.column for p in places.values())) - _GAP
    header, footer = (0.5 if title else 0.1), 0.45
    height = _ROW * (1 + max(p.row for p in places.values())) + header + footer

    def corner(name: str) -> tuple[float, float]:
        place = places[name]
        return _MARGIN + place.column * (card + _GAP), height - header - _ROW * (place.row + 0.5)

    with style():
        drawn = figure(max(width, 6.4), height)
        drawn.set_layout_engine("none")
        axes = drawn.add_axes((0, 0, 1, 1))
        axes.set_xlim(0, max(width, 6.4))
        axes.set_ylim(0, height)
        axes.axis("off")
        if title:
            axes.text(_MARGIN, height - 0.3, title, fontsize=12, va="center")
        for child, parent in heads.items():
            if child in sources and sources[child] != parent:
                _draw_bow(axes, corner(parent), corner(child), card)
        for child, parent in {**heads, **sources}.items():
            distance = (distances or {}).get(child)
            _draw_arrow(axes, corner(parent), corner(child), card, warm=child in sources, distance=distance)
        for version in lineage.versions:
            _draw_card(
                axes, version, labels[version.name], corner(version.name), card, scratch=version.name not in sources
            )
        _draw_legend(axes)
        return save(drawn, path)


def _parents(lineage: Lineage, role: ParentRole) -> dict[str, str]:
    known = {version.name for version in lineage.versions}
    return {
        edge.child: edge.parent.version
        for edge in lineage.edges
        if edge.parent is not None and edge.parent.role is role and {edge.child, edge.parent.version} <= known
    }


def _arrange(versions: Sequence[SupernetVersion], parents: Mapping[str, str]) -> dict[str, _Place]:
    """Column: generation. Row: leaves one after another in order of age, a parent on its first child's row."""
    children: dict[str, list[str]] = {}
    for version in versions:
        if version.name in parents:
            children.setdefault(parents[version.name], []).append(version.name)
    places: dict[str, _Place] = {}
    next_row = 0
    for root in (version.name for version in versions if version.name not in parents):
        # Depth first without recursion: lineages may be longer than Python's stack.
        stack = [(root, 0, False)]
        while stack:
            name, column, first = stack.pop()
            if not first and name != root:
                next_row += 1
            places[name] = _Place(column, next_row)
            offspring = children.get(name, [])
            stack.extend((child, column + 1, child == offspring[0]) for child in reversed(offspring))
        next_row += 1
    return places


def _label(version: SupernetVersion) -> tuple[str, str]:
    _, supernet, _, number = version.name.split("/")
    metrics = version.metrics
    figures = f"supernet {metrics.test_accuracy:.1%}" if metrics else "no metrics"
    if metrics and metrics.child_test_accuracy is not None:
        figures += f" · child {metrics.child_test_accuracy:.1%}"
    return f"{short(supernet, 28)} · v{number}", figures


def _draw_card(
    axes: Any, version: SupernetVersion, lines: tuple[str, str], at: tuple[float, float], width: float, *, scratch: bool
) -> None:
    from matplotlib.patches import FancyBboxPatch

    x, y = at
    axes.add_patch(
        FancyBboxPatch(
            (x, y - _CARD_HEIGHT / 2),
            width,
            _CARD_HEIGHT,
            boxstyle="round,pad=0,rounding_size=0.08",
            facecolor="#F4F4F4" if scratch else "#E4F0F8",
            edgecolor=INK if version.head else "#BDBDBD",
            linewidth=1.6 if version.head else 1.0,
            zorder=3,
        )
    )
    weight = "bold" if version.head else "normal"
    axes.text(x + 0.1, y + 0.1, lines[0], fontsize=9, va="center", fontweight=weight, zorder=4)
    axes.text(x + 0.1, y - 0.11, lines[1], fontsize=7.5, va="center", color="#555555", zorder=4)


def _draw_arrow(
    axes: Any,
    parent: tuple[float, float],
    child: tuple[float, float],
    card: float,
    *,
    warm: bool,
    distance: float | None,
) -> None:
    """From the right side of the main parent's card to the left side of the child's: down a gutter, then across."""
    colour, line = (WARM, "-") if warm else (GREY, _DASHES)
    width = 1.6 if warm else 1.1
    (x0, y0), (x1, y1) = (parent[0] + card, parent[1]), child
    gutter = x0 + 0.2
    axes.plot([x0, gutter, gutter], [y0, y0, y1], color=colour, linewidth=width, linestyle=line, snap=False, zorder=2)
    arrow = {"arrowstyle": "-|>", "color": colour, "linewidth": width, "linestyle": line, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", xy=(x1, y1), xytext=(gutter, y1), arrowprops=arrow, zorder=2)
    if warm and distance is not None:
        axes.text(gutter + 0.08, y1 + 0.09, f"OT {distance:.3g}", fontsize=7.5, va="center", color=colour, zorder=4)


def _draw_bow(axes: Any, parent: tuple[float, float], child: tuple[float, float], card: float) -> None:
    """From a previous head that is not the source: behind the cards, from the nearer edge to the nearer edge."""
    y0, y1 = parent[1], child[1]
    leave, arrive = (-1, -1) if y0 == y1 else (-1, 1) if y1 < y0 else (1, -1)
    start = (parent[0] + card * 0.7, y0 + leave * _CARD_HEIGHT / 2)
    end = (child[0] + card * 0.1, y1 + arrive * _CARD_HEIGHT / 2)
    line = {"linestyle": _DASHES, "connectionstyle": "arc3,rad=0.08", "shrinkA": 0, "shrinkB": 0}
    arrow = {"arrowstyle": "-|>", "color": GREY, "linewidth": 1.1, **line}
    axes.annotate("", xy=end, xytext=start, arrowprops=arrow, zorder=1)


def _draw_legend(axes: Any) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    axes.legend(
        handles=[
            Line2D([], [], color=WARM, linewidth=1.6, label="warm-started from (OT distance)"),
            Line2D([], [], color=GREY, linewidth=1.1, linestyle=_DASHES, label="previous version"),
            Patch(facecolor="white", edgecolor=INK, linewidth=1.6, label="head"),
            Patch(facecolor="#F4F4F4", edgecolor="#BDBDBD", label="from scratch"),
        ],
        loc="lower left",
        ncols=4,
        fontsize=7.5,
        handlelength=1.6,
        columnspacing=1.2,
        borderaxespad=0.3,
    )
