"""Arms side by side on the same tasks and seeds: what every claim goes through.

    experiment = Experiment(
        arms=[Arm("default"), Arm("mine"), Arm("default, as long as mine", spends="mine")],
        cells=cells_of(tasks, seeds),
        prepare=partial(load, folder),  # Cell -> what the arms of a cell share
        measure=run_arm,  # (shared, name of the arm, CPU seconds that it may spend or None) -> figures
        described={"recipe": asdict(recipe)},
    )
    outcome = carry_out(experiment, options)
    better = compare(outcome.runs, "accuracy", arm="mine", base="default")
    Section(outcome.figures([better]), [better.non_inferior(margin=1.0)], missing=outcome.missing)

A run is one arm on one cell (a task and a seed). Every finished run is a small file in the work folder, so that a
killed experiment goes on where it was; what its results depend on is in the folder's name and in the file. Runs that
other code has made are not taken up unless one asks for it. Arms share what `prepare` returns, whose time is not
theirs. An arm that is to spend as much as another has it told, in CPU seconds, what the other took on the same cell:
the control against which "better" means better for the same money.

Statistics are of paired differences, in points. Seeds of one task are not independent of one another: with
`over="tasks"` a task's differences are averaged first, and n is the number of tasks.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import fcntl
import hashlib
import inspect
import json
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import quote

from benchmarks.harness import kept
from benchmarks.harness.places import ROOT
from benchmarks.harness.processes import worker_processes
from benchmarks.harness.report import Check, Options, print_table, versions

__all__ = [
    "Arm",
    "Cell",
    "Comparison",
    "Experiment",
    "Outcome",
    "Run",
    "carry_out",
    "cells_of",
    "compare",
    "print_comparisons",
]

CONFIDENCE = 0.95
"""Of the bound by which non-inferiority is judged, one-sided."""
SIGNIFICANT = 0.05
SOLVED_BY = ("torch", "numpy")
"""Packages whose other versions may give other results."""

Shared = TypeVar("Shared")


@dataclass(frozen=True)
class Cell:
    """Where arms are compared: a task and a seed."""

    task: str
    seed: int

    def __str__(self) -> str:
        return f"{self.task}, seed {self.seed}"


@dataclass(frozen=True)
class Arm:
    """One way to do it."""

    name: str
    spends: str | None = None
    """The arm whose CPU seconds on the same cell this one may spend."""


@dataclass(frozen=True)
class Run:
    """One arm on one cell."""

    arm: str
    task: str
    seed: int
    figures: dict[str, Any]
    cpu_s: float
    """CPU seconds of the process, all threads, without what the arms share."""
    wall_s: float
    allowed_cpu_s: float | None = None
    """What it was told to spend."""
    made_by: str = ""
    """Digest of the code that made it and of the files that it was made from."""

    @property
    def cell(self) -> Cell:
        """Where it was made."""
        return Cell(self.task, self.seed)


def _no_files(_: Cell) -> Iterable[Path]:
    return ()


@dataclass(frozen=True)
class Experiment(Generic[Shared]):
    """What is compared. Functions are sent to other processes: they are of a module, or partials of such."""

    arms: Sequence[Arm]
    cells: Sequence[Cell]
    prepare: Callable[[Cell], Shared]
    """What the arms of a cell share."""
    measure: Callable[[Shared, str, float | None], dict[str, Any]]
    """Figures, as JSON has them, of an arm; it may spend so many CPU seconds, where it is told any."""
    described: Mapping[str, Any] = field(default_factory=dict)
    """What else the results depend on: recipe, space, number of images. Another description, another folder."""
    files: Callable[[Cell], Iterable[Path]] = _no_files
    """What a cell's results are made from, its tasks."""
    group: Callable[[Cell], str] = str
    """Cells of one group are run by one process, one after another, so that they may share what it has cached."""

    def __post_init__(self) -> None:
        names = [arm.name for arm in self.arms]
        if len(set(names)) < len(names) or len(set(self.cells)) < len(self.cells):
            raise ValueError("Every arm and every cell of an experiment is named once.")
        if unknown := {arm.spends for arm in self.arms} - {*names, None}:
            raise ValueError(f"Arms spend what others do that are none of the experiment: {sorted(map(str, unknown))}.")
        in_order(self.arms)

    @property
    def folder(self) -> str:
        """A name that says what the results depend on, but for the code."""
        return hashlib.sha256(json.dumps(self.described, sort_keys=True, default=str).encode()).hexdigest()[:12]

    def code(self) -> str:
        """Digest of the library, of the module that measures, and of the packages that compute."""
        files = [*sorted((ROOT / "search").rglob("*.py")), ROOT / "benchmarks" / "harness" / "pairs.py"]
        measure = self.measure
        while isinstance(measure, partial):
            measure = measure.func
        digest = hashlib.sha256(json.dumps({name: versions().get(name) for name in SOLVED_BY}).encode())
        for file in [*files, Path(inspect.getfile(measure))]:
            digest.update(file.read_bytes())
        return digest.hexdigest()[:12]


def cells_of(tasks: Iterable[str], seeds: Iterable[int]) -> list[Cell]:
    """All tasks at the first seed, then at the next: a budget that ends early leaves whole seeds."""
    return [Cell(task, seed) for seed, task in product(seeds, list(tasks))]


def in_order(arms: Sequence[Arm]) -> list[Arm]:
    """Each after the one whose cost it is to spend.

    Raises:
        ValueError: they wait for one another.
    """
    ordered: list[Arm] = []
    waiting = list(arms)
    while waiting:
        done = {arm.name for arm in ordered}
        ready = [arm for arm in waiting if arm.spends is None or arm.spends in done]
        if not ready:
            raise ValueError(f"Arms wait for one another: {', '.join(arm.name for arm in waiting)}.")
        ordered += ready
        waiting = [arm for arm in waiting if arm not in ready]
    return ordered


# Running


@dataclass(frozen=True)
class Outcome:
    """Finished runs, in the order of cells and arms, and what is missing."""

    runs: list[Run]
    missing: list[str]
    arms: list[str]
    resumed: int
    """Of the runs, those that were there before."""

    def complete(self) -> dict[Cell, dict[str, Run]]:
        """Cells on which every arm has finished, with their runs by arm."""
        cells: dict[Cell, dict[str, Run]] = {}
        for run in self.runs:
            cells.setdefault(run.cell, {})[run.arm] = run
        return {cell: runs for cell, runs in cells.items() if set(runs) == set(self.arms)}

    def figures(self, comparisons: Sequence[Comparison] = ()) -> dict[str, Any]:
        """As the report stores them."""
        return {"runs": [asdict(run) for run in self.runs], "comparisons": [asdict(found) for found in comparisons]}


@dataclass(frozen=True)
class _Store:
    """The files of an experiment's runs."""

    folder: Path
    makers: Mapping[Cell, str]
    any_code: bool

    @classmethod
    def of(cls, experiment: Experiment[Any], folder: Path, *, any_code: bool) -> _Store:
        """With the digests of code and files of every cell."""
        code = experiment.code()
        makers = {
            cell: hashlib.sha256("".join([code, *map(_digest, experiment.files(cell))]).encode()).hexdigest()[:12]
            for cell in experiment.cells
        }
        return cls(folder, makers, any_code)

    def path(self, cell: Cell, arm: str) -> Path:
        return self.folder / f"{quote(arm, safe=' ,')}~{quote(cell.task, safe=' ,')}~{cell.seed}.json"

    def read(self, cell: Cell, arm: str) -> Run | None:
        """A finished run that may be taken up."""
        stored = kept.read(self.path(cell, arm))
        run = None if stored is None else Run(**stored)
        return run if run is not None and (self.any_code or run.made_by == self.makers[cell]) else None

    def write(self, run: Run) -> None:
        kept.write(self.path(run.cell, run.arm), asdict(run))


@cache
def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass(frozen=True)
class _Job(Generic[Shared]):
    """Cells that one process runs."""

    experiment: Experiment[Shared]
    cells: tuple[Cell, ...]
    store: _Store
    deadline: float  # by time.time(), which processes share

    def __call__(self) -> str:
        """Run what is not there; a line that says so."""
        for cell in self.cells:
            waiting = [a for a in in_order(self.experiment.arms) if self.store.read(cell, a.name) is None]
            if waiting and not self._is_late():
                shared = self.experiment.prepare(cell)
                for arm in waiting:
                    if not self._is_late():
                        self._run(shared, cell, arm)
        return "; ".join(map(str, self.cells))

    def _is_late(self) -> bool:
        return time.time() >= self.deadline

    def _run(self, shared: Shared, cell: Cell, arm: Arm) -> None:
        allowed = None
        if arm.spends is not None:
            model = self.store.read(cell, arm.spends)
            assert model is not None, "it comes first"
            allowed = model.cpu_s
        cpu, wall = time.process_time(), time.perf_counter()
        figures = self.experiment.measure(shared, arm.name, allowed)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        self.store.write(Run(arm.name, cell.task, cell.seed, figures, cpu, wall, allowed, self.store.makers[cell]))


def carry_out(experiment: Experiment[Any], options: Options) -> Outcome:
    """Make the runs that are not there yet.

    Raises:
        SystemExit: another process is at this experiment.
    """
    deadline = math.inf if options.budget_s is None else time.time() + options.budget_s
    folder = options.work / experiment.folder
    store = _Store.of(experiment, folder, any_code=options.any_code)
    with _alone_in(folder):
        kept.write(folder / "described.json", experiment.described)
        found = _runs(experiment, store)
        _tell_begin(found, experiment, store)
        for number, line in enumerate(_work_off(_jobs(experiment, store, deadline), options.jobs), 1):
            print(f"{number}: {line}", flush=True)
        runs = _runs(experiment, store)
    done = {(run.arm, run.cell) for run in runs}
    missing = [
        f"{arm.name}: {cell}" for cell in experiment.cells for arm in experiment.arms if (arm.name, cell) not in done
    ]
    return Outcome(runs, missing, [arm.name for arm in experiment.arms], len(found))


def _runs(experiment: Experiment[Any], store: _Store) -> list[Run]:
    every = (store.read(cell, arm.name) for cell in experiment.cells for arm in experiment.arms)
    return [run for run in every if run is not None]


def _jobs(experiment: Experiment[Any], store: _Store, deadline: float) -> list[_Job[Any]]:
    """One for every group that has something to do."""
    groups: dict[str, list[Cell]] = {}
    for cell in experiment.cells:
        if any(store.read(cell, arm.name) is None for arm in experiment.arms):
            groups.setdefault(experiment.group(cell), []).append(cell)
    return [_Job(experiment, tuple(cells), store, deadline) for cells in groups.values()]


def _work_off(jobs: Sequence[_Job[Any]], processes: int) -> Iterator[str]:
    """The jobs' lines, as they end. Where one fails, those that have not begun never will."""
    if processes == 1:
        yield from (job() for job in jobs)
        return
    with worker_processes(processes) as pool:
        futures = [pool.submit(job) for job in jobs]
        try:
            for future in concurrent.futures.as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(f"Another process is at this experiment in {folder}: wait for it, or end it.") from None
        yield


def _tell_begin(found: Sequence[Run], experiment: Experiment[Any], store: _Store) -> None:
    every = len(experiment.cells) * len(experiment.arms)
    others = sum(store.path(cell, arm.name).exists() for cell in experiment.cells for arm in experiment.arms)
    print(f"{every} runs, of which {len(found)} are there: {store.folder}", flush=True)
    if others > len(found):
        print(
            f"{others - len(found)} are of other code or images, and made again; --any-code takes them up.", flush=True
        )


# Comparing


@dataclass(frozen=True)
class Comparison:
    """Paired differences of one figure, arm less base; positive is better."""

    figure: str
    arm: str
    base: str
    unit: str
    differences: list[float]
    """Of every run, or task, in the order of `places`."""
    places: list[str]
    arm_mean: float
    base_mean: float
    mean: float
    """Of the differences."""
    standard_error: float | None
    """None with fewer than two."""
    lower_bound: float | None
    """One-sided, 95 %, by Student's t."""
    worst: float
    worst_where: str
    better: int
    worse: int
    equal: int
    sign_p: float | None
    """Two-sided sign test without ties; None where all are equal."""
    cpu_ratio: float
    """CPU seconds of all runs of the arm over those of the base; nan where the base took none."""
    wall_ratio: float

    @property
    def n(self) -> int:
        """Differences."""
        return len(self.differences)

    @property
    def title(self) -> str:
        """What is compared."""
        return f"{self.figure}: {self.arm} against {self.base}"

    def at_least(self, target: float) -> Check:
        """Whether the mean difference is as large as was asked for."""
        return Check(self.title, self.mean, f"≥ {target:g}", self.unit, self.mean >= target)

    def worst_at_least(self, target: float) -> Check:
        """Whether no run loses more than was allowed."""
        return Check(f"{self.title}, worst", self.worst, f"≥ {target:g}", self.unit, self.worst >= target)

    def non_inferior(self, margin: float) -> Check:
        """Whether, at 95 % confidence, the arm is worse by less than the margin; one run shows nothing."""
        bound = -math.inf if self.lower_bound is None else self.lower_bound
        return Check(f"{self.title}, not inferior", bound, f"> {-margin:g}", self.unit, bound > -margin)

    def more_often_better(self) -> Check:
        """Whether it is better more often than chance would have it, by the sign test."""
        p = 1.0 if self.sign_p is None else self.sign_p
        name = f"{self.title}, sign test ({self.better} better, {self.worse} worse)"
        return Check(name, p, f"< {SIGNIFICANT:g}", "p", p < SIGNIFICANT and self.better > self.worse)

    def cost_at_most(self, target: float) -> Check:
        """Whether it takes no more CPU seconds than so many times the base's."""
        name = f"CPU seconds: {self.arm} against {self.base}"
        return Check(name, self.cpu_ratio, f"≤ {target:g}", "×", self.cpu_ratio <= target)


def compare(
    runs: Iterable[Run],
    figure: str | Callable[[Run], float],
    *,
    arm: str,
    base: str,
    name: str = "",
    scale: float = 100.0,
    unit: str = "points",
    larger_is_better: bool = True,
    over: Literal["runs", "tasks"] = "runs",
) -> Comparison:
    """Compare two arms on the cells where both have finished.

    Args:
        runs: any order; other arms are left alone.
        figure: a key of `Run.figures`, or a function of the run.
        arm: the one that is judged.
        base: the one that it is paired with.
        name: of the figure, where it is a function.
        scale: by which figures are multiplied; 100 makes points of shares.
        unit: of scaled figures.
        larger_is_better: False for losses, errors, seconds: a difference is then base less arm.
        over: what counts once: every run, or every task with the mean over its seeds.

    Raises:
        ValueError: there is no cell that both arms have.
    """
    by_arm: dict[str, dict[Cell, Run]] = {arm: {}, base: {}}
    for run in runs:
        if run.arm in by_arm:
            by_arm[run.arm][run.cell] = run
    cells = [cell for cell in by_arm[arm] if cell in by_arm[base]]
    if not cells:
        raise ValueError(f"There is no task and seed on which both {arm!r} and {base!r} have finished.")
    values = {
        which: [scale * float(figure(runs[cell]) if callable(figure) else runs[cell].figures[figure]) for cell in cells]
        for which, runs in by_arm.items()
    }
    sign = 1.0 if larger_is_better else -1.0
    differences = [sign * (mine - theirs) for mine, theirs in zip(values[arm], values[base], strict=True)]
    places = list(map(str, cells))
    if over == "tasks":
        tasks = list(dict.fromkeys(cell.task for cell in cells))
        differences = [
            statistics.fmean(d for cell, d in zip(cells, differences, strict=True) if cell.task == task)
            for task in tasks
        ]
        places = tasks
    seconds = {which: [(runs[cell].cpu_s, runs[cell].wall_s) for cell in cells] for which, runs in by_arm.items()}
    cpu, wall = (
        sum(s[which] for s in seconds[arm]) / total if (total := sum(s[which] for s in seconds[base])) else math.nan
        for which in (0, 1)
    )
    worst = min(range(len(differences)), key=differences.__getitem__)
    error, bound = _error_and_bound(differences)
    better, worse = sum(d > 0.0 for d in differences), sum(d < 0.0 for d in differences)
    return Comparison(
        figure=name or (figure if isinstance(figure, str) else "figure"),
        arm=arm,
        base=base,
        unit=unit,
        differences=differences,
        places=places,
        arm_mean=statistics.fmean(values[arm]),
        base_mean=statistics.fmean(values[base]),
        mean=statistics.fmean(differences),
        standard_error=error,
        lower_bound=bound,
        worst=differences[worst],
        worst_where=places[worst],
        better=better,
        worse=worse,
        equal=len(differences) - better - worse,
        sign_p=_sign_test(better, worse),
        cpu_ratio=cpu,
        wall_ratio=wall,
    )


def _error_and_bound(differences: Sequence[float]) -> tuple[float | None, float | None]:
    """Standard error of the mean, and its one-sided lower bound."""
    if len(differences) < 2:
        return None, None
    from scipy.stats import sem, t  # not at the top: `cuda-check` runs where scipy is not installed

    error = float(sem(differences))
    return error, statistics.fmean(differences) - float(t.ppf(CONFIDENCE, len(differences) - 1)) * error


def _sign_test(better: int, worse: int) -> float | None:
    if better + worse == 0:
        return None
    from scipy.stats import binomtest

    return float(binomtest(better, better + worse).pvalue)


def print_comparisons(title: str, comparisons: Sequence[Comparison]) -> None:
    """A line for every comparison."""
    columns = ["arm − base", "arm", "base", "difference", "worst", "better / worse", "p", "CPU", "wall"]
    print_table(
        title,
        columns,
        [
            [
                f"{c.figure}: {c.arm} − {c.base}",
                f"{c.arm_mean:.1f}",
                f"{c.base_mean:.1f}",
                f"{c.mean:+.1f}" + ("" if c.standard_error is None else f" ± {c.standard_error:.1f}"),
                f"{c.worst:+.1f}",
                f"{c.better} / {c.worse} of {c.n}",
                "" if c.sign_p is None else f"{c.sign_p:.3f}",
                f"{c.cpu_ratio:.2f} ×",
                f"{c.wall_ratio:.2f} ×",
            ]
            for c in comparisons
        ],
    )
