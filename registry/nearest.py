"""The nearest-source query: a FAISS shortlist over embeddings, re-ranked by exact optimal transport.

The shortlist is cheap and approximate, the re-rank exact and a hundred times dearer; so exact distances are cached in
the catalog by the digests of the two sketches, computed in parallel in a bounded pool, and given up one by one when
the caller's deadline comes: the answer then says `partial`. What a distance means for a version (gates, ranks, ties,
novelty) is in `registry.candidates`.
"""

from __future__ import annotations

import concurrent.futures
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np

from clients.resources import ClassCoupling, Dataset, NearestSources, SourceCandidate, SupernetVersion
from registry.candidates import Measured, judge_novelty, rank
from registry.catalog.datasets import Datasets
from registry.index import EmbeddingIndex, Hit
from search.errors import InvalidArgument, NotFound, SupernetRegistryError
from search.similarity import Sketch, embed, otdd
from search.spaces import SearchSpace

__all__ = ["NearestQuery", "SourceFinder"]

T = TypeVar("T")

_log = logging.getLogger(__name__)

DEFAULT_TOP_K = 5
MOST_CANDIDATES = 100
LARGEST_SHORTLIST = 256
_CACHED_SKETCHES = 512
"""Parsed sketches kept in memory, at most about 1 MB each."""
_ANSWER_SECONDS = 0.1
"""Of the caller's time, kept back for ranking, the answer and its way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NearestQuery:
    """What to find sources for. Zero means the default."""

    sketch: Sketch
    top_k: int = 0
    shortlist_size: int = 0
    space: SearchSpace | None = None
    min_index_sequence: int = 0
    include_class_coupling: bool = False
    deadline: float | None = None
    """`time.monotonic()` at which the caller stops listening."""


class SourceFinder:
    """Answers nearest-source queries. Thread-safe.

    Args:
        datasets: the catalog's datasets.
        index: embeddings of all datasets.
        shortlist_size: datasets to re-rank, unless the query says otherwise.
        tie_band: see `registry.candidates`.
        threads: transport problems solved at the same time, over all queries.
    """

    def __init__(
        self,
        datasets: Datasets,
        index: EmbeddingIndex,
        *,
        shortlist_size: int,
        tie_band: float,
        threads: int,
    ) -> None:
        self._datasets = datasets
        self._index = index
        self._shortlist_size = shortlist_size
        self._tie_band = tie_band
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="transport")
        self._sketches: OrderedDict[str, Sketch] = OrderedDict()
        self._sketches_lock = threading.Lock()

    def close(self) -> None:
        """Drop what has not begun, wait for what runs."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def find(self, query: NearestQuery) -> NearestSources:
        """Answer a query.

        Raises:
            InvalidArgument: a number is out of range, or `min_index_sequence` was never issued.
            EncoderMismatch: the sketch is not of this registry's encoder.
        """
        top_k = _in_range("top_k", query.top_k, MOST_CANDIDATES) or DEFAULT_TOP_K
        size = _in_range("shortlist_size", query.shortlist_size, LARGEST_SHORTLIST) or self._shortlist_size
        if query.min_index_sequence < 0:
            raise InvalidArgument("It is negative.", field="min_index_sequence", remedy="Leave it out.")
        deadline = None if query.deadline is None else query.deadline - _ANSWER_SECONDS
        sequence = self._index.catch_up(query.min_index_sequence)

        start = time.monotonic()
        hits, versions = self._shortlist(query.sketch, max(size, top_k))
        shortlisted = time.monotonic()
        digest = query.sketch.digest
        measured = self._in_parallel(
            {hit.name: partial(self._measure, query.sketch, digest, hit, versions[hit.name]) for hit in hits}, deadline
        )
        found = [item for item in measured.values() if item is not None]
        complete = len(measured) == len(hits)
        ranked = rank(found, space=query.space, tie_band=self._tie_band)
        candidates = ranked[:top_k]
        if ranked or complete:
            novel, novelty_reason = judge_novelty(ranked, self._datasets.all_nearest_distances())
        else:
            novel, novelty_reason = False, "The deadline came before the first distance was known."
        if query.include_class_coupling:
            candidates, all_coupled = self._with_coupling(query.sketch, found, candidates, deadline)
            complete = complete and all_coupled
        return NearestSources(
            candidates=candidates,
            novel=novel,
            novelty_reason=novelty_reason,
            index_sequence=sequence,
            dataset_count=len(self._index),
            partial=not complete,
            shortlist_seconds=shortlisted - start,
            rerank_seconds=time.monotonic() - shortlisted,
        )

    def _shortlist(self, sketch: Sketch, size: int) -> tuple[list[Hit], Mapping[str, Sequence[SupernetVersion]]]:
        """The nearest datasets by embedding that have a version at all."""
        vector = embed(sketch)
        k = 4 * size
        while True:
            hits = self._index.search(vector, k)
            versions = self._datasets.versions_on([hit.name for hit in hits])
            sources = [hit for hit in hits if versions.get(hit.name)]
            if len(sources) >= size or len(hits) < k:
                return sources[:size], versions
            k *= 4  # many datasets near the target have no version yet

    def _measure(
        self, target: Sketch, target_digest: str, hit: Hit, versions: Sequence[SupernetVersion]
    ) -> Measured | None:
        """Exact distance of one stored dataset; None if it is unusable, which must not fail the query."""
        try:
            dataset = self._datasets.get(hit.name)
            source = self._sketch(dataset)
            known = self._datasets.cached_distance(target_digest, dataset.sketch_digest)
            if known is None:
                result = otdd(target, source)
                known = result.distance, result.converged
                self._datasets.store_distance(target_digest, dataset.sketch_digest, known[0], converged=known[1])
        except NotFound:
            return None  # deleted since the shortlist was made
        except SupernetRegistryError as error:
            _log.warning("%s is left out of a nearest-source query: %s", hit.name, error)
            return None
        distance, converged = known
        return Measured(
            dataset=dataset,
            same_dataset=dataset.sketch_digest == target_digest,
            embedding_distance=hit.distance,
            ot_distance=distance,
            ot_converged=converged,
            chance=float(source.class_counts.max() / source.class_counts.sum()),
            versions=versions,
        )

    def _with_coupling(
        self,
        target: Sketch,
        measured: Sequence[Measured],
        candidates: Sequence[SourceCandidate],
        deadline: float | None,
    ) -> tuple[tuple[SourceCandidate, ...], bool]:
        """Add class couplings to the ranked candidates, and say whether there was time for all of them."""
        wanted = {candidate.dataset for candidate in candidates}
        tasks = {
            item.dataset.name: partial(self._coupling, target, item.dataset)
            for item in measured
            if item.dataset.name in wanted
        }
        couplings = self._in_parallel(tasks, deadline)
        filled = tuple(replace(c, class_coupling=couplings.get(c.dataset)) for c in candidates)
        return filled, len(couplings) == len(wanted)

    def _coupling(self, target: Sketch, dataset: Dataset) -> ClassCoupling:
        mass = np.asarray(otdd(target, self._sketch(dataset)).class_coupling)  # (k_target, k_source)
        return ClassCoupling(rows=mass.shape[0], columns=mass.shape[1], mass=tuple(mass.ravel().tolist()))

    def _in_parallel(self, tasks: Mapping[str, Callable[[], T]], deadline: float | None) -> dict[str, T]:
        """Results of the tasks that ended before the deadline. Those running go on and warm the cache."""
        futures: dict[str, Future[T]] = {name: self._pool.submit(task) for name, task in tasks.items()}
        timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
        done, late = concurrent.futures.wait(futures.values(), timeout=timeout)
        for future in late:
            future.cancel()
        return {name: future.result() for name, future in futures.items() if future in done}

    def _sketch(self, dataset: Dataset) -> Sketch:
        """A stored sketch, parsed; the most recently used ones stay in memory."""
        digest = dataset.sketch_digest
        with self._sketches_lock:
            if digest in self._sketches:
                self._sketches.move_to_end(digest)
                return self._sketches[digest]
        sketch = Sketch.from_bytes(self._datasets.sketch_bytes(dataset.name))
        with self._sketches_lock:
            self._sketches[digest] = sketch
            while len(self._sketches) > _CACHED_SKETCHES:
                self._sketches.popitem(last=False)
        return sketch


def _in_range(field: str, value: int, largest: int) -> int:
    if not 0 <= value <= largest:
        raise InvalidArgument(
            f"{value} is not between 0 and {largest}.", field=field, remedy="Leave it out for the default."
        )
    return value
