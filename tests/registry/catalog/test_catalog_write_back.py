"""Write-back: how a finished search becomes a version."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from supernet_registry.clients.wire.resources import (
    JobEvent,
    JobState,
    Metrics,
    Parent,
    ParentRole,
    SourceDecision,
    SourcePolicy,
    SupernetVersion,
    TransferMode,
)
from supernet_registry.registry.catalog import Catalog
from supernet_registry.search.errors import (
    BlobCorrupt,
    DimensionMismatch,
    InvalidArgument,
    LeaseLost,
    NotFinite,
    NotFound,
    SpaceMismatch,
    SupernetRegistryError,
    UnsafeWeights,
    WeightsTooLarge,
)
from supernet_registry.search.storage.container import pack
from tests.registry.catalog.catalog_world import CLASSES, OTHER_SPACE, SPACE, World, weights


def test_a_result_becomes_the_head_with_everything_filled_in(world: World) -> None:
    job = world.job()
    lease, _ = world.lease(job)
    result = world.result()
    forged = replace(result, name="supernets/x/versions/9", dataset="datasets/x", parents=(Parent(version="y"),))
    version, head_moved = world.catalog.write_back.complete(job.name, lease.fence, forged)
    assert not head_moved
    assert version == replace(
        result,
        name="supernets/a/versions/1",
        weights_size_bytes=len(weights()),
        dataset=job.dataset,
        dataset_display_name="noise0",
        job=job.name,
        transfer_mode=TransferMode.SCRATCH,
        search_space=job.spec.search_space if job.spec else None,
        head=True,
        create_time=world.clock(),
    )
    ended = world.catalog.jobs.get(job.name)
    assert (ended.state, ended.version, ended.head_moved) == (JobState.SUCCEEDED, version.name, False)
    assert world.catalog.jobs.events(job.name)[-1].state is JobState.SUCCEEDED
    supernet = world.catalog.supernets.get("supernets/a")
    assert (supernet.head, supernet.version_count) == (version.name, 1)
    assert world.catalog.supernets.get_version("supernets/a/versions/head") == version
    topics = {(row.topic, row.resource) for row in world.catalog.outbox.pending()}
    assert {("job", job.name), ("supernet", "supernets/a")} <= topics


def test_repeating_a_completion_gives_the_same_version_also_after_a_restart(
    world: World, open_catalog: Callable[..., Catalog]
) -> None:
    job = world.job()
    lease, _ = world.lease(job)
    first = world.catalog.write_back.complete(job.name, lease.fence, world.result())
    assert world.catalog.write_back.complete(job.name, lease.fence, world.result()) == first
    assert open_catalog().write_back.complete(job.name, lease.fence, world.result(seed=5)) == first
    assert world.catalog.supernets.get("supernets/a").version_count == 1
    with pytest.raises(LeaseLost):
        world.catalog.write_back.complete(job.name, lease.fence + 1, world.result())


def test_a_task_seen_before_extends_its_lineage(world: World) -> None:
    first = world.version("supernets/a")
    source = world.version("supernets/b", seed=1)
    second = world.version("supernets/a", source=source.name, seed=2)
    third = world.version("supernets/a", source=second.name, seed=3)
    assert second.parents == (
        Parent(version=source.name, role=ParentRole.SOURCE),
        Parent(version=first.name, role=ParentRole.PREVIOUS_HEAD),
    )
    assert [parent.role for parent in third.parents] == [ParentRole.SOURCE, ParentRole.PREVIOUS_HEAD]
    assert {parent.version for parent in third.parents} == {second.name}
    assert third.transfer_mode is TransferMode.WEIGHTS_AND_ALPHAS


def test_without_a_report_the_policys_source_is_the_parent(world: World) -> None:
    source = world.version("supernets/a")
    policy = {"source_policy": SourcePolicy.VERSION, "source_version": source.name}
    version = world.finish(world.job("supernets/b", transfer_mode=TransferMode.ALPHAS_ONLY, **policy))
    assert version.parents == (Parent(version=source.name, role=ParentRole.SOURCE),)
    assert version.transfer_mode is TransferMode.ALPHAS_ONLY


def test_concurrent_completions_on_one_base_lose_nothing_and_move_the_head_once(world: World) -> None:
    """The losers of the compare-and-swap stay as siblings."""
    base = world.version("supernets/a")
    leases = [world.lease(world.job("supernets/a"))[0] for _ in range(8)]
    result = world.result()
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda lease: world.catalog.write_back.complete(lease.job, lease.fence, result), leases))
    assert sorted(version.name for version, _ in done) == [f"supernets/a/versions/{n}" for n in range(2, 10)]
    winners = [version for version, head_moved in done if not head_moved]
    assert len(winners) == 1
    assert world.catalog.supernets.get("supernets/a").head == winners[0].name
    for version, _ in done:
        assert [parent.version for parent in version.parents] == [base.name]
    assert [world.catalog.jobs.get(lease.job).head_moved for lease in leases].count(False) == 1


def test_after_a_rollback_the_job_before_it_becomes_a_sibling(world: World) -> None:
    first, second = world.version("supernets/a"), world.version("supernets/a", seed=1)
    assert second.head
    job = world.job("supernets/a", seed=2)
    supernet = world.catalog.supernets.get("supernets/a")
    world.catalog.supernets.rollback("supernets/a", first.name, etag=supernet.etag)
    lease, _ = world.lease(job)
    third, head_moved = world.catalog.write_back.complete(job.name, lease.fence, world.result(2))
    assert head_moved
    assert not third.head
    assert world.catalog.supernets.get("supernets/a").head == first.name


def test_a_job_that_finished_before_it_heard_of_its_cancellation_is_kept(world: World) -> None:
    """No finished search is ever lost."""
    job = world.job()
    lease, _ = world.lease(job)
    world.catalog.jobs.cancel(job.name)
    world.catalog.write_back.complete(job.name, lease.fence, world.result())
    assert world.catalog.jobs.get(job.name).state is JobState.SUCCEEDED


def _blob(data: bytes, **more: object) -> Callable[[World], SupernetVersion]:
    return lambda world: world.result(weights_blob=world.catalog.blobs.put(data), **more)


NAN = weights().replace(weights()[-4:], b"\x00\x00\xc0\x7f")
BAD_RESULTS: list[tuple[str, type[SupernetRegistryError], Callable[[World], SupernetVersion]]] = [
    ("version.weights_blob", NotFound, lambda world: world.result(weights_blob=f"blobs/{'0' * 64}")),
    ("version.weights_blob", InvalidArgument, lambda world: world.result(weights_blob="")),
    ("version.weights_blob", UnsafeWeights, _blob(b"\x80\x04\x95 a pickle")),
    ("version.weights_blob", UnsafeWeights, _blob(weights(kind="child"))),
    ("version.weights_blob", NotFinite, _blob(NAN)),
    ("version.weights_blob", SpaceMismatch, _blob(weights(space=OTHER_SPACE))),
    ("version.weights_blob", DimensionMismatch, _blob(weights(n_classes=3))),
    ("version.weights_blob", WeightsTooLarge, _blob(weights() + b"x" * 5000)),
    ("version.child_blob", UnsafeWeights, lambda world: world.result(child_blob=world.catalog.blobs.put(weights()))),
    ("version.genotype", InvalidArgument, lambda world: world.result(genotype="")),
    ("version.metrics", InvalidArgument, lambda world: world.result(metrics=None)),
    (
        "version.metrics.test_accuracy",
        InvalidArgument,
        lambda world: world.result(metrics=Metrics(test_accuracy=90.0)),
    ),
    (
        "version.metrics.alpha_entropy",
        NotFinite,
        lambda world: world.result(metrics=Metrics(alpha_entropy=float("inf"))),
    ),
]


@pytest.mark.parametrize(("field", "error", "make"), BAD_RESULTS)
def test_a_bad_result_is_refused_with_the_field_and_the_job_goes_on(
    open_catalog: Callable[..., Catalog],
    clock: object,
    field: str,
    error: type[SupernetRegistryError],
    make: Callable[[World], SupernetVersion],
) -> None:
    world = World(open_catalog(max_weights_bytes=4096), clock)  # type: ignore[arg-type]
    job = world.job()
    lease, _ = world.lease(job)
    before = len(world.catalog.outbox.pending())
    with pytest.raises(error) as caught:
        world.catalog.write_back.complete(job.name, lease.fence, make(world))
    assert caught.value.field == field
    assert world.catalog.jobs.get(job.name).state is JobState.RUNNING
    assert world.catalog.supernets.list_versions() == ([], "")
    assert len(world.catalog.outbox.pending()) == before
    world.catalog.write_back.complete(job.name, lease.fence, world.result())


def test_weights_that_rotted_on_disk_never_become_a_version(world: World, tmp_path: Path) -> None:
    job = world.job()
    lease, _ = world.lease(job)
    result = world.result()
    path = next((tmp_path / "data" / "blobs").glob(f"*/{result.weights_blob.removeprefix('blobs/')}"))
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(BlobCorrupt):
        world.catalog.write_back.complete(job.name, lease.fence, result)
    assert world.catalog.supernets.list_versions() == ([], "")


def test_another_decision_after_a_lost_attempt_is_the_one_that_counts(world: World) -> None:
    source = world.version("supernets/b", seed=1)
    job = world.job("supernets/a")
    lease, _ = world.lease(job)
    for decision in (
        SourceDecision(source=source.name, transfer_mode=TransferMode.WEIGHTS_AND_ALPHAS),
        SourceDecision(transfer_mode=TransferMode.SCRATCH, reason="lost the taste"),
    ):
        world.catalog.leases.report(job.name, lease.fence, [JobEvent(decision=decision)])
    version, _ = world.catalog.write_back.complete(job.name, lease.fence, world.result())
    assert version.parents == ()
    assert version.transfer_mode is TransferMode.SCRATCH


def test_weights_are_checked_in_their_file_and_never_all_in_memory(world: World) -> None:
    """64 MiB of weights; what holding them costs once would be four times the bound."""
    job = world.job()
    lease, _ = world.lease(job)
    described = {"space": SPACE.to_json(), "n_classes": CLASSES, "genotype": "|skip|"}
    result = world.result(
        weights_blob=world.catalog.blobs.put(pack({"w": np.zeros(2**24, np.float32)}, "supernet", described))
    )
    tracemalloc.start()
    try:
        version, _ = world.catalog.write_back.complete(job.name, lease.fence, result)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert version.weights_size_bytes > 2**26
    assert peak_bytes < 2**24
