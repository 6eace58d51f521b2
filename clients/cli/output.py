"""What commands print: JSON and tables on stdout, everything that is not the result on stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from supernet_registry.clients.wire.plain import plain

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["console", "number", "percent", "plain", "print_fields", "print_json", "print_table", "say", "short", "when"]


_PIPE_WIDTH = 200
"""A file or a pipe has no width; names in it should be whole."""


def console(*, stderr: bool = False) -> Console:
    """A rich console on stdout or stderr, made anew so that redirected streams are respected."""
    from rich.console import Console

    redirected = not (sys.stderr if stderr else sys.stdout).isatty() and "COLUMNS" not in os.environ
    return Console(stderr=stderr, highlight=False, soft_wrap=False, width=_PIPE_WIDTH if redirected else None)


def say(text: str, *, style: str = "") -> None:
    """One line on stderr; not broken at the terminal's width, so that scripts may search for it."""
    console(stderr=True).print(text, style=style or None, markup=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """The result as JSON on stdout."""
    sys.stdout.write(json.dumps(plain(value), indent=2, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str = "", empty: str = "") -> None:
    """A table that fits the terminal, or is as wide as it needs to be where stdout is no terminal.

    Headings begin with what happens when space is short: `!` never cut, `>` never cut and aligned right, `~` cut to one
    line with an ellipsis, none of them: broken over several lines.
    """
    from rich import box
    from rich.table import Table

    listed = [list(row) for row in rows]
    if not listed:
        say(empty or "Nothing to show.")
        return
    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for column in columns:
        kind, heading = (column[0], column[1:]) if column[0] in "!>~" else ("", column)
        # rich takes space first from columns that may wrap; that a cell of `~` does not is said by the cell.
        table.add_column(
            heading, justify="right" if kind == ">" else "left", no_wrap=kind in ("!", ">"), overflow="fold"
        )
    for row in listed:
        table.add_row(*(_text(cell, cut=column[0] == "~") for cell, column in zip(row, columns, strict=True)))
    console().print(table)


def print_fields(fields: Iterable[tuple[str, str]], *, title: str = "") -> None:
    """Names and values, one a line; empty values are left out."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in fields:
        if value:
            table.add_row(name, _text(value))
    if title:
        console().print(title, style="bold", markup=False)
    console().print(table)


def _text(cell: str, *, cut: bool = False) -> Any:
    from rich.text import Text

    # Names may contain brackets, which rich would read as markup in a plain string.
    return Text(cell, no_wrap=True, overflow="ellipsis") if cut else Text(cell)


def percent(fraction: float | None) -> str:
    """`0.9234` → `92.3%`."""
    return "" if fraction is None else f"{fraction:.1%}"


def number(value: float | None) -> str:
    """Three significant digits."""
    return "" if value is None else f"{value:.3g}"


def when(time: datetime | None) -> str:
    """Local time to the minute."""
    return f"{time.astimezone():%Y-%m-%d %H:%M}" if time is not None else ""


def short(name: str) -> str:
    """`supernets/x/versions/3` → `x/3`, other names without their collection."""
    parts = name.split("/")
    return f"{parts[1]}/{parts[3]}" if len(parts) == 4 else parts[-1]
