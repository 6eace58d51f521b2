"""One whole way of a task through the catalog, which may be killed anywhere and lived again.

As a program: `python catalog_life.py FOLDER DATABASE_URL` lives it once and prints a line for each acknowledgement.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from supernet_registry.clients.wire.resources import JobState, SearchJob
from supernet_registry.registry.catalog import Catalog
from supernet_registry.registry.catalog.spaces import read_space
from supernet_registry.registry.catalog.versions import select_versions
from supernet_registry.registry.settings import Settings
from supernet_registry.registry.storage.blobs import open_store
from supernet_registry.registry.storage.database import open_database, transaction
from supernet_registry.registry.storage.schema import job_events
from supernet_registry.search.tasks import pack_images
from tests.registry.catalog.catalog_world import StandingClock, World, epoch, images, search_spec, weights

DATASET_REQUEST = "00000000-0000-0000-0000-000000000001"
JOB_REQUEST = "00000000-0000-0000-0000-000000000002"
CHUNK = 600


def open_life(folder: Path, database_url: str, *, hours: int = 0) -> World:
    """The catalog in `folder`, so many hours after the first life."""
    clock = StandingClock()
    clock.advance(hours * 3600)
    settings = Settings(data_dir=folder, database_url=database_url, blob_grace_seconds=60, max_attempts=100)
    engine = open_database(database_url)
    return World(Catalog(engine, open_store(settings), settings, clock), clock, engine)


def live(world: World, acknowledge: Callable[[str], None]) -> None:
    """Upload, register, search, write back, sweep: the same requests in every life."""
    catalog = world.catalog
    acknowledge(world.upload(pack_images(images(0)), CHUNK))
    dataset = world.register(world.draft(0), request_id=DATASET_REQUEST)
    acknowledge(dataset.name)
    draft = SearchJob(supernet="supernets/a", dataset=dataset.name, spec=search_spec())
    job = catalog.jobs.create(draft, request_id=JOB_REQUEST)
    acknowledge(job.name)
    if job.state is not JobState.SUCCEEDED:
        catalog.leases.expire()
        lease, _ = world.lease(job)
        catalog.leases.report(job.name, lease.fence, [epoch(1), epoch(2)])
        catalog.leases.save_checkpoint(job.name, lease.fence, world.upload(b"checkpoint" * 100, CHUNK))
        space = catalog.jobs.get(job.name).spec
        assert space is not None
        data = weights(space=read_space(space.search_space, "space"))
        result = world.result(weights_blob=world.upload(data, CHUNK), child_blob="")
        version, _ = catalog.write_back.complete(job.name, lease.fence, result)
        acknowledge(version.name)
    world.clock.advance(2 * 3600)
    catalog.sweeper.sweep()
    acknowledge("swept")


def check_nothing_is_half_done(world: World) -> None:
    """What holds after every commit, so also after every crash."""
    catalog = world.catalog
    versions, _ = catalog.supernets.list_versions()
    for version in versions:
        catalog.blobs.read(version.weights_blob)
        job = catalog.jobs.get(version.job)
        assert (job.state, job.version) == (JobState.SUCCEEDED, version.name)
    for supernet in catalog.supernets.list()[0]:
        own = [version for version in versions if version.name.startswith(f"{supernet.name}/")]
        assert supernet.version_count == len(own)
        assert [version.name for version in own if version.head] == ([supernet.head] if supernet.head else [])
    announced = {row.resource for row in catalog.outbox.pending(10_000)}
    for job in catalog.jobs.list()[0]:
        assert (job.state is JobState.SUCCEEDED) == bool(job.version)
        assert [event.sequence for event in catalog.jobs.events(job.name)] == list(range(1, job.last_sequence + 1))
        assert {job.name, job.supernet} <= announced
    for dataset in catalog.datasets.list()[0]:
        assert catalog.datasets.sketch_bytes(dataset.name)
        assert not dataset.images_blob or catalog.blobs.read(dataset.images_blob)
    with transaction(world.engine, write=False) as connection:
        assert len(connection.execute(select_versions()).all()) == len(versions)
        assert connection.execute(job_events.select()).all() or not catalog.jobs.list()[0]


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    live(open_life(Path(sys.argv[1]), sys.argv[2]), _print)
