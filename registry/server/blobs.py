"""BlobService."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import google_crc32c

from supernet_registry.clients.wire.resources import Upload
from supernet_registry.registry.server.core import Registry
from supernet_registry.registry.server.rpc import Call, Handlers
from supernet_registry.search.errors import InvalidArgument
from supernet_registry.v1 import blobs_pb2 as pb

__all__ = ["BlobHandlers"]


class BlobHandlers(Handlers):
    """Uploads and downloads blobs, chunk by chunk."""

    service = pb.DESCRIPTOR.services_by_name["BlobService"]
    slow = frozenset({"find_missing_blobs", "start_upload"})

    def __init__(self, registry: Registry) -> None:
        self._blobs = registry.catalog.blobs
        self._uploads = registry.catalog.uploads

    def find_missing_blobs(self, request: pb.FindMissingBlobsRequest) -> pb.FindMissingBlobsResponse:
        return pb.FindMissingBlobsResponse(missing_names=self._blobs.find_missing(request.names))

    def start_upload(self, request: pb.StartUploadRequest) -> Upload:
        return self._uploads.start(request.blob, request.size_bytes)

    async def write_blob(self, requests: AsyncIterator[pb.WriteBlobRequest], call: Call) -> Upload:
        name = ""
        upload: Upload | None = None
        async for request in requests:
            name = name or request.upload
            if request.upload not in ("", name):
                raise InvalidArgument(
                    f"The stream began with {name!r}, now it says {request.upload!r}.",
                    field="upload",
                    remedy="Use one stream for each upload.",
                )
            # Acknowledged means on disk: each chunk is stored before the next is taken from the stream.
            upload = await call.pools.slow(
                self._uploads.append, name, request.offset_bytes, request.chunk.content, request.chunk.crc32c
            )
        if upload is None:
            raise InvalidArgument("The stream is empty.", field="upload", remedy="Send at least one chunk.")
        return upload

    def get_upload(self, request: pb.GetUploadRequest) -> Upload:
        return self._uploads.get(request.name)

    async def read_blob(self, request: pb.ReadBlobRequest, call: Call) -> AsyncIterator[pb.ReadBlobResponse]:
        size = await call.pools.slow(self._blobs.size, request.name)
        chunks = await call.pools.slow(
            self._blobs.read_chunks, request.name, offset=request.offset_bytes, limit=request.limit_bytes
        )
        offset = request.offset_bytes
        while (response := await call.pools.slow(_next_response, chunks, offset, size)) is not None:
            yield response
            offset += len(response.chunk.content)
        if offset == request.offset_bytes:
            yield _response(b"", offset, size)  # nothing to send, but the reader still learns the size


def _next_response(chunks: Iterator[bytes], offset: int, size: int) -> pb.ReadBlobResponse | None:
    content = next(chunks, None)
    return None if content is None else _response(content, offset, size)


def _response(content: bytes, offset: int, size: int) -> pb.ReadBlobResponse:
    chunk = pb.Chunk(content=content, crc32c=google_crc32c.value(content))
    return pb.ReadBlobResponse(offset_bytes=offset, size_bytes=size, chunk=chunk)
