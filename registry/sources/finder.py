"""The nearest-source query: a FAISS shortlist over embeddings, re-ranked by exact optimal transport.

The shortlist is cheap and approximate, the re-rank exact and a hundred times dearer; so exact distances are cached in
the catalog by the digests of the two sketches; those that cannot change the answer are not computed
(`registry.sources.rerank`), the others in a bounded pool (`registry.transport.pool`), and given up one by one when the
caller's deadline comes: the answer then says `partial`. What a distance means for a version (gates, ranks, ties,
novelty) is in `registry.sources.candidates`. Other origins of candidates are listed after the ranking
(`registry.sources.offers`); what else is known of a candidate's worth is said beside it (`registry.sources.signals`).
"""

from __future__ import annotations

import concurrent.futures
import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from supernet_registry.clients.wire.resources import ClassCoupling, NearestSources, SourceCandidate
from supernet_registry.registry.catalog import Catalog
from supernet_registry.registry.catalog.distances import Distance, Pair
from supernet_registry.registry.catalog.sources import SourceStamp
from supernet_registry.registry.index.embedding_index import EmbeddingIndex, Hit
from supernet_registry.registry.lru import LruCache
from supernet_registry.registry.sources.candidates import Cutoff, judge_novelty, place
from supernet_registry.registry.sources.neighbour_distances import NeighbourDistances
from supernet_registry.registry.sources.offers.offer import Offer, Wanted
from supernet_registry.registry.sources.rerank import Rerank, Shortlisted
from supernet_registry.registry.sources.signals.signal import Signal
from supernet_registry.registry.sources.stored_sketches import StoredSketches
from supernet_registry.registry.sources.stored_sources import StoredSources
from supernet_registry.registry.transport.pool import TransportPool
from supernet_registry.search.errors import InvalidArgument, SupernetRegistryError
from supernet_registry.search.similarity import Sketch, embed
from supernet_registry.search.spaces import SearchSpace

__all__ = ["NearestQuery", "SourceFinder"]

_log = logging.getLogger(__name__)

DEFAULT_TOP_K = 5
MOST_CANDIDATES = 100
LARGEST_SHORTLIST = 256
_HITS_PER_SOURCE = 2
"""Datasets taken from the index for each that is wanted, since some have no version yet: often the target itself."""
_MORE_HITS = 4
"""Times as many are taken when that was not enough."""
_MOST_EMBEDDINGS = 4096
_MOST_BOUNDS = 100_000
"""Of pairs whose distance was not needed: the same query again then costs no more than reading distances."""
_ANSWER_SECONDS = 0.1
"""Of the caller's time, kept back for ranking, the answer and its way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NearestQuery:
    """What to find sources for. Zero means the default."""

    sketch: Sketch
    embedding: NDArray[np.float32] | None = None
    """Of the sketch, shape (512,), if the caller has it."""
    top_k: int = 0
    shortlist_size: int = 0
    space: SearchSpace | None = None
    min_index_sequence: int = 0
    include_class_coupling: bool = False
    explain: bool = False
    """Whether to say what became of every shortlisted dataset."""
    deadline: float | None = None
    """`time.monotonic()` at which the caller stops listening."""


class SourceFinder:
    """Answers nearest-source queries. Thread-safe.

    Args:
        catalog: datasets, their versions and known distances.
        sketches: of the datasets.
        index: embeddings of all datasets.
        shortlist_size: datasets to re-rank, unless the query says otherwise.
        tie_band: see `registry.sources.candidates`.
        pool: solves the transports; closed with the finder.
        offers: add candidates after the ranking.
        signals: fill `SourceCandidate.predictions`, by name; the ranking stays that of OT distance.
    """

    def __init__(
        self,
        catalog: Catalog,
        sketches: StoredSketches,
        index: EmbeddingIndex,
        *,
        shortlist_size: int,
        tie_band: float,
        pool: TransportPool,
        offers: Sequence[Offer] = (),
        signals: Mapping[str, Signal] = MappingProxyType({}),
    ) -> None:
        self._catalog = catalog
        self._index = index
        self._shortlist_size = shortlist_size
        self._tie_band = tie_band
        self._pool = pool
        self._offers = offers
        self._signals = signals
        self._neighbours = NeighbourDistances(catalog.distances)
        self._sources = StoredSources(catalog)
        self._sketches = sketches
        self._embeddings: LruCache[str, NDArray[np.float32]] = LruCache(_MOST_EMBEDDINGS)
        self._bounds: LruCache[Pair, float] = LruCache(_MOST_BOUNDS)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="distances")

    def warm_up(self) -> None:
        """Start in the background what the first query would otherwise wait for."""
        self._pool.warm_up()

    def close(self) -> None:
        """Drop what has not begun, stop what runs."""
        self._pool.close()
        self._writer.shutdown(wait=True)

    def find(self, query: NearestQuery) -> NearestSources:
        """Answer a query.

        Raises:
            InvalidArgument: a number is out of range, or `min_index_sequence` was never issued.
            EncoderMismatch: the sketch is not of this registry's encoder.
            Draining: the server is shutting down.
        """
        top_k = _in_range("top_k", query.top_k, MOST_CANDIDATES) or DEFAULT_TOP_K
        size = _in_range("shortlist_size", query.shortlist_size, LARGEST_SHORTLIST) or self._shortlist_size
        if query.min_index_sequence < 0:
            raise InvalidArgument("It is negative.", field="min_index_sequence", remedy="Leave it out.")
        deadline = None if query.deadline is None else query.deadline - _ANSWER_SECONDS
        sequence = self._index.catch_up(query.min_index_sequence)

        start = time.monotonic()
        shortlist = self._shortlist(self._embedding(query), max(size, top_k))
        shortlisted = time.monotonic()
        rerank = self._rerank(query, shortlist, Cutoff(top_k=top_k, tie_band=self._tie_band), deadline)
        ranked = place(rerank.candidates, tie_band=self._tie_band)
        candidates, complete = ranked[:top_k], rerank.complete
        if ranked or complete:
            novel, novelty_reason = judge_novelty(ranked, self._neighbours.values())
        else:
            novel, novelty_reason = False, "The deadline came before the first distance was known."
        if query.include_class_coupling:
            rerank.couple({candidate.dataset for candidate in candidates})
            candidates = _with_coupling(candidates, shortlist)
            complete = complete and all(candidate.class_coupling is not None for candidate in candidates)
        wanted = Wanted(
            target=query.sketch,
            space=query.space,
            ranked=candidates,
            computed=rerank.computed,
            embedding_distances={item.hit.name: item.hit.distance for item in shortlist},
        )
        offered = [candidate for offer in self._offers for candidate in offer.candidates(wanted)]
        return NearestSources(
            candidates=self._with_predictions([*candidates, *offered], query.sketch, shortlist),
            novel=novel,
            novelty_reason=novelty_reason,
            index_sequence=sequence,
            dataset_count=len(self._index),
            partial=not complete,
            shortlist_seconds=shortlisted - start,
            rerank_seconds=time.monotonic() - shortlisted,
            shortlist=tuple(item.entry() for item in shortlist) if query.explain else (),
            signal_reasons={name: signal.reason for name, signal in self._signals.items()},
        )

    def _embedding(self, query: NearestQuery) -> NDArray[np.float32]:
        digest = query.sketch.digest
        vector = self._embeddings.get(digest) if query.embedding is None else query.embedding
        if vector is None:
            vector = embed(query.sketch)
        self._embeddings.put(digest, vector)
        return vector

    def _shortlist(self, vector: NDArray[np.float32], size: int) -> list[Shortlisted]:
        """The nearest datasets by embedding that have a version at all."""
        k = _HITS_PER_SOURCE * size
        stamps: dict[str, SourceStamp | None] = {}
        while True:
            hits = self._index.search(vector, k)
            sources = self._with_versions(hits, size, stamps)
            if len(sources) >= size or len(hits) < k:
                break
            k *= _MORE_HITS  # many datasets near the target have no version yet
        read = self._sources.read({hit.name: stamp for hit in sources if (stamp := stamps[hit.name]) is not None})
        return [
            Shortlisted(hit=hit, dataset=read[hit.name].dataset, versions=read[hit.name].versions)
            for hit in sources
            if hit.name in read
        ]

    def _with_versions(self, hits: Sequence[Hit], size: int, stamps: dict[str, SourceStamp | None]) -> list[Hit]:
        """The first `size` hits with a version; reads no more stamps than it takes, and adds them to `stamps`."""
        sources: list[Hit] = []
        start, step = 0, size
        while len(sources) < size and start < len(hits):
            some = hits[start : start + step]
            unknown = [hit.name for hit in some if hit.name not in stamps]
            found = self._catalog.sources.source_stamps(unknown) if unknown else {}
            stamps.update({name: found.get(name) for name in unknown})
            sources += [hit for hit in some if stamps[hit.name] is not None]
            start, step = start + step, 2 * step
        return sources[:size]

    def _rerank(
        self, query: NearestQuery, shortlist: list[Shortlisted], cutoff: Cutoff, deadline: float | None
    ) -> Rerank:
        digests = {item.dataset.sketch_digest for item in shortlist}
        rerank = Rerank(
            query.sketch,
            shortlist,
            self._catalog.distances.cached_distances(digests | {query.sketch.digest}),
            self._bounds,
            cutoff=cutoff,
            space=query.space,
            sketches=self._sketches,
            pool=self._pool,
            deadline=deadline,
            keep_late=self._keep,
        )
        rerank.run()
        if rerank.computed:
            # In another thread, because a database that is busy for seconds must not cost the caller the answer.
            concurrent.futures.wait([self._writer.submit(self._keep, rerank.computed)], timeout=_time_left(deadline))
        return rerank

    def _keep(self, computed: Mapping[Pair, Distance]) -> None:
        """Remember distances. Failing costs the next query the time to compute them again, and nothing else."""
        try:
            self._catalog.distances.store_distances(computed)
        except SupernetRegistryError as error:
            _log.warning("%d distances are not remembered: %s", len(computed), error)

    def _with_predictions(
        self, candidates: Sequence[SourceCandidate], target: Sketch, shortlist: Sequence[Shortlisted]
    ) -> tuple[SourceCandidate, ...]:
        if not candidates:
            return ()
        datasets = {item.hit.name: item.dataset for item in shortlist}
        predicted = {name: signal.predict(candidates, target, datasets) for name, signal in self._signals.items()}
        return tuple(
            replace(
                candidate,
                predictions={
                    name: values[candidate.version] for name, values in predicted.items() if candidate.version in values
                },
            )
            for candidate in candidates
        )


def _with_coupling(
    candidates: Sequence[SourceCandidate], shortlist: Sequence[Shortlisted]
) -> tuple[SourceCandidate, ...]:
    couplings = {
        item.hit.name: ClassCoupling(rows=mass.shape[0], columns=mass.shape[1], mass=tuple(mass.ravel().tolist()))
        for item in shortlist
        if (mass := item.class_coupling) is not None
    }
    return tuple(replace(candidate, class_coupling=couplings.get(candidate.dataset)) for candidate in candidates)


def _time_left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def _in_range(field: str, value: int, largest: int) -> int:
    if not 0 <= value <= largest:
        raise InvalidArgument(
            f"{value} is not between 0 and {largest}.", field=field, remedy="Leave it out for the default."
        )
    return value
