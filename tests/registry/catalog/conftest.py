"""A catalog for every test: on SQLite, and on PostgreSQL where SUPERNET_REGISTRY_TEST_DATABASE_URL names a server."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from supernet_registry.registry.catalog import Catalog
from supernet_registry.registry.settings import Settings
from supernet_registry.registry.storage.blobs import open_store
from supernet_registry.registry.storage.database import open_database
from tests.registry.catalog.catalog_world import POSTGRESQL, StandingClock, World


@pytest.fixture(params=["sqlite", "postgresql"] if POSTGRESQL else ["sqlite"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of a database of this test's own."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'registry.sqlite'}"
        return
    name = f"test_{uuid.uuid4().hex}"
    url = sa.make_url(POSTGRESQL).set(drivername="postgresql+psycopg")
    admin = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    yield url.set(database=name, drivername="postgresql").render_as_string(hide_password=False)
    with admin.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    admin.dispose()


@pytest.fixture
def clock() -> StandingClock:
    """The clock of this test's catalogs."""
    return StandingClock()


@pytest.fixture
def open_catalog(database_url: str, tmp_path: Path, clock: StandingClock) -> Iterator[Callable[..., Catalog]]:
    """Opens catalogs on this test's database and folder; keyword arguments are settings."""
    opened: list[Catalog] = []

    def open_one(**settings: Any) -> Catalog:
        values = {"data_dir": tmp_path / "data", "database_url": database_url, **settings}
        opened.append(Catalog.open(Settings(**values), clock=clock))
        return opened[-1]

    yield open_one
    for catalog in opened:
        catalog.close()


@pytest.fixture
def engine(database_url: str) -> Iterator[sa.Engine]:
    """The engine of this test's `catalog`."""
    opened = open_database(database_url)
    yield opened
    opened.dispose()


@pytest.fixture
def catalog(engine: sa.Engine, database_url: str, tmp_path: Path, clock: StandingClock) -> Catalog:
    """An empty catalog with default settings."""
    settings = Settings(data_dir=tmp_path / "data", database_url=database_url)
    return Catalog(engine, open_store(settings), settings, clock)


@pytest.fixture
def world(catalog: Catalog, clock: StandingClock, engine: sa.Engine) -> World:
    """An empty catalog with shorthands."""
    return World(catalog, clock, engine)
