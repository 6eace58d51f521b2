"""What all pictures share: colours, fonts, and how a figure is made and saved without pyplot's global state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from supernet_registry.search.errors import OptionalDependency

__all__ = ["CHILD", "GREY", "INK", "PALE", "SCRATCH", "WARM", "figure", "ot", "save", "short", "style", "tidy"]

# From Okabe & Ito's palette: told apart with every kind of colour blindness, and in grey print by their lightness.
WARM = "#0072B2"  # warm-started
SCRATCH = "#D55E00"  # from scratch
CHILD = "#009E73"  # the child network
INK = "#333333"
GREY = "#8C8C8C"
PALE = "#E6E6E6"

_SETTINGS: Any = {
    "font.size": 9,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "supernet-registry",
}


@contextmanager
def style() -> Iterator[None]:
    """Our settings, for the time of one picture. Raises OptionalDependency where matplotlib is missing."""
    try:
        from matplotlib import rc_context
    except ImportError as error:
        raise OptionalDependency(
            "Drawing needs matplotlib, which is not installed.", remedy="pip install 'supernet-registry[plots]'"
        ) from error
    with rc_context(_SETTINGS):
        yield


def figure(width: float, height: float) -> Any:
    """An empty figure, in inches. Only within `style()`."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=150, layout="constrained")


def save(drawn: Any, path: str | Path) -> Path:
    """Write the figure, make its folder first, and put no date into it: equal data give equal files."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    drawn.savefig(target, facecolor="white", metadata={"Date": None} if target.suffix == ".svg" else None)
    return target


def tidy(axes: Any, *, grid: str = "y") -> None:
    """A pale grid behind the data and no tick marks."""
    axes.grid(axis=grid, color=PALE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)


def short(text: str, length: int) -> str:
    """`text`, its middle left out if it is longer than `length`."""
    if len(text) <= length:
        return text
    head = (length - 1) * 2 // 3
    return f"{text[:head]}…{text[head + 1 - length :]}"


def ot(distance: float | None) -> str:
    """`OT 0.52`; empty where no distance is known."""
    return "" if distance is None else f"OT {distance:.3g}"
