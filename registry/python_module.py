"""How a process of ours is started: by the same interpreter, from a clean argv, never from the working directory."""

from __future__ import annotations

import sys

__all__ = ["python_module"]


def python_module(name: str, *arguments: str) -> list[str]:
    """The command that runs a module of ours in a process of its own.

    `-P`, because `python -m` puts the working directory first on the path: a user's folder that has the name of a
    package that we import would be executed in the place of that package.
    """
    return [sys.executable, "-P", "-m", name, *arguments]
