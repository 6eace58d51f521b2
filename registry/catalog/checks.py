"""Checks of single request fields, each with the path of the field and what would be right."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from supernet_registry.search.errors import InvalidArgument, NotFinite

__all__ = ["check_labels", "check_number", "check_text", "page_limit"]

MAX_LABELS = 64
MAX_TEXT = 10_000
_LABEL_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]{0,62}")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")  # tab and newlines are text; NUL upsets PostgreSQL

DEFAULT_PAGE = 50
LARGEST_PAGE = 1000


def check_text(value: str, field: str, *, max_length: int = MAX_TEXT, required: bool = False) -> str:
    """Text without control characters, of at most `max_length` characters."""
    if required and not value:
        raise InvalidArgument("A value is required.", remedy="Set it.", field=field)
    if len(value) > max_length:
        raise InvalidArgument(
            f"The text has {len(value)} characters.", remedy=f"At most {max_length} are allowed.", field=field
        )
    if _CONTROL.search(value):
        raise InvalidArgument("The text has control characters.", remedy="Remove them.", field=field)
    return value


def check_labels(labels: Mapping[str, str], field: str) -> dict[str, str]:
    """At most 64 labels with short, plain keys."""
    if len(labels) > MAX_LABELS:
        raise InvalidArgument(f"There are {len(labels)} labels.", remedy=f"At most {MAX_LABELS} are kept.", field=field)
    for key, value in labels.items():
        if not _LABEL_KEY.fullmatch(key):
            raise InvalidArgument(
                f"{key[:80]!r} is not a label key.",
                remedy="Use 1 to 63 letters, digits, `_`, `.`, `/`, `-`, beginning with a letter or digit.",
                field=field,
            )
        check_text(value, f"{field}.{key}", max_length=500)
    return dict(labels)


def check_number(value: float, field: str, *, low: float, high: float = math.inf) -> None:
    """A finite number in [low, high]."""
    if not math.isfinite(value):
        raise NotFinite(f"{value} is not a finite number.", remedy="Send a finite number.", field=field)
    if not low <= value <= high:
        limit = f"at least {low}" if high == math.inf else f"between {low} and {high}"
        raise InvalidArgument(f"{value} is out of range.", remedy=f"It must be {limit}.", field=field)


def page_limit(page_size: int) -> int:
    """Rows on a page (AIP-158): 0 means 50, above 1000 means 1000."""
    if page_size < 0:
        raise InvalidArgument(
            f"A page cannot have {page_size} rows.", remedy="Use 0 for the default.", field="page_size"
        )
    return min(page_size, LARGEST_PAGE) or DEFAULT_PAGE
