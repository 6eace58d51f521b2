"""Uploads and downloads of blobs: chunks of 2 MiB with a crc32c each, a sha256 for the whole, resumed where they broke.

gRPC cannot retry a stream once its messages have left the retry buffer, so the loop is ours: after a failure the
registry is asked how much it has safely stored, and the rest is sent. The states (`_Outgoing`, `_Incoming`) know
nothing of channels; a synchronous and an asynchronous loop drive them.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from io import BytesIO
from pathlib import Path
from typing import IO, BinaryIO

import google_crc32c

from supernet_registry.clients.channel import calls as _wire
from supernet_registry.clients.channel.connection import AsyncConnection, Connection
from supernet_registry.clients.channel.retry import Backoff
from supernet_registry.clients.wire.errors import BlobCorrupt, DigestMismatch, SupernetRegistryError, UploadIncomplete
from supernet_registry.clients.wire.resources import Upload
from supernet_registry.v1 import blobs_pb2

__all__ = ["CHUNK_BYTES", "Progress", "blob_name", "crc32c"]

CHUNK_BYTES = 2 * 2**20
"""Bytes a chunk: below the 4 MiB message limit, and the fastest size on loopback."""

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all); for uploads from a thread of gRPC."""


def blob_name(digest: str) -> str:
    """Resource name of the blob with this sha256 (hexadecimal)."""
    return f"blobs/{digest}"


def crc32c(content: bytes) -> int:
    """CRC32C (Castagnoli) of a chunk."""
    return int(google_crc32c.value(content))


# Upload --------------------------------------------------------------------------------------------------------------


class _Outgoing(AbstractContextManager["_Outgoing"]):
    """A blob on its way to the registry: what it is, how much has arrived, what to send next."""

    def __init__(self, data: bytes | Path, progress: Progress | None) -> None:
        self._file: IO[bytes] = data.open("rb") if isinstance(data, Path) else BytesIO(data)
        self._reading = threading.Lock()
        self.name = blob_name(hashlib.file_digest(self._file, "sha256").hexdigest())
        self.size_bytes = self._file.seek(0, os.SEEK_END)
        self.backoff = Backoff()
        self.complete = False
        self._persisted = 0
        self._upload = ""
        self._progress = progress

    def __exit__(self, *_: object) -> None:
        with self._reading:
            self._file.close()

    def accept(self, upload: Upload) -> None:
        """Take note of what the registry has stored."""
        if upload.complete or upload.persisted_size_bytes > self._persisted:
            self.backoff.progress()
        self._upload, self._persisted, self.complete = upload.name, upload.persisted_size_bytes, upload.complete
        self._tell(self.size_bytes if upload.complete else self._persisted)

    def require_progress(self) -> None:
        """Called after a stream that ended well: the blob should be complete now."""
        if not self.complete:
            raise UploadIncomplete(
                f"The registry has {self._persisted} of {self.size_bytes} bytes of {self.name}.",
                remedy="Upload it again; the upload goes on where it stopped.",
            )

    def requests(self) -> Iterator[blobs_pb2.WriteBlobRequest]:
        """The chunks from the persisted size on; the first message names the upload."""
        offset = self._persisted
        first = True
        while first or offset < self.size_bytes:
            # The thread of a call that has failed may still ask for a chunk, while the next call asks for its own.
            with self._reading:
                if self._file.closed:
                    return
                self._file.seek(offset)
                content = self._file.read(CHUNK_BYTES)
            yield blobs_pb2.WriteBlobRequest(
                upload=self._upload if first else "",
                offset_bytes=offset,
                chunk=blobs_pb2.Chunk(content=content, crc32c=crc32c(content)),
            )
            first = False
            if not content:  # the file shrank under us: the registry will say UPLOAD_INCOMPLETE
                return
            offset += len(content)
            self._tell(offset)

    def _tell(self, done: int) -> None:
        if self._progress is not None:
            self._progress(done, self.size_bytes)


def upload(connection: Connection, data: bytes | Path, progress: Progress | None) -> str:
    """Upload `data` unless the registry has it. Returns the blob's name."""
    with _Outgoing(data, progress) as blob:
        while True:
            try:
                blob.accept(connection.invoke(_wire.start_upload(blob.name, blob.size_bytes)))
                if not blob.complete:
                    blob.accept(connection.write(_wire.write_blob(), blob.requests()))
                    blob.require_progress()
            except SupernetRegistryError as error:
                time.sleep(blob.backoff.wait_after(error))
            else:
                return blob.name


async def upload_async(connection: AsyncConnection, data: bytes | Path, progress: Progress | None) -> str:
    """Upload `data` unless the registry has it. Returns the blob's name."""
    with await asyncio.to_thread(_Outgoing, data, progress) as blob:
        while True:
            try:
                blob.accept(await connection.invoke(_wire.start_upload(blob.name, blob.size_bytes)))
                if not blob.complete:
                    blob.accept(await connection.write(_wire.write_blob(), blob.requests()))
                    blob.require_progress()
            except SupernetRegistryError as error:
                await asyncio.sleep(blob.backoff.wait_after(error))
            else:
                return blob.name


# Download ------------------------------------------------------------------------------------------------------------


class _Incoming:
    """A blob on its way from the registry into `sink`, checked chunk by chunk and as a whole."""

    def __init__(self, name: str, sink: BinaryIO, progress: Progress | None) -> None:
        self.name = name
        self.offset = 0
        self.backoff = Backoff()
        self._size: int | None = None
        self._sink = sink
        self._hash = hashlib.sha256()
        self._progress = progress

    def call(self) -> _wire.Call[blobs_pb2.ReadBlobResponse]:
        """The call that reads the rest."""
        return _wire.read_blob(self.name, self.offset)

    def accept(self, response: blobs_pb2.ReadBlobResponse) -> None:
        """Check and store one chunk. Raises BlobCorrupt."""
        content = response.chunk.content
        if crc32c(content) != response.chunk.crc32c:
            raise BlobCorrupt(
                f"A chunk of {self.name} at byte {self.offset} was damaged on its way.", remedy="Download it again."
            )
        if response.offset_bytes != self.offset or self._size not in (None, response.size_bytes):
            raise BlobCorrupt(
                f"{self.name} arrived out of order: byte {response.offset_bytes} where {self.offset} was due.",
                remedy="Download it again; if that happens twice, look into the server's log.",
            )
        self._size = response.size_bytes
        self._sink.write(content)
        self._hash.update(content)
        self.offset += len(content)
        self.backoff.progress()
        if self._progress is not None:
            self._progress(self.offset, self._size)

    @property
    def complete(self) -> bool:
        """Whether all bytes are here; a stream that broke after the last one needs no other."""
        return self._size is not None and self.offset >= self._size

    def ended(self, error: SupernetRegistryError | None) -> float | None:
        """A stream ended, well or with `error`. None: the blob is here. Else seconds until the next attempt.

        Raises DigestMismatch, or `error` where another attempt is pointless.
        """
        if not self.complete and (error is not None or self._size is not None):
            return self.backoff.wait_after(error or UploadIncomplete(f"The stream of {self.name} ended early."))
        if blob_name(self._hash.hexdigest()) != self.name:
            raise DigestMismatch(
                f"The {self.offset} bytes received for {self.name} have another sha256.",
                remedy="Download it again; if that happens twice, restore the blob in the registry.",
                field="name",
            )
        return None


def download(connection: Connection, name: str, sink: BinaryIO, progress: Progress | None) -> None:
    """Write a blob into `sink`, resuming broken streams."""
    blob = _Incoming(name, sink, progress)
    while True:
        failure: SupernetRegistryError | None = None
        try:
            for response in connection.read(blob.call()):
                blob.accept(response)
        except SupernetRegistryError as error:
            failure = error
        wait_s = blob.ended(failure)
        if wait_s is None:
            return
        time.sleep(wait_s)


async def download_async(connection: AsyncConnection, name: str, sink: BinaryIO, progress: Progress | None) -> None:
    """Write a blob into `sink`, resuming broken streams."""
    blob = _Incoming(name, sink, progress)
    while True:
        failure: SupernetRegistryError | None = None
        try:
            async for response in connection.read(blob.call()):
                # Hashing 2 MiB takes milliseconds: too long for an event loop that others share.
                await asyncio.to_thread(blob.accept, response)
        except SupernetRegistryError as error:
            failure = error
        wait_s = blob.ended(failure)
        if wait_s is None:
            return
        await asyncio.sleep(wait_s)


class IncomingFile(AbstractContextManager[BinaryIO]):
    """A temporary file beside `path` that takes its place when all went well, and disappears otherwise."""

    def __init__(self, path: Path) -> None:
        self._path = path
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        self._temporary = Path(temporary)
        self.file: BinaryIO = os.fdopen(descriptor, "wb")

    def __enter__(self) -> BinaryIO:
        return self.file

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.commit()
        else:
            self.discard()

    def commit(self) -> None:
        """Make it durable and let it take its place."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        self._temporary.replace(self._path)

    def discard(self) -> None:
        """Remove it."""
        self.file.close()
        self._temporary.unlink()
