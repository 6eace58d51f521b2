"""The class coupling: which classes of the source the transport plan sends each class of the target to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supernet_registry.clients.plots._style import GREY, PALE, figure, save, short, style
from supernet_registry.clients.wire.resources import ClassCoupling
from supernet_registry.search.errors import InvalidArgument

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["CouplingPanel", "class_couplings"]

_CELL = 0.26
"""Inches of a cell, at most."""
_WIDEST, _HIGHEST = 13.0, 10.0
"""Inches of all panels together."""
_SMALLEST_WRITTEN = 0.2
"""Inches of a cell that a number fits into."""
_MOST_NAMES = 40
"""Of an axis with more classes only every second, third, … is named."""
_PALEST_SCALE = 0.4
"""The darkest colour stands for this share at least, so that a coupling without any pattern looks like none."""
_WORTH_WRITING = 0.095
"""Smaller shares are only coloured."""


@dataclass(frozen=True, slots=True)
class CouplingPanel:
    """The target against one source."""

    title: str
    coupling: ClassCoupling
    source_classes: tuple[str, ...] = ()
    """Names of the columns; their numbers where there are none."""


def class_couplings(
    panels: Sequence[CouplingPanel],
    path: str | Path,
    *,
    target_classes: Sequence[str] = (),
    target: str = "target",
    title: str = "",
) -> Path:
    """Draw one heat map a source: rows are the target's classes, columns the source's.

    Each row is the share of that class's mass that goes to every class of the source, 100 % in all. Columns are ordered
    so that matches lie on the diagonal: by the row that sends them most.

    Args:
        panels: the sources, the nearest first.
        path: file to write.
        target_classes: names of the rows; their numbers where there are none.
        target: name of the target, for its axis.
        title: heading.

    Raises:
        InvalidArgument: no panels, or a coupling whose mass does not fill its rows and columns.
        OptionalDependency: matplotlib is not installed.
    """
    if not panels:
        raise InvalidArgument("There is no coupling to draw.", remedy="Store a searched dataset first.", field="panels")
    with style():
        shares = [_shares(panel.coupling) for panel in panels]
        across = min(_CELL, _WIDEST / sum(share.shape[1] for share in shares))
        down = min(_CELL, _HIGHEST / max(share.shape[0] for share in shares))
        widths = [max(across * share.shape[1], 1.6) for share in shares]
        height = max(down * shares[0].shape[0], 1.6)
        darkest = max(_PALEST_SCALE, *(float(share.max()) for share in shares))
        drawn = figure(sum(widths) + 1.1 * len(panels) + 2.0, height + (2.3 if title else 1.9))
        grid = drawn.subplots(1, len(panels), squeeze=False, width_ratios=widths)[0]
        for place, (axes, panel, share) in enumerate(zip(grid, panels, shares, strict=True)):
            image = _draw(axes, panel, share, darkest=darkest, written=min(across, down) >= _SMALLEST_WRITTEN)
            _name_ticks(axes.yaxis, target_classes, range(share.shape[0]))
            if place == 0:
                axes.set_ylabel(f"class of {short(target, 40)}")
        bar = drawn.colorbar(image, ax=list(grid), shrink=min(1.0, 2.4 / height), aspect=14, pad=0.02)
        bar.set_label("share of the target class (%)")
        bar.outline.set_visible(False)
        if title:
            drawn.suptitle(title, x=0.01, ha="left", fontsize=12)
        return save(drawn, path)


def _shares(coupling: ClassCoupling) -> NDArray[np.float64]:
    """Mass by row as a share of the row, shape (rows, columns); a row without mass stays empty."""
    import numpy as np

    if not coupling.mass or len(coupling.mass) != coupling.rows * coupling.columns:
        raise InvalidArgument(
            f"{len(coupling.mass)} values do not fill {coupling.rows} rows of {coupling.columns}.",
            remedy="Ask the registry again.",
            field="coupling",
        )
    mass = np.asarray(coupling.mass, dtype=np.float64).reshape(coupling.rows, coupling.columns)
    total = mass.sum(axis=1, keepdims=True)
    shares: NDArray[np.float64] = np.divide(mass, total, out=np.zeros_like(mass), where=total > 0)
    return shares


def _draw(axes: Any, panel: CouplingPanel, share: NDArray[np.float64], *, darkest: float, written: bool) -> Any:
    import numpy as np

    order = np.lexsort((-share.max(axis=0), share.argmax(axis=0)))
    ordered = share[:, order]
    image = axes.imshow(100 * ordered, cmap="Blues", vmin=0, vmax=100 * darkest, aspect="auto", interpolation="nearest")
    if written:
        for (i, j), value in np.ndenumerate(ordered):
            if value >= _WORTH_WRITING:
                ink = "white" if value > 0.55 * darkest else "black"
                axes.text(j, i, f"{100 * value:.0f}", ha="center", va="center", fontsize=6.5, color=ink)
        axes.set_xticks(np.arange(share.shape[1] + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(share.shape[0] + 1) - 0.5, minor=True)
        axes.grid(which="minor", color=PALE, linewidth=0.6)
    _name_ticks(axes.xaxis, panel.source_classes, order.tolist())
    axes.tick_params(axis="x", labelrotation=90)
    axes.tick_params(which="both", length=0, labelsize=7.5)
    axes.set_title(panel.title)
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set_color(GREY)
    return image


def _name_ticks(axis: Any, names: Sequence[str], order: Sequence[int]) -> None:
    every = -(-len(order) // _MOST_NAMES)
    places = range(0, len(order), every)
    labels = [short(names[order[i]], 18) if order[i] < len(names) else str(order[i]) for i in places]
    axis.set_ticks(list(places), labels)
