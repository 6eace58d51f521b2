"""Extension of griffe: reads our docstrings as they are meant.

Two arguments may share a line (`first, last: what they are`), a line of errors may name several types, and `R[i][j]` is
no link.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_TYPES = re.compile(r"(\s+)([A-Z]\w+(?: \([^)]+\))?(?:, [A-Z]\w+(?: \([^)]+\))?)*)\.")
_NAMES = re.compile(r"(\s+)(\*{0,2}\w+(?:, \*{0,2}\w+)+): (.+)")


class Docstrings(griffe.Extension):
    """Rewrites docstrings before they are parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of a module, class, function or attribute."""
        if obj.docstring:
            obj.docstring.value = rewritten(obj.docstring.value)


def rewritten(text: str) -> str:
    """A docstring in which a line speaks of one thing."""
    lines, section = [], ""
    for line in text.splitlines():
        if line and not line[0].isspace():
            section = line.strip()
        if section == "Raises:" and (match := _TYPES.fullmatch(line)):
            for name, _, why in (kind.partition(" (") for kind in match[2].split(", ")):
                lines.append(f"{match[1]}{name}: {why.rstrip(')') or 'as its message says'}.")
        elif section in {"Args:", "Attributes:"} and (match := _NAMES.fullmatch(line)):
            first, *others = match[2].split(", ")
            lines += [f"{match[1]}{name}: See `{first.lstrip('*')}`." for name in others]
            lines.append(f"{match[1]}{first}: {match[3]}")  # last, since its text may go on
        else:
            lines.append(re.sub(r"(?<![`\w])(\w+\[\w+\])\[(\w+)\]", r"\1\\[\2\\]", line))
    return "\n".join(lines)
