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
def catalog(open_catalog: Callable[..., Catalog]) -> Catalog:
    """An empty catalog with default settings."""
    return open_catalog()


@pytest.fixture
def world(catalog: Catalog, clock: StandingClock) -> World:
    """An empty catalog with shorthands."""
    return World(catalog, clock)
