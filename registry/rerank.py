"""The exact re-rank of a shortlist: as few transports as the answer needs.

A dataset is skipped where a lower bound of its distance lies above the `Cutoff`:

- by the triangle inequality, |d(q, a) - d(a, b)| ≤ d(q, b), with a measured already and d(a, b) in the cache: √OTDD is
  a metric;
- `search.similarity.lower_bound` of the two sketches, a quarter of a transport. It orders the datasets far better than
  the distance of their embeddings, so it is computed for all of them first; then they are measured from the least
  bound on, which brings the cutoff down with the fewest transports.

What is skipped could not have changed the answer, so it is the same as if everything had been measured.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from clients.resources import Dataset, ShortlistEntry, ShortlistOutcome, SourceCandidate, SupernetVersion
from registry.candidates import Cutoff, Measured, candidates_of
from registry.catalog.distances import Distance, Pair, pair
from registry.index import Hit
from registry.lru import LruCache
from registry.stored_sketches import StoredSketches
from registry.transport_pool import TransportPool
from registry.transport_solver import Solution, exceeds
from search.errors import Draining, NotFound, SupernetRegistryError
from search.similarity import Sketch
from search.spaces import SearchSpace

__all__ = ["Rerank", "Shortlisted"]

_log = logging.getLogger(__name__)

_ROUNDING = 1e-6
"""Relative error that a difference of two distances may have; theirs is below 1e-9."""


@dataclass(slots=True, kw_only=True, eq=False)
class Shortlisted:
    """A dataset of the shortlist, and what became of it."""

    hit: Hit
    dataset: Dataset | None
    """None if it was deleted since the index was searched."""
    versions: Sequence[SupernetVersion]
    outcome: ShortlistOutcome = ShortlistOutcome.LATE
    lower_bound: float = 0.0
    distance: Distance | None = None
    class_coupling: NDArray[np.float64] | None = None
    """(k_target, k_source); None unless its distance was computed, or it was asked for."""

    def entry(self) -> ShortlistEntry:
        """As explained to the caller."""
        return ShortlistEntry(
            dataset=self.hit.name,
            dataset_display_name=self.dataset.display_name if self.dataset else "",
            embedding_distance=self.hit.distance,
            lower_bound=self.lower_bound,
            ot_distance=self.distance.value if self.distance else None,
            outcome=self.outcome,
        )


class Rerank:
    """The re-rank of one query.

    Args:
        target: the query's sketch.
        shortlist: by embedding distance; its items are filled in.
        known: distances among the sketches of target and shortlist that are known already.
        bounds: lower bounds that were computed before; new ones are added.
        cutoff: fresh; what the answer needs.
        space: the target's search space; None if every space will do.
        sketches: of the stored datasets.
        pool: solves the transports.
        deadline: `time.monotonic()` at which to stop.
        keep_late: gets each distance that becomes known after the deadline.
    """

    def __init__(
        self,
        target: Sketch,
        shortlist: Sequence[Shortlisted],
        known: Mapping[Pair, Distance],
        bounds: LruCache[Pair, float],
        *,
        cutoff: Cutoff,
        space: SearchSpace | None,
        sketches: StoredSketches,
        pool: TransportPool,
        deadline: float | None,
        keep_late: Callable[[Mapping[Pair, Distance]], None],
    ) -> None:
        self.shortlist = shortlist
        self.candidates: list[SourceCandidate] = []
        """Of all datasets whose distance is known, in no particular order."""
        self.computed: dict[Pair, Distance] = {}
        """Distances that were not known before."""
        self._target = target
        self._known = known
        self._bounds = bounds
        self._cutoff = cutoff
        self._space = space
        self._sketches = sketches
        self._pool = pool
        self._deadline = deadline
        self._keep_late = keep_late
        self._running: dict[Future[Solution], tuple[Shortlisted, Dataset]] = {}

    @property
    def complete(self) -> bool:
        """Whether the deadline left nothing out."""
        return all(item.outcome is not ShortlistOutcome.LATE for item in self.shortlist)

    def run(self) -> None:
        """Measure what the answer needs, up to the deadline. Raises Draining when the server stops meanwhile."""
        pending = self._take_known()
        if len(pending) + len(self.candidates) > self._cutoff.top_k:  # else none can be skipped
            self._compute_bounds([item for item in pending if not self._is_beyond(item)])
        pending.sort(key=lambda item: item.lower_bound)  # stable: by embedding distance where there are no bounds
        for item, future in self._in_pool(pending, self._solve, late=self._measured_late):
            with self._leaving_out_unusable(item):
                solution = future.result()
                distance = Distance(solution.distance, solution.converged)
                self.computed[self._key(item)] = distance
                item.class_coupling = solution.class_coupling
                self._measured(item, distance, ShortlistOutcome.COMPUTED)

    def couple(self, names: Collection[str]) -> bool:
        """Fill in the class couplings of measured datasets; False if the deadline came before the last one."""
        running = {}
        for item in self.shortlist:
            if item.hit.name in names and item.dataset is not None and item.class_coupling is None:
                try:
                    source = self._sketches.get(item.dataset.sketch_digest)
                except SupernetRegistryError as error:
                    _log.warning("%s cannot be explained in a nearest-source query: %s", item.hit.name, error)
                    continue
                running[self._pool.submit(self._target, source)] = item
        done, late = wait(running, timeout=self._time_left())
        for future in late:
            future.cancel()
        for future in done:
            running[future].class_coupling = future.result().class_coupling
        return not late

    def _take_known(self) -> list[tuple[Shortlisted, Dataset]]:
        """Use what is in the cache; returns what is not."""
        pending = []
        for item in self.shortlist:
            if item.dataset is None:
                item.outcome = ShortlistOutcome.UNUSABLE
                continue
            distance = self._known.get(pair(self._target.digest, item.dataset.sketch_digest))
            if distance is None:
                pending.append((item, item.dataset))
            else:
                self._measured(item, item.dataset, distance, ShortlistOutcome.CACHED)
        return pending

    def _begin(self, item: Shortlisted, dataset: Dataset) -> None:
        """Skip a dataset, or submit its transport."""
        limit = self._cutoff.distance
        remembered = self._bounds.get(pair(self._target.digest, dataset.sketch_digest)) or 0.0
        item.lower_bound = max(remembered, self._triangle_bound(dataset.sketch_digest))
        if exceeds(item.lower_bound, limit):
            item.outcome = ShortlistOutcome.PRUNED
            return
        try:
            source = self._sketches.get(dataset.sketch_digest)
        except SupernetRegistryError as error:
            self._unusable(item, error)
            return
        self._running[self._pool.submit(self._target, source, stop_above=limit)] = item, dataset

    def _end(self, future: Future[Solution]) -> None:
        item, dataset = self._running.pop(future)
        try:
            solution = future.result()
        except Draining:
            raise
        except SupernetRegistryError as error:
            self._unusable(item, error)
            return
        item.lower_bound = max(item.lower_bound, solution.lower_bound)
        key = pair(self._target.digest, dataset.sketch_digest)
        if solution.distance is None:
            self._bounds.put(key, solution.lower_bound)
            item.outcome = ShortlistOutcome.PRUNED
            return
        distance = Distance(solution.distance, solution.converged)
        self.computed[key] = distance
        item.class_coupling = solution.class_coupling
        self._measured(item, dataset, distance, ShortlistOutcome.COMPUTED)

    def _measured(self, item: Shortlisted, dataset: Dataset, distance: Distance, outcome: ShortlistOutcome) -> None:
        try:
            facts = self._sketches.facts(dataset.sketch_digest)
        except SupernetRegistryError as error:
            self._unusable(item, error)
            return
        item.distance, item.outcome = distance, outcome
        measured = Measured(
            dataset=dataset,
            same_dataset=dataset.sketch_digest == self._target.digest,
            embedding_distance=item.hit.distance,
            ot_distance=distance.value,
            ot_converged=distance.converged,
            chance=facts.chance,
            moments_only=facts.moments_only or self._target.moments_only,
            versions=item.versions,
        )
        candidates = candidates_of(measured, self._space)
        self.candidates += candidates
        self._cutoff.add(candidates)

    def _unusable(self, item: Shortlisted, error: SupernetRegistryError) -> None:
        """One stored dataset must not fail the query."""
        item.outcome = ShortlistOutcome.UNUSABLE
        if not isinstance(error, NotFound):  # deleted since the shortlist was made
            _log.warning("%s is left out of a nearest-source query: %s", item.hit.name, error)

    def _triangle_bound(self, digest: str) -> float:
        """The largest lower bound on the target's distance that measured datasets imply; 0 without any."""
        bound = 0.0
        for other in self.shortlist:
            if other.dataset is None or other.distance is None or not other.distance.converged:
                continue
            between = self._known.get(pair(digest, other.dataset.sketch_digest))
            if between is not None and between.converged:
                sides = other.distance.value, between.value
                bound = max(bound, abs(sides[0] - sides[1]) - _ROUNDING * sum(sides))
        return bound

    def _leave(self) -> None:
        """The deadline came: drop what has not begun; what runs goes on and warms the cache."""
        for future, (_, dataset) in self._running.items():
            if not future.cancel():
                key = pair(self._target.digest, dataset.sketch_digest)
                future.add_done_callback(partial(self._late, key))
        self._running.clear()

    def _late(self, key: Pair, future: Future[Solution]) -> None:
        if future.cancelled() or future.exception() is not None:
            return
        solution = future.result()
        if solution.distance is not None:
            self._keep_late({key: Distance(solution.distance, solution.converged)})

    def _time_left(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
