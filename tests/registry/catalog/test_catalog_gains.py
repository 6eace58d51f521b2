"""The gain model in service: it learns from the jobs of a real catalog, and signals nearest-source queries."""

from __future__ import annotations

import numpy as np

from supernet_registry.clients.wire.resources import Dataset, SourceCandidate, SupernetVersion
from supernet_registry.registry.catalog.tastes import TastedJob, Tastes
from supernet_registry.registry.sources.signals.gain_predictor import GainPredictor
from supernet_registry.registry.sources.signals.signal import Signal
from tests.registry.catalog.catalog_world import World, sketch
from tests.registry.catalog.tasted_world import SCRATCH, add_source, finish_job, finish_tasting, measure

TARGET = sketch(99)


class CountingTastes(Tastes):
    """Tastes that remember how many jobs were read."""

    read = 0

    def of_jobs(self, job_rows) -> list[TastedJob]:
        self.read += len(job_rows)
        return super().of_jobs(job_rows)


def live(world: World, sources: list[SupernetVersion], targets: int, jobs: int) -> None:
    """Each target tastes three sources, at distances that mean nothing; what counts is how good the source is."""
    random = np.random.default_rng(0)
    for seed in range(100, 100 + targets):
        target = world.dataset(seed)
        tasted = [sources[i] for i in random.permutation(len(sources))[:3]]
        for source in tasted:
            measure(world, source, target, float(random.uniform(2.0, 3.0)))
        for _ in range(jobs):
            luck = 0.05 * random.normal()
            finish_job(world, target, {source.name: luck + 1.2 * (accuracy(source) - 0.6) for source in tasted})


def accuracy(source: SupernetVersion) -> float:
    assert source.metrics is not None
    return source.metrics.val_accuracy


def candidate(source: SupernetVersion, distance: float, **values: bool) -> SourceCandidate:
    return SourceCandidate(
        version=source.name,
        dataset=source.dataset,
        ot_distance=distance,
        quality=accuracy(source),
        **({"eligible": True, "compatible": True} | values),
    )


def datasets_of(world: World, *sources: SupernetVersion) -> dict[str, Dataset]:
    return {source.dataset: world.catalog.datasets.get(source.dataset) for source in sources}


def test_it_learns_from_finished_jobs_that_skill_counts_and_says_so(world: World) -> None:
    sources = [add_source(world, number, val_accuracy=0.6 + 0.1 * number) for number in range(4)]
    facts = datasets_of(world, *sources)
    candidates = [
        candidate(sources[0], 2.4),
        candidate(sources[3], 2.5),
        candidate(sources[2], 2.5, eligible=False),
        candidate(sources[1], 40.0),
    ]
    predictor = GainPredictor(world.catalog)
    signal: Signal = predictor
    assert signal.reason == "Not used: the finished jobs have not been read yet."
    assert predictor.refresh()
    assert signal.reason == "Not used: 0 finished jobs have tasted two sources or more, at least 20 are needed."
    assert signal.predict(candidates, TARGET, facts) == {}

    live(world, sources, targets=10, jobs=2)
    assert predictor.refresh()
    assert signal.reason.startswith("Used: on 20 held-out jobs (10 datasets) ")
    gains = signal.predict(candidates, TARGET, facts)
    assert set(gains) == {sources[0].name, sources[3].name}  # not the ineligible, nor what is further than ever tasted
    assert gains[sources[3].name] > gains[sources[0].name] + 0.1

    without_one = signal.predict(candidates, TARGET, datasets_of(world, sources[0]))
    assert set(without_one) == {sources[0].name}  # the other's dataset was deleted meanwhile
    assert signal.predict([], TARGET, {}) == {}

    restarted = GainPredictor(world.catalog)
    assert restarted.refresh()
    assert restarted.reason == signal.reason
    assert restarted.predict(candidates, TARGET, facts) == gains


def test_a_refresh_reads_only_jobs_that_finished_since(world: World) -> None:
    tastes = world.catalog.tastes = CountingTastes(world.engine)
    predictor = GainPredictor(world.catalog)
    source, target = add_source(world, 1), world.dataset(11)
    measure(world, source, target, 2.0)
    slow = world.job("supernets/slow", seed=10)
    assert predictor.refresh()
    assert (tastes.read, predictor.refresh(), tastes.read) == (1, False, 1)
    finish_job(world, target, {source.name: 0.1})
    finish_tasting(world, target, SCRATCH)
    assert predictor.refresh()
    assert tastes.read == 3
    world.finish(slow)  # created before both
    assert (predictor.refresh(), tastes.read, predictor.refresh()) == (True, 4, False)


def test_only_the_newest_jobs_are_remembered(world: World) -> None:
    sources, target = [add_source(world, number) for number in (1, 2)], world.dataset(10)
    predictor = GainPredictor(world.catalog, most_jobs=2)
    for source in sources:
        measure(world, source, target, 2.0)
    for _ in range(3):
        finish_job(world, target, {source.name: 0.1 for source in sources})
        assert predictor.refresh()
    assert predictor.reason.startswith("Not used: 2 finished jobs ")


def test_an_interrupted_refresh_keeps_the_model_and_goes_on_next_time(world: World) -> None:
    """A server that stops does not wait for thousands of decisions to be read."""
    tastes = world.catalog.tastes = CountingTastes(world.engine)
    predictor = GainPredictor(world.catalog)
    add_source(world, 1)
    assert not predictor.refresh(lambda: True)
    assert (tastes.read, predictor.reason) == (0, "Not used: the finished jobs have not been read yet.")
    assert predictor.refresh(lambda: False)
    assert tastes.read == 1
