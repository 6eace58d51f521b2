"""`supernet-registry evaluate` as a user calls it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_search import write_tiny_dataset

ROOT = Path(__file__).parents[3]
TINY = ["--channels", "4", "--epochs", "1", "--child-epochs", "1", "--batch-size", "16"]
POLICIES = ["-p", "registry", "-p", "scratch", "-p", "fixed-warm"]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks and no file of streams: the folder is the stream."""
    folder = tmp_path_factory.mktemp("my_tasks")
    for seed, name in enumerate(["one", "two"]):
        write_tiny_dataset(folder / f"{name}.npz", seed)
    return folder


def evaluate(*words: object) -> tuple[int, Any, str]:
    """Exit code, JSON of standard output, standard error."""
    command = [sys.executable, "-m", "supernet_registry.registry.cli", "evaluate", *map(str, words), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return done.returncode, json.loads(done.stdout) if done.stdout else None, done.stderr


def test_a_folder_is_evaluated_and_reported_though_mlflow_hangs(tasks: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hanging:  # accepts, and never says a word
        uri = f"http://127.0.0.1:{hanging.getsockname()[1]}"
        code, answer, said = evaluate(
            "--tasks",
            tasks,
            "--out",
            tmp_path / "out",
            "--seeds",
            1,
            *POLICIES,
            *TINY,
            "--device",
            "cpu",
            "--mlflow-uri",
            uri,
        )
    assert code == 0, said
    assert "Not logged to MLflow" in said
    assert [policy["policy"] for policy in answer["summary"]["policies"]] == ["registry", "scratch", "fixed-warm"]
    assert answer["summary"]["policies"][0]["tasks"] == 2
    for file in ("report.html", "report.md", "figures.json"):
        assert (tmp_path / "out" / file).stat().st_size
    assert "my_tasks" in (tmp_path / "out" / "report.md").read_text()

    code, again, said = evaluate("--tasks", tasks, "--out", tmp_path / "out", "--report-only", "--no-mlflow")
    assert code == 0, said
    assert again["summary"] == answer["summary"]


def test_what_is_wrong_is_said_before_anything_runs(tasks: Path, tmp_path: Path) -> None:
    out = ["--tasks", tasks, "--out", tmp_path / "out"]
    code, answer, _ = evaluate("nothing", *out, "--streams", tmp_path / "no.json")
    assert code in (2, 3)
    assert answer["error"]["remedy"]
    code, answer, _ = evaluate(*out, "-p", "fixed-cold")
    assert (code, answer["error"]["field"]) == (2, "policies")
    code, answer, _ = evaluate(*out, "--report-only")
    assert code == 3
    assert not (tmp_path / "out").exists()
