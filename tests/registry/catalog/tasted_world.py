"""Finished jobs that have tasted sources, in a real catalog."""

from __future__ import annotations

from collections.abc import Mapping

from supernet_registry.clients.wire.resources import (
    Dataset,
    JobEvent,
    Metrics,
    SearchJob,
    SourceDecision,
    SupernetVersion,
    TasteResult,
    TransferMode,
)
from tests.registry.catalog.catalog_world import SPACE_DESCRIPTOR, World, search_spec

SCRATCH_ACCURACY = 0.25


def taste(version: str, accuracy: float, *, steps: tuple[int, ...] = (0,)) -> TasteResult:
    """A trial that gave `accuracy` at every step; of scratch if `version` is empty."""
    points = len(steps)
    return TasteResult(version=version, steps=steps, val_accuracies=(accuracy,) * points, val_losses=(1.0,) * points)


SCRATCH = taste("", SCRATCH_ACCURACY)


def add_source(world: World, number: int, *, val_accuracy: float = 0.9) -> SupernetVersion:
    """A version in a supernet of its own, on the dataset of seed `number`."""
    job = world.job(f"supernets/source{number}", seed=number)
    lease, _ = world.lease(job)
    figures = Metrics(val_accuracy=val_accuracy, test_accuracy=val_accuracy)
    return world.catalog.write_back.complete(job.name, lease.fence, world.result(number, metrics=figures))[0]


def measure(world: World, source: SupernetVersion, target: Dataset, distance: float) -> None:
    """Let the catalog know the OT distance between a source's dataset and a target."""
    origin = world.catalog.datasets.get(source.dataset)
    world.catalog.distances.store_distance(origin.sketch_digest, target.sketch_digest, distance, converged=True)


def finish_tasting(world: World, target: Dataset, *tastes: TasteResult, **spec: object) -> SearchJob:
    """Finish a job on a dataset whose decision, for scratch, lists these tastes."""
    values = {"search_space": SPACE_DESCRIPTOR, **spec}
    draft = SearchJob(supernet="supernets/targets", dataset=target.name, spec=search_spec(**values))
    job = world.catalog.jobs.create(draft)
    lease, _ = world.lease(job)
    decision = SourceDecision(transfer_mode=TransferMode.SCRATCH, reason="no source helps", tastes=tastes)
    world.catalog.leases.report(job.name, lease.fence, [JobEvent(decision=decision)])
    world.catalog.write_back.complete(job.name, lease.fence, world.result(child_blob=""))
    return world.catalog.jobs.get(job.name)


def finish_job(world: World, target: Dataset, gains: Mapping[str, float]) -> SearchJob:
    """Finish a job on a dataset that has seen these gains, by version."""
    tastes = [taste(version, SCRATCH_ACCURACY + gain) for version, gain in gains.items()]
    return finish_tasting(world, target, *tastes, SCRATCH)
