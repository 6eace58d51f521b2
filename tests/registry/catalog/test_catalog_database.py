"""Opening databases: creation, revisions, transactions."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext

from supernet_registry.registry import storage
from supernet_registry.registry.catalog import Catalog
from supernet_registry.registry.catalog.records import next_count
from supernet_registry.registry.settings import Settings
from supernet_registry.registry.storage import migrations
from supernet_registry.registry.storage.database import (
    check_revision,
    newest_revision,
    open_database,
    run_write,
    transaction,
    upgrade,
)
from supernet_registry.registry.storage.schema import blobs, counters, metadata, requests
from supernet_registry.search.errors import BlobCorrupt, DiskFull, InvalidArgument, SchemaMismatch, Unavailable
from supernet_registry.search.similarity import TRANSPORT_ID
from tests.registry.catalog.catalog_world import POSTGRESQL


def test_this_suite_runs_on_postgresql_too() -> None:
    """Where a server is named; every test then runs on both."""
    if not POSTGRESQL:
        pytest.skip("SUPERNET_REGISTRY_TEST_DATABASE_URL names no server")
    assert sa.make_url(POSTGRESQL).get_backend_name() == "postgresql"


def test_migrations_make_exactly_the_schema(database_url: str) -> None:
    engine = open_database(database_url)
    with transaction(engine, write=False) as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_sqlite_is_opened_durably_and_strictly(tmp_path: Path) -> None:
    engine = open_database(f"sqlite:///{tmp_path / 'new' / 'a.sqlite'}")
    with transaction(engine) as connection:
        pragmas = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        ]
    assert pragmas == ["wal", 2, 1, 30_000]
    engine.dispose()


def test_processes_that_start_together_create_the_database_once(database_url: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        engines = list(pool.map(lambda _: open_database(database_url), range(8)))
    with transaction(engines[0], write=False) as connection:
        found = connection.execute(sa.select(counters).order_by(counters.c.name)).all()
        assert found == [("distance", 0), ("index", 0)]
    for engine in engines:
        check_revision(engine)
        engine.dispose()


def set_revision(engine: sa.Engine, statement: str) -> None:
    with transaction(engine) as connection:
        connection.exec_driver_sql(statement)


@pytest.mark.parametrize(
    ("statement", "direction"),
    [
        ("DROP TABLE alembic_version", "behind"),
        ("UPDATE alembic_version SET version_num = '9999'", "ahead"),
    ],
)
def test_a_database_of_another_revision_is_not_opened_and_not_touched(
    database_url: str, statement: str, direction: str
) -> None:
    engine = open_database(database_url)
    set_revision(engine, statement)
    for attempt in (lambda: open_database(database_url), lambda: check_revision(engine)):
        with pytest.raises(SchemaMismatch, match=direction) as caught:
            attempt()
        assert caught.value.metadata["direction"] == direction
        assert caught.value.metadata["needed"] == newest_revision()
        assert ("db upgrade" in caught.value.remedy) == (direction == "behind")
    if direction == "ahead":
        with pytest.raises(SchemaMismatch):
            upgrade(database_url)
    engine.dispose()


def test_upgrade_creates_migrates_and_repeats(database_url: str) -> None:
    assert upgrade(database_url) == ("", newest_revision())
    with ThreadPoolExecutor(4) as pool:
        again = list(pool.map(lambda _: upgrade(database_url), range(4)))
    assert again == [(newest_revision(), newest_revision())] * 4


def make_old_database(url: str, revision: str) -> None:
    """A database as an earlier release made it, with two distances measured."""
    driver = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg"}[sa.make_url(url).get_backend_name()]
    engine = sa.create_engine(sa.make_url(url).set(drivername=driver))
    config = Config()
    config.set_main_option("script_location", str(Path(storage.__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        for digest_b, distance in (("b" * 64, 1.5), ("c" * 64, 2.5)):
            statement = "INSERT INTO distances (digest_a, digest_b, transport, distance, converged) VALUES "
            values = f"('{'a' * 64}', '{digest_b}', '{TRANSPORT_ID}', {distance}, TRUE)"
            connection.exec_driver_sql(statement + values)
    engine.dispose()


def test_an_upgrade_keeps_distances_and_numbers_those_that_come(database_url: str, tmp_path: Path) -> None:
    make_old_database(database_url, "0001")
    settings = Settings(data_dir=tmp_path / "data", database_url=database_url)
    with pytest.raises(SchemaMismatch, match="behind"):
        Catalog.open(settings)
    assert upgrade(database_url) == ("0001", newest_revision())
    with Catalog.open(settings) as catalog:
        cache = catalog.distances
        assert cache.cached_distance("b" * 64, "a" * 64) == (1.5, True)
        assert len(cache.distance_changes(after_index=-1, after_distance=-1).measured) == 2
        cache.store_distance("a" * 64, "d" * 64, 3.5, converged=True)
        news = cache.distance_changes(after_index=0, after_distance=0)
        assert news.measured == [("a" * 64, "d" * 64, 3.5)]


def test_writers_that_read_first_lose_no_update(database_url: str) -> None:
    """A counter raised by read-then-write from many threads: no stale snapshot, no lost step."""
    engine = open_database(database_url)

    def raise_counter(_: int) -> int:
        return run_write(engine, lambda connection: next_count(connection, "index"))

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(raise_counter, range(40))) == list(range(1, 41))
    engine.dispose()


def test_a_failed_transaction_leaves_nothing(database_url: str) -> None:
    engine = open_database(database_url)
    with pytest.raises(RuntimeError), transaction(engine) as connection:
        next_count(connection, "index")
        raise RuntimeError
    with transaction(engine, write=False) as connection:
        assert set(connection.execute(sa.select(counters.c.value)).scalars()) == {0}
    engine.dispose()


def test_a_lost_race_of_two_inserts_is_run_again(database_url: str) -> None:
    engine = open_database(database_url)
    row = {"method": "m", "request_id": "r", "body_sha256": "b", "resource": "x", "create_time": datetime.now(UTC)}
    calls = 0

    def insert(connection: sa.Connection) -> str:
        nonlocal calls
        calls += 1
        if calls > 1:
            return "found the other's row"
        connection.execute(requests.insert().values(row))
        connection.execute(requests.insert().values(row))
        return "unreachable"

    assert run_write(engine, insert) == "found the other's row"
    with pytest.raises(sa.exc.IntegrityError):
        run_write(engine, lambda connection: connection.execute(requests.insert().values([row, row])))
    engine.dispose()


def test_a_database_that_cannot_grow_says_disk_full(tmp_path: Path) -> None:
    engine = open_database(f"sqlite:///{tmp_path / 'a.sqlite'}")
    with pytest.raises(DiskFull), transaction(engine) as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1")
        for i in range(1000):
            now = datetime.now(UTC)
            values = {"sha256": f"{i:064x}", "size_bytes": i, "create_time": now, "keep_until": now}
            connection.execute(blobs.insert().values(values))
    engine.dispose()


@pytest.mark.parametrize("url", ["nonsense", "sqlite://", "sqlite:///:memory:", "mysql://user:secret@host/name"])
def test_databases_that_cannot_hold_a_catalog_are_refused(url: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        open_database(url)
    assert caught.value.field == "database_url"
    assert "secret" not in str(caught.value)


def test_a_file_that_is_no_database_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a.sqlite").write_bytes(b"no database " * 1000)
    with pytest.raises(BlobCorrupt):
        open_database(f"sqlite:///{tmp_path / 'a.sqlite'}")


def test_a_server_that_does_not_answer_is_reported() -> None:
    with pytest.raises(Unavailable):
        open_database("postgresql://nobody@127.0.0.1:1/nothing")


def test_times_are_aware_and_utc(database_url: str) -> None:
    engine = open_database(database_url)
    noon = datetime(2030, 6, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    row = {"sha256": "0" * 64, "size_bytes": 1, "create_time": noon, "keep_until": noon}
    with transaction(engine) as connection:
        connection.execute(blobs.insert().values(row))
        stored = connection.execute(sa.select(blobs.c.create_time)).scalar_one()
        assert stored == noon
        assert stored.utcoffset() == timedelta(0)
    with pytest.raises(sa.exc.StatementError, match="aware"), transaction(engine) as connection:
        connection.execute(blobs.insert().values({**row, "create_time": datetime(2030, 1, 1)}))  # noqa: DTZ001
    engine.dispose()


def test_two_catalogs_on_one_database_see_each_other(open_catalog: Callable[..., Catalog]) -> None:
    """Server and publisher are two processes on one file."""
    server, publisher = open_catalog(), open_catalog()
    name = server.blobs.put(b"x")
    assert publisher.blobs.read(name) == b"x"


def test_an_upgrade_names_the_work_of_stored_specs() -> None:
    """Each as an earlier release stored it; `tests/data` has a whole folder of that release."""
    module = importlib.import_module(f"{migrations.__name__}.versions.0004_work_in_specs")
    search = {
        "search_space": {"family": "compact"},
        "source_policy": "SOURCE_POLICY_VERSION",
        "source_version": "supernets/a/versions/1",
        "transfer_mode": "TRANSFER_MODE_ALPHAS_ONLY",
        "epochs": 5,
        "seed": "3",
        "child_epochs": -1,
        "taste_share": 0.25,
        "executor": "EXECUTOR_POOL",
        "variant": "VARIANT_SMOOTH_DARTS_ADV",
        "derivation": "DERIVATION_PERTURBATION",
        "drop_shares": [0.3, 0.6],
        "child_holds_out": True,
        "recipe": {"horizontal_flip": "true"},
    }
    assert module.with_work(search) == {
        "search_space": {"family": "compact"},
        "seed": "3",
        "executor": "EXECUTOR_POOL",
        "recipe": {
            "epochs": "5",
            "taste_share": "0.25",
            "child_epochs": "0",
            "child_holds_out": "true",
            "drop_shares": "0.3,0.6",
            "variant": "smooth-darts-adv",
            "derivation": "perturbation",
            "horizontal_flip": "true",
        },
        "search": {
            "source_policy": "SOURCE_POLICY_VERSION",
            "source_version": "supernets/a/versions/1",
            "transfer_mode": "TRANSFER_MODE_ALPHAS_ONLY",
        },
    }
    generalist = {
        "datasets": ["datasets/a", "datasets/b"],
        "source_version": "supernets/g/versions/1",
        "batch_size": 16,
    }
    assert module.with_work(generalist | {"without_replay": True, "variant": "VARIANT_DARTS"}) == {
        "recipe": {"batch_size": "16"},
        "generalist": {
            "datasets": ["datasets/a", "datasets/b"],
            "base_version": "supernets/g/versions/1",
            "without_replay": True,
        },
    }
