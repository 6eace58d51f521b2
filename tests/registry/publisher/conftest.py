"""A catalog, and an MLflow store to publish it to."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from supernet_registry.registry.catalog import Catalog
from supernet_registry.registry.publisher.drain import Publisher
from supernet_registry.registry.publisher.store import connect, tracking_store
from supernet_registry.registry.settings import Settings
from tests.registry.publisher.publisher_life import HangingServer, Life


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without content; making one takes seconds, copying it none."""
    folder = tmp_path_factory.mktemp("mlflow-template")
    connect(tracking_store(folder))
    return folder / "mlflow" / "mlflow.db"


@pytest.fixture
def data_dir(tmp_path: Path, empty_store: Path) -> Path:
    """A data folder whose embedded MLflow store has its tables already."""
    folder = tmp_path / "data"
    (folder / "mlflow").mkdir(parents=True)
    shutil.copy(empty_store, folder / "mlflow" / "mlflow.db")
    return folder


@pytest.fixture
def catalog(data_dir: Path) -> Iterator[Catalog]:
    """An open, empty catalog in `data_dir`."""
    catalog = Catalog.open(Settings(data_dir=data_dir))
    yield catalog
    catalog.close()


@pytest.fixture
def life(catalog: Catalog) -> Life:
    """What happens in that catalog."""
    return Life(catalog)


@pytest.fixture
def embedded(data_dir: Path) -> MlflowClient:
    """A reader of the embedded store."""
    return connect(tracking_store(data_dir))


@pytest.fixture
def publisher(catalog: Catalog, data_dir: Path) -> Publisher:
    """A publisher to the embedded store."""
    return Publisher(catalog, tracking_store(data_dir))


@pytest.fixture
def hanging_server() -> Iterator[HangingServer]:
    """What MLflow is like on a bad day."""
    server = HangingServer()
    yield server
    server.close()
