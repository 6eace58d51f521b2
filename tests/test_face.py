"""The public face: what `supernet_registry` offers, that it costs nothing to import, and that examples need no more."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import supernet_registry
from supernet_registry.clients.wire import resources
from supernet_registry.search import errors as tree
from supernet_registry.search.version import __version__

ROOT = Path(__file__).parents[1]
FACE = ROOT / "supernet_registry" / "__init__.py"

HEAVY = {"torch", "grpc", "numpy", "google", "PIL", "rich", "typer", "mlflow", "faiss", "ot", "sqlalchemy"}
MOST_MODULES = 60
"""Modules that `import supernet_registry` may load, the standard library's (`typing`, `importlib` …) among them."""


def test_all_is_what_is_there() -> None:
    """`__all__`, the table of places, what type checkers see, and what there really is, are the same names."""
    checked = {
        alias.name
        for node in ast.parse(FACE.read_text()).body
        if isinstance(node, ast.If)
        for statement in node.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    offered = set(supernet_registry.__all__)
    assert offered - {"__version__"} == checked
    assert offered - {"__version__"} == {*supernet_registry._PLACES, *supernet_registry._MODULES}
    assert list(supernet_registry.__all__) == sorted(offered, key=supernet_registry.__all__.index)
    assert offered <= set(dir(supernet_registry))
    for name in offered:
        assert getattr(supernet_registry, name) is not None


def test_type_checkers_see_each_name_where_it_is() -> None:
    """The module from which a type checker takes a name is the one from which it is loaded."""
    for node in ast.walk(ast.parse(FACE.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("supernet_registry."):
            for alias in node.names:
                if alias.name in supernet_registry._PLACES:
                    assert node.module == f"supernet_registry.{supernet_registry._PLACES[alias.name]}"


def test_the_face_has_every_resource() -> None:
    """What a client returns or takes can be named without looking for its module."""
    types = {name for name in resources.__all__ if not name.isupper()}
    assert types <= set(supernet_registry.__all__)


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="'supernet_registry' has no attribute 'Derivation'"):
        _ = supernet_registry.Derivation


def test_all_errors_are_in_the_face() -> None:
    """`supernet_registry.errors` is the whole tree, the very same types."""
    from supernet_registry import errors

    assert set(errors.__all__) == set(tree.__all__)
    assert all(getattr(errors, name) is getattr(tree, name) for name in tree.__all__)
    assert supernet_registry.SupernetRegistryError is errors.SupernetRegistryError


@pytest.mark.parametrize(
    ("code", "most"),
    [("import supernet_registry", MOST_MODULES), ("from supernet_registry import errors, SearchJob", 2 * MOST_MODULES)],
)
def test_importing_it_costs_nothing(code: str, most: int) -> None:
    """The face alone loads a handful of modules; names that need nothing heavy load nothing heavy."""
    program = f"import sys; before = set(sys.modules); {code}; print(*set(sys.modules) - before)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(result.stdout.split())
    assert {name.split(".")[0] for name in loaded} & HEAVY == set()
    assert len(loaded) <= most, sorted(loaded)


def test_the_version_is_said_once() -> None:
    """In `search/version.py`; the build reads it there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["hatch"]["version"]["path"] == "search/version.py"
    assert supernet_registry.__version__ == __version__


def programs() -> dict[str, str]:
    """What users read and copy: the examples, and the Python in README and documents."""
    found = {f"examples/{path.name}": path.read_text() for path in (ROOT / "examples").glob("*.py")}
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for number, block in enumerate(
            re.findall(r"^```py(?:thon)?\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
        ):
            found[f"{page.relative_to(ROOT)}:{number}"] = block
    return found


@pytest.mark.parametrize("program", sorted(programs()))
def test_what_users_copy_needs_nothing_but_the_face(program: str) -> None:
    """What it imports of ours has a name in `supernet_registry`, or is one of its errors."""
    for node in ast.walk(ast.parse(programs()[program])):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "supernet_registry":
            assert node.module in {"supernet_registry", "supernet_registry.errors"}
            known = supernet_registry.__all__ if node.module == "supernet_registry" else tree.__all__
            assert {alias.name for alias in node.names} <= set(known)
        elif isinstance(node, ast.Import):
            assert not any(alias.name.startswith("supernet_registry.") for alias in node.names)
