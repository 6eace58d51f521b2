"""The clock seam: every part that needs the time is given a callable that returns an aware UTC datetime."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

__all__ = ["Clock", "utc_now"]

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """The time of this machine, aware, in UTC."""
    return datetime.now(tz=UTC)
