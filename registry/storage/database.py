"""Opening the database: engines, transactions, and the revision of the schema.

SQLite is opened with WAL (readers never wait for a writer), synchronous=FULL (an acknowledged commit survives power
loss; NORMAL may lose it), foreign keys on, and explicit BEGINs: Python's driver by itself begins only before the first
change, so that a transaction which reads and then writes could fail half-way with a stale snapshot, whatever the
busy timeout. A writer here takes the writers' lock with its first statement (BEGIN IMMEDIATE).

Several processes (server, publisher, tools) may open the same database. Whoever finds it empty creates it, under a
lock; a database of another revision is never migrated by opening it.
"""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import event, exc

from supernet_registry.registry.storage.blobs.local import disk_full, is_disk_full
from supernet_registry.search.errors import (
    BlobCorrupt,
    InvalidArgument,
    OptionalDependency,
    SchemaMismatch,
    SupernetRegistryError,
    TooManyRequests,
    Unavailable,
)

__all__ = ["check_revision", "newest_revision", "open_database", "run_write", "transaction", "upgrade"]

T = TypeVar("T")

BUSY_TIMEOUT_S = 30.0
"""A writer waits so long for another one; transactions here take milliseconds."""

_ATTEMPTS = 4
_ADVISORY_LOCK = 0x5E9E7
"""Key of PostgreSQL's advisory lock that migrations hold."""

_log = logging.getLogger(__name__)


def open_database(url: str) -> sa.Engine:
    """Engine on a database at this release's revision; an empty database is created and stamped.

    Args:
        url: SQLAlchemy URL, `sqlite:////absolute/path` or `postgresql://user@host/name`.

    Raises:
        SchemaMismatch: the database is behind (run `supernet-registry db upgrade`) or ahead of this release.
        InvalidArgument: not a URL, or of a database that is not supported.
        DiskFull: no room for a new database.
        Unavailable: the database server does not answer.
        BlobCorrupt: the file is damaged, or no database.
    """
    engine = _create_engine(url)
    try:
        if _is_empty(engine):
            with _migration_lock(engine):
                if _is_empty(engine):
                    _run_migrations(engine)
        check_revision(engine)
    except BaseException:
        engine.dispose()
        raise
    return engine


def newest_revision() -> str:
    """The revision that this release needs."""
    revision = ScriptDirectory.from_config(_alembic_config()).get_current_head()
    assert revision is not None
    return revision


def check_revision(engine: sa.Engine) -> None:
    """Raises SchemaMismatch unless the database is at this release's revision."""
    found, needed = _revision(engine), newest_revision()
    if found == needed:
        return
    facts = {"found": found or "none", "needed": needed}
    if found is None or found in _known_revisions():
        raise SchemaMismatch(
            f"The database is behind this release: revision {found or 'none'}, needed {needed}.",
            remedy="Back it up, stop all registry processes, and run `supernet-registry db upgrade`.",
            metadata={**facts, "direction": "behind"},
        )
    raise SchemaMismatch(
        f"The database is ahead of this release: revision {found} is not known here, the newest is {needed}.",
        remedy="Start the release that upgraded it, or a newer one.",
        metadata={**facts, "direction": "ahead"},
    )


def upgrade(url: str) -> tuple[str, str]:
    """Migrate to this release's revision; returns (revision before, revision after), "" for an empty database.

    Concurrent upgrades wait for each other, and all but the first find nothing to do.

    Raises:
        SchemaMismatch: the database is ahead of this release.
    """
    engine = _create_engine(url)
    try:
        with _migration_lock(engine):
            before = _revision(engine)
            if before is not None and before not in _known_revisions():
                check_revision(engine)
            if before != newest_revision():
                _run_migrations(engine)
        check_revision(engine)
        return before or "", newest_revision()
    finally:
        engine.dispose()


@contextmanager
def transaction(engine: sa.Engine, *, write: bool = True) -> Iterator[sa.Connection]:
    """One transaction: committed at the end, rolled back if the body raises.

    Args:
        write: take the writers' lock at the start (SQLite). Without it the transaction must only read.

    Raises:
        DiskFull: the database cannot grow; nothing was written.
        TooManyRequests: another process held the writers' lock for too long; nothing was written.
        Unavailable: the database server does not answer.
        BlobCorrupt: the database file is damaged.
    """
    try:
        with engine.connect().execution_options(supernet_write=write) as connection, connection.begin():
            yield connection
    except exc.DatabaseError as error:
        if (translated := _translated(error)) is not None:
            raise translated from error
        raise
    except OSError as error:
        if is_disk_full(error):
            raise disk_full() from error
        raise


def run_write(engine: sa.Engine, work: Callable[[sa.Connection], T]) -> T:
    """Run `work` in a write transaction and return its result.

    `work` must be repeatable: where another transaction inserted the same key first (possible on PostgreSQL only,
    SQLite has one writer at a time), it is rolled back and run again, and then sees the other's row.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with transaction(engine) as connection:
                return work(connection)
        except exc.DBAPIError as error:
            if attempt == _ATTEMPTS or not _is_lost_race(error):
                raise
            _log.info("transaction lost a race, running it again: %s", error.orig)
    raise AssertionError("unreachable")


def _is_lost_race(error: exc.DBAPIError) -> bool:
    if isinstance(error, exc.IntegrityError):
        return True
    # 40001 serialization failure, 40P01 deadlock (PostgreSQL)
    return getattr(error.orig, "sqlstate", None) in ("40001", "40P01")


def _translated(error: exc.DatabaseError) -> SupernetRegistryError | None:
    """Our error for what can happen to any transaction; None for what only a bug can cause."""
    text = str(error.orig).lower()
    if "disk is full" in text or "no space left" in text:
        return disk_full()
    if "database is locked" in text:
        return TooManyRequests(
            f"Another process held the database for more than {BUSY_TIMEOUT_S:.0f} s.",
            remedy="Send the same request again.",
            retry_after_s=1.0,
        )
    if "file is not a database" in text or "disk image is malformed" in text:
        return BlobCorrupt(
            f"The database file is damaged or none at all: {error.orig}.",
            remedy="Restore it from a backup, or correct database_url.",
            field="database_url",
        )
    if isinstance(error, exc.OperationalError) and getattr(error.orig, "sqlstate", "none") is None:
        # psycopg sets a state for every error that the server answered with
        return Unavailable("The database does not answer.", remedy="Start it, then try again.", retry_after_s=5.0)
    return None


def _create_engine(url: str) -> sa.Engine:
    try:
        parsed = sa.make_url(url)
    except exc.ArgumentError as error:
        raise InvalidArgument(
            f"{url!r} is not a database URL.",
            remedy="Use sqlite:////path/of/file or postgresql://user@host/name.",
            field="database_url",
        ) from error
    kind = parsed.get_backend_name()
    if kind == "postgresql":
        return _postgresql_engine(parsed)
    if kind != "sqlite" or parsed.database in (None, "", ":memory:"):
        raise InvalidArgument(
            f"The catalog cannot live in {parsed.render_as_string(hide_password=True)!r}.",
            remedy="Use a SQLite file (sqlite:////path/of/file) or PostgreSQL (postgresql://user@host/name).",
            field="database_url",
        )
    Path(str(parsed.database)).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(parsed, connect_args={"timeout": BUSY_TIMEOUT_S}, pool_size=16)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _postgresql_engine(url: sa.URL) -> sa.Engine:
    try:
        return sa.create_engine(url.set(drivername="postgresql+psycopg"), pool_size=16, pool_pre_ping=True)
    except ModuleNotFoundError as error:
        raise OptionalDependency(
            "PostgreSQL needs psycopg, which is not installed.",
            remedy="pip install 'supernet-registry[postgresql]'",
            field="database_url",
        ) from error


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver must not emit BEGIN by itself
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("supernet_write", True)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _is_empty(engine: sa.Engine) -> bool:
    with transaction(engine, write=False) as connection:
        return not sa.inspect(connection).get_table_names()


def _revision(engine: sa.Engine) -> str | None:
    with transaction(engine, write=False) as connection:
        return MigrationContext.configure(connection).get_current_revision()


def _known_revisions() -> set[str]:
    scripts = ScriptDirectory.from_config(_alembic_config())
    return {script.revision for script in scripts.walk_revisions()}


def _alembic_config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _run_migrations(engine: sa.Engine) -> None:
    config = _alembic_config()
    with transaction(engine) as connection:
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:  # for instance a revision that this release does not know
            raise SchemaMismatch(str(error), remedy="Use the release that made this database.") from error


@contextmanager
def _migration_lock(engine: sa.Engine) -> Iterator[None]:
    """Held while the schema is created or migrated, so that processes starting together do it once."""
    if engine.dialect.name == "postgresql":
        with engine.connect() as connection:
            connection.execute(sa.select(sa.func.pg_advisory_lock(_ADVISORY_LOCK)))
            try:
                yield
            finally:
                connection.execute(sa.select(sa.func.pg_advisory_unlock(_ADVISORY_LOCK)))
        return
    with Path(f"{engine.url.database}.lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # released when the file is closed, also by a crash
        yield
