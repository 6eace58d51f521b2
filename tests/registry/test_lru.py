"""The cache of what was used last."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from supernet_registry.registry.lru import LruCache


def test_what_was_used_least_recently_is_forgotten_first() -> None:
    cache = LruCache[str, int](2)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (1, None, 3)


def test_an_entry_heavier_than_the_limit_is_kept_until_the_next_one_comes() -> None:
    cache = LruCache[str, int](2)
    cache.put("heavy", 1, weight=9)
    assert cache.get("heavy") == 1
    cache.put("light", 2)
    assert (cache.get("heavy"), cache.get("light")) == (None, 2)


def test_putting_again_replaces_value_and_weight() -> None:
    cache = LruCache[str, int](3)
    cache.put("a", 1, weight=3)
    cache.put("a", 2, weight=1)
    cache.put("b", 3, weight=2)
    assert (cache.get("a"), cache.get("b"), len(cache)) == (2, 3, 2)


@given(
    uses=st.lists(st.integers(0, 9)),
    weights=st.lists(st.integers(1, 5), min_size=10, max_size=10),
    limit=st.integers(1, 20),
)
def test_the_latest_uses_that_fit_are_what_is_kept(uses: list[int], weights: list[int], limit: int) -> None:
    """Get, and put where that finds nothing: as both ends of a transport process keep sketches, whose size is theirs
    for good."""
    cache = LruCache[int, int](limit)
    for key in uses:
        if cache.get(key) is None:
            cache.put(key, key, weight=weights[key])
    kept, total = list[int](), 0
    for key in dict.fromkeys(reversed(uses)):
        total += weights[key]
        if kept and total > limit:
            break
        kept.append(key)
    assert [key for key in range(10) if cache.get(key) is not None] == sorted(kept)
