"""Draws the cells of a genotype, from its string alone.

Both notations of the field are read, without evaluating anything:

- NAS-Bench-201 (Dong & Yang 2020): ``|nor_conv_3x3~0|+|none~0|skip_connect~1|+|...|``, one group a node, ``op~source``;
- DARTS (Liu et al. 2019): ``Genotype(normal=[('sep_conv_3x3', 0), ...], normal_concat=..., reduce=[...], ...)``, two
  edges a node, node 0 and 1 being the outputs of the two previous cells.

The layout is a staircase: node i has a row of its own, with one box for each incoming operation, and every source
feeds its consumers through a vertical line beneath it. So no label ever covers another one, whatever the genotype.
matplotlib is imported only when a picture is drawn.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supernet_registry.search.errors import InvalidArgument, OptionalDependency

__all__ = ["CellEdge", "CellGraph", "draw_cells", "parse_genotype"]

# Okabe & Ito's palette: distinguishable with every kind of colour blindness. The label names the operation as well.
_COLOURS: Mapping[str, str] = {
    "none": "#BDBDBD",
    "skip_connect": "#999999",
    "nor_conv_1x1": "#56B4E9",
    "nor_conv_3x3": "#0072B2",
    "avg_pool_3x3": "#E69F00",
    "max_pool_3x3": "#D55E00",
    "sep_conv_3x3": "#0072B2",
    "sep_conv_5x5": "#56B4E9",
    "dil_conv_3x3": "#009E73",
    "dil_conv_5x5": "#CC79A7",
}
_OTHER_COLOUR = "#F0E442"
_INK = "#333333"
_BUS = "#8C8C8C"

# Geometry in inches: an operation's box, the row of one edge, and the step from a node to the next.
_BOX_WIDTH, _BOX_HEIGHT = 1.15, 0.3
_EDGE_ROW = 0.4
_NODE_GAP = 0.22
_NODE_STEP = 2.05
_NODE_RADIUS = 0.2
_INPUT_STEP = 0.75


@dataclass(frozen=True, slots=True)
class CellEdge:
    """One operation of a cell: `operation` applied to node `source`."""

    operation: str
    source: int


@dataclass(frozen=True, slots=True)
class CellGraph:
    """A cell: its inputs, and the incoming edges of every further node in order."""

    name: str
    inputs: tuple[str, ...]
    nodes: tuple[tuple[CellEdge, ...], ...]
    concat: tuple[int, ...] = ()
    """Nodes whose outputs are concatenated; empty where the last node is the output."""


def parse_genotype(genotype: str) -> tuple[CellGraph, ...]:
    """Read a genotype string: one cell for NAS-Bench-201, normal and reduction cell for DARTS.

    Raises:
        InvalidArgument: the string is of neither notation, or an edge comes from a later node.
    """
    text = genotype.strip()
    cells = _parse_darts(text) if text.startswith("Genotype(") else _parse_nas_bench_201(text)
    for cell in cells:
        for node, edges in enumerate(cell.nodes, start=len(cell.inputs)):
            if any(edge.source >= node for edge in edges):
                raise _unreadable(genotype)
    if not cells:
        raise _unreadable(genotype)
    return cells


def draw_cells(genotype: str, path: str | Path, *, title: str = "") -> Path:
    """Draw every cell of `genotype` into `path` (.png, .svg or .pdf by its ending), and return the path.

    Raises:
        InvalidArgument: the genotype cannot be read.
        OptionalDependency: matplotlib is not installed.
    """
    cells = parse_genotype(genotype)
    figure_type, style = _matplotlib()
    extents = [_extent(cell) for cell in cells]
    width = max(w for w, _ in extents)
    top = 0.55 if title else 0.15
    height = sum(h for _, h in extents) + top
    figure = figure_type(figsize=(width, height), dpi=160)
    if title:
        figure.text(0.15 / width, 1 - 0.3 / height, title, ha="left", va="center", fontsize=12, color=_INK)
    y = height - top
    with style():
        for cell, (cell_width, cell_height) in zip(cells, extents, strict=True):
            y -= cell_height
            axes = figure.add_axes((0, y / height, cell_width / width, cell_height / height))
            _draw_cell(axes, cell, cell_width, cell_height)
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        # No date in the file: the same genotype gives the same bytes.
        metadata = {"Date": None} if target.suffix == ".svg" else None
        figure.savefig(target, facecolor="white", metadata=metadata)
    return target


# ---------------------------------------------------------------------------------------------------------- parsing


def _parse_nas_bench_201(text: str) -> tuple[CellGraph, ...]:
    nodes = []
    for group in text.split("+"):
        entries = group.strip().strip("|").split("|")
        matches = [re.fullmatch(r"(\w+)~(\d+)", entry) for entry in entries]
        nodes.append(tuple(CellEdge(match[1], int(match[2])) for match in matches if match))
        if len(nodes[-1]) != len(entries):
            raise _unreadable(text)
    return (CellGraph("cell", ("input",), tuple(nodes)),)


def _parse_darts(text: str) -> tuple[CellGraph, ...]:
    cells = []
    for field, name in (("normal", "normal cell"), ("reduce", "reduction cell")):
        section = re.search(rf"\b{field}=\[(.*?)\]", text, re.DOTALL)
        if section is None:
            continue
        edges = [CellEdge(op, int(source)) for op, source in re.findall(r"\('(\w+)',\s*(\d+)\)", section[1])]
        if not edges or len(edges) % 2:
            raise _unreadable(text)
        nodes = tuple((edges[i], edges[i + 1]) for i in range(0, len(edges), 2))
        concat = tuple(range(2, 2 + len(nodes)))
        cells.append(CellGraph(name, ("cell k−2", "cell k−1"), nodes, concat))
    return tuple(cells)


def _unreadable(genotype: str) -> InvalidArgument:
    shown = genotype if len(genotype) <= 80 else genotype[:77] + "..."
    return InvalidArgument(
        f"{shown!r} is not a genotype.",
        remedy="Give '|op~0|+|op~0|op~1|+...' (NAS-Bench-201) or 'Genotype(normal=[...], ...)' (DARTS).",
        field="genotype",
    )


# ---------------------------------------------------------------------------------------------------------- drawing


def _matplotlib() -> tuple[Any, Any]:
    """matplotlib's Figure (no pyplot: no global state, no window system) and a context with our settings."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise OptionalDependency(
            "Drawing needs matplotlib, which is not installed.", remedy="pip install 'supernet-registry[plots]'"
        ) from error
    return Figure, lambda: rc_context({"svg.hashsalt": "supernet-registry", "svg.fonttype": "none"})


def _extent(cell: CellGraph) -> tuple[float, float]:
    """Width and height of a cell's picture in inches."""
    rows = sum(_node_height(edges) for edges in cell.nodes)
    width = _input_x(cell, len(cell.inputs) - 1) + _NODE_STEP * len(cell.nodes) + (1.0 if cell.concat else 0.75)
    return width, rows + 1.25


def _node_height(edges: tuple[CellEdge, ...]) -> float:
    return _EDGE_ROW * max(len(edges), 1) + _NODE_GAP


def _input_x(cell: CellGraph, index: int) -> float:
    # Long input names need room between them.
    return 0.55 + index * (_INPUT_STEP + 0.35 if len(cell.inputs) > 1 else 0)


def _draw_cell(axes: Any, cell: CellGraph, width: float, height: float) -> None:
    axes.set_xlim(0, width)
    axes.set_ylim(0, height)
    axes.axis("off")
    axes.text(0.15, height - 0.2, cell.name, ha="left", va="center", fontsize=10, fontweight="bold", color=_INK)

    first = len(cell.inputs)
    positions = [(_input_x(cell, i), height - 0.72) for i in range(first)]
    y = height - 1.05
    for index, edges in enumerate(cell.nodes):
        y -= _node_height(edges)
        positions.append((positions[first - 1][0] + _NODE_STEP * (index + 1), y + _node_height(edges) / 2))

    for label, (x, row) in zip(cell.inputs, positions, strict=False):
        axes.text(x, row + 0.27, label, ha="center", va="center", fontsize=7.5, color=_INK)
    lowest: dict[int, float] = {}
    for node, edges in enumerate(cell.nodes, start=first):
        _draw_incoming(axes, edges, positions, node, lowest)
    for source, row in lowest.items():
        x, top = positions[source]
        axes.plot([x, x], [top, row], color=_BUS, linewidth=1.3, zorder=1, solid_capstyle="round")
    if cell.concat:
        _draw_concat(axes, cell, positions, width)
    for node, (x, row) in enumerate(positions):
        output = not cell.concat and node == len(positions) - 1
        fill = _INK if node < first or output else "white"
        axes.plot(x, row, "o", markersize=20, color=fill, markeredgecolor=_INK, markeredgewidth=1.2, zorder=4)
        ink = "white" if node < first or output else _INK
        axes.text(x, row, str(node), ha="center", va="center_baseline", fontsize=8.5, color=ink, zorder=5)
        if output:
            axes.text(x, row - 0.3, "output", ha="center", va="center", fontsize=7.5, color=_INK)


def _draw_incoming(
    axes: Any,
    edges: tuple[CellEdge, ...],
    positions: list[tuple[float, float]],
    node: int,
    lowest: dict[int, float],
) -> None:
    """The operations of one node: source line → box → node. Notes in `lowest` how far down each source must reach."""
    from matplotlib.patches import FancyBboxPatch

    x, middle = positions[node]
    left = x - _NODE_RADIUS - 0.22 - _BOX_WIDTH
    for index, edge in enumerate(edges):
        row = middle + (len(edges) - 1) * _EDGE_ROW / 2 - index * _EDGE_ROW
        source_x = positions[edge.source][0]
        colour = _COLOURS.get(edge.operation, _OTHER_COLOUR)
        absent = edge.operation == "none"
        line = {"color": colour, "linewidth": 1.6, "linestyle": (0, (2, 2)) if absent else "-", "zorder": 2}
        axes.plot([source_x, left], [row, row], **line)
        axes.plot(source_x, row, "o", markersize=4, color=_BUS if absent else colour, zorder=3)
        if not absent:
            tip = (x - _NODE_RADIUS * 0.75, middle + (row - middle) * 0.35)
            arrow = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.6, "shrinkA": 0, "shrinkB": 0}
            axes.annotate("", xy=tip, xytext=(left + _BOX_WIDTH, row), arrowprops=arrow, zorder=2)
        box = FancyBboxPatch(
            (left, row - _BOX_HEIGHT / 2),
            _BOX_WIDTH,
            _BOX_HEIGHT,
            boxstyle="round,pad=0,rounding_size=0.07",
            facecolor="white",
            edgecolor=colour,
            linewidth=1.6,
            linestyle=(0, (2, 2)) if absent else "-",
            zorder=3,
        )
        axes.add_patch(box)
        ink = "#757575" if absent else _INK
        label = _label(edge.operation)
        axes.text(left + _BOX_WIDTH / 2, row, label, ha="center", va="center_baseline", fontsize=8, color=ink, zorder=4)
        lowest[edge.source] = min(lowest.get(edge.source, row), row)


def _draw_concat(axes: Any, cell: CellGraph, positions: list[tuple[float, float]], width: float) -> None:
    bar = width - 0.6
    rows = [positions[node][1] for node in cell.concat]
    for node in cell.concat:
        x, row = positions[node]
        arrow = {"arrowstyle": "-|>", "color": _BUS, "linewidth": 1.3, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", xy=(bar - 0.05, row), xytext=(x, row), arrowprops=arrow, zorder=1)
    axes.plot([bar, bar], [min(rows) - 0.2, max(rows) + 0.2], color=_INK, linewidth=5, solid_capstyle="round")
    middle = (min(rows) + max(rows)) / 2
    axes.text(
        bar + 0.25, middle, "concatenate → output", rotation=270, ha="center", va="center", fontsize=8, color=_INK
    )


def _label(operation: str) -> str:
    """`sep_conv_3x3` → `sep conv 3×3`."""
    words = operation.removeprefix("nor_").removesuffix("_connect").replace("_", " ")
    return re.sub(r"(\d)x(\d)", r"\1×\2", words)
