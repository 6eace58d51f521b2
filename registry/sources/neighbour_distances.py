"""How far each stored dataset lies from its nearest stored neighbour: the registry's yardstick for what is novel.

An extract of the distances table, kept in memory and brought up to date by what is new: reading it costs one look at
two counters, where the aggregate over all distances would take seconds with many datasets. What other servers on the
same database write arrives by the same way.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from supernet_registry.registry.catalog.distances import DistanceCache, DistanceChanges

__all__ = ["NeighbourDistances"]

_BEFORE_ALL = -1


class NeighbourDistances:
    """Thread-safe."""

    def __init__(self, cache: DistanceCache) -> None:
        self._cache = cache
        self._lock = threading.Lock()
        self._index_sequence = self._distance_sequence = _BEFORE_ALL
        self._digest_of: dict[int, str] = {}
        """Sketch digest of every dataset, by row id."""
        self._owners: Counter[str] = Counter()
        """How many datasets have a sketch; twins lie at distance 0 from each other."""
        self._nearest: dict[str, tuple[float, str]] = {}
        """For a sketch digest: the distance of the nearest other dataset's sketch that is known, and its digest."""
        self._values: NDArray[np.float64] | None = None

    def values(self) -> NDArray[np.float64]:
        """For each dataset with a known distance to another one, the smallest such; in no particular order.

        Datasets without any known distance are left out. The array is shared: do not write to it.
        """
        with self._lock:
            self._catch_up()
            if self._values is None:
                smallest = np.array([distance for distance, _ in self._nearest.values()], dtype=np.float64)
                owners = np.array([self._owners[digest] for digest in self._nearest], dtype=np.int64)
                self._values = smallest.repeat(owners)
            return self._values

    def _catch_up(self) -> None:
        everything = self._index_sequence == _BEFORE_ALL
        changes = self._cache.distance_changes(after_index=self._index_sequence, after_distance=self._distance_sequence)
        touched = self._update_owners(changes)
        if touched:
            unknown = self._forget(touched)
            if not everything:  # else the changes hold every distance there is
                self._offer(self._cache.distances_from(sorted(unknown)))
        self._offer(changes.measured)
        self._index_sequence, self._distance_sequence = changes.index_sequence, changes.distance_sequence

    def _update_owners(self, changes: DistanceChanges) -> set[str]:
        """Take over which sketches belong to datasets; returns the sketches whose number of owners changed."""
        touched: set[str] = set()
        for row_id in changes.deleted:
            touched.update(self._disown(row_id))
        for row_id, digest in changes.registered:
            if self._digest_of.get(row_id) != digest:
                touched.update(self._disown(row_id))
                self._digest_of[row_id] = digest
                self._owners[digest] += 1
                touched.add(digest)
        return touched

    def _disown(self, row_id: int) -> Iterable[str]:
        digest = self._digest_of.pop(row_id, None)
        if digest is None:
            return ()
        self._owners[digest] -= 1
        if not self._owners[digest]:
            del self._owners[digest]
        return (digest,)

    def _forget(self, touched: set[str]) -> set[str]:
        """Forget what may no longer hold; returns the sketches of datasets whose neighbour must be found anew."""
        gone = {digest for digest in touched if digest not in self._owners}
        widowed = {digest for digest, (_, other) in self._nearest.items() if other in gone} if gone else set()
        for digest in touched | widowed:
            self._nearest.pop(digest, None)
        self._values = None
        return (touched | widowed) - gone

    def _offer(self, measured: Iterable[tuple[str, str, float]]) -> None:
        for a, b, distance in measured:
            if a == b:
                if self._owners[a] > 1:
                    self._improve(a, a, distance)
            elif a in self._owners and b in self._owners:
                self._improve(a, b, distance)
                self._improve(b, a, distance)

    def _improve(self, digest: str, other: str, distance: float) -> None:
        known = self._nearest.get(digest)
        if known is None or distance < known[0]:
            self._nearest[digest] = distance, other
            self._values = None
