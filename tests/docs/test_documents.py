"""Documents: what they name is there, decisions are listed, and pages made from code have all of it."""

from __future__ import annotations

import importlib
import re
import runpy
from pathlib import Path
from typing import Any

import griffe
import pytest

from supernet_registry.registry.sources.offers import OFFERS
from supernet_registry.registry.sources.signals import SIGNALS
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.strategies import AXES
from supernet_registry.v1 import blobs_pb2, common_pb2, datasets_pb2, searches_pb2, supernets_pb2, workers_pb2

ROOT = Path(__file__).parents[2]
DECISIONS = sorted(path for path in (ROOT / "docs" / "decisions").glob("*.md") if path.name != "index.md")


def tool(name: str) -> dict[str, Any]:
    """The names of a file in `docs/tools`."""
    return runpy.run_path(str(ROOT / "docs" / "tools" / f"{name}.py"))


CHECKER = tool("check_markdown")


@pytest.mark.parametrize("path", CHECKER["documents"](ROOT), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_document_says_what_is_true(path: Path) -> None:
    """Lines, links, words of the README; files, modules, names and targets that it mentions."""
    assert list(CHECKER["check"](path)) == []


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("word " * 30, "more than 100 characters"),
        ("[there](nowhere.md)", "no such target as nowhere.md"),
        ("# One\n\n[there](#two)", "no such target as #two"),
        ("![picture](nothing.png)", "no such target as nothing.png"),
        ("see `search/loop.py`", "no file search/loop.py"),
        ("see `supernet_registry.search.loop`", "no module supernet_registry.search.loop"),
        ("`python -m benchmarks nothing`", "no benchmark nothing"),
        ("`make nothing`", "no target `make nothing`"),
        ("```sh\npython benchmarks/transfer.py\n```", "no file benchmarks/transfer.py"),
        ("```python\nfrom supernet_registry import Nothing\n```", "no Nothing in supernet_registry"),
        ("```python\nfrom search.tasks import load_dataset\n```", "only from supernet_registry"),
    ],
)
def test_the_checker_sees_a_fault(text: str, complaint: str, tmp_path: Path) -> None:
    """One fault each, in a page of a repository like ours."""
    for name in ("supernet_registry", "search", "benchmarks", "Makefile"):
        (tmp_path / name).symlink_to(ROOT / name)
    page = tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    page.write_text(f"{text}\n", "utf-8")
    assert [complaint in said for said in CHECKER["check"](page, tmp_path)] == [True]


@pytest.mark.parametrize(
    "text",
    [
        "| " + "cell " * 40 + "|\n| -- |\n",
        "```sh\n" + "word " * 40 + "\n```",
        "[" + "word " * 30 + "](page.md)",
        "`make test`",
    ],
)
def test_the_checker_leaves_tables_code_and_links_alone(text: str, tmp_path: Path) -> None:
    """They cannot be wrapped."""
    (tmp_path / "Makefile").symlink_to(ROOT / "Makefile")
    page = tmp_path / "page.md"
    page.write_text(f"{text}\n", "utf-8")
    assert list(CHECKER["check"](page, tmp_path)) == []


def test_a_readme_is_short(tmp_path: Path) -> None:
    """At most 600 words."""
    page = tmp_path / "README.md"
    (tmp_path / "Makefile").symlink_to(ROOT / "Makefile")
    page.write_text("word\n" * 601, "utf-8")
    assert list(CHECKER["check"](page, tmp_path)) == ["README.md has 601 words, more than 600"]


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.stem)
def test_a_decision_has_its_date_and_four_parts(path: Path) -> None:
    """Context, decision, evidence and consequences."""
    text = path.read_text("utf-8")
    assert re.match(r"# .+\n\nDecided 20\d\d-\d\d-\d\d", text)
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Context", "Decision", "Evidence", "Consequences"]


def test_the_index_lists_every_decision_with_its_date_and_title() -> None:
    """In the order of their numbers, of which none is used twice."""
    rows = re.findall(
        r"^\| (\d{4}) \| (\S+) \| \[(.+)\]\((.+)\) \|$", (DECISIONS[0].parent / "index.md").read_text(), re.MULTILINE
    )
    pages = []
    for path in DECISIONS:
        title, _, rest = path.read_text("utf-8").partition("\n\n")
        pages.append((path.name[:4], rest.split()[1].rstrip("."), title.removeprefix("# "), path.name))
    assert rows == pages
    assert [int(number) for number, *_ in rows] == list(range(1, len(rows) + 1))


def test_the_map_is_short() -> None:
    """At most 120 lines; decisions have pages of their own."""
    assert len((ROOT / "docs" / "design.md").read_text("utf-8").splitlines()) <= 120


def test_the_wire_page_has_every_message_enum_and_call() -> None:
    """With the comments of the .proto files."""
    page = tool("wire_page")["render"](ROOT / "protos")
    for module in (blobs_pb2, common_pb2, datasets_pb2, searches_pb2, supernets_pb2, workers_pb2):
        described = module.DESCRIPTOR
        for name in (*described.message_types_by_name, *described.enum_types_by_name, *described.services_by_name):
            assert f"{{#{name}}}" in page
        for service in described.services_by_name.values():
            assert all(f"| `{call}` |" in page for call in service.methods_by_name)
    assert "Returns one job." in page


def test_the_settings_page_has_every_field_of_the_recipe_and_every_option() -> None:
    """With a default in each space."""
    page = tool("settings_pages")["settings"]()
    for name in Recipe.__dataclass_fields__:
        assert len(re.findall(rf"^\| `{name}` \|(?: [^|]* \|){{5}}$", page, re.MULTILINE)) == 1, name
    settings = importlib.import_module("supernet_registry.registry.settings").Settings
    for name in settings.model_fields:
        assert f"| `{name.upper()}` |" in page


def test_the_strategies_page_has_every_strategy() -> None:
    """Of every axis, with its line of help."""
    page = tool("settings_pages")["strategies"]()
    for axis in (*AXES.values(), OFFERS, SIGNALS):
        for strategy in axis:
            assert strategy.help.replace("<", "&lt;") in page


def test_docstrings_of_ours_are_read_as_meant() -> None:
    """Two arguments on a line, types of errors without words, and `R[i][j]`."""
    text = tool("docstrings")["rewritten"](
        "Of R[i][j].\n\nArgs:\n    first, last: what\n        they are.\n\n"
        "Raises:\n    NotFound, InvalidArgument (no etag).\n"
    )
    summary, arguments, errors = griffe.Docstring(text, parser="google").parse(warnings=False)
    assert summary.value == r"Of R[i]\[j\]."
    assert [item.name for item in arguments.value] == ["last", "first"]
    assert {item.annotation: item.description for item in errors.value} == {
        "NotFound": "as its message says.",
        "InvalidArgument": "no etag.",
    }
