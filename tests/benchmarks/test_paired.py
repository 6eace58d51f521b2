"""The harness through which claims go: statistics known by hand, runs that survive a kill, budgets, equal cost."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness.paired import Arm, Cell, Experiment, Outcome, Run, carry_out, cells_of, compare
from benchmarks.harness.report import Options
from tests.benchmarks.made_up_runs import SPENDER, experiment

ROOT = Path(__file__).parents[2]


def made_up(differences: list[float], *, seeds: int = 1) -> list[Run]:
    """Runs of `mine` and `base` that differ by so many points: the seeds of a task one after another."""
    runs = []
    for number, difference in enumerate(differences):
        place = f"task {number // seeds}", number % seeds
        runs.append(Run("base", *place, {"accuracy": 0.5, "loss": 1.0}, cpu_s=2.0, wall_s=4.0))
        figures = {"accuracy": 0.5 + difference / 100, "loss": 1.0 - difference / 100}
        runs.append(Run("mine", *place, figures, cpu_s=3.0, wall_s=3.0))
    return runs


def options(work: Path, *, jobs: int = 1, budget_s: float | None = None, any_code: bool = False) -> Options:
    return Options(tasks=work, seeds=2, quick=False, jobs=jobs, work=work, budget_s=budget_s, any_code=any_code)


def log_of(tmp_path: Path) -> list[str]:
    """Runs that were made, as often as they were."""
    log = tmp_path / "log"
    return [line.split(" ")[0] for line in log.read_text().splitlines()] if log.exists() else []


def test_mean_error_worst_run_and_sign_test_are_those_computed_by_hand() -> None:
    """Differences 1, 2, 3, -2: mean 1, variance (0 + 1 + 4 + 9) / 3, three of four better: p = 2 · (4 + 1) / 16."""
    found = compare(made_up([1.0, 2.0, 3.0, -2.0]), "accuracy", arm="mine", base="base")
    error = math.sqrt(14 / 3) / 2
    assert (found.n, found.better, found.worse, found.equal) == (4, 3, 1, 0)
    assert found.mean == pytest.approx(1.0)
    assert found.standard_error == pytest.approx(error)
    assert found.lower_bound == pytest.approx(1.0 - 2.353363 * error, abs=1e-5)  # Student's t, 3 degrees of freedom
    assert (found.worst, found.worst_where) == (pytest.approx(-2.0), "task 3, seed 0")
    assert found.sign_p == pytest.approx(0.625)
    assert (found.arm_mean, found.base_mean) == (pytest.approx(51.0), pytest.approx(50.0))
    assert (found.cpu_ratio, found.wall_ratio) == (1.5, 0.75)


def test_checks_pass_and_fail_where_they_should() -> None:
    found = compare(made_up([1.0, 2.0, 3.0, -2.0]), "accuracy", arm="mine", base="base")
    assert found.at_least(0.9).passed
    assert not found.at_least(1.1).passed
    assert found.worst_at_least(-2.1).passed
    assert not found.worst_at_least(-1.9).passed
    assert found.non_inferior(margin=1.6).passed  # the bound is -1.54
    assert not found.non_inferior(margin=1.5).passed
    assert not found.more_often_better().passed
    assert found.cost_at_most(1.5).passed
    assert not found.cost_at_most(1.4).passed
    check = found.non_inferior(margin=1.5)
    assert (check.target, check.unit, check.value) == ("> -1.5", "points", found.lower_bound)


def test_ties_do_not_vote_and_six_of_six_are_more_than_chance() -> None:
    six = compare(made_up([0.1] * 6 + [0.0] * 3), "accuracy", arm="mine", base="base")
    assert (six.better, six.worse, six.equal) == (6, 0, 3)
    assert six.sign_p == pytest.approx(2 / 64)
    assert six.more_often_better().passed
    losses = compare(made_up([-0.1] * 6), "accuracy", arm="mine", base="base")
    assert losses.sign_p == pytest.approx(2 / 64)
    assert not losses.more_often_better().passed
    same = compare(made_up([0.0, 0.0]), "accuracy", arm="mine", base="base")
    assert (same.sign_p, same.lower_bound, same.standard_error) == (None, 0.0, 0.0)
    assert same.non_inferior(margin=0.1).passed
    assert not same.more_often_better().passed


def test_one_run_has_no_error_and_shows_nothing() -> None:
    found = compare(made_up([5.0]), "accuracy", arm="mine", base="base")
    assert (found.standard_error, found.lower_bound) == (None, None)
    assert not found.non_inferior(margin=100.0).passed


def test_of_losses_the_smaller_is_better() -> None:
    found = compare(made_up([1.0, 3.0]), "loss", arm="mine", base="base", larger_is_better=False)
    assert (found.mean, found.worst) == (pytest.approx(2.0), pytest.approx(1.0))


def test_over_tasks_the_seeds_of_one_are_averaged_first() -> None:
    found = compare(made_up([1.0, 3.0, 4.0, 6.0], seeds=2), "accuracy", arm="mine", base="base", over="tasks")
    assert (found.n, found.mean, found.worst_where) == (2, pytest.approx(3.5), "task 0")
    assert found.standard_error == pytest.approx(1.5)  # of 2 and 5


def test_only_cells_that_both_arms_have_are_paired() -> None:
    runs = made_up([1.0, 2.0, 40.0])[:-1]
    assert compare(runs, "accuracy", arm="mine", base="base").n == 2
    with pytest.raises(ValueError, match="both 'mine' and 'other'"):
        compare(runs, "accuracy", arm="mine", base="other")


def test_two_processes_find_what_one_finds_in_the_same_order(tmp_path: Path) -> None:
    one = carry_out(experiment(tmp_path / "log"), options(tmp_path / "one"))
    two = carry_out(experiment(tmp_path / "log"), options(tmp_path / "two", jobs=2))
    assert [(run.arm, run.cell, run.figures) for run in one.runs] == [
        (run.arm, run.cell, run.figures) for run in two.runs
    ]
    assert len(one.runs) == 12
    assert (one.missing, one.resumed) == ([], 0)


def test_what_is_finished_is_not_run_again(tmp_path: Path) -> None:
    first = carry_out(experiment(tmp_path / "log"), options(tmp_path / "work"))
    again = carry_out(experiment(tmp_path / "log", seeds=3), options(tmp_path / "work"))
    assert again.resumed == len(first.runs) == 12
    assert len(again.runs) == 18
    assert set(Counter(log_of(tmp_path)).values()) == {1}


def test_another_description_another_folder(tmp_path: Path) -> None:
    carry_out(experiment(tmp_path / "log"), options(tmp_path / "work"))
    other = carry_out(experiment(tmp_path / "log", described={"images": 7}), options(tmp_path / "work"))
    assert other.resumed == 0


def test_runs_from_other_images_are_made_again_unless_one_asks_for_them(tmp_path: Path) -> None:
    task = tmp_path / "task.npz"

    def outcome(images: bytes, *, any_code: bool) -> Outcome:
        task.write_bytes(images)
        # A name of its own, for digests of files are remembered as long as the process lives.
        file = task.rename(tmp_path / f"{images.decode()}.npz")
        made = experiment(tmp_path / "log", files=lambda _: [file])
        return carry_out(made, options(tmp_path / "work", any_code=any_code))

    assert outcome(b"old", any_code=False).resumed == 0
    assert outcome(b"new", any_code=True).resumed == 12
    assert outcome(b"newer", any_code=False).resumed == 0
    assert set(Counter(log_of(tmp_path)).values()) == {2}


def test_the_code_that_measures_and_the_library_are_in_the_digest(tmp_path: Path) -> None:
    made = experiment(tmp_path / "log")
    other = Experiment(made.arms, made.cells, made.prepare, measure=lambda *_: {})  # of this module
    assert made.code() != other.code()
    assert made.code() == experiment(tmp_path / "log").code()


def test_a_killed_experiment_goes_on_and_runs_nothing_twice(tmp_path: Path) -> None:
    """SIGKILL of the parent; its processes end with it, and what was finished stays."""
    script = (
        "from pathlib import Path\n"
        "from tests.benchmarks.made_up_runs import experiment\n"
        "from tests.benchmarks.test_paired import carry_out, options\n"
        "if __name__ == '__main__':\n"
        f"    here = Path({str(tmp_path)!r})\n"
        "    carry_out(experiment(here / 'log', pause_s=0.3, tasks=3, seeds=4), options(here / 'work', jobs=2))\n"
    )
    (tmp_path / "begin.py").write_text(script)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, str(tmp_path / "begin.py")], env=environment)
    finished: dict[Path, int] = {}
    until = time.monotonic() + 60
    while len(finished) < 3:
        assert time.monotonic() < until
        assert process.poll() is None
        time.sleep(0.02)
        finished = files_of(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    workers = {int(line.split(" ")[-1]) for line in (tmp_path / "log").read_text().splitlines()}
    while any(Path(f"/proc/{worker}/exe").exists() for worker in workers):
        assert time.monotonic() < until
        time.sleep(0.02)
    finished = files_of(tmp_path)
    assert 3 <= len(finished) < 24
    made = Counter(log_of(tmp_path))
    outcome = carry_out(experiment(tmp_path / "log", tasks=3, seeds=4, pause_s=0.3), options(tmp_path / "work", jobs=2))
    assert outcome.resumed == len(finished)
    assert (len(outcome.runs), outcome.missing) == (24, [])
    assert {path: stamp for path, stamp in files_of(tmp_path).items() if path in finished} == finished
    for path in finished:
        assert Counter(log_of(tmp_path))[path.stem] == made[path.stem] == 1


def files_of(tmp_path: Path) -> dict[Path, int]:
    """Finished runs and when they were stored."""
    return {path: path.stat().st_mtime_ns for path in (tmp_path / "work").glob("*/*~*.json")}


def test_after_its_budget_no_run_begins_and_what_is_missing_is_told(tmp_path: Path) -> None:
    made = experiment(tmp_path / "log", pause_s=0.2)
    began = time.monotonic()
    outcome = carry_out(made, options(tmp_path / "work", budget_s=0.5))
    assert time.monotonic() - began < 2.0
    assert 1 <= len(outcome.runs) < 12
    assert len(outcome.runs) + len(outcome.missing) == 12
    assert outcome.missing[-1] == "mine: task, seed 1"
    rest = carry_out(made, options(tmp_path / "work"))
    assert (rest.resumed, rest.missing) == (len(outcome.runs), [])
    assert set(Counter(log_of(tmp_path)).values()) == {1}


def test_an_arm_may_spend_what_another_has_spent_on_the_same_cell(tmp_path: Path) -> None:
    arms = [Arm(SPENDER, spends="mine"), Arm("mine"), Arm("base")]
    outcome = carry_out(experiment(tmp_path / "log", tasks=2, seeds=1, arms=arms), options(tmp_path / "work"))
    for runs in outcome.complete().values():
        assert runs[SPENDER].allowed_cpu_s == runs["mine"].cpu_s >= 0.05
        assert runs[SPENDER].cpu_s >= runs["mine"].cpu_s
        assert runs["base"].allowed_cpu_s is None
        assert runs["base"].cpu_s < 0.05
    again = compare(outcome.runs, "accuracy", arm=SPENDER, base="mine")
    assert again.cost_at_most(1.5).passed


def test_what_cannot_be_carried_out_is_refused_at_once() -> None:
    def refused(*arms: Arm, cells: list[Cell] | None = None) -> pytest.ExceptionInfo[ValueError]:
        with pytest.raises(ValueError) as caught:
            Experiment(arms, cells or cells_of(["a"], [0]), prepare=str, measure=lambda *_: {})
        return caught

    assert refused(Arm("a", spends="b"), Arm("b", spends="a")).match("wait for one another: a, b")
    assert refused(Arm("a", spends="c")).match("none of the experiment")
    assert refused(Arm("a"), Arm("a")).match("named once")
    assert refused(Arm("a"), cells=[Cell("a", 0), Cell("a", 0)]).match("named once")


def test_a_folder_belongs_to_one_process_at_a_time(tmp_path: Path) -> None:
    made = experiment(tmp_path / "log")
    script = (
        "import fcntl, pathlib, sys, time\n"
        f"lock = (pathlib.Path({str(tmp_path / 'work')!r}) / {made.folder!r} / '.lock').open('w')\n"
        "fcntl.flock(lock, fcntl.LOCK_EX)\nprint('locked', flush=True)\ntime.sleep(60)\n"
    )
    (tmp_path / "work" / made.folder).mkdir(parents=True)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(SystemExit, match="Another process"):
            carry_out(made, options(tmp_path / "work"))
        other.kill()
    assert len(carry_out(made, options(tmp_path / "work")).runs) == 12


def test_figures_are_stored_as_json_has_them(tmp_path: Path) -> None:
    outcome = carry_out(experiment(tmp_path / "log"), options(tmp_path / "work"))
    found = compare(outcome.runs, "accuracy", arm="mine", base="base")
    stored: dict[str, Any] = json.loads(json.dumps(outcome.figures([found])))
    assert stored["runs"][0]["figures"] == outcome.runs[0].figures
    assert stored["comparisons"][0]["mean"] == pytest.approx(3.0)
