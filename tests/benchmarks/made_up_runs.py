"""Runs with made-up figures, for the tests of the harness: other processes import it."""

from __future__ import annotations

import argparse
import os
import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness.paired import Arm, Cell, Experiment, carry_out, cells_of, compare
from benchmarks.harness.report import Options, Section

ARMS = {"base": 0.50, "mine": 0.53}
"""Accuracy of each, on every cell but for a part that is the cell's."""
SPENDER = "base, as long as mine"


def prepare(log: Path, cell: Cell) -> tuple[Path, Cell]:
    return log, cell


def measure(shared: tuple[Path, Cell], arm: str, cpu_s: float | None, *, pause_s: float = 0.0) -> dict[str, Any]:
    """Logs that it has run, here."""
    log, cell = shared
    time.sleep(pause_s)
    spend_s = 0.05 if arm == "mine" else cpu_s or 0.0
    until = time.process_time() + spend_s
    while time.process_time() < until:
        pass
    with log.open("a") as file:
        file.write(f"{arm}~{cell.task}~{cell.seed} {os.getpid()}\n")
    return {"accuracy": ARMS.get(arm, 0.5) + 0.01 * cell.seed + 0.001 * len(cell.task)}


def experiment(log: Path, *, pause_s: float = 0.0, tasks: int = 3, seeds: int = 2, **more: Any) -> Experiment[Any]:
    return Experiment(
        arms=more.pop("arms", [Arm(name) for name in ARMS]),
        cells=cells_of(["task"[: 2 + number] for number in range(tasks)], range(seeds)),
        prepare=partial(prepare, log),
        measure=partial(measure, pause_s=pause_s),
        **more,
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark alone."""
    parser.add_argument("--pause", type=float, default=0.0)
    parser.set_defaults(seeds=2)


def run(options: Options) -> Section:
    """A benchmark, as `benchmarks.harness.command` wants it."""
    made = experiment(options.work.parent / "log", pause_s=options.own.pause, seeds=len(options.seed_range))
    outcome = carry_out(made, options)
    found = [compare(outcome.runs, "accuracy", arm="mine", base="base")] if outcome.complete() else []
    return Section(outcome.figures(found), [c.at_least(2.0) for c in found], missing=outcome.missing)
