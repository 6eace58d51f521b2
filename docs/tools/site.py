"""Hook of mkdocs: pages that come from elsewhere, so that nothing is written twice.

The start page is the README, `changelog.md` the changelog; the API has a page for each room, made from its docstrings;
the wire contract, the settings and the strategies have pages made from the code. Documents link to files of the
repository, which works wherever they are read; the site turns such links into its own pages.
"""

from __future__ import annotations

import posixpath
import re
import sys
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
NAME = "supernet_registry"
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import settings_pages  # noqa: E402 - beside this file, which mkdocs does not import as part of a package
import wire_page  # noqa: E402

PACKAGES = {
    "search": "The ML library: no gRPC, no database, no MLflow.",
    "clients": "What a user and a worker call.",
    "registry": "The service.",
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill in the parts of the navigation that are listed by the folders."""
    decisions = sorted(path.name for path in (ROOT / "docs/decisions").glob("*.md"))
    index, *pages = sorted(decisions, key=lambda name: name != "index.md")
    _fill(config.nav, "Decisions", [f"decisions/{name}" for name in (index, *pages)])
    rooms: list[Any] = ["reference/index.md"]
    rooms += [{package: [f"reference/{package}/{room}.md" for room in _rooms(package)]} for package in PACKAGES]
    _fill(config.nav, "API", rooms)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    pages = {
        "index.md": _moved(ROOT / "README.md"),
        "changelog.md": _moved(ROOT / "CHANGELOG.md"),
        "reference/index.md": _face(),
        "reference/wire.md": wire_page.render(ROOT / "protos"),
        "reference/settings.md": settings_pages.settings(),
        "reference/strategies.md": settings_pages.strategies(),
    }
    for package in PACKAGES:
        for room, modules in _rooms(package).items():
            pages[f"reference/{package}/{room}.md"] = _api(package, room, modules)
    for uri, content in pages.items():
        files.append(File.generated(config, uri, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Turn links to files of the repository into links to the pages that show them."""

    def turn(match: re.Match[str]) -> str:
        there, _, anchor = match[1].partition("#")
        whole = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page.file.src_uri), there))
        target = _page_of(whole) if there and "://" not in there and not whole.startswith("docs/") else None
        if target is None:
            return match[0]
        here = posixpath.relpath(target, posixpath.dirname(page.file.src_uri) or ".")
        return f"]({here}{'#' + anchor if anchor else ''})"

    return re.sub(r"\]\(([^)\s]+)\)", turn, markdown)


def _page_of(path: str) -> str | None:
    """The page that shows a file of the repository; None where there is none."""
    own = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "search/recipe/recipe.py": "reference/settings.md"}
    if path in own:
        return own[path]
    if path.startswith(f"protos/{NAME}"):
        return "reference/wire.md"
    package, _, rest = path.partition("/")
    room = rest.split("/")[0].removesuffix(".py")
    return f"reference/{package}/{room}.md" if package in PACKAGES and room in _rooms(package) else None


def _fill(nav: Any, title: str, items: list[Any]) -> None:
    for entry in nav:
        for name, value in entry.items() if isinstance(entry, dict) else ():
            if name == title:
                entry[name] = items
            elif isinstance(value, list):
                _fill(value, title, items)


def _moved(path: Path) -> str:
    """A document of the repository's top level, as a page of the site's: links lose `docs/`, the licence its link."""
    text = re.sub(r"\[([^\]]+)\]\(LICENSE\)", r"\1", path.read_text("utf-8"))
    return re.sub(r"\]\((?!\w+:)(docs/)?", lambda match: "](" if match[1] else "](../", text)


def _rooms(package: str) -> dict[str, list[str]]:
    """Public modules of each room of a package, `__init__` first."""
    rooms: dict[str, list[str]] = {}
    for path in sorted((ROOT / package).rglob("*.py"), key=lambda path: (path.name != "__init__.py", str(path))):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if len(parts) > 2 and path.name == "__init__.py":
            parts = parts[:-1]
        if not any(part.startswith("_") or part in {"migrations", "v1"} for part in parts):
            rooms.setdefault(parts[1], []).append(".".join((NAME, *parts)))
    return dict(sorted(rooms.items()))


def _api(package: str, room: str, modules: list[str]) -> str:
    text = f"# {package}.{room}\n\n"
    for module in modules:
        text += f"::: {module}\n"
        if (ROOT / module.replace(f"{NAME}.", "", 1).replace(".", "/")).is_dir():
            text += "    options:\n      members: false\n"
        text += "\n"
    return text


def _face() -> str:
    """The names that `supernet_registry` offers, each with a link to where it is explained."""
    top = griffe.load(NAME, search_paths=[ROOT], docstring_parser="google")
    text = "# API\n\nWhat users import: `from supernet_registry import …`\n\n| name | what |\n|---|---|\n"
    for name in sorted(map(str, top.exports or ())):
        if not name.startswith("_"):
            text += f"| {_link(top, name)} |\n"
    text += "\nAll rooms, with their modules, are listed at the left.\n\n"
    return text + "".join(f"- `{package}`: {what}\n" for package, what in PACKAGES.items())


def _link(top: Any, name: str) -> str:
    member = top[name]
    found = member.final_target if member.is_alias else member
    first = found.docstring.value.splitlines()[0].replace("|", "\\|") if found.docstring else ""
    if found.is_module and not found.path.startswith(tuple(f"{NAME}.{package}" for package in PACKAGES)):
        return f"`{name}` | {first}"
    return f"[`{name}`][{found.path}] | {first}"
