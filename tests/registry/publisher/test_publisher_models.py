"""Child networks as MLflow models: loaded by MLflow's own loader, without pickle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from supernet_registry.registry.catalog import Catalog
from supernet_registry.registry.publisher.drain import Publisher
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
