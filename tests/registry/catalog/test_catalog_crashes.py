"""A crash, or a full disk, at any point of the way of a task: nothing acknowledged is lost, nothing is half-done."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from supernet_registry.registry.storage import failpoints
from supernet_registry.search.errors import DiskFull, InvalidArgument
from tests.registry.catalog import catalog_life
from tests.registry.catalog.catalog_life import check_nothing_is_half_done, live, open_life

ROOT = Path(__file__).parents[3]
POINTS = sorted(point for point in failpoints.POINTS if not point.startswith("publish."))
"""Those on the way of a task; the publisher's own are visited by its tests."""


def check_acknowledged(world: catalog_life.World, lines: list[str]) -> None:
    """Every resource that was acknowledged is there (images may go once the job is done)."""
    catalog = world.catalog
    for line in lines:
        if line.startswith("datasets/"):
            catalog.datasets.get(line)
        elif line.startswith("searchJobs/"):
            catalog.jobs.get(line)
        elif line.startswith("supernets/"):
            assert catalog.supernets.get_version(line).head
        elif line.startswith("blobs/") and not any(other.startswith("supernets/") for other in lines):
            catalog.blobs.read(line)


def check_second_life(world: catalog_life.World) -> None:
    """The same requests lead to the same end, without twins, and leave only what is needed."""
    live(world, lambda line: None)
    check_nothing_is_half_done(world)
    (job,) = world.catalog.jobs.list()[0]
    (version,) = world.catalog.supernets.list_versions()[0]
    (dataset,) = world.catalog.datasets.list()[0]
    assert version.name == "supernets/a/versions/1"
    assert job.version == version.name
    assert dataset.images_blob == ""
    needed = {version.weights_blob, f"blobs/{dataset.sketch_digest}"}
    assert needed <= {f"blobs/{sha256}" for sha256 in world.catalog.blobs.store.digests()}
    world.clock.advance(48 * 3600)
    world.catalog.sweeper.sweep()
    assert {f"blobs/{sha256}" for sha256 in world.catalog.blobs.store.digests()} == needed


@pytest.mark.parametrize("point", POINTS)
def test_sigkill_at_every_point(database_url: str, tmp_path: Path, point: str) -> None:
    folder = tmp_path / "data"
    paths = str(ROOT)
    env = {**os.environ, failpoints.ENVIRONMENT_VARIABLE: f"{point}:1:exit", "PYTHONPATH": paths}
    program = [sys.executable, catalog_life.__file__, str(folder), database_url]
    died = subprocess.run(program, env=env, capture_output=True, text=True, timeout=120)
    assert died.returncode == -signal.SIGKILL, f"the point was not reached: {died.stderr}"
    world = open_life(folder, database_url, hours=1)
    check_acknowledged(world, died.stdout.splitlines())
    check_nothing_is_half_done(world)
    check_second_life(world)
    world.catalog.close()


@pytest.mark.parametrize(
    ("point", "nth"), [(p, 1) for p in POINTS] + [(p, 2) for p in POINTS if p.startswith(("blob.", "upload."))]
)
def test_full_disk_at_every_point(database_url: str, tmp_path: Path, point: str, nth: int) -> None:
    """The call says so, later calls and reads work, and once there is room the same requests succeed."""
    world = open_life(tmp_path / "data", database_url)
    acknowledged: list[str] = []
    with failpoints.armed(f"{point}:{nth}:enospc"):
        try:
            live(world, acknowledged.append)
        except DiskFull as error:
            assert error.retry_after_s
        except OSError:
            # Where no disk is written the injected error is as foreign as any; what counts is what it leaves behind.
            assert point in ("upload.synced", "upload.verified", "write_back.checked", "write_back.committed")
        check_acknowledged(world, acknowledged)
        check_nothing_is_half_done(world)
        world.clock.advance(3600)
        check_second_life(world)
    world.catalog.close()


@pytest.mark.parametrize("text", ["nonsense", "blob.written:x:exit", "blob.written:1:explode", "unknown.point:1:exit"])
def test_a_failpoint_that_does_not_exist_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument), failpoints.armed(text):
        pass
    with pytest.raises(KeyError):
        failpoints.hit("unknown.point")
