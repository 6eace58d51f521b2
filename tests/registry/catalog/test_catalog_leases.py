"""Search jobs as workers see them: leases, fences, progress, checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from supernet_registry.clients.wire.resources import (
    AbandonOutcome,
    Executor,
    JobError,
    JobEvent,
    JobState,
    Phase,
    SearchJob,
    SourceDecision,
    TasteResult,
    TransferMode,
)
from supernet_registry.registry.catalog import Catalog
from supernet_registry.registry.catalog.spaces import describe_space
from supernet_registry.search.errors import InvalidArgument, JobFinished, LeaseLost, NotFinite, NotFound, SpaceMismatch
from tests.registry.catalog.catalog_world import OTHER_SPACE, StandingClock, World, epoch, weights

SCRATCH = SourceDecision(transfer_mode=TransferMode.SCRATCH, reason="nothing near")


def test_a_lease_takes_the_oldest_job_and_starts_an_attempt(world: World) -> None:
    first, second = world.job(), world.job()
    lease, job = world.lease()
    assert (lease.job, lease.fence, lease.duration_seconds) == (first.name, 1, 30.0)
    assert lease.expire_time is not None
    assert (lease.expire_time - world.clock()).total_seconds() == 30.0
    assert (job.name, job.state, job.attempt, job.worker) == (first.name, JobState.RUNNING, 1, "w1")
    assert job.start_time == world.clock()
    assert world.lease(worker="w2")[1].name == second.name
    assert world.catalog.leases.lease("w3") is None


def test_many_workers_never_share_a_job(world: World) -> None:
    for _ in range(8):
        world.job()
    with ThreadPoolExecutor(16) as pool:
        leased = list(pool.map(lambda i: world.catalog.leases.lease(f"w{i}"), range(16)))
    taken = [item[1].name for item in leased if item is not None]
    assert len(taken) == len(set(taken)) == 8


def test_a_callers_job_is_leased_by_name_only(world: World) -> None:
    job = world.job(executor=Executor.CALLER)
    assert world.catalog.leases.lease("w1") is None
    assert world.lease(job)[1].name == job.name
    assert world.catalog.leases.lease("w2", job=job.name) is None  # taken


def test_leasing_an_unknown_or_ended_job_by_name_is_an_error(world: World) -> None:
    job = world.job()
    world.catalog.jobs.cancel(job.name)
    with pytest.raises(JobFinished):
        world.catalog.leases.lease("w1", job=job.name)
    with pytest.raises(NotFound):
        world.catalog.leases.lease("w1", job="searchJobs/0123456789abcdef")
    with pytest.raises(InvalidArgument):
        world.catalog.leases.lease("")


def test_a_dead_workers_job_goes_on_from_its_checkpoint(world: World, clock: StandingClock) -> None:
    """Renewing keeps a lease; without it the job is queued again, with a new fence for the next worker."""
    job = world.job()
    lease, _ = world.lease(job)
    checkpoint = world.catalog.blobs.put(b"state")
    world.catalog.leases.save_checkpoint(job.name, lease.fence, checkpoint)
    clock.advance(20)
    world.catalog.leases.renew(job.name, lease.fence)
    clock.advance(20)
    assert world.catalog.leases.expire() == []
    clock.advance(20)
    assert world.catalog.leases.expire() == [job.name]
    assert world.catalog.jobs.get(job.name).state is JobState.QUEUED
    second = world.catalog.leases.lease("w2")
    assert second is not None
    assert (second[0].fence, second[1].attempt, second[2]) == (2, 2, checkpoint)


def test_a_job_that_kills_every_worker_fails(world: World, clock: StandingClock) -> None:
    job = world.job()
    for _ in range(3):
        world.lease(job)
        clock.advance(31)
        world.catalog.leases.expire()
    ended = world.catalog.jobs.get(job.name)
    assert (ended.state, ended.attempt) == (JobState.FAILED, 3)
    assert ended.error is not None
    assert ended.error.reason == "SEARCH_FAILED"
    assert ended.end_time == clock()


def test_leaving_in_good_order_costs_no_attempt(world: World) -> None:
    """A worker that gives its job back (a restart, a drain) is no sign of a bad job."""
    job = world.job()
    for _ in range(5):
        lease, _ = world.lease(job)
        world.catalog.leases.abandon(job.name, lease.fence, AbandonOutcome.REQUEUE)
    assert world.catalog.jobs.get(job.name).state is JobState.QUEUED


def test_a_cancelled_job_of_a_dead_worker_is_cancelled(world: World, clock: StandingClock) -> None:
    job = world.job()
    world.lease(job)
    world.catalog.jobs.cancel(job.name)
    clock.advance(31)
    world.catalog.leases.expire()
    assert world.catalog.jobs.get(job.name).state is JobState.CANCELLED


def test_after_a_long_outage_of_the_server_workers_keep_their_jobs(
    world: World, clock: StandingClock, open_catalog: Callable[..., Catalog]
) -> None:
    job = world.job()
    lease, _ = world.lease(job)
    clock.advance(3600)
    restarted = open_catalog()
    assert restarted.leases.readopt() == 1
    assert restarted.leases.expire() == []
    assert restarted.leases.renew(job.name, lease.fence)[0].fence == lease.fence


FENCED: list[Callable[[World, SearchJob, int], object]] = [
    lambda world, job, fence: world.catalog.leases.renew(job.name, fence),
    lambda world, job, fence: world.catalog.leases.report(job.name, fence, [epoch(1)]),
    lambda world, job, fence: world.catalog.leases.save_checkpoint(job.name, fence, world.catalog.blobs.put(b"late")),
    lambda world, job, fence: world.catalog.leases.abandon(job.name, fence, AbandonOutcome.FAILED),
    lambda world, job, fence: world.catalog.write_back.complete(job.name, fence, world.result()),
]


@pytest.mark.parametrize("call", FENCED, ids=["renew", "report", "save_checkpoint", "abandon", "complete"])
@pytest.mark.parametrize("situation", ["expired", "taken over", "cancelled", "succeeded", "never leased"])
def test_a_stale_fence_has_no_effect(
    world: World, clock: StandingClock, call: Callable[[World, SearchJob, int], object], situation: str
) -> None:
    """A worker that was paused past its lease gets LEASE_LOST, whatever it tries, and nothing changes."""
    job = world.job()
    fence = 1
    if situation != "never leased":
        lease, _ = world.lease(job)
        if situation in ("expired", "taken over"):
            clock.advance(31)
            world.catalog.leases.expire()
        else:
            outcome = AbandonOutcome.CANCELLED if situation == "cancelled" else AbandonOutcome.REQUEUE
            world.catalog.leases.abandon(job.name, lease.fence, outcome)
    if situation == "taken over":
        world.lease(job, "w2")
    if situation == "succeeded":
        world.finish(job)
    before = world.catalog.jobs.get(job.name)
    with pytest.raises(LeaseLost):
        call(world, job, fence)
    assert world.catalog.jobs.get(job.name) == before


def test_progress_is_appended_once_and_in_order(world: World) -> None:
    """A resumed attempt repeats epochs that the job has already; watchers see each once, without gaps."""
    job = world.job()
    lease, _ = world.lease(job)
    report = world.catalog.leases.report
    assert report(job.name, lease.fence, [JobEvent(decision=SCRATCH), epoch(0), epoch(1)]) == 5
    assert report(job.name, lease.fence, [JobEvent(decision=SCRATCH), epoch(1), epoch(2), epoch(2)]) == 6
    assert report(job.name, lease.fence, [epoch(1, phase=Phase.CHILD), JobEvent(message="done soon")]) == 8
    now = world.catalog.jobs.get(job.name)
    assert now.decision == SCRATCH
    assert now.progress == epoch(1, phase=Phase.CHILD).epoch
    events = world.catalog.jobs.events(job.name)
    assert [event.sequence for event in events] == list(range(1, 9))
    kinds = [e.state or e.message or (e.decision and "decision") or (e.epoch and e.epoch.epoch) for e in events]
    assert kinds == ["QUEUED", "RUNNING", "decision", 0, 1, 2, 1, "done soon"]


def test_concurrent_reports_leave_no_gap(world: World) -> None:
    job = world.job()
    lease, _ = world.lease(job)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: world.catalog.leases.report(job.name, lease.fence, [epoch(i // 2)]), range(32)))
    assert [event.sequence for event in world.catalog.jobs.events(job.name)] == list(range(1, 19))


BAD_EVENTS: list[tuple[str, type[Exception], JobEvent]] = [
    ("events[1]", InvalidArgument, JobEvent()),
    ("events[1]", InvalidArgument, JobEvent(state=JobState.SUCCEEDED)),
    ("events[1]", InvalidArgument, JobEvent(message="a", decision=SCRATCH)),
    ("events[1].message", InvalidArgument, JobEvent(message="\x1b[31m")),
    ("events[1].epoch.phase", InvalidArgument, epoch(1, phase=Phase.UNSPECIFIED)),
    ("events[1].epoch.val_accuracy", InvalidArgument, epoch(1, accuracy=1.01)),
    ("events[1].epoch.val_accuracy", NotFinite, epoch(1, accuracy=float("nan"))),
    (
        "events[1].decision.transfer_mode",
        InvalidArgument,
        JobEvent(decision=replace(SCRATCH, source="supernets/b/versions/7")),
    ),
    ("decision.source", InvalidArgument, JobEvent(decision=SourceDecision(source="supernets/b"))),
    (
        "events[1].decision.tastes[0].steps",
        InvalidArgument,
        JobEvent(decision=replace(SCRATCH, tastes=(TasteResult(steps=(1,)),))),
    ),
    (
        "decision.source",
        NotFound,
        JobEvent(decision=SourceDecision(source="supernets/b/versions/7", transfer_mode=TransferMode.ALPHAS_ONLY)),
    ),
]


@pytest.mark.parametrize(("field", "error", "event"), BAD_EVENTS)
def test_a_bad_event_is_refused_and_nothing_of_the_report_is_kept(
    world: World, field: str, error: type[Exception], event: JobEvent
) -> None:
    job = world.job()
    lease, _ = world.lease(job)
    with pytest.raises(error) as caught:
        world.catalog.leases.report(job.name, lease.fence, [epoch(1), event])
    assert getattr(caught.value, "field", "") == field
    assert len(world.catalog.jobs.events(job.name)) == 2


def test_a_source_of_another_space_is_refused(world: World) -> None:
    job = world.job()
    lease, _ = world.lease(job)
    other = world.catalog.supernets
    foreign = world.job("supernets/other", seed=1, search_space=describe_space(OTHER_SPACE))
    assert other.get("supernets/other").search_space == describe_space(OTHER_SPACE)
    foreign_lease, _ = world.lease(foreign)
    result = world.result(weights_blob=world.catalog.blobs.put(weights(space=OTHER_SPACE)), child_blob="")
    version, _ = world.catalog.write_back.complete(foreign.name, foreign_lease.fence, result)
    decision = SourceDecision(source=version.name, transfer_mode=TransferMode.WEIGHTS_AND_ALPHAS)
    with pytest.raises(SpaceMismatch):
        world.catalog.leases.report(job.name, lease.fence, [JobEvent(decision=decision)])


def test_a_failed_attempt_tells_why_whatever_its_text_looks_like(world: World) -> None:
    job = world.job()
    lease, _ = world.lease(job)
    error = JobError(reason="not a reason", message="\x1b[31mloss became NaN\x00" + "x" * 20_000)
    ended = world.catalog.leases.abandon(job.name, lease.fence, AbandonOutcome.FAILED, error)
    assert ended.state is JobState.FAILED
    assert ended.error is not None
    assert ended.error.reason == "SEARCH_FAILED"
    assert ended.error.message.startswith(" [31mloss became NaN ")
    assert len(ended.error.message) == 10_000


def test_cancellation_is_confirmed_also_by_a_worker_that_only_leaves(world: World) -> None:
    job = world.job()
    lease, _ = world.lease(job)
    world.catalog.jobs.cancel(job.name)
    ended = world.catalog.leases.abandon(job.name, lease.fence, AbandonOutcome.REQUEUE)
    assert ended.state is JobState.CANCELLED
    assert ended.end_time is not None


def test_a_checkpoint_must_be_stored_before_it_is_named(world: World) -> None:
    job = world.job()
    lease, _ = world.lease(job)
    with pytest.raises(NotFound) as caught:
        world.catalog.leases.save_checkpoint(job.name, lease.fence, f"blobs/{'0' * 64}")
    assert caught.value.field == "checkpoint_blob"
