"""The outbox and what the publisher remembers."""

from __future__ import annotations

from supernet_registry.registry.catalog.outbox import MlflowRun, MlflowVersion
from tests.registry.catalog.catalog_world import StandingClock, World, epoch


def test_every_visible_change_of_a_job_waits_to_be_published(world: World) -> None:
    job = world.job()
    outbox = world.catalog.outbox
    outbox.done([row.row_id for row in outbox.pending()])
    lease, _ = world.lease(job)
    world.catalog.leases.report(job.name, lease.fence, [epoch(1)])
    world.catalog.leases.report(job.name, lease.fence, [epoch(1)])  # nothing new
    world.catalog.leases.renew(job.name, lease.fence)  # nothing to see
    assert [(row.topic, row.resource) for row in outbox.pending()] == [("job", job.name)] * 2


def test_rows_are_deferred_buried_and_done(world: World, clock: StandingClock) -> None:
    outbox = world.catalog.outbox
    world.job()
    clock.advance(7)
    first, *rest = outbox.pending()
    assert outbox.backlog().count == len(rest) + 1
    assert outbox.backlog().oldest_age_s == 7.0
    outbox.defer([first.row_id], 60)
    assert [row.row_id for row in outbox.pending()] == [row.row_id for row in rest]
    assert outbox.backlog().count == len(rest) + 1
    clock.advance(60)
    assert outbox.pending(1)[0].attempts == 1
    outbox.bury([first.row_id], "refused for good")
    assert [row.row_id for row in outbox.pending()] == [row.row_id for row in rest]
    assert [(row.row_id, row.dead_reason) for row in outbox.dead()] == [(first.row_id, "refused for good")]
    outbox.done([row.row_id for row in rest])
    assert outbox.backlog().count == 0
    assert outbox.backlog().oldest_age_s == 0.0


def test_links_to_mlflow_are_remembered_and_replaced(world: World) -> None:
    links = world.catalog.mlflow_links
    run = MlflowRun(job="searchJobs/a", experiment_id="1", run_id="r")
    assert links.run(run.job) is None
    links.save_run(run)
    later = MlflowRun(job=run.job, experiment_id="1", run_id="r", published_sequence=7, finished=True)
    links.save_run(later)
    assert links.run(run.job) == later
    version = MlflowVersion(version="supernets/a/versions/1", model_name="a", model_version="3")
    links.save_version(version)
    assert links.versions("a") == {version.version: "3"}
    links.forget_versions("a")
    assert links.versions("a") == {}
    assert links.registry_id() == links.registry_id()
