"""Streams under several policies, through real services in processes of their own; interrupted and continued."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from supernet_registry.clients.wire.resources import DatasetMap
from supernet_registry.registry.evaluation.plan import SHUFFLED, Folder, Plan, Unit
from supernet_registry.registry.evaluation.policies import Policy
from supernet_registry.registry.evaluation.runner import run_units
from supernet_registry.search.errors import InvalidArgument, NotFound
from tests.tiny_search import tiny_space, write_tiny_dataset

ROOT = Path(__file__).parents[3]
SEARCH = {"recipe": {"epochs": "2", "child_epochs": "1", "batch_size": "16"}, "space": tiny_space().to_json()}
STEPS = [{"task": "one"}, {"task": "two", "n_train": 12, "n_val": 8, "expect": 0}, {"task": "one", "expect": 1}]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    for seed, name in enumerate(["one", "two"]):
        write_tiny_dataset(folder / f"{name}.npz", seed)
    (folder / "streams.json").write_text(json.dumps({"short": STEPS}))
    return folder


def plan(tasks: Path, *policies: Policy, **options: Any) -> Plan:
    defaults: dict[str, Any] = {"streams": ("short",), "seeds": (0,), "device": "cpu", "search": SEARCH}
    return Plan(tasks=tasks, streams_file=tasks / "streams.json", policies=policies, **{**defaults, **options})


def unit(policy: Policy, seed: int = 0) -> Unit:
    return Unit(seed=seed, stream="short", policy=policy)


@pytest.fixture(scope="module")
def folder(tasks: Path, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """All policies that need no file, run once."""
    out = Folder(tmp_path_factory.mktemp("evaluation"))
    policies = [policy for policy in Policy if policy is not Policy.FIXED_PRETRAINED]
    assert run_units(out, plan(tasks, *policies), workers=2) == []
    return out


def test_every_policy_starts_where_its_name_says(folder: Folder) -> None:
    sources = {}
    for policy in Policy:
        if policy is not Policy.FIXED_PRETRAINED:
            run = folder.read_run(unit(policy))
            assert [row.task_name for row in run.result.rows] == ["one", "two", "one"]
            assert run.result.failed == ()
            sources[policy] = [row.source for row in run.result.rows]
    versions = [row.version for row in folder.read_run(unit(Policy.FINETUNE_PREVIOUS)).result.rows]
    assert sources[Policy.SCRATCH] == ["", "", ""]
    assert sources[Policy.FINETUNE_PREVIOUS] == ["", *versions[:2]]
    assert sources[Policy.NEAREST_ONLY] == ["", versions[0], versions[0]]  # the task itself is its nearest
    assert sources[Policy.RANDOM_SOURCE][1] == versions[0]
    assert sources[Policy.GENERALIST][2].startswith("supernets/generalist/")
    assert sources[Policy.FIXED_COLD] == ["", "", ""]


def test_the_registry_of_a_run_grows_and_forgets_nothing(folder: Folder) -> None:
    run = folder.read_run(unit(Policy.REGISTRY))
    assert run.result.evaluated
    assert run.result.backward_transfer == 0
    assert len(run.stored_bytes) == 3
    assert run.stored_bytes[0] < run.stored_bytes[1]
    points = folder.read_map(unit(Policy.REGISTRY))
    assert isinstance(points, DatasetMap)
    assert len(points.points) == 2
    assert folder.read_map(unit(Policy.FIXED_COLD)) is None


def test_the_fixed_network_starts_from_its_own_result_on_the_source(folder: Folder) -> None:
    rows = folder.read_run(unit(Policy.REGISTRY)).result.rows
    steps = {row.version: row.step for row in rows}
    wanted = [f"fixed-warm/{steps[row.source]}" if row.source else "" for row in rows]
    assert [row.source for row in folder.read_run(unit(Policy.FIXED_WARM)).result.rows] == wanted


def test_tasks_of_independent_policies_are_run_once_for_all_streams(folder: Folder, tasks: Path) -> None:
    rows = folder.read_run(unit(Policy.SCRATCH)).result.rows
    assert replace(rows[0], step=2, expect=1) == rows[2]
    kept = list((folder.root / "independent" / "scratch" / "seed-0").glob("*.json"))
    assert len(kept) == 2
    began = time.time_ns()
    more = plan(tasks, Policy.SCRATCH, streams=("short", "short" + SHUFFLED))
    assert run_units(folder, more, workers=1) == []
    assert all(path.stat().st_mtime_ns < began for path in kept)
    shuffled = folder.read_run(Unit(seed=0, stream="short" + SHUFFLED, policy=Policy.SCRATCH)).result
    assert sorted(row.task_name for row in shuffled.rows) == ["one", "one", "two"]


def test_another_seed_draws_other_images(tasks: Path) -> None:
    one, other = (plan(tasks, Policy.SCRATCH).stream("short", seed) for seed in (0, 1))
    assert one[0].dataset.digest == other[0].dataset.digest  # a whole task
    assert one[1].dataset.digest != other[1].dataset.digest


def test_an_evaluation_that_is_killed_goes_on_and_leaves_nobody_behind(tasks: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle of a stream; a second call finds the first one's jobs."""
    out = tmp_path / "evaluation"
    program = (
        "import sys; from pathlib import Path; from supernet_registry.registry.evaluation.runner import run_units\n"
        "from supernet_registry.registry.evaluation.plan import Folder, Plan\n"
        "from supernet_registry.registry.evaluation.policies import Policy\n"
        f"plan = Plan(tasks=Path({str(tasks)!r}), streams_file=Path({str(tasks / 'streams.json')!r}), seeds=(0,),\n"
        f"    streams=('short',), policies=(Policy.REGISTRY,), device='cpu', search={SEARCH!r})\n"
        "sys.exit(bool(run_units(Folder(Path(sys.argv[1])), plan, workers=1)))"
    )
    command = [sys.executable, "-c", program, str(out)]
    process = subprocess.Popen(command, cwd=ROOT)
    database = out / "runs" / "short" / "seed-0" / "registry" / "registry" / "registry.sqlite"
    wait_until(lambda: versions(database) >= 1, process)
    process.kill()
    process.wait()
    wait_until(lambda: not (database.parent / "server.json").exists() and not running(out), None)
    before = versions(database)
    assert subprocess.run(command, cwd=ROOT).returncode == 0
    run = Folder(out).read_run(unit(Policy.REGISTRY))
    assert run.result.rows[0].resumed
    assert versions(database) == 3 >= before
    assert not running(out)


def versions(database: Path) -> int:
    """Versions in a registry's database, read from outside."""
    import sqlite3

    try:
        with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
            return int(connection.execute("SELECT COUNT(*) FROM versions").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def running(out: Path) -> list[int]:
    """Processes that have the folder in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except OSError:
            continue
        if str(out).encode() in words and path.parent.name != str(os.getpid()):
            found.append(int(path.parent.name))
    return found


def wait_until(condition: Any, process: subprocess.Popen[bytes] | None) -> None:
    """Wait for a condition, as long as the test may take; fails at once when the process has ended."""
    while not condition():
        assert process is None or process.poll() is None, "it has ended"
        time.sleep(0.05)


def test_sigterm_ends_all_runs(tasks: Path, tmp_path: Path) -> None:
    out = tmp_path / "evaluation"
    program = (
        "import sys; from pathlib import Path; from supernet_registry.registry.evaluation.unit import main\n"
        "sys.exit(main(['--folder', sys.argv[1], '--stream', 'short', '--policy', 'registry', '--seed', '0']))"
    )
    Folder(out).claim(plan(tasks, Policy.REGISTRY))
    data = out / "runs" / "short" / "seed-0" / "registry" / "registry"
    command = [sys.executable, "-c", program, str(out)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE) as process:
        wait_until((data / "server.json").exists, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait() != 0
    assert not (data / "server.json").exists()
    assert not running(out)
    assert not Folder(out).run_file(unit(Policy.REGISTRY)).exists()


def test_a_folder_belongs_to_one_configuration(folder: Folder, tasks: Path) -> None:
    other = plan(tasks, Policy.SCRATCH, search={**SEARCH, "recipe": {"epochs": "3"}})
    with pytest.raises(InvalidArgument, match="with other search"):
        run_units(Folder(folder.root), other, workers=1)


def test_what_cannot_be_compared_is_refused(tasks: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="not among the policies"):
        plan(tasks, Policy.FIXED_COLD)
    with pytest.raises(InvalidArgument, match="file of weights"):
        plan(tasks, Policy.REGISTRY, Policy.FIXED_PRETRAINED)
    with pytest.raises(NotFound, match="no evaluation"):
        _ = Folder(tmp_path).configuration


def test_a_failed_run_is_told_with_its_log_and_tried_again(tasks: Path, tmp_path: Path) -> None:
    broken = tmp_path / "tasks"
    broken.mkdir()
    for path in tasks.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    (broken / "two.npz").write_bytes(b"no images")
    out = Folder(tmp_path / "evaluation")
    (failure,) = run_units(out, plan(broken, Policy.SCRATCH), workers=1)
    assert "two.npz" in str(failure)
    assert failure.log.read_text()
    (broken / "two.npz").write_bytes((tasks / "two.npz").read_bytes())
    assert run_units(out, plan(broken, Policy.SCRATCH), workers=1) == []
