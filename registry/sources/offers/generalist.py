"""The registry's generalist as a source: the newest one that passes the gates is offered for every target.

A generalist has no place in the ranking by distance: it learnt several datasets, and what it is worth to a target is
not told by how near one of them lies. So it is offered beside the ranking, after it, and takes nobody's place. No
transport is computed for it: its distance is the least of those that are known anyway.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from supernet_registry.clients.wire.resources import SourceCandidate, SupernetVersion
from supernet_registry.registry.catalog.datasets import Datasets
from supernet_registry.registry.catalog.distances import Distance, Pair, pair
from supernet_registry.registry.lru import LruCache
from supernet_registry.registry.sources.candidates import LearntDataset, generalist_candidate
from supernet_registry.registry.sources.stored_sketches import StoredSketches
from supernet_registry.search.errors import SupernetRegistryError
from supernet_registry.search.spaces import SearchSpace

__all__ = ["GeneralistSource"]

_log = logging.getLogger(__name__)

_MOST_TRIED = 20
"""Newest generalists looked at for an eligible one."""
_MOST_VERSIONS = 1000


class GeneralistSource:
    """Finds it. Thread-safe.

    Args:
        datasets: the catalog's datasets.
        sketches: of the stored datasets.
    """

    def __init__(self, datasets: Datasets, sketches: StoredSketches) -> None:
        self._datasets = datasets
        self._sketches = sketches
        self._versions: LruCache[int, SupernetVersion] = LruCache(_MOST_VERSIONS)

    def offer(
        self,
        target_digest: str,
        space: SearchSpace | None,
        computed: Mapping[Pair, Distance],
        embedding_distances: Mapping[str, float],
    ) -> SourceCandidate | None:
        """The newest eligible generalist, else the newest with the reason that bars it; None if there is none.

        Args:
            target_digest: of the target's sketch.
            space: the target's search space; None for any.
            computed: distances that the cache may not have yet.
            embedding_distances: by dataset, as far as they are known.
        """
        newest = None
        for row in self._datasets.generalist_rows(space.id if space else "", limit=_MOST_TRIED):
            try:
                candidate = self._candidate(row, target_digest, space, computed, embedding_distances)
            except SupernetRegistryError as error:  # one damaged sketch must not fail the query
                _log.warning("a generalist is left out of a nearest-source query: %s", error)
                continue
            if candidate is not None and candidate.eligible:
                return candidate
            newest = newest or candidate
        return newest

    def _candidate(
        self,
        row: int,
        target_digest: str,
        space: SearchSpace | None,
        computed: Mapping[Pair, Distance],
        embedding_distances: Mapping[str, float],
    ) -> SourceCandidate | None:
        version = self._version(row)
        if version is None:
            return None  # deleted since
        datasets = self._datasets.get_many(version.datasets)
        digests = {dataset.sketch_digest for dataset in datasets.values()}
        known = {**self._datasets.cached_distances(digests | {target_digest}), **computed}
        learnt = []
        for dataset in datasets.values():
            facts = self._sketches.facts(dataset.sketch_digest)
            distance = known.get(pair(target_digest, dataset.sketch_digest))
            learnt.append(
                LearntDataset(
                    dataset=dataset,
                    same_dataset=dataset.sketch_digest == target_digest,
                    chance=facts.chance,
                    moments_only=facts.moments_only,
                    embedding_distance=embedding_distances.get(dataset.name),
                    ot_distance=distance.value if distance else None,
                    ot_converged=distance.converged if distance else False,
                )
            )
        return generalist_candidate(version, learnt, space)

    def _version(self, row: int) -> SupernetVersion | None:
        """A version never changes; only whether it is a head does, which does not matter here."""
        version = self._versions.get(row)
        if version is None:
            version = self._datasets.versions_by_row([row]).get(row)
            if version is not None:
                self._versions.put(row, version)
        return version
