"""Pages of what can be set: fields of the recipe, options of the service, strategies. Imports no torch."""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import re
from dataclasses import fields
from pathlib import Path

from supernet_registry.search.recipe import Recipe
from supernet_registry.search.spaces import make_space

__all__ = ["settings", "strategies"]

SPACES = ("compact", "nas-bench-201", "darts")
ROOT = Path(__file__).parents[2]


def settings() -> str:
    """The recipe's fields with their defaults in every space, and the service's options."""
    recipes = {name: Recipe.for_space(make_space(name)) for name in SPACES}
    text = (
        "# Settings\n\n## Recipe\n\nEvery field can be set: `search --set NAME=VALUE`, or `recipe={name: value}` from"
        " Python.\n"
    )
    said = _said_of_fields()
    head = f"\n| field | {' | '.join(f'`{name}`' for name in SPACES)} | |\n|---|{'---|' * len(SPACES)}---|\n"
    section = ""
    for field in fields(Recipe):
        about, what = said[field.name]
        if about != section:
            section = about
            text += f"\n### {section}\n{head}"
        values = " | ".join(f"{getattr(recipe, field.name)}" for recipe in recipes.values())
        text += f"| `{field.name}` | {values} | {what} |\n"
    return text + _service()


def strategies() -> str:
    """The tables of strategies, where they are."""
    text = "# Strategies\n\nWhat can be chosen by name.\n"
    axes = importlib.import_module("supernet_registry.search.strategies").AXES
    for axis in axes.values():
        text += f"\n## `{axis.name}`\n\n{axis.help}\n\n| name | what | its settings |\n|---|---|---|\n"
        for strategy in axis:
            options = ", ".join(f"`{option}`" for option in strategy.options)
            text += f"| `{strategy.usage}` | {_cell(strategy.help)} | {options} |\n"
    return text


def _said_of_fields() -> dict[str, tuple[str, str]]:
    """(section, meaning) of every field of the recipe, from the comments beside it."""
    said, section = {}, ""
    for line in inspect.getsource(Recipe).splitlines():
        if match := re.fullmatch(r"    # (.+)", line):
            section = match[1]
        elif match := re.fullmatch(r"    (\w+): [^#]+?(?:  # (.*))?", line):
            said[match[1]] = (section, _cell(match[2] or ""))
    return said


def _service() -> str:
    text = "\n## Service\n\nEach is an option of `Settings`, or an environment variable `SUPERNET_REGISTRY_<OPTION>`.\n"
    text += "\n| option | default | |\n|---|---|---|\n"
    tree = ast.parse((ROOT / "registry" / "settings.py").read_text("utf-8"))
    (body,) = (node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Settings")
    for node, after in itertools.pairwise(body):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            said = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
            default = _cell(ast.unparse(node.value))
            text += f"| `{node.target.id.upper()}` | `{default}` | {_cell(' '.join(str(said).split()))} |\n"
    return text


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
