"""The cache of distances, and the extract of nearest-neighbour distances that a server keeps of it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supernet_registry.clients.wire.resources import Dataset
from supernet_registry.registry.catalog import Catalog
from supernet_registry.registry.catalog.distances import Distance, pair
from supernet_registry.registry.sources.neighbour_distances import NeighbourDistances
from supernet_registry.registry.storage.database import transaction
from supernet_registry.registry.storage.schema import datasets, distances
from supernet_registry.search.errors import SupernetRegistryError
from tests.registry.catalog.catalog_world import World

A, B, C = (f"{i:064x}" for i in range(3))


def test_distances_are_cached_in_either_order(world: World) -> None:
    cache = world.catalog.distances
    assert cache.cached_distance(A, B) is None
    cache.store_distance(B, A, 1.5, converged=False)
    assert cache.cached_distance(A, B) == (1.5, False)
    cache.store_distance(A, B, 1.25, converged=True)
    cache.store_distance(A, B, 9.0, converged=False)  # never worse than what is known
    assert cache.cached_distance(B, A) == (1.25, True)
    for bad in (float("nan"), -1.0):
        with pytest.raises(SupernetRegistryError):
            cache.store_distance(A, C, bad, converged=True)


def test_many_distances_are_stored_and_read_at_once(world: World) -> None:
    cache = world.catalog.distances
    found = {pair(A, B): Distance(1.0, True), pair(C, B): Distance(2.0, False), pair(A, A): Distance(0.0, True)}
    cache.store_distances(found)
    assert cache.cached_distances([A, B, C]) == found
    assert cache.cached_distances([A, C]) == {pair(A, A): Distance(0.0, True)}
    cache.store_distances(found | {pair(C, B): Distance(1.5, True)})
    assert cache.cached_distances([B, C]) == {pair(C, B): Distance(1.5, True)}
    assert cache.cached_distances([]) == {}
    cache.store_distances({})


def test_of_many_distances_none_is_stored_if_one_is_invalid(world: World) -> None:
    cache = world.catalog.distances
    with pytest.raises(SupernetRegistryError):
        cache.store_distances({pair(A, B): Distance(1.0, True), pair(A, C): Distance(float("inf"), True)})
    assert cache.cached_distances([A, B, C]) == {}


def test_the_same_distances_stored_by_many_at_once_are_stored_once(world: World) -> None:
    found = {pair(A, f"{i:064x}"): Distance(float(i), True) for i in range(1, 9)}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(world.catalog.distances.store_distances, [found] * 8))
    assert world.catalog.distances.cached_distances({digest for key in found for digest in key}) == found


def test_changes_are_those_since_the_sequences_of_an_earlier_answer(world: World) -> None:
    cache, first = world.catalog.distances, world.dataset(1, with_images=False)
    cache.store_distance(A, B, 1.0, converged=True)
    everything = cache.distance_changes(after_index=-1, after_distance=-1)
    assert [digest for _, digest in everything.registered] == [first.sketch_digest]
    assert everything.measured == [(A, B, 1.0)]
    world.catalog.datasets.delete(first.name)
    cache.store_distance(A, C, 2.0, converged=True)
    news = cache.distance_changes(after_index=everything.index_sequence, after_distance=everything.distance_sequence)
    assert (news.registered, news.deleted) == ([], [everything.registered[0][0]])
    assert news.measured == [(A, C, 2.0)]


# Nearest-neighbour distances


def reference(engine: sa.Engine) -> list[float]:
    """By the definition, from the whole tables."""
    with transaction(engine, write=False) as connection:
        stored = [row.sketch_sha256 for row in connection.execute(sa.select(datasets))]
        known = {pair(row.digest_a, row.digest_b): row.distance for row in connection.execute(sa.select(distances))}
    nearest = []
    for i, one in enumerate(stored):
        others = [known.get(pair(one, other)) for j, other in enumerate(stored) if j != i]
        nearest += [min(value for value in others if value is not None)] if any(v is not None for v in others) else []
    return sorted(nearest)


def measure(world: World, a: Dataset, b: Dataset, distance: float) -> None:
    world.catalog.distances.store_distance(a.sketch_digest, b.sketch_digest, distance, converged=True)


def test_nearest_distances_are_over_registered_datasets_only(world: World) -> None:
    a, b, c = (world.dataset(seed, with_images=False) for seed in range(3))
    measure(world, a, b, 2.0)
    measure(world, c, b, 1.0)
    world.catalog.distances.store_distance(a.sketch_digest, "f" * 64, 0.1, converged=True)  # of a query's target
    assert sorted(NeighbourDistances(world.catalog.distances).values()) == [1.0, 1.0, 2.0]


def test_without_datasets_there_are_no_nearest_distances(world: World) -> None:
    assert NeighbourDistances(world.catalog.distances).values().shape == (0,)


def test_a_distance_measured_before_its_dataset_was_registered_counts_from_then_on(world: World) -> None:
    a, b = (world.dataset(seed, with_images=False) for seed in range(2))
    measure(world, a, b, 2.0)
    world.catalog.datasets.delete(b.name)
    neighbours = NeighbourDistances(world.catalog.distances)
    assert neighbours.values().tolist() == []
    world.dataset(1, with_images=False)
    assert neighbours.values().tolist() == [2.0, 2.0]


def test_who_loses_the_nearest_neighbour_gets_the_next_one(world: World) -> None:
    a, b, c = (world.dataset(seed, with_images=False) for seed in range(3))
    measure(world, a, b, 1.0)
    measure(world, a, c, 3.0)
    neighbours = NeighbourDistances(world.catalog.distances)
    assert sorted(neighbours.values()) == [1.0, 1.0, 3.0]
    world.catalog.datasets.delete(b.name)
    assert sorted(neighbours.values()) == [3.0, 3.0]


def test_what_another_server_measures_and_registers_is_seen(open_catalog: Callable[..., Catalog], clock) -> None:  # type: ignore[no-untyped-def]
    here, there = World(open_catalog(), clock), World(open_catalog(), clock)
    neighbours = NeighbourDistances(here.catalog.distances)
    assert neighbours.values().tolist() == []
    a, b = (there.dataset(seed, with_images=False) for seed in range(2))
    measure(there, a, b, 4.0)
    assert neighbours.values().tolist() == [4.0, 4.0]


def test_nothing_is_computed_anew_while_nothing_changes(world: World) -> None:
    a, b = (world.dataset(seed, with_images=False) for seed in range(2))
    measure(world, a, b, 2.0)
    neighbours = NeighbourDistances(world.catalog.distances)
    assert neighbours.values() is neighbours.values()


SEEDS = st.integers(0, 4)
STEPS = st.lists(
    st.one_of(
        # A dataset's own seed and its sketch's: two datasets may have one sketch.
        st.tuples(st.just("register"), SEEDS, SEEDS),
        st.tuples(st.just("delete"), SEEDS, SEEDS),
        st.tuples(st.just("measure"), SEEDS, SEEDS),
        st.tuples(st.just("look"), st.just(0), st.just(0)),
    ),
    min_size=4,
    max_size=16,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, data=st.data())
def test_whatever_happens_in_whatever_order_the_extract_is_what_the_tables_say(
    world: World, steps: list[tuple[str, int, int]], data: st.DataObject
) -> None:
    """One world for all examples: each goes on from where the last one ended, as a registry does."""
    neighbours = NeighbourDistances(world.catalog.distances)
    drafts = [world.draft(seed, with_images=False) for seed in range(5)]
    for kind, one, other in steps:
        name = f"datasets/{drafts[one].digest[:32]}"
        if kind == "register":
            world.register(drafts[one], seed=other)
        elif kind == "delete" and world.catalog.datasets.get_many([name]):
            world.catalog.datasets.delete(name)
        elif kind == "measure":
            key = pair(*(digest_of(seed) for seed in (one, other)))
            value = float(data.draw(st.integers(1, 99))) if one != other else 0.0
            world.catalog.distances.store_distances({key: Distance(value, True)})
        elif kind == "look":
            neighbours.values()
    np.testing.assert_array_equal(np.sort(neighbours.values()), reference(world.engine))


def digest_of(seed: int) -> str:
    from tests.registry.catalog.catalog_world import sketch

    return sketch(seed, "e").digest
