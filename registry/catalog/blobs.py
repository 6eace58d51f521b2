"""Stored blobs together with their table. Names are `blobs/{sha256}`.

The table is what makes references safe: every reference is a foreign key to it. A row and its file come and go in one
order, "row, file, commit", under the row's lock: so storing a blob and sweeping the same blob away cannot mix, and a
crash between leaves at worst a file without a row, which the sweep removes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import BinaryIO

import sqlalchemy as sa

from supernet_registry.registry.catalog import names
from supernet_registry.registry.clock import Clock
from supernet_registry.registry.storage import failpoints
from supernet_registry.registry.storage.blobs.store import BlobStore, corrupt, verify_file
from supernet_registry.registry.storage.database import run_write, transaction
from supernet_registry.registry.storage.schema import blobs
from supernet_registry.search.errors import BlobCorrupt, InvalidArgument, NotFound

__all__ = ["CHUNK_BYTES", "Blobs", "release"]

CHUNK_BYTES = 2 * 1024 * 1024
"""Largest chunk on the wire; gRPC's message limit of 4 MiB leaves room for the envelope."""

_MOST_NAMES = 1000
_READ_BYTES = 1024 * 1024


class Blobs:
    """What FindMissingBlobs and ReadBlob need, and every part that stores bytes."""

    def __init__(self, engine: sa.Engine, store: BlobStore, clock: Clock, *, grace_seconds: float) -> None:
        self._engine = engine
        self._clock = clock
        self._grace = timedelta(seconds=grace_seconds)
        self.store = store

    def find_missing(self, blob_names: Sequence[str]) -> list[str]:
        """Those that are not stored, in their order; those that are get a new grace period, for the caller to refer to.

        Raises:
            InvalidArgument: malformed name, or more than 1000 names.
        """
        if len(blob_names) > _MOST_NAMES:
            raise InvalidArgument(
                f"{len(blob_names)} names in one call.", remedy=f"Ask for at most {_MOST_NAMES}.", field="names"
            )
        digests = [names.blob_sha256(name, f"names[{i}]") for i, name in enumerate(blob_names)]

        def touch(connection: sa.Connection) -> set[str]:
            wanted = blobs.c.sha256.in_(set(digests))
            rows = connection.execute(sa.select(blobs.c.sha256).where(wanted)).scalars()
            present = {sha256 for sha256 in rows if self.store.has(sha256)}
            connection.execute(
                blobs.update().where(blobs.c.sha256.in_(present)).values(keep_until=self._clock() + self._grace)
            )
            return present

        present = run_write(self._engine, touch)
        return [names.blob_name(sha256) for sha256 in digests if sha256 not in present]

    def put(self, data: bytes) -> str:
        """Store bytes; returns the name. Raises DiskFull."""
        sha256 = hashlib.sha256(data).hexdigest()

        def store(connection: sa.Connection) -> None:
            self._record(connection, sha256, len(data))
            self.store.put(data)

        run_write(self._engine, store)
        return names.blob_name(sha256)

    def adopt(self, path: Path, sha256: str, size_bytes: int) -> str:
        """Make a blob of a complete, fsynced file of verified digest; returns the name. Raises DiskFull."""

        def store(connection: sa.Connection) -> None:
            self._record(connection, sha256, size_bytes)
            if path.exists() or not self.store.has(sha256):  # a repetition may find the file moved already
                self.store.adopt(path, sha256)

        run_write(self._engine, store)
        return names.blob_name(sha256)

    def has(self, name: str, field: str = "name") -> bool:
        """Whether the blob is stored. Raises InvalidArgument for a malformed name."""
        sha256 = names.blob_sha256(name, field)
        with transaction(self._engine, write=False) as connection:
            return self._row_exists(connection, sha256) and self.store.has(sha256)

    def size(self, name: str, field: str = "name") -> int:
        """Bytes. Raises NotFound, InvalidArgument, BlobCorrupt (the catalog knows it, its file is lost)."""
        sha256 = names.blob_sha256(name, field)
        with transaction(self._engine, write=False) as connection:
            if not self._row_exists(connection, sha256):
                raise names.not_found(name, field, "Upload it first.")
        try:
            return self.store.size(sha256)
        except NotFound as error:
            raise _lost(name) from error

    def read(self, name: str, field: str = "name") -> bytes:
        """The whole blob, digest verified. Raises NotFound, InvalidArgument, BlobCorrupt."""
        self.size(name, field)
        sha256 = names.blob_sha256(name, field)
        with self.store.open_read(sha256) as file:
            data = file.read()
        found = hashlib.sha256(data).hexdigest()
        if found != sha256:
            raise corrupt(sha256, found)
        return data

    @contextmanager
    def open_verified(self, name: str, field: str = "name") -> Iterator[BinaryIO]:
        """The blob as a seekable file, its digest verified before; of a large one a few MiB at a time are in memory.

        Raises:
            NotFound, InvalidArgument, BlobCorrupt.
        """
        self.size(name, field)
        with self.store.open_read(names.blob_sha256(name, field)) as file:
            verify_file(file, names.blob_sha256(name, field))
            file.seek(0)
            yield file

    def read_chunks(
        self, name: str, *, offset: int = 0, limit: int = 0, chunk_bytes: int = CHUNK_BYTES
    ) -> Iterator[bytes]:
        """Chunks from `offset`, at most `limit` bytes (0: all); the whole blob is verified before the last is yielded.

        Names and ranges are checked by the call itself, the rest when iterated.

        Raises:
            NotFound: no such blob.
            InvalidArgument: malformed name, or a range outside of the blob.
            BlobCorrupt: the stored bytes are not what they were; the last chunk is withheld.
        """
        size = self.size(name)
        if not 0 <= offset <= size:
            raise InvalidArgument(
                f"Offset {offset} is not within the blob of {size} bytes.",
                remedy="Read from an offset up to the size.",
                field="offset_bytes",
            )
        if limit < 0:
            raise InvalidArgument(f"Limit {limit} is negative.", remedy="Use 0 for no limit.", field="limit_bytes")
        end = min(size, offset + limit) if limit else size
        return self._verified_chunks(names.blob_sha256(name), offset, end, chunk_bytes)

    def register(self, sha256: str) -> None:
        """Make a row, with a new grace period, for a file that a crash left without one."""

        def register(connection: sa.Connection) -> None:
            if self.store.has(sha256):
                self._record(connection, sha256, self.store.size(sha256))

        run_write(self._engine, register)

    def refer(self, connection: sa.Connection, name: str, field: str) -> str:
        """The sha256 of a stored blob that the caller's transaction is about to refer to.

        Raises:
            NotFound, InvalidArgument: with `field`.
        """
        sha256 = names.blob_sha256(name, field)
        if not (self._row_exists(connection, sha256) and self.store.has(sha256)):
            raise names.not_found(name, field, "Upload the blob first.")
        return sha256

    def _record(self, connection: sa.Connection, sha256: str, size_bytes: int) -> None:
        now = self._clock()
        touched = connection.execute(
            blobs.update().where(blobs.c.sha256 == sha256).values(keep_until=now + self._grace)
        )
        if touched.rowcount == 0:
            row = {"sha256": sha256, "size_bytes": size_bytes, "create_time": now, "keep_until": now + self._grace}
            connection.execute(blobs.insert().values(row))
        failpoints.hit("blob.recorded")

    @staticmethod
    def _row_exists(connection: sa.Connection, sha256: str) -> bool:
        return connection.execute(sa.select(blobs.c.sha256).where(blobs.c.sha256 == sha256)).first() is not None

    def _verified_chunks(self, sha256: str, offset: int, end: int, chunk_bytes: int) -> Iterator[bytes]:
        digest = hashlib.sha256()
        with self.store.open_read(sha256) as file:
            remaining = offset
            while remaining and (skipped := file.read(min(_READ_BYTES, remaining))):
                digest.update(skipped)
                remaining -= len(skipped)
            held: bytes | None = None
            while offset < end and (chunk := file.read(min(chunk_bytes, end - offset))):
                digest.update(chunk)
                offset += len(chunk)
                if held is not None:
                    yield held
                held = chunk
            while rest := file.read(_READ_BYTES):
                digest.update(rest)
        if digest.hexdigest() != sha256:
            raise corrupt(sha256, digest.hexdigest())
        if held is not None:
            yield held


def release(connection: sa.Connection, sha256: str | None, now: datetime) -> None:
    """End a blob's grace period: the caller's transaction drops a reference to it, and nobody else is expected."""
    if sha256 is not None:
        connection.execute(blobs.update().where(blobs.c.sha256 == sha256).values(keep_until=now))


def _lost(name: str) -> BlobCorrupt:
    return BlobCorrupt(
        f"The file of {name} is lost.",
        remedy="Restore it from a backup, or upload the blob again.",
        metadata={"blob": name},
    )
