"""Machine checks for the rules of `docs/design.md`: who may import whom, and what may not occur at all."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = ["supernet_registry", "search", "clients", "registry"]
"""Lowest first: a package imports only itself and those before it."""
FOLDERS = {"supernet_registry": ROOT / "protos" / "supernet_registry"}


def sources(package: str) -> list[Path]:
    """Python files of a package, without generated code."""
    return sorted(path for path in FOLDERS.get(package, ROOT / package).rglob("*.py") if "_pb2" not in path.name)


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of every import statement, also those inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.lineno, node.module or ""


@pytest.mark.parametrize("package", LAYERS)
def test_imports_go_only_downwards(package: str) -> None:
    """protos ← search ← clients ← registry: nothing imports a package above its own."""
    above = LAYERS[LAYERS.index(package) + 1 :]
    upward = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in sources(package)
        for line, module in imports(path)
        if module.split(".")[0] in above
    ]
    assert upward == []


@pytest.mark.parametrize(
    ("package", "banned"),
    [("search", "grpc|sqlalchemy|mlflow|faiss|supernet_registry"), ("clients", "faiss|sqlalchemy|mlflow")],
)
def test_lower_layers_know_nothing_of_the_service(package: str, banned: str) -> None:
    """`search` knows no gRPC, no database, no MLflow; `clients` no FAISS, no database, no MLflow."""
    found = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in sources(package)
        for line, module in imports(path)
        if re.match(rf"({banned})(\.|$)", module)
    ]
    assert found == []


def modules_loaded_by(code: str) -> set[str]:
    """Top-level modules in `sys.modules` of a fresh interpreter after running `code`."""
    program = f"{code}\nimport sys; print(' '.join(sorted({{name.split('.')[0] for name in sys.modules}})))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(result.stdout.split())


@pytest.mark.parametrize(
    ("code", "banned"),
    [
        pytest.param("import registry.server.app", {"torch", "mlflow"}, id="the server needs no torch and no MLflow"),
        pytest.param(
            "import registry.worker, search.pipeline",
            {"faiss", "mlflow", "sqlalchemy"},
            id="the worker is only a gRPC client",
        ),
        pytest.param(
            "import registry.publisher.drain; from mlflow.pyfunc import save_model",
            {"torch", "faiss"},
            id="the publisher needs no torch and no FAISS",
        ),
        pytest.param(
            "import clients.mlflow_loader, clients.exports", {"torch", "mlflow"}, id="what reads child networks"
        ),
        pytest.param(
            "import clients, clients.cli, search.similarity, search.tasks",
            {"torch", "faiss", "mlflow", "ot", "matplotlib"},
            id="a light client",
        ),
        pytest.param("import search", {"torch", "ot"}, id="search itself"),
    ],
)
def test_processes_load_only_what_they_need(code: str, banned: set[str]) -> None:
    """torch and faiss never meet in one process, and a light client needs neither."""
    assert modules_loaded_by(code) & banned == set()


BANNED_NAMES = {
    r"\bpickle\b": "weights are safetensors only",
    r"torch\.load\b": "runs code from the file",
    r"allow_pickle\s*=\s*True": "runs code from the file",
    r"\bos\.fork\b|preexec_fn|get_context\(.fork.\)": "gRPC and CUDA do not survive a fork",
    r"(?<![\w.])(eval|exec)\(": "runs code from strings",
    r"mlflow\.(log_|set_|start_run|register_model)": "MlflowClient only, never the fluent API",
}


@pytest.mark.parametrize("pattern", BANNED_NAMES)
def test_banned_names_do_not_occur(pattern: str) -> None:
    """What the design bans is not in the code (comments and docstrings may name it)."""
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for package in LAYERS
        for path in sources(package)
        for line in code_lines(path)
        if re.search(pattern, line)
    ]
    assert found == [], BANNED_NAMES[pattern]


def code_lines(path: Path) -> list[str]:
    """Lines of a module, without comments and docstrings (as `ast` prints it back)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            kept = [item for item in body if not (isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant))]
            node.body = kept or [ast.Pass()]  # type: ignore[attr-defined]
    return ast.unparse(tree).splitlines()
