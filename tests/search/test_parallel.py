"""Two processes train as one: the same gradients, the same weights in both, and no waiting for the dead."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from supernet_registry.search.errors import InvalidArgument
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.runs.pipeline import run_pipeline
from supernet_registry.search.training.parallel import Ranks, joined
from supernet_registry.search.training.runtime import Runtime
from tests.search.parallel_run import one_step
from tests.tiny_search import tiny_dataset, tiny_space

RECIPE = Recipe.for_space(tiny_space()).override(batch_size=16, epochs=2, patience=9)

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    """What two processes on loopback did together (`parallel_run.main`): their files, and their exit codes."""
    folder = tmp_path_factory.mktemp("group")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(2):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = {**os.environ, **{name: str(value) for name, value in place.items()}, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(Path(__file__).with_name("parallel_run.py")), str(folder)]
        processes.append(subprocess.Popen(command, env={**environment, "PYTHONPATH": str(ROOT)}, cwd=ROOT))
    return folder, [process.wait() for process in processes]


def test_a_step_of_two_is_the_step_of_one(group: tuple[Path, list[int]], tmp_path: Path) -> None:
    one_step(tmp_path / "one", Runtime.on("cpu"))
    one, two = load_file(tmp_path / "one"), load_file(group[0] / "step")
    assert one.keys() == two.keys()
    assert "alphas.cell" in one
    for name, gradient in one.items():
        assert torch.allclose(two[name], gradient, rtol=1e-9, atol=1e-12), name


def test_all_processes_come_to_the_same(group: tuple[Path, list[int]]) -> None:
    first, second = (json.loads((group[0] / f"alike.{rank}").read_text()) for rank in (0, 1))
    assert first == second


def test_one_leads_and_the_other_follows(group: tuple[Path, list[int]]) -> None:
    assert json.loads((group[0] / "pipeline").read_text())["steps"] > 0


def test_who_is_left_behind_says_so(group: tuple[Path, list[int]]) -> None:
    folder, codes = group
    assert codes == [3, -9]
    assert "does not answer" in (folder / "killed").read_text()


def test_alone_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined("cpu") as ranks:
        assert type(ranks) is Ranks
        assert (ranks.rank, ranks.size, ranks.any_wants(flag=True), ranks.least(3)) == (0, 1, True, 3)
        ranks.check("darts-2nd", 2)


def test_a_group_refuses_what_it_cannot_share() -> None:
    from supernet_registry.search.training.parallel import _Group

    group = object.__new__(_Group)
    group.size = 4
    with pytest.raises(InvalidArgument, match="several processes"):
        group.check("darts-2nd", 64)
    with pytest.raises(InvalidArgument, match="at least 8 images"):
        group.check("darts", 7)
    group.check("darts", 8)


def test_the_loop_of_one_is_what_it_was() -> None:
    """The same seed, the same bits: joining no group must not shift anything."""
    recipe = replace(RECIPE, child_epochs=0)
    first, second = (run_pipeline(tiny_dataset(), tiny_space(), recipe, seed=0, device="cpu") for _ in range(2))
    assert first.weights == second.weights
