"""What is read of the tastes of finished jobs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from supernet_registry.clients.wire.resources import JobEvent, SourceDecision, TransferMode
from supernet_registry.registry.catalog.tastes import TastedJob, Tastes
from tests.registry.catalog.catalog_world import World
from tests.registry.catalog.tasted_world import (
    SCRATCH,
    SCRATCH_ACCURACY,
    add_source,
    finish_job,
    finish_tasting,
    measure,
    taste,
)

FAR = 2.5


@pytest.fixture
def tastes(world: World) -> Tastes:
    return world.catalog.tastes


def read(tastes: Tastes) -> list[TastedJob]:
    return tastes.of_jobs(tastes.finished_jobs(100))


def test_a_taste_is_read_with_all_that_was_known_of_source_and_target(world: World, tastes: Tastes) -> None:
    source = add_source(world, 1, val_accuracy=0.75)
    target = world.dataset(10)
    measure(world, source, target, FAR)
    finish_job(world, target, {source.name: 0.125})
    (job,) = read(tastes)
    assert (job.dataset, job.class_count, job.train_count) == (target.name, target.class_count, target.train_count)
    (tasted,) = job.sources
    assert (tasted.version, tasted.ot_distance, tasted.same_dataset) == (source.name, FAR, False)
    assert (tasted.val_accuracy, tasted.class_count, tasted.train_count) == (0.75, 2, 8)
    assert tasted.gain == pytest.approx(0.125)


def test_the_gain_is_that_before_any_step(world: World, tastes: Tastes) -> None:
    """Finalists have later scores too, but only some sources come so far."""
    source, target = add_source(world, 1), world.dataset(10)
    measure(world, source, target, FAR)
    later = replace(taste(source.name, 0.5, steps=(0, 8)), val_accuracies=(0.5, 0.875))
    finish_tasting(world, target, later, replace(taste("", 0.25, steps=(0, 8)), val_accuracies=(0.25, 0.75)))
    assert read(tastes)[0].sources[0].gain == pytest.approx(0.25)


def test_a_source_of_the_same_dataset_is_marked(world: World, tastes: Tastes) -> None:
    source, target = add_source(world, 1), world.dataset(1)
    measure(world, source, target, 0.0)
    finish_job(world, target, {source.name: 0.5})
    assert read(tastes)[0].sources[0].same_dataset


def test_sources_are_in_the_order_of_the_decision_and_jobs_by_row(world: World, tastes: Tastes) -> None:
    first, second = add_source(world, 1), add_source(world, 2)
    targets = [world.dataset(10), world.dataset(11)]
    for target in targets:
        measure(world, first, target, FAR)
        measure(world, second, target, 2 * FAR)
        finish_job(world, target, {second.name: 0.1, first.name: 0.2})
    found = read(tastes)
    assert [job.dataset for job in found] == [target.name for target in targets]
    assert [[source.version for source in job.sources] for job in found] == 2 * [[second.name, first.name]]


def test_what_was_never_scored_before_a_step_is_left_out(world: World, tastes: Tastes) -> None:
    """A source that failed the taste's own gate has no scores at all."""
    untried, late, tried = (add_source(world, number) for number in (1, 2, 3))
    target = world.dataset(10)
    for source in (untried, late, tried):
        measure(world, source, target, FAR)
    tasted = taste(untried.name, 0.0, steps=()), taste(late.name, 0.5, steps=(8,)), taste(tried.name, 0.5)
    finish_tasting(world, target, *tasted, SCRATCH)
    (job,) = read(tastes)
    assert [source.version for source in job.sources] == [tried.name]


@pytest.mark.parametrize("scratch", [(), (taste("", 0.5, steps=()),), (taste("", 0.5, steps=(8,)),)])
def test_without_scratch_before_any_step_there_is_no_gain(world: World, tastes: Tastes, scratch: tuple) -> None:
    source, target = add_source(world, 1), world.dataset(10)
    measure(world, source, target, FAR)
    finish_tasting(world, target, taste(source.name, 0.5), *scratch)
    assert read(tastes) == []


def test_jobs_without_tastes_are_read_as_nothing(world: World, tastes: Tastes) -> None:
    add_source(world, 1)  # its job has no decision
    finish_tasting(world, world.dataset(10))
    finish_tasting(world, world.dataset(11), SCRATCH)
    assert len(tastes.finished_jobs(100)) == 3
    assert read(tastes) == []


def test_alphas_alone_say_nothing_about_weights(world: World, tastes: Tastes) -> None:
    source = add_source(world, 1)
    for seed, mode in ((10, TransferMode.ALPHAS_ONLY), (11, TransferMode.WEIGHTS_ONLY)):
        target = world.dataset(seed)
        measure(world, source, target, FAR)
        finish_tasting(world, target, taste(source.name, 0.5), SCRATCH, transfer_mode=mode)
    assert [job.dataset for job in read(tastes)] == [target.name]


def test_a_pair_whose_distance_is_not_known_any_more_is_left_out(world: World, tastes: Tastes) -> None:
    """The decision's own distance may be of another encoder or transport, and would not compare with a query's."""
    source, other, target = add_source(world, 1), add_source(world, 2), world.dataset(10)
    measure(world, other, target, FAR)
    finish_job(world, target, {source.name: 0.1, other.name: 0.2})
    finish_job(world, target, {source.name: 0.1})
    (job,) = read(tastes)
    assert [tasted.version for tasted in job.sources] == [other.name]


def test_versions_that_are_gone_or_named_by_an_alias_are_left_out(world: World, tastes: Tastes) -> None:
    gone, source, target = add_source(world, 1), add_source(world, 2), world.dataset(10)
    measure(world, gone, target, FAR)
    measure(world, source, target, FAR)
    finish_job(world, target, {gone.name: 0.1, source.name: 0.2})
    finish_tasting(world, target, taste("supernets/source2/versions/head", SCRATCH_ACCURACY), SCRATCH)
    world.catalog.supernets.delete("supernets/source1", etag=world.catalog.supernets.get("supernets/source1").etag)
    (job,) = read(tastes)
    assert [tasted.version for tasted in job.sources] == [source.name]


def test_only_jobs_that_succeeded_count_the_newest_first(world: World, tastes: Tastes) -> None:
    """Whatever the order in which they finish."""
    source, target = add_source(world, 1), world.dataset(11)
    measure(world, source, target, FAR)
    slow = world.job("supernets/slow", seed=10)
    quick = finish_job(world, target, {source.name: 0.1})
    running = world.job("supernets/running", seed=11)
    lease, _ = world.lease(running)
    decision = SourceDecision(transfer_mode=TransferMode.SCRATCH, tastes=(taste(source.name, 0.5), SCRATCH))
    world.catalog.leases.report(running.name, lease.fence, [JobEvent(decision=decision)])
    before = tastes.finished_jobs(100)
    world.finish(slow)
    after = tastes.finished_jobs(100)
    assert len(before) == 2
    assert [after[0], after[2]] == before  # the slow job was created before the quick one
    assert [job.dataset for job in read(tastes)] == [quick.dataset]
    assert tastes.finished_jobs(1) == after[:1]
