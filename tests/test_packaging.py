"""What is installed: one package, the same from tree and sdist, undisturbed by a user's own folders."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("hatchling") is None, reason="hatchling is not installed: no wheel can be built offline"
)


def build(tree: Path, out: Path, target: str) -> Path:
    """Build a wheel or an sdist, by the backend itself: no network, no environment of its own."""
    program = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(out)]
    result = subprocess.run(program, cwd=tree, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    (built,) = out.glob("*.whl" if target == "wheel" else "*.tar.gz")
    return built


def content(wheel: Path) -> dict[str, bytes]:
    """Files of a wheel; RECORD is about the others."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/RECORD")}


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree."""
    return build(ROOT, tmp_path_factory.mktemp("wheel"), "wheel")


def test_the_wheel_has_one_package_and_all_of_it(wheel: Path) -> None:
    """Nothing else is top-level; every source and all that is read at run time is there, and no test."""
    files = content(wheel)
    tops = {name.split("/")[0] for name in files}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"supernet_registry"}
    folders = {"search": "search", "clients": "clients", "registry": "registry", "protos/supernet_registry/v1": "v1"}
    face = {f"supernet_registry/{path.name}" for path in (ROOT / "supernet_registry").iterdir() if path.is_file()}
    expected = face | {
        f"supernet_registry/{name}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, name in folders.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert {name for name in files if name.startswith("supernet_registry/")} == expected
    assert {
        "supernet_registry/py.typed",
        "supernet_registry/registry/evaluation/report/page.html.jinja",
        "supernet_registry/registry/storage/migrations/script.py.mako",
        "supernet_registry/v1/searches.proto",
    } <= set(files)


def test_the_wheel_of_the_sdist_is_the_wheel_of_the_tree(wheel: Path, tmp_path: Path) -> None:
    """The links in `supernet_registry/` are for the tree alone: an archive has none, and needs none."""
    sdist = build(ROOT, tmp_path / "sdist", "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (tree,) = (tmp_path / "unpacked").iterdir()
    assert content(build(tree, tmp_path / "wheel", "wheel")) == content(wheel)


@pytest.fixture
def installed(wheel: Path, tmp_path: Path) -> dict[str, str]:
    """The environment in which the wheel is installed, over the packages that are here."""
    target = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*pip, str(wheel)], check=True)
    return {**os.environ, "PYTHONPATH": str(target), "PROGRAM": str(target / "bin" / "supernet-registry")}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's folder, with packages that have the names of ours and of what ours need; executing one leaves a mark."""
    folder = tmp_path / "project"
    for name in ("search", "clients", "registry", "protos", "sqlalchemy", "faiss", "mlflow", "torch"):
        (folder / name).mkdir(parents=True)
        code = f"import pathlib; pathlib.Path({str(tmp_path)!r}, 'executed-{name}').touch()\n"
        (folder / name / "__init__.py").write_text(code)
    return folder


CLIENT = """
import sys
import numpy as np
import supernet_registry
from supernet_registry import RegistryClient, dataset_from_arrays

rng = np.random.default_rng(0)
images, labels = rng.integers(0, 256, (24, 8, 8, 1), np.uint8), np.arange(24) % 2
task = dataset_from_arrays(images, labels, images[:8], labels[:8], images[8:16], labels[8:16], name="mine")
with RegistryClient(sys.argv[1], timeout_s=120) as registry:
    registry.register_dataset(task)
    print(len(registry.nearest(task).candidates), supernet_registry.__file__)
"""


READY = {"worker-1": "registry at", "publisher": "publishing to"}
"""What children say once they have imported what they need."""


@contextlib.contextmanager
def served(environment: dict[str, str], folder: Path) -> Iterator[dict[str, str]]:
    """`supernet-registry serve`, started in a user's folder; what it printed when it was up."""
    command = [sys.executable, environment["PROGRAM"], "serve", "--address", "127.0.0.1:0", "--json"]
    with subprocess.Popen(command, env=environment, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())
        finally:
            process.terminate()


def test_a_users_own_packages_are_not_executed(installed: dict[str, str], project: Path, tmp_path: Path) -> None:
    """`serve` with all its children, and a client, in a folder that has a `search`, a `clients` and a `registry`."""
    client = project / "client.py"
    client.write_text(CLIENT)
    with served(installed, project) as started:
        command = [sys.executable, str(client), started["address"]]
        result = subprocess.run(command, env=installed, cwd=project, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        assert result.stdout.split() == ["0", f"{installed['PYTHONPATH']}/supernet_registry/__init__.py"]
        logs = Path(started["logs_dir"])
        while not all(word in (logs / f"{name}.log").read_text() for name, word in READY.items()):
            time.sleep(0.2)
    assert list(tmp_path.glob("executed-*")) == []
