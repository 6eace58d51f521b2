"""Removal of what nobody needs any more: stale uploads, images between jobs, and blobs without a reference.

References to blobs are the foreign keys to table `blobs`, found by walking the schema, so that a new column is never
forgotten; and the database refuses to delete a row that one of them holds.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy import exc

from supernet_registry.registry.catalog.blobs import Blobs, release
from supernet_registry.registry.catalog.generalists import uses_dataset
from supernet_registry.registry.catalog.job_rows import ENDED
from supernet_registry.registry.catalog.uploads import Uploads
from supernet_registry.registry.clock import Clock
from supernet_registry.registry.settings import Settings
from supernet_registry.registry.storage import failpoints
from supernet_registry.registry.storage.database import run_write, transaction
from supernet_registry.registry.storage.schema import blobs, datasets, jobs, metadata

__all__ = ["SweepResult", "Sweeper", "blob_references"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepResult:
    """Counts of what one sweep removed."""

    images_dropped: int = 0
    uploads_dropped: int = 0
    blobs_deleted: int = 0
    bytes_freed: int = 0


class Sweeper:
    """`Catalog.sweeper`; the server calls `sweep()` every `sweep_interval_seconds`."""

    def __init__(self, engine: sa.Engine, blobs: Blobs, uploads: Uploads, settings: Settings, clock: Clock) -> None:
        self._engine = engine
        self._blobs = blobs
        self._uploads = uploads
        self._settings = settings
        self._clock = clock

    def sweep(self) -> SweepResult:
        """Remove everything whose time has come. Safe at any time, beside any other call."""
        uploads_dropped = self._uploads.drop_stale()
        images_dropped = self._drop_images()
        self._register_strays()
        freed = [self._delete(sha256) for sha256 in self._expired()]
        self._blobs.store.remove_temporary(self._settings.upload_ttl_seconds, self._clock().timestamp())
        return SweepResult(
            images_dropped=images_dropped,
            uploads_dropped=uploads_dropped,
            blobs_deleted=sum(size is not None for size in freed),
            bytes_freed=sum(size or 0 for size in freed),
        )

    def _drop_images(self) -> int:
        """Detach images that no unfinished job needs and nobody retains."""
        limit = self._clock() - timedelta(seconds=self._settings.images_grace_seconds)
        busy = sa.exists().where(uses_dataset(datasets.c.row_id), jobs.c.state.not_in(ENDED))
        idle = sa.and_(
            datasets.c.images_sha256.is_not(None),
            datasets.c.retain_images.is_(sa.false()),
            datasets.c.images_time < limit,
            ~busy,
        )

        def drop(connection: sa.Connection) -> int:
            rows = connection.execute(datasets.select().where(idle).with_for_update()).all()
            for row in rows:
                statement = datasets.update().where(datasets.c.row_id == row.row_id)
                connection.execute(
                    statement.values(images_sha256=None, images_time=None, revision=datasets.c.revision + 1)
                )
                release(connection, row.images_sha256, self._clock())
            return len(rows)

        return run_write(self._engine, drop)

    def _register_strays(self) -> None:
        """Give files without a row (a crash came between the two) a row whose grace period has begun."""
        with transaction(self._engine, write=False) as connection:
            known = set(connection.execute(sa.select(blobs.c.sha256)).scalars())
        for sha256 in set(self._blobs.store.digests()) - known:
            self._blobs.register(sha256)

    def _expired(self) -> list[str]:
        statement = sa.select(blobs.c.sha256).where(blobs.c.keep_until < self._clock(), *_unreferenced())
        with transaction(self._engine, write=False) as connection:
            return list(connection.execute(statement).scalars())

    def _delete(self, sha256: str) -> int | None:
        """Delete one blob, unless it was touched or referred to meanwhile; returns its size."""
        statement = blobs.delete().where(blobs.c.sha256 == sha256, blobs.c.keep_until < self._clock(), *_unreferenced())
        try:
            with transaction(self._engine) as connection:
                size = connection.execute(statement.returning(blobs.c.size_bytes)).scalar_one_or_none()
                if size is None:
                    return None
                failpoints.hit("sweep.row")
                # Under the row's lock: an upload of the same blob waits for the commit, then stores it anew.
                self._blobs.store.delete(sha256)
                failpoints.hit("sweep.file")
                return int(size)
        except exc.IntegrityError:
            _log.info("blob %s was referred to while it was being swept; kept", sha256)
            return None


def blob_references() -> list[sa.Column[str]]:
    """Every column that refers to a blob."""
    return [
        column
        for table in metadata.sorted_tables
        for column in table.columns
        if any(key.column is blobs.c.sha256 for key in column.foreign_keys)
    ]


def _unreferenced() -> list[sa.ColumnElement[bool]]:
    return [~sa.exists().where(column == blobs.c.sha256) for column in blob_references()]
