"""Where tasks and results lie."""

from __future__ import annotations

from pathlib import Path

__all__ = ["RESULTS", "ROOT", "SHARED", "SHIPPED", "default_tasks"]

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "examples" / "tasks"
SHARED = ROOT.parent / "shared" / "tasks"
"""The 36 benchmark tasks, where they lie beside the checkout."""
RESULTS = ROOT / "results"


def default_tasks() -> Path:
    """The shared tasks, where there are any, else the shipped ones."""
    return SHARED if SHARED.is_dir() else SHIPPED
