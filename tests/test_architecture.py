"""Machine checks for the rules of `docs/design.md`: who may import whom, and what may not occur at all."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAME = "supernet_registry"
LAYERS = ["v1", "search", "clients", "registry"]
"""Lowest first: a package imports only itself and those before it."""
FOLDERS = {"v1": ROOT / "protos" / NAME / "v1"}

WINGS = {
    "search": """
        errors determinism results version
        strategies
        spaces
        recipe
        storage
        tasks
        networks
        training
        similarity
        starts
        children
        runs
    """,
    "clients": """
        wire
        channel
        prepare
        children
        flows
        registry_client
        async_registry_client
        exports mlflow_loader
        work
        streams
        plots
        cli
    """,
    "registry": """
        clock lru python_module settings
        storage
        catalog
        index transport
        sources
        server publisher worker
        supervisor
        evaluation
        cli
    """,
}
"""Rooms of each package, lowest first: a room imports only itself and those before it; one line is one floor."""

HOUSEMATES = {("registry", "catalog"), ("registry", "server"), ("registry", "sources"), ("registry", "index")}
"""Rooms of the service that speak the words of the wire, and know nothing else of the clients."""


def sources(package: str) -> list[Path]:
    """Python files of a package, without generated code."""
    return sorted(path for path in FOLDERS.get(package, ROOT / package).rglob("*.py") if "_pb2" not in path.name)


MODULES = {
    f"{NAME}.{package}.{'.'.join(path.relative_to(FOLDERS.get(package, ROOT / package)).with_suffix('').parts)}"
    .removesuffix(".__init__"): path
    for package in LAYERS
    for path in sources(package)
}  # fmt: skip
"""Every module of ours by its one name."""


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of every import statement, also those inside functions; of `from x import y`, `x.y` if that is a
    module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield node.lineno, whole if whole in MODULES else node.module or ""


def own_imports(package: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """(place, importing module, imported module) of every import of our own modules, names as lists of parts."""
    for module, path in MODULES.items():
        if module.split(".")[1] == package:
            for line, imported in imports(path):
                if imported.split(".")[0] == NAME:
                    yield f"{path.relative_to(ROOT)}:{line} imports {imported}", module.split("."), imported.split(".")


@pytest.mark.parametrize("package", LAYERS)
def test_imports_go_only_downwards(package: str) -> None:
    """protos ← search ← clients ← registry: nothing imports a package above its own, or the face above them all."""
    below = LAYERS[: LAYERS.index(package) + 1]
    upward = [place for place, _, there in own_imports(package) if len(there) < 2 or there[1] not in below]
    assert upward == []


@pytest.mark.parametrize("package", WINGS)
def test_rooms_import_only_those_below(package: str) -> None:
    """The wings' order; a room that is new is given its floor here, and stands in `docs/design.md`."""
    floors = {room: number for number, rooms in enumerate(WINGS[package].splitlines()) for room in rooms.split()}
    rooms = {module.split(".")[2] for module in MODULES if module.startswith(f"{NAME}.{package}.")}
    assert rooms - set(floors) == set(), "rooms without a floor"
    upward = [
        place
        for place, here, there in own_imports(package)
        if len(here) > 2 and len(there) > 2 and there[1] == package and here[2] != there[2]
        and floors[there[2]] >= floors[here[2]]
    ]  # fmt: skip
    assert upward == []


def test_there_is_no_circle_of_imports() -> None:
    """Not even one that an import inside a function hides."""
    graph = {module: {name for _, name in imports(path) if name in MODULES} for module, path in MODULES.items()}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_the_service_takes_only_the_wire_from_the_clients() -> None:
    """What both ends say is in `clients.wire`; the rest of the clients is for clients."""
    found = [
        place
        for place, here, there in own_imports("registry")
        if tuple(here[1:3]) in HOUSEMATES and there[1] == "clients" and there[2:3] != ["wire"]
    ]
    assert found == []


@pytest.mark.parametrize(
    ("package", "banned"),
    [("search", "grpc|sqlalchemy|mlflow|faiss|supernet_registry.v1"), ("clients", "faiss|sqlalchemy|mlflow")],
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


def test_no_module_has_two_names() -> None:
    """The folders are reached through `supernet_registry` alone, also where the repository is the working directory."""
    program = (
        "import sys, supernet_registry.registry.cli, supernet_registry.registry.server.app\n"
        "import supernet_registry.search.runs.pipeline\n"
        "print(*{name for name in sys.modules if name.split('.')[0] in ('search', 'clients', 'registry', 'protos')})\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.split() == []


def test_no_module_of_the_tests_has_two_names() -> None:
    """Here and now, in this process: pytest has imported every test and every helper before the first one runs."""
    names: dict[Path, set[str]] = {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        place = Path(file).resolve() if file is not None else Path(sys.prefix)
        if place.is_relative_to(ROOT) and not place.is_relative_to(sys.prefix):  # the environment may be in the tree
            names.setdefault(place, set()).add(name)
    assert {str(path): sorted(found) for path, found in names.items() if len(found) > 1} == {}


def modules_loaded_by(code: str) -> set[str]:
    """Top-level modules in `sys.modules` of a fresh interpreter after running `code`."""
    program = f"{code}\nimport sys; print(' '.join(sorted({{name.split('.')[0] for name in sys.modules}})))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(result.stdout.split())


@pytest.mark.parametrize(
    ("code", "banned"),
    [
        pytest.param(
            "import supernet_registry.registry.server.app",
            {"torch", "mlflow"},
            id="the server needs no torch and no MLflow",
        ),
        pytest.param(
            "import supernet_registry.registry.worker.process, supernet_registry.search.runs.pipeline",
            {"faiss", "mlflow", "sqlalchemy"},
            id="the worker is only a gRPC client",
        ),
        pytest.param(
            "import supernet_registry.registry.publisher.drain; from mlflow.pyfunc import save_model",
            {"torch", "faiss"},
            id="the publisher needs no torch and no FAISS",
        ),
        pytest.param(
            "import supernet_registry.clients.mlflow_loader, supernet_registry.clients.exports",
            {"torch", "mlflow"},
            id="what reads child networks",
        ),
        pytest.param(
            "import supernet_registry; from supernet_registry.clients import cli;"
            "from supernet_registry.search import similarity, tasks",
            {"torch", "faiss", "mlflow", "ot", "matplotlib"},
            id="a light client",
        ),
        pytest.param("import supernet_registry.search", {"torch", "ot"}, id="search itself"),
        pytest.param(
            "import supernet_registry.clients.work.job_runner",
            {"torch"},
            id="a worker before its first job: it can say that torch is missing",
        ),
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
    r"sys\.executable(?!, '-P')": "`python_module` starts processes: the working directory must not be on their path",
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
