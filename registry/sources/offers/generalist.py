"""The registry's generalist as a source: the newest one that passes the gates is offered for every target.

A generalist has no place in the ranking by distance: it learnt several datasets, and what it is worth to a target is
not told by how near one of them lies. So it is offered beside the ranking, after it, and takes nobody's place. No
transport is computed for it: its distance is the least of those that are known anyway.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from supernet_registry.clients.wire.resources import SourceCandidate, SupernetVersion
from supernet_registry.registry.catalog.distances import pair
from supernet_registry.registry.lru import LruCache
from supernet_registry.registry.sources.candidates import LearntDataset, generalist_candidate
from supernet_registry.registry.sources.offers.offer import Offer, Wanted
from supernet_registry.search.errors import SupernetRegistryError

if TYPE_CHECKING:
    from supernet_registry.registry.catalog import Catalog
    from supernet_registry.registry.sources.stored_sketches import StoredSketches

__all__ = ["GeneralistOffer"]

_log = logging.getLogger(__name__)

_MOST_TRIED = 20
"""Newest generalists looked at for an eligible one."""
_MOST_VERSIONS = 1000


class GeneralistOffer(Offer):
    """Finds it.

    Args:
        catalog: where generalists, their datasets and known distances are.
        sketches: of the stored datasets.
    """

    def __init__(self, catalog: Catalog, sketches: StoredSketches) -> None:
        self._catalog = catalog
        self._sketches = sketches
        self._versions: LruCache[int, SupernetVersion] = LruCache(_MOST_VERSIONS)

    def candidates(self, wanted: Wanted) -> list[SourceCandidate]:
        """The newest eligible generalist, else the newest with the reason that bars it; nothing if there is none."""
        space, newest = wanted.space, None
        for row in self._catalog.sources.generalist_rows(space.id if space else "", limit=_MOST_TRIED):
            try:
                candidate = self._candidate(row, wanted)
            except SupernetRegistryError as error:  # one damaged sketch must not fail the query
                _log.warning("a generalist is left out of a nearest-source query: %s", error)
                continue
            if candidate is not None and candidate.eligible:
                return [candidate]
            newest = newest or candidate
        return [newest] if newest is not None else []

    def _candidate(self, row: int, wanted: Wanted) -> SourceCandidate | None:
        version = self._version(row)
        if version is None:
            return None  # deleted since
        target_digest = wanted.target.digest
        datasets = self._catalog.datasets.get_many(version.datasets)
        digests = {dataset.sketch_digest for dataset in datasets.values()}
        known = {**self._catalog.distances.cached_distances(digests | {target_digest}), **wanted.computed}
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
                    embedding_distance=wanted.embedding_distances.get(dataset.name),
                    ot_distance=distance.value if distance else None,
                    ot_converged=distance.converged if distance else False,
                )
            )
        return generalist_candidate(version, learnt, wanted.space)

    def _version(self, row: int) -> SupernetVersion | None:
        """A version never changes; only whether it is a head does, which does not matter here."""
        version = self._versions.get(row)
        if version is None:
            version = self._catalog.sources.versions_by_row([row]).get(row)
            if version is not None:
                self._versions.put(row, version)
        return version
