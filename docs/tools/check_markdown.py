"""What must be true of our Markdown, beyond its form: `python docs/tools/check_markdown.py`.

mdformat wraps it (`make format`). This checks that a line has at most 100 characters (but for tables, links and code),
that the README has at most 600 words, that links lead somewhere, and that what the text names is there: files, modules,
names that Python examples import, targets of make, benchmarks. The changelog tells history: of it only lines and links
are checked.
"""

from __future__ import annotations

import ast
import itertools
import re
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token
from pymdownx.slugs import slugify

__all__ = ["check", "documents"]

ROOT = Path(__file__).parents[2]
MOST_CHARACTERS = 100
MOST_README_WORDS = 600
_FOLDERS = "benchmarks|clients|docs|examples|protos|registry|search|tests"
_OURS = {"supernet_registry", "search", "clients", "registry"}
_FILE = re.compile(rf"(?<![\w/.-])(?:{_FOLDERS})/[\w./-]*")
_MODULE = re.compile(r"\bsupernet_registry(?:\.\w+)+")
_BENCHMARK = re.compile(r"python -m benchmarks ([a-z][a-z-]*)")
_TARGET = re.compile(r"\bmake ([a-z]+(?: [a-z]+)*)")
_SLUG: Callable[[str, str], str] = slugify(case="lower")


def documents(root: Path) -> list[Path]:
    """README, changelog, and everything in `docs/`."""
    return [root / "README.md", root / "CHANGELOG.md", *sorted((root / "docs").rglob("*.md"))]


def check(path: Path, root: Path = ROOT) -> Iterator[str]:
    """Complaints about one document, each with its place."""
    text = path.read_text("utf-8")
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    place = path.relative_to(root)
    yield from (f"{place}:{line} has more than {MOST_CHARACTERS} characters" for line in _long_lines(text, tokens))
    yield from (f"{place}: no such target as {link}" for link in _dead_links(path, tokens))
    if path == root / "README.md" and len(text.split()) > MOST_README_WORDS:
        yield f"{place} has {len(text.split())} words, more than {MOST_README_WORDS}"
    if path != root / "CHANGELOG.md":
        yield from (f"{place}: no {name}" for name in _missing(tokens, root))


def _long_lines(text: str, tokens: list[Token]) -> Iterator[int]:
    free: set[int] = set()
    for token in tokens:
        if token.map and token.type in {"table_open", "fence", "code_block", "html_block"}:
            free.update(range(*token.map))
    for number, line in enumerate(text.splitlines()):
        if len(line) > MOST_CHARACTERS and number not in free and "](" not in line and "://" not in line:
            yield number + 1


def _dead_links(path: Path, tokens: list[Token]) -> Iterator[str]:
    for child in _inline(tokens):
        target = str(child.attrs.get("href") or child.attrs.get("src") or "")
        if not target or "://" in target or target.startswith("mailto:"):
            continue
        name, _, anchor = target.partition("#")
        there = (path.parent / name).resolve() if name else path
        if not there.exists() or (anchor and there.suffix == ".md" and anchor not in _anchors(there)):
            yield target


@cache
def _anchors(path: Path) -> set[str]:
    tokens = MarkdownIt("commonmark").parse(path.read_text("utf-8"))
    heads = [after for token, after in itertools.pairwise(tokens) if token.type == "heading_open"]
    return {_SLUG("".join(child.content for child in head.children or ()), "-") for head in heads}


def _inline(tokens: list[Token]) -> Iterator[Token]:
    for token in tokens:
        yield from token.children or ()


def _missing(tokens: list[Token], root: Path) -> Iterator[str]:
    """What code in the text names and is not there."""
    fences = [token for token in tokens if token.type == "fence"]
    codes = [child.content for child in _inline(tokens) if child.type == "code_inline"]
    codes += [token.content for token in fences]
    targets = set(re.findall(r"^([a-z]+):", (root / "Makefile").read_text("utf-8"), re.MULTILINE))
    for code in codes:
        for name in _FILE.findall(code):
            if not (root / name.rstrip(".")).exists():
                yield f"file {name}"
        for name in _MODULE.findall(code):
            if not _is_there(name, root):
                yield f"module {name}"
        for name in _BENCHMARK.findall(code):
            if f'"{name}"' not in (root / "benchmarks/harness/command.py").read_text("utf-8"):
                yield f"benchmark {name}"
        for target in (word for words in _TARGET.findall(code) for word in words.split()):
            if target not in targets:
                yield f"target `make {target}`"
    for token in fences:
        if token.info == "python":
            yield from _wrong_imports(token.content, root)


def _wrong_imports(code: str, root: Path) -> Iterator[str]:
    """Examples import from the top only, and only what is there."""
    face = _exports(root / "supernet_registry" / "__init__.py")
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom):
            if node.module == "supernet_registry":
                yield from (f"{alias.name} in supernet_registry" for alias in node.names if alias.name not in face)
            elif str(node.module).split(".")[0] in _OURS:
                yield f"example may import from {node.module}: only from supernet_registry"


@cache
def _exports(path: Path) -> set[str]:
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


def _is_there(name: str, root: Path) -> bool:
    """Whether a dotted name is a module, or a name that stands in the last module of it."""
    here = root / "supernet_registry"
    parts = name.split(".")[1:]
    if parts[0] == "v1":
        return True  # of the wire's package: no folder of ours
    while parts:
        if (here / parts[0]).is_dir():
            here = here / parts.pop(0)
        elif (here / f"{parts[0]}.py").is_file():
            here = here / f"{parts.pop(0)}.py"
            break
        else:
            break
    source = here / "__init__.py" if here.is_dir() else here
    return not parts or bool(re.search(rf"\b{parts[0]}\b", source.read_text("utf-8")))


def main() -> int:
    """Print all complaints; 1 if there are any."""
    complaints = [complaint for path in documents(ROOT) for complaint in check(path)]
    print("\n".join(complaints) or "Markdown: all is well")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
