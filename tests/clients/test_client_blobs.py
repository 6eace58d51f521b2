"""Uploads and downloads go on where they broke, and nothing damaged is ever accepted."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from supernet_registry import AsyncRegistryClient, RegistryClient
from supernet_registry.clients.channel.blobs import CHUNK_BYTES, _Outgoing, crc32c
from supernet_registry.clients.channel.retry import Backoff, is_outage
from supernet_registry.clients.wire.errors import (
    BlobCorrupt,
    DigestMismatch,
    DiskFull,
    Draining,
    QuotaExceeded,
    SupernetRegistryError,
    Unavailable,
    UploadIncomplete,
    WrongOffset,
)
from supernet_registry.registry.server.status import grpc_code, to_status, trailing_metadata
from supernet_registry.v1 import blobs_pb2 as pb
from supernet_registry.v1.blobs_pb2_grpc import BlobServiceServicer

DATA = bytes(range(256)) * 4 * 4096 + b"end" + bytes(5 * CHUNK_BYTES // 2)  # 4 MiB + 3 + 5 MiB: five chunks


def fail(context: Any, error: SupernetRegistryError) -> None:
    status = to_status(error)
    context.set_trailing_metadata(trailing_metadata(status))
    context.abort(grpc_code(status), status.message)


class Blobs(BlobServiceServicer):
    """A blob service in memory whose streams break after a number of chunks, as often as told."""

    def __init__(self, breaks: int = 0, after_chunks: int = 2, error: SupernetRegistryError | None = None) -> None:
        self.breaks, self.after_chunks = breaks, after_chunks
        self.error = error or Unavailable("The line broke.")
        self.blobs: dict[str, bytes] = {}
        self.parts: dict[str, bytearray] = {}
        self.received: list[tuple[int, int]] = []
        self.damage: Callable[[pb.ReadBlobResponse], None] = lambda _: None

    def _upload(self, blob: str, size: int) -> pb.Upload:
        part = self.parts.setdefault(blob, bytearray())
        if len(part) == size and blob == f"blobs/{hashlib.sha256(part).hexdigest()}":
            self.blobs[blob] = bytes(part)
        complete = blob in self.blobs
        return pb.Upload(
            name=f"uploads/{blob}", blob=blob, size_bytes=size, persisted_size_bytes=len(part), complete=complete
        )

    def StartUpload(self, request: pb.StartUploadRequest, context: Any) -> pb.Upload:  # noqa: N802
        return self._upload(request.blob, request.size_bytes)

    def WriteBlob(self, requests: Iterator[pb.WriteBlobRequest], context: Any) -> pb.Upload:  # noqa: N802
        name = ""
        for count, request in enumerate(requests):
            name = name or request.upload.removeprefix("uploads/")
            part = self.parts[name]
            assert request.offset_bytes == len(part)
            assert crc32c(request.chunk.content) == request.chunk.crc32c
            if self.breaks > 0 and count == self.after_chunks:
                self.breaks -= 1
                fail(context, self.error)
            part += request.chunk.content
            self.received.append((request.offset_bytes, len(request.chunk.content)))
        return self._upload(name, len(self.parts[name]))

    def ReadBlob(self, request: pb.ReadBlobRequest, context: Any) -> Iterator[pb.ReadBlobResponse]:  # noqa: N802
        data = self.blobs[request.name]
        self.received.append((request.offset_bytes, 0))
        for count, offset in enumerate(range(request.offset_bytes, max(len(data), 1), CHUNK_BYTES)):
            if self.breaks > 0 and count == self.after_chunks:
                self.breaks -= 1
                fail(context, self.error)
            content = data[offset : offset + CHUNK_BYTES]
            response = pb.ReadBlobResponse(
                offset_bytes=offset,
                size_bytes=len(data),
                chunk=pb.Chunk(content=content, crc32c=crc32c(content)),
            )
            self.damage(response)
            yield response

    def hold(self, data: bytes) -> str:
        name = f"blobs/{hashlib.sha256(data).hexdigest()}"
        self.blobs[name] = data
        return name


@pytest.mark.parametrize("data", [b"", b"x", bytes(CHUNK_BYTES), DATA], ids=["empty", "one byte", "one chunk", "five"])
def test_bytes_go_up_and_come_down_again(data: bytes, serve: Callable[..., str]) -> None:
    """Also blobs that fill their chunks exactly, and the empty one."""
    with RegistryClient(serve(Blobs())) as client:
        assert client.download_blob(client.upload_blob(data)) == data


def test_a_broken_upload_resumes_without_sending_anything_stored_again(serve: Callable[..., str]) -> None:
    """Two breaks: every chunk is received once, in order."""
    servicer = Blobs(breaks=2, after_chunks=1)
    with RegistryClient(serve(servicer)) as client:
        name = client.upload_blob(DATA)
    assert servicer.blobs[name] == DATA
    offsets = [offset for offset, _ in servicer.received]
    assert offsets == sorted(set(offsets))


def test_a_file_goes_up_without_being_loaded_whole(tmp_path: Path, serve: Callable[..., str]) -> None:
    """From disk, chunk by chunk; progress ends at the size."""
    path = tmp_path / "blob"
    path.write_bytes(DATA)
    told: list[tuple[int, int]] = []
    servicer = Blobs(breaks=1)
    with RegistryClient(serve(servicer)) as client:
        name = client.upload_blob(path, progress=lambda done, total: told.append((done, total)))
    assert servicer.blobs[name] == DATA
    assert told[-1] == (len(DATA), len(DATA))
    assert all(0 <= done <= total == len(DATA) for done, total in told)


def test_what_the_registry_has_is_not_sent(serve: Callable[..., str]) -> None:
    """StartUpload answers `complete`, and that is all."""
    servicer = Blobs()
    servicer.hold(DATA)
    with RegistryClient(serve(servicer)) as client:
        client.upload_blob(DATA)
    assert servicer.received == []


@pytest.mark.parametrize("error", [DiskFull("full"), QuotaExceeded("q"), DigestMismatch("d")], ids=lambda e: e.reason)
def test_a_refusal_ends_the_upload_at_once(error: SupernetRegistryError, serve: Callable[..., str]) -> None:
    """Only outages and wrong offsets are worth another attempt."""
    servicer = Blobs(breaks=99, error=error)
    with RegistryClient(serve(servicer)) as client, pytest.raises(type(error)):
        client.upload_blob(DATA)
    assert servicer.breaks == 98


def test_a_wrong_offset_is_mended_by_asking_where_to_go_on(serve: Callable[..., str]) -> None:
    """As after a retry by a proxy."""
    servicer = Blobs(breaks=1, error=WrongOffset("not there"))
    with RegistryClient(serve(servicer)) as client:
        assert servicer.blobs[client.upload_blob(DATA)] == DATA


def test_attempts_without_progress_are_bounded() -> None:
    """Failures in a row end in the error; progress in between starts the count afresh."""
    backoff = Backoff(max_attempts=3)
    error = Unavailable("away")
    for _ in range(5):
        backoff.wait_after(error)
        backoff.wait_after(error)
        backoff.progress()
    backoff.wait_after(error)
    backoff.wait_after(error)
    with pytest.raises(Unavailable):
        backoff.wait_after(error)


def test_the_wait_grows_and_respects_the_server() -> None:
    """Doubling with jitter; a server's `retry_after_s` is the least."""
    backoff = Backoff(max_attempts=99, initial_s=1, max_s=4)
    waits = [backoff.wait_after(Unavailable("away")) for _ in range(5)]
    assert all(low <= wait <= high for wait, low, high in zip(waits, [0.5, 1, 2, 2, 2], [1, 2, 4, 4, 4], strict=True))
    assert backoff.wait_after(Draining("bye", retry_after_s=30)) == 30
    assert is_outage(Draining("bye"))
    assert not is_outage(DiskFull("full"))


def test_a_broken_download_resumes_at_its_offset(serve: Callable[..., str]) -> None:
    """The second stream begins where the first one stopped."""
    servicer = Blobs(breaks=1, after_chunks=2)
    name = servicer.hold(DATA)
    with RegistryClient(serve(servicer)) as client:
        assert client.download_blob(name) == DATA
    assert [offset for offset, _ in servicer.received] == [0, 2 * CHUNK_BYTES]


def test_a_stream_that_ends_early_in_order_is_resumed_too(serve: Callable[..., str]) -> None:
    """A server may close a stream before its end without an error."""

    class Short(Blobs):
        def ReadBlob(self, request: pb.ReadBlobRequest, context: Any) -> Iterator[pb.ReadBlobResponse]:  # noqa: N802
            yield next(super().ReadBlob(request, context))

    servicer = Short()
    name = servicer.hold(DATA)
    with RegistryClient(serve(servicer)) as client:
        assert client.download_blob(name) == DATA


def test_a_damaged_chunk_is_refused(serve: Callable[..., str]) -> None:
    """One flipped bit against the chunk's crc32c."""
    servicer = Blobs()
    name = servicer.hold(b"weights")

    def flip(response: pb.ReadBlobResponse) -> None:
        response.chunk.content = b"weightz"

    servicer.damage = flip
    with RegistryClient(serve(servicer)) as client, pytest.raises(BlobCorrupt):
        client.download_blob(name)


def test_bytes_of_another_digest_are_refused(serve: Callable[..., str]) -> None:
    """All chunks are sound, and yet it is not the blob that was asked for."""
    servicer = Blobs()
    name = servicer.hold(b"weights")
    servicer.blobs[name] = b"others!"
    with RegistryClient(serve(servicer)) as client, pytest.raises(DigestMismatch):
        client.download_blob(name)


def test_chunks_out_of_order_are_refused(serve: Callable[..., str]) -> None:
    """A gap must not be closed silently."""
    servicer = Blobs()
    name = servicer.hold(DATA)

    def shift(response: pb.ReadBlobResponse) -> None:
        response.offset_bytes += 1

    servicer.damage = shift
    with RegistryClient(serve(servicer)) as client, pytest.raises(BlobCorrupt):
        client.download_blob(name)


def test_a_failed_download_leaves_no_file(tmp_path: Path, serve: Callable[..., str]) -> None:
    """A file appears only when it is whole; an older one stays as it was."""
    servicer = Blobs()
    good, bad = servicer.hold(DATA), servicer.hold(b"weights")
    servicer.blobs[bad] = b"others!"
    target = tmp_path / "weights.safetensors"
    with RegistryClient(serve(servicer)) as client:
        with pytest.raises(DigestMismatch):
            client.download_blob_to(bad, target)
        assert list(tmp_path.iterdir()) == []
        assert client.download_blob_to(good, target).read_bytes() == DATA
        with pytest.raises(DigestMismatch):
            client.download_blob_to(bad, target)
    assert [path.name for path in tmp_path.iterdir()] == [target.name]
    assert target.read_bytes() == DATA


def test_the_asynchronous_client_resumes_as_well(tmp_path: Path, serve: Callable[..., str]) -> None:
    """Same states, other loop."""
    servicer = Blobs(breaks=2, after_chunks=1)
    path = tmp_path / "copy"

    async def run(address: str) -> bytes:
        async with AsyncRegistryClient(address) as client:
            name = await client.upload_blob(DATA)
            servicer.breaks = 2
            await client.download_blob_to(name, path)
            return await client.download_blob(name)

    assert asyncio.run(run(serve(servicer))) == path.read_bytes() == DATA


def test_a_refusal_reaches_the_asynchronous_client_however_early_it_comes(serve: Callable[..., str]) -> None:
    """grpc.aio says INTERNAL in about half of such calls: its own failed write hides the server's error."""

    class Full(Blobs):
        def WriteBlob(self, requests: Iterator[pb.WriteBlobRequest], context: Any) -> pb.Upload:  # noqa: N802
            fail(context, DiskFull("full"))
            raise AssertionError

    async def run(address: str) -> None:
        async with AsyncRegistryClient(address) as client:
            for _ in range(20):
                with pytest.raises(DiskFull):
                    await client.upload_blob(DATA)

    asyncio.run(run(serve(Full())))


def test_cancelling_an_asynchronous_upload_ends_its_call(serve: Callable[..., str]) -> None:
    """The server is told: it does not wait for the rest until the deadline."""
    reached, ended = threading.Event(), threading.Event()

    class Waiting(Blobs):
        def WriteBlob(self, requests: Iterator[pb.WriteBlobRequest], context: Any) -> pb.Upload:  # noqa: N802
            context.add_callback(ended.set)
            next(requests)
            reached.set()
            ended.wait(60)
            return pb.Upload()

    async def run(address: str) -> None:
        async with AsyncRegistryClient(address) as client:
            upload = asyncio.create_task(client.upload_blob(DATA))
            assert await asyncio.to_thread(reached.wait, 60)
            upload.cancel()
            with pytest.raises(asyncio.CancelledError):
                await upload
            assert await asyncio.to_thread(ended.wait, 60)

    asyncio.run(run(serve(Waiting())))


def test_the_thread_of_a_failed_attempt_does_not_move_the_file_under_the_next() -> None:
    """Both read the same file; gRPC's threads end some time after their calls."""
    with _Outgoing(DATA, None) as blob:
        stale, current = blob.requests(), blob.requests()
        sent = b""
        for request in current:
            sent += request.chunk.content
            next(stale, None)
        left = blob.requests()
    assert sent == DATA
    assert list(left) == []  # the file is closed: nothing to send, and no error in a thread


def test_an_upload_that_the_registry_never_completes_ends_in_an_error(
    serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that takes all bytes and still says "not complete" is not asked for ever."""

    class Forgetful(Blobs):
        def WriteBlob(self, requests: Iterator[pb.WriteBlobRequest], context: Any) -> pb.Upload:  # noqa: N802
            for _ in requests:
                pass
            return pb.Upload(name="uploads/x", size_bytes=7)

    monkeypatch.setattr("time.sleep", lambda _: None)
    with RegistryClient(serve(Forgetful())) as client, pytest.raises(UploadIncomplete):
        client.upload_blob(b"weights")
