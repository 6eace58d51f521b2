"""One exact transport of a nearest-source query, wherever it is computed: in the server or in a process of its pool."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search.similarity import Sketch, TransportProblem
from search.similarity.coupling import exact_plan

__all__ = ["Solution", "exceeds", "solve", "stored_sketch", "warm_up", "with_digest"]

_MARGIN = 1e-4
"""Share by which a bound must lie above a limit: far more than rounding, far less than bounds are off."""


def exceeds(bound: float, limit: float) -> bool:
    """Whether a lower bound proves, in spite of rounding, that a distance is above a limit."""
    return bound * (1.0 - _MARGIN) > limit


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """What became of one transport: its distance, or the proof that it lies beyond a limit."""

    distance: float | None
    """√OTDD; None where `lower_bound` shows that it is above the limit."""
    converged: bool
    """Whether the distance is proven; otherwise it is an upper bound."""
    lower_bound: float
    """What the distance cannot fall below; 0 if there was no limit to compare it with."""
    class_coupling: NDArray[np.float64]
    """Mass moved between classes, (k_target, k_source); (0, 0) without a distance."""


def solve(target: Sketch, source: Sketch, *, stop_above: float = math.inf) -> Solution:
    """The distance of a source; only a bound, at a quarter of the time, where that is enough.

    Args:
        stop_above: limit beyond which a distance is of no interest.

    Raises:
        EncoderMismatch, DimensionMismatch: see `TransportProblem`.
    """
    problem = TransportProblem(target, source)
    bound = problem.lower_bound() if math.isfinite(stop_above) else 0.0
    if exceeds(bound, stop_above):
        return Solution(None, converged=False, lower_bound=bound, class_coupling=np.zeros((0, 0)))
    result = problem.solve()
    return Solution(result.distance, result.converged, bound, result.class_coupling)


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
