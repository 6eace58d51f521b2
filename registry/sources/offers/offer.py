"""What an offer is: another origin of candidates, besides the distance of a dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from supernet_registry.clients.wire.resources import SourceCandidate
from supernet_registry.registry.catalog.distances import Distance, Pair
from supernet_registry.search.similarity import Sketch
from supernet_registry.search.spaces import SearchSpace

__all__ = ["Offer", "Wanted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is known of a query once its candidates are ranked."""

    target: Sketch
    space: SearchSpace | None
    """The target's search space; None for any."""
    ranked: Sequence[SourceCandidate]
    """What was found by distance, the nearest first."""
    computed: Mapping[Pair, Distance]
    """Distances of this query that the catalog may not have yet."""
    embedding_distances: Mapping[str, float]
    """Of the target from the shortlisted datasets, by name."""


class Offer(Protocol):
    """Adds candidates to every query. Thread-safe.

    They are listed after the ranking, beyond `top_k`, and change nothing in it; a search tastes the eligible ones
    beside the nearest. Their `origin` is the name that the offer is registered by.
    """

    def candidates(self, wanted: Wanted) -> Sequence[SourceCandidate]:
        """What the offer adds, the best first; usually nothing or one."""
