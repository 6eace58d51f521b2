"""Child networks as MLflow models: loaded by MLflow's own loader, without pickle, and served from themselves."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from supernet_registry.clients import mlflow_loader
from supernet_registry.registry.catalog import Catalog
from supernet_registry.registry.publisher.child_models import ARTIFACT_PATH
from supernet_registry.registry.publisher.drain import Publisher
from supernet_registry.registry.publisher.model_code import LOADER, requirements
from supernet_registry.registry.publisher.store import tracking_store
from supernet_registry.search.children.child import load_child
from tests.registry.publisher.publisher_life import SPACE, Life
from tests.tiny_child import tiny_child

pytestmark = [
    # MLflow 3.17's own tables use a loader strategy that SQLAlchemy 2.1 deprecates; the warning comes at their import.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
    # So does this one, at the import of mlflow.pyfunc, about a type hint of MLflow's own.
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning"),
]


def test_a_published_child_network_predicts_in_mlflow_as_it_does_here(
    life: Life, publisher: Publisher, embedded: MlflowClient, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = tiny_child(SPACE, class_names=("a", "b"))
    life.finished_job("letters", "greek", child=child)
    report = publisher.drain()
    assert (report.refused, report.trouble) == (0, "")
    (version,) = embedded.search_model_versions("name = 'letters'")
    folder = Path(version.source.removeprefix("file://"))
    assert {path.suffix for path in folder.rglob("*")}.isdisjoint({".pkl", ".pickle", ".pt", ".pth"})

    from mlflow.pyfunc import load_model

    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_store(data_dir).uri)  # as a user would
    model = load_model("models:/letters@head")
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 1)).astype(np.uint8)
    np.testing.assert_array_equal(model.predict(images), load_child(child).predict(images))
    assert model.metadata.metadata["supernet_registry.class_names"] == ["a", "b"]


def test_a_version_whose_child_network_is_damaged_is_published_without_a_model(
    life: Life, publisher: Publisher, embedded: MlflowClient, catalog: Catalog, data_dir: Path
) -> None:
    child = tiny_child(SPACE, class_names=("a", "b"))
    job = life.finished_job("letters", "greek", child=child)
    blob = catalog.supernets.get_version(job.version).child_blob.removeprefix("blobs/")
    (stored,) = [path for path in (data_dir / "blobs").rglob("*") if path.is_file() and path.name.endswith(blob[4:])]
    stored.chmod(0o644)
    stored.write_bytes(bytes(len(child)))
    assert publisher.drain().refused == 0
    (version,) = embedded.search_model_versions("name = 'letters'")
    assert version.source == embedded.get_run(version.run_id).info.artifact_uri


OLD_LOADER = "clients.mlflow_loader"
"""What models named when this package was installed under three names."""


@pytest.fixture(scope="session")
def without_us(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a Python that has every package which is installed here, except this one."""
    packages, programs = tmp_path_factory.mktemp("packages"), tmp_path_factory.mktemp("programs")
    # `mlflow models serve` calls it by name.
    (programs / "uvicorn").write_text(f'#!/bin/sh\nexec {BARE_PYTHON} -m uvicorn "$@"\n')
    (programs / "uvicorn").chmod(0o755)
    for folder in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for path in Path(folder).iterdir():
            if "supernet_registry" not in path.name and path.suffix != ".pth":
                (packages / path.name).symlink_to(path)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    environment |= {"PYTHONPATH": str(packages), "PYTHONSAFEPATH": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
    environment["PATH"] = f"{programs}{os.pathsep}{os.environ['PATH']}"
    # Not the virtual environment's own python: that would read the editable install's .pth file.
    program = "import importlib.util as u; print(u.find_spec('supernet_registry'), u.find_spec('search'))"
    found = subprocess.run([BARE_PYTHON, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["None", "None"]
    return environment


BARE_PYTHON = str(Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def ask(port: int, question: bytes, process: subprocess.Popen[bytes]) -> list[list[float]]:
    """Predictions of a model that is served, as soon as it answers."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations", question, {"Content-Type": "application/json"}
    )
    while True:
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["predictions"]
        except urllib.error.HTTPError as error:
            pytest.fail(error.read().decode())
        except OSError:
            if process.poll() is not None:
                pytest.fail("`mlflow models serve` has ended")
            time.sleep(0.2)


def test_a_model_is_served_where_this_package_is_not_installed(
    life: Life,
    publisher: Publisher,
    embedded: MlflowClient,
    tmp_path: Path,
    without_us: dict[str, str],
) -> None:
    """`mlflow models serve` says what the registry's own child network says, to the bit; no index is asked."""
    child = tiny_child(SPACE, class_names=("a", "b"))
    life.finished_job("letters", "greek", child=child)
    publisher.drain()
    (version,) = embedded.search_model_versions("name = 'letters'")
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 1)).astype(np.uint8)
    port = free_port()
    options = ["--model-uri", version.source, "--env-manager", "local", "--port", str(port), "--workers", "1"]
    serve = [BARE_PYTHON, "-m", "mlflow", "models", "serve", *options]
    log = tmp_path / "serve.log"
    with log.open("wb") as output, subprocess.Popen(serve, env=without_us, cwd=tmp_path, stderr=output) as process:
        try:
            served = ask(port, json.dumps({"inputs": images.tolist()}).encode(), process)
        finally:
            process.terminate()  # what it started ends with it
    np.testing.assert_array_equal(np.array(served, np.float32), load_child(child).predict(images))


def test_a_model_asks_an_index_for_nothing_that_it_carries(
    life: Life, publisher: Publisher, embedded: MlflowClient
) -> None:
    """Its requirements are what `search` imports; its code is `search` itself, and shadows no installed package."""
    life.finished_job("letters", "greek", child=tiny_child(SPACE, class_names=("a", "b")))
    publisher.drain()
    (version,) = embedded.search_model_versions("name = 'letters'")
    model = Path(version.source.removeprefix("file://"))
    assert [line.split(">")[0] for line in requirements()] == ["numpy", "pillow", "safetensors", "torch"]
    asked = (model / "requirements.txt").read_text().split()
    assert [line for line in asked if not line.startswith("mlflow==")] == requirements()
    assert {path.name for path in (model / "code").iterdir()} == {f"{LOADER}.py", "supernet_registry.zip"}
    assert (model / "code" / f"{LOADER}.py").read_bytes() == Path(mlflow_loader.__file__).read_bytes()
    with zipfile.ZipFile(model / "code" / "supernet_registry.zip") as archive:
        assert {name.split("/")[1] for name in archive.namelist()} == {"__init__.py", "search"}


def test_models_of_an_earlier_release_are_logged_again(
    life: Life,
    publisher: Publisher,
    embedded: MlflowClient,
    data_dir: Path,
    tmp_path: Path,
) -> None:
    """`publish --again` renews them in place, once; the versions, their numbers and the alias stay."""
    child = tiny_child(SPACE, class_names=("a", "b"))
    life.finished_job("letters", "greek", child=child)
    life.finished_job("words", "latin", child=child)
    life.finished_job("childless", "runes")
    publisher.drain()
    before = {name: embedded.get_model_version_by_alias(name, "head").version for name in ("letters", "words")}
    for name in before:
        log_as_an_earlier_release_did(embedded, name, child, tmp_path / name)
    assert publisher.log_again(["supernets/letters/versions/1"]).logged == ("supernets/letters/versions/1",)
    assert (loader_of(embedded, "letters"), loader_of(embedded, "words")) == (LOADER, OLD_LOADER)
    command = [sys.executable, "-m", "supernet_registry", "publish", "--data-dir", str(data_dir), "--json", "--again"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    renewed = json.loads(result.stdout)
    assert renewed["logged"] == ["supernets/words/versions/1"]
    assert set(renewed["left"]) == {"supernets/childless/versions/1", "supernets/letters/versions/1"}
    assert publisher.log_again().logged == ()
    assert {name: embedded.get_model_version_by_alias(name, "head").version for name in before} == before
    assert loader_of(embedded, "words") == LOADER
    from mlflow.pyfunc import load_model

    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 1)).astype(np.uint8)
    (version,) = embedded.search_model_versions("name = 'words'")
    np.testing.assert_array_equal(load_model(version.source).predict(images), load_child(child).predict(images))


def test_a_version_that_mlflow_has_lost_is_named(life: Life, publisher: Publisher, embedded: MlflowClient) -> None:
    job = life.finished_job("letters", "greek", child=tiny_child(SPACE, class_names=("a", "b")))
    assert publisher.log_again().missing == (job.version,)  # not published yet
    publisher.drain()
    embedded.delete_registered_model("letters")
    assert publisher.log_again([job.version]).missing == (job.version,)


def log_as_an_earlier_release_did(client: MlflowClient, name: str, child: bytes, folder: Path) -> None:
    """Overwrite a published model with one whose loader was called `clients.mlflow_loader`, and that has no code."""
    from mlflow.pyfunc import save_model

    folder.mkdir()
    blob = folder / "child.safetensors"
    blob.write_bytes(child)
    model = folder / ARTIFACT_PATH
    save_model(model, loader_module=OLD_LOADER, data_path=str(blob), pip_requirements=["supernet-registry==0.1.0"])
    (version,) = client.search_model_versions(f"name = '{name}'")
    client.log_artifacts(version.run_id, str(model), ARTIFACT_PATH)


def loader_of(client: MlflowClient, name: str) -> str:
    from mlflow.models import Model

    (version,) = client.search_model_versions(f"name = '{name}'")
    return Model.load(version.source.removeprefix("file://")).flavors["python_function"]["loader_module"]
