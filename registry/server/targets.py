"""The dataset that a request asks about: a registered one, or a sketch that comes with it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from supernet_registry.registry.lru import LruCache
from supernet_registry.registry.server.core import Registry
from supernet_registry.registry.transport.solver import with_digest
from supernet_registry.search.errors import InvalidArgument, InvalidSketch
from supernet_registry.search.similarity import MAX_SKETCH_BYTES, Sketch
from supernet_registry.v1 import datasets_pb2 as pb

__all__ = ["Target", "TargetReader"]

_SKETCH_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """What a request asks about."""

    sketch: Sketch
    embedding: NDArray[np.float32] | None = None
    """As stored, shape (512,), where it was read on the way."""


class TargetReader:
    """Reads targets; the sketches that were asked for last stay parsed. Thread-safe."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._datasets = registry.catalog.datasets
        self._parsed: LruCache[str, Sketch] = LruCache(_SKETCH_BYTES)
        """By the sha256 of their bytes; they are of this registry's encoder."""

    def read(self, request: pb.QueryNearestSourcesRequest | pb.MapDatasetsRequest) -> Target:
        """The target of a request.

        Raises:
            NotFound: no such dataset or blob.
            InvalidArgument, InvalidSketch, NotFinite: there is no target, or it is no sketch.
            EncoderMismatch, DimensionMismatch: it was made with another encoder.
            BlobCorrupt: the stored sketch is damaged.
        """
        match request.WhichOneof("target"):
            case "dataset":
                return self._registered(request.dataset)
            case "sketch_blob" if sketch := self._parsed.get(request.sketch_blob.removeprefix("blobs/")):
                return Target(sketch)
            case _:
                data = self.sketch_bytes(request, "target")
                digest = hashlib.sha256(data).hexdigest()
                return Target(self._parsed.get(digest) or self._parse(data, digest, field="sketch"))

    def sketch_bytes(
        self, request: pb.CreateDatasetRequest | pb.QueryNearestSourcesRequest | pb.MapDatasetsRequest, oneof: str
    ) -> bytes:
        """The bytes of a sketch that is given as bytes or as a blob, not parsed yet. Raises as `read`."""
        match request.WhichOneof(oneof):  # type: ignore[arg-type]  # each request has a oneof of its own name
            case "sketch":
                return request.sketch
            case "sketch_blob":
                size = self._registry.catalog.blobs.size(request.sketch_blob)
                if size > MAX_SKETCH_BYTES:
                    raise InvalidSketch(
                        f"{request.sketch_blob} has {size} bytes; a sketch has at most {MAX_SKETCH_BYTES}.",
                        field="sketch_blob",
                        remedy="Make the sketch with fewer points.",
                    )
                return self._registry.catalog.blobs.read(request.sketch_blob)
            case _:
                raise InvalidArgument("A sketch is required.", field="sketch", remedy="Set sketch or sketch_blob.")

    def _registered(self, name: str) -> Target:
        digest = self._datasets.get(name).sketch_digest
        if (sketch := self._parsed.get(digest)) is not None:
            return Target(sketch)
        sketch = self._parse(self._datasets.sketch_bytes(name), digest, field="dataset")
        embedding_id, embedding = self._registry.catalog.embeddings.embedding(name)
        return Target(with_digest(sketch, digest), embedding if embedding_id == self._registry.embedding_id else None)

    def _parse(self, data: bytes, sha256: str, *, field: str) -> Sketch:
        sketch = self._registry.read_sketch(data, field=field)
        self._parsed.put(sha256, sketch, weight=len(data))
        return sketch
