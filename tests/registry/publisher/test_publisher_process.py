"""The publisher as a process: killed anywhere, left alone by its parent, and what it loads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from supernet_registry.registry.catalog import Catalog
from supernet_registry.registry.publisher.drain import Publisher
from supernet_registry.registry.publisher.process import Backoff
from supernet_registry.registry.storage import failpoints
from tests.registry.publisher.publisher_life import Life, content

# MLflow 3.17's own tables use a loader strategy that SQLAlchemy 2.1 deprecates; the warning comes at their import.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

POINTS = sorted(point for point in failpoints.POINTS if point.startswith("publish."))


def run_once(data_dir: Path, *, failpoint: str = "", then: str = "") -> subprocess.CompletedProcess[str]:
    """One pass in a process and a working folder of its own; its exit code is the publisher's."""
    program = (
        "import sys; from supernet_registry.registry.publisher.process import main\n"
        f"code = main(['--data-dir', {str(data_dir)!r}, '--once'])\n"
        f"{then}\nsys.exit(code)\n"
    )
    return subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {failpoints.ENVIRONMENT_VARIABLE: failpoint},
        capture_output=True,
        text=True,
        cwd=data_dir.parent,
    )


@pytest.mark.parametrize("point", POINTS)
def test_killed_anywhere_it_goes_on_without_twins(
    point: str, life: Life, publisher: Publisher, embedded: MlflowClient, data_dir: Path
) -> None:
    """SIGKILL between MLflow's answer and the catalog's note of it: the next publisher finds what is there."""
    source = life.finished_job("letters", "greek").version
    life.finished_job("letters", "latin", source=source)
    killed = run_once(data_dir, failpoint=f"{point}:1:exit")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    left = life.catalog.outbox.backlog().count
    assert left > 0
    assert publisher.drain().published == left
    found = content(embedded)
    assert (found["runs"], found["inputs"], found["models"], found["versions"]) == (2, 2, 1, 2)
    # 9 figures in each of 3 epochs, 15 of the result (none of a child on validation images); the second run has its
    # distance and two taste curves besides.
    assert found["metrics"] == 2 * (3 * 9 + 9 + 6) + 1 + (1 + 2 + 2) + (2 + 2)
    assert str(embedded.get_model_version_by_alias("letters", "head").version) == "2"


def test_one_pass_loads_no_torch_and_leaves_no_trace_elsewhere(
    life: Life, embedded: MlflowClient, data_dir: Path
) -> None:
    """A whole job published, drawing included, without torch or FAISS, and no `mlruns` beside the data folder."""
    life.finished_job("letters", "greek")
    before = set(data_dir.parent.iterdir())
    loaded = "assert {'mlflow', 'matplotlib'} <= set(sys.modules) and not {'torch', 'faiss', 'ot'} & set(sys.modules)"
    result = run_once(data_dir, then=loaded)
    assert result.returncode == 0, result.stderr
    assert content(embedded)["versions"] == 1
    assert life.catalog.outbox.backlog().count == 0
    assert set(data_dir.parent.iterdir()) == before


def test_it_exits_with_its_parent(catalog: Catalog, data_dir: Path) -> None:
    """A supervisor that is killed leaves no publisher behind."""
    argv = [sys.executable, "-m", "supernet_registry.registry.publisher", "--data-dir", str(data_dir), "--parent-pid"]
    program = (
        "import os, subprocess, time\n"
        f"child = subprocess.Popen([*{argv!r}, str(os.getpid())], stderr=subprocess.PIPE, text=True)\n"
        "child.stderr.readline()\n"  # "publishing to ...": from here on it watches
        "print(child.pid, flush=True); time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    assert psutil.wait_procs([child], timeout=120)[1] == []


def test_pauses_double_up_to_five_minutes_and_start_over() -> None:
    """1 s, 2 s, 4 s ... 300 s; 1 s again after a success."""
    backoff = Backoff()
    assert [backoff.pause_s() for _ in range(11)] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    backoff.reset()
    assert backoff.pause_s() == 1
