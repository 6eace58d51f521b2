"""Generalists in the catalog: several datasets of one job, in the truth, in housekeeping and in what queries read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from supernet_registry.clients.wire.resources import Dataset, GeneralistWork, SearchJob, SearchSpec, SupernetVersion
from supernet_registry.search.errors import (
    DimensionMismatch,
    ImagesMissing,
    InvalidArgument,
    StillReferenced,
    UnsafeWeights,
)
from supernet_registry.search.storage.container import pack
from tests.registry.catalog.catalog_world import CLASSES, SPACE, SPACE_DESCRIPTOR, StandingClock, World


def retained(world: World, seed: int) -> Dataset:
    return world.register(replace(world.draft(seed), retain_images=True), seed=seed)


def draft(*datasets: Dataset, supernet: str = "supernets/generalist", base: str = "", **spec: object) -> SearchJob:
    names = tuple(dataset.name for dataset in datasets)
    work = GeneralistWork(datasets=names, base_version=base)
    values = {"search_space": SPACE_DESCRIPTOR, "generalist": work, **spec}
    return SearchJob(supernet=supernet, spec=SearchSpec(**values))  # type: ignore[arg-type]


def weights(*datasets: Dataset, seed: int = 0, **changes: object) -> bytes:
    heads = [
        {"dataset": dataset.digest, "rows": [CLASSES * i, CLASSES * (i + 1)]} for i, dataset in enumerate(datasets)
    ]
    facts = {"space": SPACE.to_json(), "n_classes": CLASSES * len(datasets), "genotype": "|skip|", "heads": heads}
    values = np.random.default_rng(seed).normal(size=(3,)).astype(np.float32)
    return pack({"w": values}, "supernet", facts | changes)


def finish(world: World, job: SearchJob, *datasets: Dataset, **changes: object) -> SupernetVersion:
    lease, _ = world.lease(job)
    blob = world.catalog.blobs.put(weights(*datasets, **changes))
    return world.catalog.write_back.complete(
        job.name, lease.fence, replace(world.result(), weights_blob=blob, child_blob="")
    )[0]


def test_a_generalist_is_written_back_with_its_datasets_and_is_no_version_of_any_of_them(world: World) -> None:
    a, b = retained(world, 1), retained(world, 2)
    job = world.catalog.jobs.create(draft(a, b))
    assert (job.spec.kind, job.dataset, job.dataset_display_name) == ("generalist", a.name, "2 datasets")
    version = finish(world, job, a, b)
    assert (version.datasets, version.dataset_display_name) == ((a.name, b.name), "2 datasets")
    assert world.catalog.supernets.get_version(version.name) == version

    own = world.version(seed=1)
    assert own.datasets == ()
    stamps = world.catalog.sources.source_stamps([a.name, b.name])
    assert list(stamps) == [a.name]
    ((row,),) = [stamp.version_rows for stamp in stamps.values()]
    assert world.catalog.sources.versions_by_row([row])[row].name == own.name


def test_the_newest_generalists_come_first_by_space(world: World) -> None:
    a, b = retained(world, 1), retained(world, 2)
    versions = [
        finish(world, world.catalog.jobs.create(draft(a, b, supernet=f"supernets/{name}")), a, b)
        for name in ("first", "second")
    ]
    reads = world.catalog.sources
    rows = reads.generalist_rows(SPACE.id, limit=10)
    assert [reads.versions_by_row([row])[row].name for row in rows] == [versions[1].name, versions[0].name]
    assert reads.generalist_rows(limit=1) == rows[:1]
    assert reads.generalist_rows("another", limit=10) == []


def test_a_base_brings_its_datasets_which_come_first(world: World) -> None:
    a, b, c = (retained(world, seed) for seed in (1, 2, 3))
    base = finish(world, world.catalog.jobs.create(draft(a, b)), a, b)
    job = world.catalog.jobs.create(draft(c, a, base=f"{base.name.rpartition('/')[0]}/head"))
    assert job.spec is not None
    assert job.spec.datasets == (a.name, b.name, c.name)
    assert job.spec.source_version == base.name
    world.catalog.datasets.update(b.name, retain_images=False)
    with pytest.raises(ImagesMissing):
        world.catalog.jobs.create(draft(c, base=base.name))


def test_images_of_all_its_datasets_stay_while_it_is_unfinished_and_no_others(
    world: World, clock: StandingClock
) -> None:
    """Even if their owner changes their mind meanwhile; a dataset that it does not learn is dropped as ever."""
    a, b, other = retained(world, 1), retained(world, 2), world.dataset(3)
    job = world.catalog.jobs.create(draft(a, b))
    for dataset in (a, b):
        world.catalog.datasets.update(dataset.name, retain_images=False)
    clock.advance(1e6)
    world.catalog.sweeper.sweep()
    kept = [bool(world.catalog.datasets.get(dataset.name).images_blob) for dataset in (a, b, other)]
    assert kept == [True, True, False]
    with pytest.raises(StillReferenced):
        world.catalog.datasets.update(b.name, images_blob="")
    world.catalog.jobs.cancel(job.name)
    world.catalog.sweeper.sweep()
    assert not world.catalog.datasets.get(b.name).images_blob
    with pytest.raises(StillReferenced, match="1 search jobs"):
        world.catalog.datasets.delete(b.name)


def test_a_generalists_recipe_is_checked_and_kept(world: World) -> None:
    a, b = retained(world, 1), retained(world, 2)
    with pytest.raises(InvalidArgument) as caught:
        world.catalog.jobs.create(draft(a, b, recipe={"horizontal_flip": "perhaps"}))
    assert caught.value.field == "search_job.spec.recipe.horizontal_flip"
    job = world.catalog.jobs.create(draft(a, b, recipe={"horizontal_flip": "true"}))
    assert job.spec is not None
    assert job.spec.recipe == {"horizontal_flip": "true"}


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"heads": None, "dataset": "x"}, DimensionMismatch),
        ({"heads": [{"dataset": "x", "rows": [0, 4]}]}, DimensionMismatch),
        ({"heads": [{"dataset": "x", "rows": [0, 3]}]}, UnsafeWeights),
    ],
)
def test_weights_whose_heads_are_not_those_of_the_job_are_refused(
    world: World, changes: dict[str, object], error: type[Exception]
) -> None:
    a, b = retained(world, 1), retained(world, 2)
    with pytest.raises(error):
        finish(world, world.catalog.jobs.create(draft(a, b)), a, b, **changes)
