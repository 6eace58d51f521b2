"""Resumable uploads: chunks of at most 2 MiB with a crc32c each, a sha256 for the whole.

The row of an upload says how many bytes are fsynced; the file may be longer after a crash, and the rest is cut off
before the next chunk. So what a client is told is stored, is stored, and an interrupted upload costs at most one
chunk again. Whatever goes wrong between, the sha256 over the finished file has the last word.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import google_crc32c
import sqlalchemy as sa

from supernet_registry.clients.wire.resources import Upload
from supernet_registry.registry.catalog import names
from supernet_registry.registry.catalog.blobs import CHUNK_BYTES, Blobs
from supernet_registry.registry.clock import Clock
from supernet_registry.registry.settings import Settings
from supernet_registry.registry.storage import failpoints
from supernet_registry.registry.storage.blobs.local import disk_full, fsync_folder, is_disk_full
from supernet_registry.registry.storage.database import run_write, transaction
from supernet_registry.registry.storage.schema import uploads
from supernet_registry.search.errors import DigestMismatch, InvalidArgument, QuotaExceeded, WeightsTooLarge, WrongOffset

__all__ = ["Uploads"]

_READ_BYTES = 1024 * 1024


class Uploads:
    """Uploads in progress (`uploads/{uuid}`). Two clients that upload the same blob share one upload."""

    def __init__(self, engine: sa.Engine, blobs: Blobs, settings: Settings, clock: Clock) -> None:
        self._engine = engine
        self._blobs = blobs
        self._settings = settings
        self._clock = clock
        self._folder = settings.uploads_dir
        self._folder.mkdir(parents=True, exist_ok=True)
        # One writer at a time for each upload's file; the database row is what decides between processes.
        self._locks: WeakValueDictionary[str, _Lock] = WeakValueDictionary()
        self._locks_guard = threading.Lock()

    def start(self, blob: str, size_bytes: int) -> Upload:
        """Start an upload, or return the unfinished one of the same blob; complete at once if the blob is stored.

        Raises:
            InvalidArgument: malformed name, or not a size.
            WeightsTooLarge: above the limit of one blob.
            QuotaExceeded: too many unfinished bytes in all.
            DiskFull: no room.
        """
        sha256 = names.blob_sha256(blob, "blob")
        self._check_size(size_bytes)
        if not self._blobs.find_missing([blob]):
            return Upload(
                name=names.upload_name(str(uuid.uuid4())),
                blob=blob,
                size_bytes=self._blobs.size(blob),
                persisted_size_bytes=self._blobs.size(blob),
                complete=True,
            )

        def start(connection: sa.Connection) -> sa.Row[Any]:
            same = (uploads.c.sha256 == sha256) & (uploads.c.size_bytes == size_bytes)
            found = connection.execute(uploads.select().where(same)).one_or_none()
            if found is not None:
                return found
            self._check_quota(connection, size_bytes)
            now = self._clock()
            row = {"id": str(uuid.uuid4()), "sha256": sha256, "size_bytes": size_bytes, "persisted_bytes": 0}
            insert = uploads.insert().values(**row, create_time=now, update_time=now)
            return connection.execute(insert.returning(*uploads.c)).one()

        return self._settled(run_write(self._engine, start))

    def get(self, name: str) -> Upload:
        """How much is safely stored. Raises NotFound (also for a finished or dropped upload), InvalidArgument."""
        return self._settled(self._row(names.upload_id(name, "name")))

    def append(self, name: str, offset: int, content: bytes, crc32c: int) -> Upload:
        """Append one chunk; the last one verifies the whole and makes the blob.

        Raises:
            WrongOffset: `offset` is not the persisted size (in the metadata as `persisted_size`); nothing was stored.
            DigestMismatch: the chunk's crc32c is wrong (nothing was stored), or the whole file's sha256 is (the
                upload is dropped).
            InvalidArgument: empty chunk, chunk above 2 MiB, or beyond the declared size.
            NotFound: no such upload.
            DiskFull: no room; go on from the persisted size later.
        """
        upload_id = names.upload_id(name, "upload")
        _check_chunk(content, crc32c)
        with self._lock(upload_id):
            row = self._row(upload_id)
            if offset != row.persisted_bytes:
                raise _wrong_offset(name, offset, row.persisted_bytes)
            if offset + len(content) > row.size_bytes:
                raise InvalidArgument(
                    f"The chunk ends at byte {offset + len(content)} of {row.size_bytes} declared.",
                    remedy="Start an upload with the right size.",
                    field="chunk.content",
                )
            self._write(upload_id, offset, content)
            row = self._advance(row, offset + len(content))
            if row.persisted_bytes < row.size_bytes:
                return _to_resource(row)
            return self._finish(row)

    def drop_stale(self) -> int:
        """Drop uploads that have not grown for `upload_ttl_seconds`, and files without a row; returns their number."""
        limit = self._clock() - timedelta(seconds=self._settings.upload_ttl_seconds)
        stale = uploads.c.update_time < limit
        with transaction(self._engine) as connection:
            dropped = set(connection.execute(uploads.delete().where(stale).returning(uploads.c.id)).scalars())
            known = set(connection.execute(sa.select(uploads.c.id)).scalars())
            for path in self._folder.glob("*.part"):
                # Under the writers' lock: no upload can start between the look at the table and the removal.
                if path.stem not in known:
                    path.unlink(missing_ok=True)
        return len(dropped)

    def _settled(self, row: sa.Row[Any]) -> Upload:
        """The upload as it is; one that a crash stopped between its last byte and the blob is finished now."""
        if row.persisted_bytes < row.size_bytes:
            return _to_resource(row)
        with self._lock(row.id):
            return self._finish(row)

    def _check_size(self, size_bytes: int) -> None:
        if size_bytes <= 0:
            raise InvalidArgument(f"{size_bytes} is not a size.", remedy="Declare the bytes.", field="size_bytes")
        if size_bytes > self._settings.max_upload_bytes:
            raise WeightsTooLarge(
                f"The blob has {size_bytes} bytes, the limit is {self._settings.max_upload_bytes}.",
                remedy="Store a smaller blob, or raise max_upload_bytes of the server.",
                field="size_bytes",
            )

    def _check_quota(self, connection: sa.Connection, size_bytes: int) -> None:
        pending = connection.execute(sa.select(sa.func.coalesce(sa.func.sum(uploads.c.size_bytes), 0))).scalar_one()
        if int(pending) + size_bytes > self._settings.max_pending_upload_bytes:
            raise QuotaExceeded(
                f"Unfinished uploads take {pending} of {self._settings.max_pending_upload_bytes} bytes.",
                remedy="Finish them, or wait until stale ones are dropped.",
                field="size_bytes",
                retry_after_s=60.0,
            )

    def _write(self, upload_id: str, offset: int, content: bytes) -> None:
        path = self._path(upload_id)
        try:
            with path.open("r+b" if path.exists() else "w+b") as file:
                file.truncate(offset)  # cuts off what a crash left behind the persisted size
                file.seek(offset)
                file.write(content)
                file.flush()
                failpoints.hit("upload.written")
                os.fsync(file.fileno())
            if offset == 0:
                fsync_folder(self._folder)
        except OSError as error:
            if is_disk_full(error):
                with contextlib.suppress(OSError):
                    os.truncate(path, offset)  # give back what the failed chunk took
                raise disk_full() from error
            raise
        failpoints.hit("upload.synced")

    def _advance(self, row: sa.Row[Any], persisted: int) -> sa.Row[Any]:
        statement = (
            uploads.update()
            .where(uploads.c.id == row.id, uploads.c.persisted_bytes == row.persisted_bytes)
            .values(persisted_bytes=persisted, update_time=self._clock())
            .returning(*uploads.c)
        )
        with transaction(self._engine) as connection:
            moved = connection.execute(statement).one_or_none()
        if moved is None:  # dropped or advanced by somebody else meanwhile
            raise _wrong_offset(names.upload_name(row.id), row.persisted_bytes, self._row(row.id).persisted_bytes)
        return moved

    def _finish(self, row: sa.Row[Any]) -> Upload:
        path = self._path(row.id)
        if not path.exists():
            return self._finish_without_file(row)
        found = _sha256(path)
        if found != row.sha256:
            self._forget(row.id)
            path.unlink(missing_ok=True)
            raise DigestMismatch(
                f"The uploaded bytes hash to {found}, not to {row.sha256}; the upload is dropped.",
                remedy="Check the file, then upload it again from the start.",
                field="blob",
                metadata={"expected": row.sha256, "found": found},
            )
        failpoints.hit("upload.verified")
        self._blobs.adopt(path, row.sha256, row.size_bytes)
        self._forget(row.id)
        return _to_resource(row, complete=True)

    def _finish_without_file(self, row: sa.Row[Any]) -> Upload:
        """A crash, or another thread, came after the verified file was moved to its place among the blobs."""
        if self._blobs.store.has(row.sha256):
            self._blobs.register(row.sha256)
            self._forget(row.id)
            return _to_resource(row, complete=True)
        return _to_resource(self._advance(row, 0))  # somebody removed it: from the start again

    def _forget(self, upload_id: str) -> None:
        with transaction(self._engine) as connection:
            connection.execute(uploads.delete().where(uploads.c.id == upload_id))

    def _row(self, upload_id: str) -> sa.Row[Any]:
        with transaction(self._engine, write=False) as connection:
            row = connection.execute(uploads.select().where(uploads.c.id == upload_id)).one_or_none()
        if row is None:
            raise names.not_found(names.upload_name(upload_id), "upload", "Start the upload again.")
        return row

    def _path(self, upload_id: str) -> Path:
        return self._folder / f"{upload_id}.part"

    def _lock(self, upload_id: str) -> _Lock:
        with self._locks_guard:
            lock = self._locks.get(upload_id)
            if lock is None:
                lock = self._locks[upload_id] = _Lock()
            return lock


class _Lock:
    """A lock that can be referred to weakly, so that the table of locks does not grow."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def _check_chunk(content: bytes, crc32c: int) -> None:
    if not 0 < len(content) <= CHUNK_BYTES:
        raise InvalidArgument(
            f"The chunk has {len(content)} bytes.", remedy=f"Send 1 to {CHUNK_BYTES} bytes.", field="chunk.content"
        )
    found = google_crc32c.value(content)
    if found != crc32c:
        raise DigestMismatch(
            f"The chunk's crc32c is {found:#010x}, declared was {crc32c:#010x}; it was not stored.",
            remedy="Send the chunk again.",
            field="chunk.crc32c",
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _wrong_offset(name: str, offset: int, persisted: int) -> WrongOffset:
    return WrongOffset(
        f"{name} has {persisted} bytes stored; the chunk starts at {offset}.",
        remedy="Go on from the persisted size.",
        field="offset_bytes",
        metadata={"persisted_size": str(persisted)},
    )


def _to_resource(row: sa.Row[Any], *, complete: bool = False) -> Upload:
    return Upload(
        name=names.upload_name(row.id),
        blob=names.blob_name(row.sha256),
        size_bytes=row.size_bytes,
        persisted_size_bytes=row.persisted_bytes,
        complete=complete,
    )
