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

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from supernet_registry.clients.wire.resources import (
    Dataset,
    ShortlistEntry,
    ShortlistOutcome,
    SourceCandidate,
    SupernetVersion,
)
from supernet_registry.registry.catalog.distances import Distance, Pair, pair
from supernet_registry.registry.index.embedding_index import Hit
from supernet_registry.registry.lru import LruCache
from supernet_registry.registry.sources.candidates import Cutoff, Measured, candidates_of
from supernet_registry.registry.sources.stored_sketches import StoredSketches
from supernet_registry.registry.transport.pool import TransportPool
from supernet_registry.registry.transport.solver import Solution
from supernet_registry.search.errors import Draining, NotFound, SupernetRegistryError
from supernet_registry.search.similarity import Sketch
from supernet_registry.search.spaces import SearchSpace

__all__ = ["Rerank", "Shortlisted"]

T = TypeVar("T")

_log = logging.getLogger(__name__)

_ROUNDING = 1e-6
"""Relative error that a difference of two distances may have; theirs is below 1e-9."""


@dataclass(slots=True, kw_only=True, eq=False)
class Shortlisted:
    """A dataset of the shortlist, and what became of it."""

    hit: Hit
    dataset: Dataset
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
            dataset_display_name=self.dataset.display_name,
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
        keep_late: gets each distance that becomes known after the deadline, in another thread.
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

    @property
    def complete(self) -> bool:
        """Whether the deadline left nothing out."""
        return all(item.outcome is not ShortlistOutcome.LATE for item in self.shortlist)

    def run(self) -> None:
        """Measure what the answer needs, up to the deadline. Raises Draining when the server stops meanwhile."""
        pending = self._take_known()
        if len(pending) + len(self.candidates) > self._cutoff.top_k:  # else none can be skipped
            self._compute_bounds(pending)
        # Stable: without bounds it stays the order of the embedding distances.
        pending = sorted((item for item in pending if _is_open(item)), key=lambda item: item.lower_bound)
        for item, future in self._in_pool(pending, self._skip_or_solve, late=self._solved_late):
            with self._left_out_if_unusable(item):
                solution = future.result()
                distance = Distance(solution.distance, solution.converged)
                self.computed[self._key(item)] = distance
                item.class_coupling = solution.class_coupling
                self._measured(item, distance, ShortlistOutcome.COMPUTED)

    def couple(self, names: Collection[str]) -> None:
        """Fill in the class couplings of measured datasets, as far as time allows."""
        wanted = [item for item in self.shortlist if item.hit.name in names and item.class_coupling is None]
        for item, future in self._in_pool(wanted, self._solve):
            item.class_coupling = future.result().class_coupling

    def _take_known(self) -> list[Shortlisted]:
        """Use what is in the cache; returns what is not."""
        pending = []
        for item in self.shortlist:
            distance = self._known.get(self._key(item))
            if distance is None:
                pending.append(item)
                continue
            with self._left_out_if_unusable(item):
                self._measured(item, distance, ShortlistOutcome.CACHED)
        return pending

    def _compute_bounds(self, pending: Sequence[Shortlisted]) -> None:
        unbounded = []
        for item in pending:
            remembered = self._bounds.get(self._key(item))
            item.lower_bound = max(remembered or 0.0, self._triangle_bound(item))
            if remembered is None and not self._cutoff.excludes(item.lower_bound):
                unbounded.append(item)
        for item, future in self._in_pool(unbounded, self._bound):
            with self._left_out_if_unusable(item):
                bound = future.result()
                self._bounds.put(self._key(item), bound)
                item.lower_bound = max(item.lower_bound, bound)

    def _bound(self, item: Shortlisted) -> Future[float] | None:
        with self._left_out_if_unusable(item):
            return self._pool.bound(self._target, self._sketches.get(item.dataset.sketch_digest))
        return None

    def _skip_or_solve(self, item: Shortlisted) -> Future[Solution] | None:
        item.lower_bound = max(item.lower_bound, self._triangle_bound(item))
        if self._cutoff.excludes(item.lower_bound):
            item.outcome = ShortlistOutcome.PRUNED
            return None
        return self._solve(item)

    def _solve(self, item: Shortlisted) -> Future[Solution] | None:
        with self._left_out_if_unusable(item):
            return self._pool.solve(self._target, self._sketches.get(item.dataset.sketch_digest))
        return None

    def _in_pool(
        self,
        items: Sequence[Shortlisted],
        submit: Callable[[Shortlisted], Future[T] | None],
        *,
        late: Callable[[Shortlisted, Future[T]], None] | None = None,
    ) -> Iterator[tuple[Shortlisted, Future[T]]]:
        """Items and their futures as they are done, up to the deadline. None of `submit` skips an item.

        No more are submitted than the pool works on at once: what one of them brings may spare the next one, and
        queries take turns. What runs at the deadline goes on, and `late` gets its future when it is done.
        """
        waiting, running = deque(items), dict[Future[T], Shortlisted]()
        while True:
            while waiting and len(running) < self._pool.size:
                item = waiting.popleft()
                if (future := submit(item)) is not None:
                    running[future] = item
            if not running:
                return
            done, _ = wait(running, timeout=self._time_left(), return_when=FIRST_COMPLETED)
            if not done:
                for future, item in running.items():
                    if not future.cancel() and late is not None:
                        future.add_done_callback(partial(late, item))
                return
            for future in done:
                yield running.pop(future), future

    def _measured(self, item: Shortlisted, distance: Distance, outcome: ShortlistOutcome) -> None:
        facts = self._sketches.facts(item.dataset.sketch_digest)
        item.distance, item.outcome = distance, outcome
        measured = Measured(
            dataset=item.dataset,
            same_dataset=item.dataset.sketch_digest == self._target.digest,
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

    def _solved_late(self, item: Shortlisted, future: Future[Solution]) -> None:
        if not future.cancelled() and future.exception() is None:
            solution = future.result()
            self._keep_late({self._key(item): Distance(solution.distance, solution.converged)})

    @contextlib.contextmanager
    def _left_out_if_unusable(self, item: Shortlisted) -> Iterator[None]:
        """One stored dataset must not fail the query."""
        try:
            yield
        except Draining:
            raise
        except SupernetRegistryError as error:
            item.outcome = ShortlistOutcome.UNUSABLE
            if not isinstance(error, NotFound):  # deleted since the shortlist was made
                _log.warning("%s is left out of a nearest-source query: %s", item.hit.name, error)

    def _triangle_bound(self, item: Shortlisted) -> float:
        """The largest lower bound of the target's distance that measured datasets imply; 0 without any."""
        bound = 0.0
        for other in self.shortlist:
            if other.distance is None or not other.distance.converged:
                continue
            between = self._known.get(pair(item.dataset.sketch_digest, other.dataset.sketch_digest))
            if between is not None and between.converged:
                sides = other.distance.value, between.value
                bound = max(bound, abs(sides[0] - sides[1]) - _ROUNDING * sum(sides))
        return bound

    def _key(self, item: Shortlisted) -> Pair:
        return pair(self._target.digest, item.dataset.sketch_digest)

    def _time_left(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())


def _is_open(item: Shortlisted) -> bool:
    return item.outcome is ShortlistOutcome.LATE
