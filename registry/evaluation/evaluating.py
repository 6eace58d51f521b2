"""Runs an evaluation on this machine, and reports what its folder holds."""

from __future__ import annotations

import os
import platform
import sys
import threading
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from supernet_registry.clients.cli import output
from supernet_registry.registry.evaluation.checks import Check, checks_of
from supernet_registry.registry.evaluation.plan import Folder, Plan, Unit
from supernet_registry.registry.evaluation.policies import Policy
from supernet_registry.registry.evaluation.records import Run, Summary
from supernet_registry.registry.evaluation.report import write_report
from supernet_registry.registry.evaluation.runner import Progress, UnitFailed, run_units
from supernet_registry.registry.evaluation.summary import summarise
from supernet_registry.search.errors import NotFound, OptionalDependency
from supernet_registry.search.spaces import make_space

__all__ = ["evaluate_plan", "report"]

_NEEDED = ("torch", "sqlalchemy", "pydantic_settings", "ot", "faiss", "scipy", "matplotlib", "jinja2")
_PACKAGES = ("supernet-registry", "torch", "POT", "faiss-cpu", "grpcio")


def evaluate_plan(plan: Plan, out: Path, *, workers: int = 0) -> list[UnitFailed]:
    """Run what is missing of a plan; the failures.

    Raises:
        OptionalDependency: a package that runs or report need is not installed.
        InvalidArgument, NotFound, InvalidDataset: a stream cannot be read, or the folder holds another evaluation.
        KeyboardInterrupt: interrupted; the same call goes on.
    """
    for package in _NEEDED:  # told now, not after hours
        if find_spec(package) is None:
            raise OptionalDependency(
                f"An evaluation needs the package {package!r}.", remedy="pip install 'supernet-registry[all]'"
            )
    tasks = {}
    for unit in plan.units():  # read every dataset once, so that a bad one is told before the first search
        stream = plan.stream(unit.stream, unit.seed)
        if unit.seed == plan.seeds[0]:
            for experience in stream:
                _ = experience.dataset
        tasks[unit] = len(stream)
    with Bars(tasks) as progress:
        return run_units(Folder(out), plan, workers=workers or os.cpu_count() or 1, progress=progress)


def report(
    out: Path, *, mlflow_uri: str | None = None, log: bool = True
) -> tuple[Summary, Sequence[Check], list[Path]]:
    """Summarise and report all finished runs of a folder: figures.json, report.html, report.md, pictures, MLflow.

    Raises:
        NotFound: the folder holds no finished run.
    """
    folder = Folder(out)
    units = folder.finished()
    if not units:
        raise NotFound(
            f"{out} holds no finished run.", remedy="Run the evaluation first, without --report-only.", field="out"
        )
    runs = [folder.read_run(unit) for unit in units]
    summary = summarise(runs)
    checks = checks_of(summary)
    configuration = _configuration(folder.configuration, units)
    files = write_report(
        out, runs, summary, checks, title="Does knowledge build up?", configuration=configuration, maps=_maps(folder)
    )
    figures = out / "figures.json"
    folder.write(figures, output.plain({"configuration": configuration, "summary": summary, "checks": checks}))
    written = [*files, figures]
    if log:
        _log(folder, runs, summary, checks, configuration, written, mlflow_uri)
    return summary, checks, written


def _maps(folder: Folder) -> dict[str, Any]:
    """The map of each stream's datasets, from the first run of the policy registry."""
    maps: dict[str, Any] = {}
    for unit in folder.finished():
        if unit.policy is Policy.REGISTRY and unit.stream not in maps:
            maps[unit.stream] = folder.read_map(unit)
    return maps


def _log(
    folder: Folder,
    runs: Sequence[Run],
    summary: Summary,
    checks: Sequence[Check],
    configuration: Mapping[str, str],
    files: Sequence[Path],
    uri: str | None,
) -> None:
    """To MLflow, if it is installed and answers: the report stands without it."""
    from supernet_registry.registry.publisher.store import set_environment, tracking_store

    set_environment()
    try:
        from mlflow.exceptions import MlflowException

        from supernet_registry.registry.evaluation.tracking import log_evaluation
    except ModuleNotFoundError:
        output.say('Not logged to MLflow: install "supernet-registry[mlflow]".')
        return
    store = tracking_store(folder.root, uri)
    try:
        log_evaluation(
            store,
            folder.configuration["id"],
            runs,
            summary,
            checks,
            configuration=configuration,
            artifacts=files,
        )
    except MlflowException as error:
        output.say(f"Not logged to MLflow: {error}. The report is complete without it; --report-only tries again.")
    else:
        output.say(f"MLflow: {store.ui_command}")


def _configuration(stored: Mapping[str, Any], units: Sequence[Unit]) -> dict[str, str]:
    """What a reader must know to repeat the runs; no paths of this machine."""
    searches = ", ".join(f"{name} {value}" for name, value in stored["search"].items() if name != "space")
    space = stored["search"].get("space")
    return {
        "streams": ", ".join(dict.fromkeys(unit.stream for unit in units)),
        "policies": ", ".join(dict.fromkeys(unit.policy.value for unit in units)),
        "seeds": ", ".join(str(seed) for seed in sorted({unit.seed for unit in units})),
        "search": searches or "the space's recipe",
        "space": make_space(**space).id if space else make_space().id,
        "device": stored["device"],
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "versions": ", ".join(f"{name} {version(name)}" for name in _PACKAGES),
    }


class Bars(Progress):
    """A bar for all tasks of all runs on a terminal, else a line for every finished run."""

    def __init__(self, tasks: Mapping[Unit, int]) -> None:
        self._tasks = tasks
        self._left = dict(tasks)
        self._lock = threading.Lock()
        self._bars: Any = None
        self._bar: Any = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich import progress

            self._bars = progress.Progress(
                progress.BarColumn(bar_width=24),
                progress.MofNCompleteColumn(),
                progress.TimeElapsedColumn(),
                progress.TimeRemainingColumn(),
                progress.TextColumn("{task.description}"),
                console=output.console(stderr=True),
            )
            self._bar = self._bars.add_task("", total=sum(self._tasks.values()))
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def on_task(self, unit: Unit, task: str) -> None:
        with self._lock:
            self._left[unit] -= 1
            if self._bars is not None:
                self._bars.update(self._bar, advance=1, description=f"{unit}: {task}")

    def on_end(self, unit: Unit, failure: UnitFailed | None) -> None:
        with self._lock:
            if self._bars is not None:
                self._bars.update(self._bar, advance=max(0, self._left[unit]))
            self._left[unit] = 0
            output.say(f"{unit}: {'done' if failure is None else f'failed: {failure}'}")
