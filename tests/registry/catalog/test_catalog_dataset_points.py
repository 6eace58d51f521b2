"""What a map shows of the stored datasets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from supernet_registry.clients.wire.resources import Metrics
from tests.registry.catalog.catalog_world import EMBEDDING_ID, World


def test_points_come_in_the_order_asked_for_and_without_what_is_gone_or_embedded_otherwise(world: World) -> None:
    first, second, third = (world.dataset(seed) for seed in range(3))
    world.catalog.datasets.delete(second.name)
    points = world.catalog.dataset_points
    found = points.among([third.name, second.name, first.name], embedding_id=EMBEDDING_ID)
    assert [point.name for point in found] == [third.name, first.name]
    assert found[0].display_name == third.display_name
    assert found[0].sketch_digest == third.sketch_digest
    assert np.array_equal(found[0].embedding, np.arange(4, dtype=np.float32) + 2)
    assert points.among([first.name], embedding_id="of another release") == []


def test_the_newest_come_first_and_only_as_many_as_asked_for(world: World) -> None:
    made = [world.dataset(seed) for seed in range(4)]
    found = world.catalog.dataset_points.newest(3, embedding_id=EMBEDDING_ID)
    assert [point.name for point in found] == [dataset.name for dataset in reversed(made[1:])]


def test_the_best_version_of_a_dataset_is_that_of_the_highest_validation_accuracy(world: World) -> None:
    names = {}
    for supernet, accuracy in (("supernets/a", 0.6), ("supernets/b", 0.9), ("supernets/c", 0.9), ("supernets/d", 0.7)):
        job = world.job(supernet)
        lease, _ = world.lease(job)
        result = replace(world.result(), metrics=Metrics(val_accuracy=accuracy))
        names[supernet] = world.catalog.write_back.complete(job.name, lease.fence, result)[0].name
    (point,) = world.catalog.dataset_points.newest(5, embedding_id=EMBEDDING_ID)
    assert point.version == names["supernets/c"]  # of two equal ones the newer
