"""Pages of what can be set: fields of the recipe, options of the service, strategies. Imports no torch."""

from __future__ import annotations

import ast
import itertools
from pathlib import Path

from supernet_registry.registry.sources.offers import OFFERS
from supernet_registry.registry.sources.signals import SIGNALS
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.recipe.settings import Setting, describe_settings
from supernet_registry.search.strategies import AXES

__all__ = ["settings", "strategies"]

SPACES = ("compact", "nas-bench-201", "darts")
ROOT = Path(__file__).parents[2]


def settings() -> str:
    """The recipe's fields with their defaults in every space, and the service's options."""
    spaces = " | ".join(f"`{name}`" for name in SPACES)
    text = (
        "# Settings\n\n## Recipe\n\nEvery field can be set: `search --set NAME=VALUE`, or `recipe={name: value}` from"
        f" Python.\n\n| field | {spaces} | bounds | |\n|{'---|' * (len(SPACES) + 3)}\n"
    )
    for rows in zip(*(describe_settings(Recipe.for_family(name)) for name in SPACES), strict=True):
        defaults = " | ".join(row.default for row in rows)
        text += f"| `{rows[0].name}` | {defaults} | {_bounds(rows[0])} | {_meaning(rows[0])} |\n"
    return text + _service()


def strategies() -> str:
    """The tables of strategies, where they are."""
    text = "# Strategies\n\nWhat can be chosen by name.\n"
    for axis in (*AXES.values(), OFFERS, SIGNALS):
        text += f"\n## `{axis.name}`\n\n{axis.help}\n\n| name | what | its settings |\n|---|---|---|\n"
        for strategy in axis:
            options = ", ".join(f"`{option}`" for option in strategy.options)
            text += f"| `{strategy.usage}` | {_cell(strategy.help)} | {options} |\n"
    return text


def _bounds(setting: Setting) -> str:
    return _cell(", ".join(setting.choices) or setting.bounds or setting.kind)


def _meaning(setting: Setting) -> str:
    readers = f" (only {', '.join(setting.read_by)})" if setting.read_by else ""
    return _cell(setting.meaning + readers)


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
