"""A thread-safe cache of what was used most recently, bounded by weight."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Generic, TypeVar

__all__ = ["LruCache"]

K = TypeVar("K")
V = TypeVar("V")


class LruCache(Generic[K, V]):
    """Keeps what was used last, as long as its weights stay below a limit; the last entry is kept in any case.

    What it keeps depends only on the order of the calls and their weights: two caches that are used alike hold the
    same keys, which lets one process know what another one holds.
    """

    def __init__(self, largest_weight: int) -> None:
        self._largest = largest_weight
        self._entries: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._weight = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K) -> V | None:
        """The value, which counts as used now; None if it is not kept."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            self._entries.move_to_end(key)
            return entry[0]

    def put(self, key: K, value: V, *, weight: int = 1) -> None:
        """Keep a value and forget the least recently used ones beyond the limit."""
        with self._lock:
            if key in self._entries:
                self._weight -= self._entries.pop(key)[1]
            self._entries[key] = value, weight
            self._weight += weight
            while self._weight > self._largest and len(self._entries) > 1:
                _, (_, forgotten) = self._entries.popitem(last=False)
                self._weight -= forgotten
