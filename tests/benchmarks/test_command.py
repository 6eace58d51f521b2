"""The one door: names, options, what a run leaves, exit codes."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.harness import command
from benchmarks.harness.command import BENCHMARKS, PROBLEM, UNFINISHED, Benchmark, main, parser_of
from benchmarks.harness.kept import once
from benchmarks.harness.report import Options, Section, plain_table

ROOT = Path(__file__).parents[2]


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A benchmark is a file and a line."""
    line = Benchmark("made-up", "for tests", "tests.benchmarks.made_up_runs:run")
    monkeypatch.setitem(BENCHMARKS, line.name, line)


def test_the_list_tells_every_name() -> None:
    listed = subprocess.run(
        [sys.executable, "-m", "benchmarks", "list"], capture_output=True, text=True, cwd=ROOT, check=True
    )
    for name, benchmark in BENCHMARKS.items():
        assert name in listed.stdout
        assert benchmark.what in listed.stdout


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_name_leads_to_a_function_of_options_and_to_a_parser_with_the_common_options(name: str) -> None:
    benchmark = BENCHMARKS[name]
    function = getattr(benchmark.module(), benchmark.where.partition(":")[2])
    assert list(inspect.signature(function).parameters) == ["options"]
    help_text = parser_of(benchmark).format_help()
    for option in ("--quick", "--seeds", "--jobs", "--tasks", "--budget", "--json"):
        assert option in help_text
    assert f"python -m benchmarks {name}" in help_text


def test_an_unknown_name_is_told_which_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nothing"]) == 2
    assert "There is no benchmark 'nothing'" in (said := capsys.readouterr().err)
    assert "transfer-choices" in said


@pytest.mark.usefixtures("made_up")
def test_a_run_leaves_figures_seeds_machine_versions_and_checks(tmp_path: Path) -> None:
    words = ["made-up", "--work", str(tmp_path / "work"), "--json", str(tmp_path / "found.json"), "--jobs", "1"]
    assert main(words) == 0
    report = json.loads((tmp_path / "found.json").read_text())
    assert report["benchmark"] == "made-up"
    assert report["seeds"] == [0, 1]  # its own default
    assert report["machine"]["cores"]
    assert "numpy" in report["versions"]
    (check,) = report["checks"]
    assert set(check) == {"name", "value", "target", "unit", "passed"}
    assert check["passed"]
    assert report["figures"]["comparisons"][0]["mean"] == pytest.approx(3.0)
    assert report["missing"] == []
    assert main([*words, "--quick"]) == 0
    assert json.loads((tmp_path / "found.json").read_text())["seeds"] == [0]


@pytest.mark.usefixtures("made_up")
def test_a_budget_that_ends_a_run_has_an_exit_code_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["made-up", "--work", str(tmp_path / "work"), "--jobs", "1", "--json", str(tmp_path / "found.json")]
    assert main([*words, "--pause", "0.2", "--budget", "0.005"]) == UNFINISHED
    assert "missing: mine: task, seed 1" in capsys.readouterr().out
    assert json.loads((tmp_path / "found.json").read_text())["missing"]
    assert main(words) == 0


def test_a_problem_is_stored_and_ends_with_a_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        command.Benchmark, "run", lambda _, options: Section({"nan": float("nan")}, [], problem="broken")
    )
    assert main(["variants", "--json", str(tmp_path / "found.json")]) == PROBLEM
    assert capsys.readouterr().err == "broken\n"
    assert json.loads((tmp_path / "found.json").read_text())["figures"] == {"nan": None}


@pytest.mark.usefixtures("made_up")
@pytest.mark.parametrize("words", [["--seeds", "0"], ["--budget", "0"], ["--tasks", "/there/is/no/folder"]])
def test_options_that_make_no_sense_are_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit):
        main(["made-up", *words])


def test_a_table_without_rich_has_the_same_cells() -> None:
    assert plain_table("t", ["name", "n"], [["a", "10"], ["long", "2"]]).splitlines() == [
        "", "t", "name   n", "a     10", "long   2",
    ]  # fmt: skip


def test_what_is_computed_once_may_store_files_beside_its_result(tmp_path: Path) -> None:
    calls = []

    def compute() -> dict[str, int]:
        calls.append((tmp_path / "new" / "weights").write_bytes(b"1"))
        return {"found": 7}

    first, again = (once(tmp_path / "new" / "result.json", compute) for _ in range(2))
    assert first == again
    assert (first["found"], len(calls)) == (7, 1)
    assert first["wall_seconds"] >= 0.0


def test_a_smoke_profile_has_one_seed() -> None:
    assert list(Options(Path(), seeds=3, quick=True).seed_range) == [0]
    assert list(Options(Path(), seeds=3, quick=False).seed_range) == [0, 1, 2]
