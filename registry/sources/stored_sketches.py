"""Sketches of stored datasets, parsed; the most recently used ones stay in memory."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from supernet_registry.registry.lru import LruCache
from supernet_registry.registry.storage.blobs.store import BlobStore, corrupt
from supernet_registry.registry.transport.solver import stored_sketch
from supernet_registry.search.similarity import Sketch

__all__ = ["SketchFacts", "StoredSketches"]

_SKETCH_BYTES = 256 << 20
_MOST_FACTS = 1_000_000


@dataclass(frozen=True, slots=True)
class SketchFacts:
    """What a candidate's reasons need of a sketch: so little that it is kept for far more datasets than sketches."""

    chance: float
    """Share of the largest class."""
    moments_only: bool


class StoredSketches:
    """Read by their digests, straight from the blob store. Thread-safe."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._sketches: LruCache[str, Sketch] = LruCache(_SKETCH_BYTES)
        self._facts: LruCache[str, SketchFacts] = LruCache(_MOST_FACTS)

    def get(self, digest: str) -> Sketch:
        """A sketch.

        Raises:
            NotFound: it is not stored (any more).
            BlobCorrupt, InvalidSketch, DimensionMismatch, NotFinite: it is damaged.
        """
        sketch = self._sketches.get(digest)
        if sketch is None:
            with self._store.open_read(digest) as file:
                data = file.read()
            found = hashlib.sha256(data).hexdigest()
            if found != digest:
                raise corrupt(digest, found)
            sketch = stored_sketch(data, digest)
            self._sketches.put(digest, sketch, weight=len(data))
        return sketch

    def facts(self, digest: str) -> SketchFacts:
        """What reasons need of a sketch. Raises as `get`."""
        facts = self._facts.get(digest)
        if facts is None:
            sketch = self.get(digest)
            chance = float(sketch.class_counts.max() / sketch.class_counts.sum())
            facts = SketchFacts(chance, sketch.moments_only)
            self._facts.put(digest, facts)
        return facts
