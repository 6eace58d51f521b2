"""Results that survive a kill: a small JSON file each, whole or not there."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["once", "read", "write"]


def write(path: Path, value: Any) -> None:
    """Store JSON; whoever reads meanwhile sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    partial.write_text(json.dumps(value), "utf-8")
    partial.replace(path)


def read(path: Path) -> Any:
    """What was stored; None if nothing was."""
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None


def once(path: Path, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The stored result, or a new one, stored, with the seconds it took as `wall_seconds`.

    `compute` may store files of its own beside it.
    """
    stored: dict[str, Any] | None = read(path)
    if stored is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        stored = {**compute(), "wall_seconds": time.monotonic() - began}
        write(path, stored)
    return stored
