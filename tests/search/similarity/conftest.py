"""Shipped tasks, and the 36 benchmark tasks where they lie beside the checkout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from supernet_registry.search.tasks import ImageDataset, load_dataset

ROOT = Path(__file__).parents[3]
SHARED_TASKS = ROOT.parent / "shared" / "tasks"


@pytest.fixture(scope="session")
def shipped() -> Callable[[str], ImageDataset]:
    """A task that the project ships, by name."""
    return lambda name: load_dataset(ROOT / "examples" / "tasks" / f"{name}.npz")


@pytest.fixture(scope="session")
def shared_tasks() -> dict[str, ImageDataset]:
    """All benchmark tasks by name."""
    if not SHARED_TASKS.is_dir():
        pytest.skip(f"{SHARED_TASKS} is absent")
    return {path.stem: load_dataset(path) for path in sorted(SHARED_TASKS.glob("*.npz"))}
