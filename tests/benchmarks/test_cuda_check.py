"""The script for a machine with a CUDA device: rehearsed on a CPU, with nothing installed that such a machine lacks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.cuda_check.check import ALL_S, run_part
from benchmarks.cuda_check.parts import PARTS, Device
from benchmarks.harness.command import main

ROOT = Path(__file__).parents[2]
ABSENT = ["ot", "faiss", "mlflow", "scipy", "sqlalchemy", "rich", "typer", "onnx", "onnxruntime", "alembic", "psutil"]
"""What the machine may not have."""


@pytest.mark.timeout(900)
def test_a_rehearsal_on_a_cpu_measures_every_row_with_little_installed(tmp_path: Path) -> None:
    """All of it but `tests`, which a test need not start; packages that are absent cannot be imported."""
    (tmp_path / "sitecustomize.py").write_text(
        "from importlib.machinery import PathFinder\n"
        "find = PathFinder.find_spec\n"
        "def find_what_is_there(name, path=None, target=None):\n"
        f"    return None if name.partition('.')[0] in {ABSENT} else find(name, path, target)\n"
        "PathFinder.find_spec = find_what_is_there\n"
    )
    found = tmp_path / "found.json"
    words = ["cuda-check", "--cpu", "--parts", "bilevel", "passes", "search", "--json", str(found)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    subprocess.run([sys.executable, "-m", "benchmarks", *words], cwd=ROOT, env=environment, check=True)
    report = json.loads(found.read_text())
    rows = {row["name"]: row["state"] for row in report["figures"]["rows"]}
    assert set(rows) == {name for part in ("bilevel", "passes", "search") for name in PARTS[part].rows}
    not_measured = {name: state for name, state in rows.items() if state != "measured"}
    assert not_measured == {"darts C=16 L=8, CUDA graphs": "not run: a CPU has no CUDA graphs"}
    assert all(check["passed"] for check in report["checks"])
    assert len(report["checks"]) >= 12
    assert report["figures"]["rehearsal"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_every_row_says_so(tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    assert main(["cuda-check", "--json", str(found)]) == 0
    rows = json.loads(found.read_text())["figures"]["rows"]
    assert len(rows) == sum(len(part.rows) for part in PARTS.values())
    assert {row["state"] for row in rows} == {"not run: no CUDA device"}


def test_a_part_is_ended_when_its_time_is_over() -> None:
    rows = run_part("search", Device("cpu", tiny=True), 0.5)
    assert [row.name for row in rows] == list(PARTS["search"].rows)
    assert {row.state for row in rows} == {"not run: stopped after 0 s"}


def test_all_parts_together_take_less_than_eight_minutes() -> None:
    assert sum(part.seconds for part in PARTS.values()) <= ALL_S < 8 * 60
