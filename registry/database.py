"""Opening the database: engines, transactions, and the revision of the schema. (Signatures first; bodies follow.)"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import sqlalchemy as sa

T = TypeVar("T")


def open_database(url: str) -> sa.Engine:
    """Engine on a database at this release's revision; a new (empty) database is created and stamped.

    Raises SchemaMismatch (behind: run `db upgrade`; ahead: use a newer release).
    """
    raise NotImplementedError


def check_revision(engine: sa.Engine) -> None:
    """Raises SchemaMismatch unless the database is at this release's revision."""
    raise NotImplementedError


def upgrade(url: str) -> tuple[str, str]:
    """Migrate to this release's revision under a lock; (revision before, revision after)."""
    raise NotImplementedError


@contextmanager
def transaction(engine: sa.Engine, *, write: bool = True) -> Iterator[sa.Connection]:
    """One transaction; with `write` it holds the writers' lock from the start (SQLite: BEGIN IMMEDIATE)."""
    raise NotImplementedError
    yield


def run_write(engine: sa.Engine, work: Callable[[sa.Connection], T]) -> T:
    """Run `work` in a write transaction; run it again when it lost a race against a concurrent insert."""
    raise NotImplementedError
