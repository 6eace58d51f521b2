"""Variants of DARTS side by side: accuracy of supernet and child network, and what a search costs.

    python -m benchmarks variants [--tasks DIR] [--seeds 3] [--jobs 2] [--rows NAME ...] [--quick] [--json FILE]

Every variant searches the same small tasks from scratch in the default space, with the default recipe, its own paper's
defaults, and the same seeds, so that differences between two rows are paired. Some rows are no variants of their own:
second order with exact second derivatives, PC-DARTS with half of the channels instead of a quarter, because the default
space is narrow, DARTS that drops operations on its way, and DARTS whose supernets, the same bit for bit, are derived by
DARTS-PT's perturbation, without and with fine-tuning between its decisions. Seconds are CPU seconds of one thread.

Supernets and child networks are judged on images that were kept out of the draw (of the training split, at most 600),
so that a choice made here has seen no test image.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from benchmarks.harness.paired import Arm, Cell, Experiment, Run, carry_out, cells_of, compare
from benchmarks.harness.pairs import files_of, find, has, held_out
from benchmarks.harness.report import Check, Options, Section, print_table, with_error
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.runs.pipeline import Decision, Epoch, Listener, run_pipeline
from supernet_registry.search.spaces import make_space
from supernet_registry.search.tasks import ImageDataset

TASKS = ["print_greek", "fashion_tops_twin", "print_hebrew", "emoji_food", "omni_latin"]
"""Those that the folder lacks are left out."""
METRICS = ["val_accuracy", "test_accuracy", "child_test_accuracy"]
DARTS = "darts"


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    variant: str = "darts"
    partial_channels: int = 1
    drop_shares: tuple[float, ...] = ()
    curvature: Literal["difference", "exact"] = "difference"
    derivation: Literal["argmax", "perturbation"] = "argmax"
    derivation_steps: int = 0


EVERY = [
    Row(DARTS),
    Row("darts-2nd", "darts-2nd"),
    Row("darts-2nd, exact", "darts-2nd", curvature="exact"),
    Row("smooth-darts-rs", "smooth-darts-rs"),
    Row("smooth-darts-adv", "smooth-darts-adv"),
    Row("pc-darts, K = 4", "pc-darts", partial_channels=4),
    Row("pc-darts, K = 2", "pc-darts", partial_channels=2),
    Row("drnas", "drnas"),
    Row("dropping at 0.3, 0.6", drop_shares=(0.3, 0.6)),
    Row("DARTS-PT", derivation="perturbation"),
    Row("DARTS-PT, 8 steps between", derivation="perturbation", derivation_steps=8),
]

ROWS = {row.name: row for row in EVERY}
LIMITS = {
    "darts-2nd": 3.0,
    "darts-2nd, exact": 3.0,
    "smooth-darts-rs": 1.15,
    "smooth-darts-adv": 8.0,
    "pc-darts, K = 4": 1.0,
    "drnas": 1.2,
    "dropping at 0.3, 0.6": 0.9,
}
"""Most that a step may cost, in steps of DARTS."""


class Clock(Listener):
    """CPU seconds of the search, from the decision to its last epoch."""

    def __init__(self) -> None:
        self.began = self.ended = time.process_time()

    def on_decision(self, d: Decision) -> None:  # noqa: ARG002 - only when it came counts
        self.began = self.ended = time.process_time()

    def on_epoch(self, e: Epoch) -> None:
        if e.phase == "SEARCH":
            self.ended = time.process_time()


def draw(task: ImageDataset, seed: int, images: int) -> ImageDataset:
    """About `images` training images and half as many for validation, drawn anew for every seed."""
    per_class = max(4, images // task.n_classes)
    return held_out(task, per_class, max(3, per_class // 2), seed)


def prepare(folder: Path, images: int, cell: Cell) -> tuple[ImageDataset, int]:
    """The images, and the seed of the searches."""
    return draw(find(folder, cell.task), cell.seed, images), cell.seed


def measure(recipe: Recipe, shared: tuple[ImageDataset, int], arm: str, _cpu_s: float | None) -> dict[str, Any]:
    """One search: its figures."""
    dataset, seed = shared
    clock, row = Clock(), ROWS[arm]
    space = make_space(partial_channels=row.partial_channels)
    choices = {name: value for name, value in vars(row).items() if name not in ("name", "partial_channels")}
    result = run_pipeline(dataset, space, replace(recipe, **choices), seed=seed, device="cpu", listener=clock)
    return {
        **{metric: getattr(result, metric) for metric in METRICS},
        "search_cpu_seconds": clock.ended - clock.began,
        "search_steps": result.search_steps,
        "alpha_entropy": result.alpha_entropy,
        "skip_count": result.skip_count,
        "genotype": result.genotype,
    }


def mean(runs: Sequence[Run], row: str, name: str) -> float:
    """Over tasks and seeds."""
    return statistics.fmean(run.figures[name] for run in runs if run.arm == row)


def milliseconds(runs: Sequence[Run], row: str) -> float:
    """CPU milliseconds a weight step, its share of α steps and evaluations included."""
    return 1e3 * mean(runs, row, "search_cpu_seconds") / mean(runs, row, "search_steps")


def over_darts(runs: Sequence[Run], row: str, name: str) -> list[float]:
    """Points over plain DARTS, paired by task and seed."""
    return compare(runs, name, arm=row, base=DARTS).differences


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is compared, on how many images."""
    parser.add_argument("--images", type=int, default=150, help="training images of a task, about")
    parser.add_argument("--rows", nargs="*", choices=ROWS, metavar="NAME", help="besides darts; default: all")


def run(options: Options) -> Section:
    """Every task, seed and row."""
    tasks = [task for task in TASKS if has(options.tasks, task)][: 1 if options.quick else None]
    recipe = Recipe.for_space(make_space())
    if options.quick:
        recipe = replace(recipe, epochs=2, child_epochs=2)
    # No early stop: rows are to differ by their variant, not by when a plateau was seen.
    recipe = replace(recipe, patience=recipe.epochs)
    rows = [name for name in ROWS if not options.own.rows or name in (DARTS, *options.own.rows)]
    experiment = Experiment(
        arms=[Arm(name) for name in rows],
        cells=cells_of(tasks, options.seed_range),
        prepare=partial(prepare, options.tasks, options.own.images),
        measure=partial(measure, recipe),
        described={"recipe": asdict(recipe), "images": options.own.images},
        files=partial(files_of, options.tasks),
    )
    outcome = carry_out(experiment, options)
    runs = [run for by_arm in outcome.complete().values() for run in by_arm.values()]
    arguments = {"tasks": tasks, "images": options.own.images, "rows": rows}
    if not runs:
        return Section(outcome.figures(), [], arguments, missing=outcome.missing)
    print_rows(runs, rows)
    comparisons = [compare(runs, metric, arm=row, base=DARTS) for row in rows if row != DARTS for metric in METRICS[1:]]
    return Section(outcome.figures(comparisons), checks(runs, rows), arguments, missing=outcome.missing)


def print_rows(runs: Sequence[Run], rows: Sequence[str]) -> None:
    """The table."""
    plain = milliseconds(runs, DARTS)
    tasks, seeds = ({getattr(run, name) for run in runs} for name in ("task", "seed"))
    print_table(
        f"variants, mean over {len(tasks)} tasks and {len(seeds)} seeds (accuracies in points)",
        ["variant", "val", "held out", "− darts", "child", "− darts", "ms a step", "× darts", "entropy of α", "skips"],
        [
            [
                row,
                f"{100 * mean(runs, row, 'val_accuracy'):.1f}",
                f"{100 * mean(runs, row, 'test_accuracy'):.1f}",
                "" if row == DARTS else with_error(over_darts(runs, row, "test_accuracy")),
                f"{100 * mean(runs, row, 'child_test_accuracy'):.1f}",
                "" if row == DARTS else with_error(over_darts(runs, row, "child_test_accuracy")),
                f"{milliseconds(runs, row):.0f}",
                f"{milliseconds(runs, row) / plain:.2f}",
                f"{mean(runs, row, 'alpha_entropy'):.3f}",
                f"{mean(runs, row, 'skip_count'):.1f}",
            ]
            for row in rows
        ],
    )


def checks(runs: Sequence[Run], rows: Sequence[str]) -> list[Check]:
    """What a step may cost, and what a child may lose."""
    cost = {row: milliseconds(runs, row) / milliseconds(runs, DARTS) for row in rows}
    worst = min(statistics.fmean(over_darts(runs, row, "child_test_accuracy")) for row in rows)
    return [
        *(
            Check(f"cost of {name}", cost[name], f"≤ {limit}", "× darts", cost[name] <= limit)
            for name, limit in LIMITS.items()
            if name in cost
        ),
        Check("worst mean accuracy of child networks against darts", worst, "≥ -5", "points", worst >= -5.0),
    ]
