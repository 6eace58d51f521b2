"""One exact transport of a nearest-source query, wherever it is computed: in the server or in a process of its pool."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from supernet_registry.search.similarity import Sketch, otdd
from supernet_registry.search.similarity.coupling import exact_plan

__all__ = ["Solution", "solve", "stored_sketch", "warm_up", "with_digest"]


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """What a query needs of a transport."""

    distance: float
    """√OTDD."""
    converged: bool
    """Whether the distance is proven; otherwise it is an upper bound."""
    class_coupling: NDArray[np.float64]
    """Mass moved between classes, (k_target, k_source)."""


def solve(target: Sketch, source: Sketch) -> Solution:
    """The exact distance. Raises EncoderMismatch and DimensionMismatch, see `otdd`."""
    result = otdd(target, source)
    return Solution(result.distance, result.converged, result.class_coupling)


def warm_up() -> None:
    """Import what the first transport would otherwise wait for: POT, which takes seconds."""
    exact_plan(np.ones(1), np.ones(1), np.zeros((1, 1)))


def stored_sketch(data: bytes, digest: str) -> Sketch:
    """Parse a sketch whose digest is known already: of a stored one it is the blob's, which reading it has verified.

    Raises:
        InvalidSketch, DimensionMismatch, NotFinite: see `Sketch.from_bytes`.
    """
    return with_digest(Sketch.from_bytes(data), digest)


def with_digest(sketch: Sketch, digest: str) -> Sketch:
    """The same sketch, which is spared packing and hashing itself to learn its digest."""
    sketch.__dict__["digest"] = digest  # where `cached_property` keeps it
    return sketch
