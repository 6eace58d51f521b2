"""Variants of DARTS side by side: accuracy of supernet and child network, and what a search costs.

    python benchmarks/supernet/variants.py [--tasks DIR] [--seeds 3] [--jobs 2] [--rows NAME ...] [--quick] [--json
    FILE]

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
import multiprocessing
import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from benchmarks.harness.report import Check, finish, print_table, with_error
from benchmarks.supernet.child_choices import SHIPPED, held_out
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.runs.pipeline import Decision, Epoch, Listener, run_pipeline
from supernet_registry.search.spaces import make_space
from supernet_registry.search.tasks import ImageDataset, load_dataset

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


ROWS = [
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


def measure(dataset: ImageDataset, row: Row, seed: int, recipe: Recipe) -> dict[str, Any]:
    """One search: its figures."""
    clock = Clock()
    space = make_space(partial_channels=row.partial_channels)
    choices = {name: value for name, value in vars(row).items() if name not in ("name", "partial_channels")}
    result = run_pipeline(dataset, space, replace(recipe, **choices), seed=seed, device="cpu", listener=clock)
    return {
        "row": row.name,
        "seed": seed,
        **{metric: getattr(result, metric) for metric in METRICS},
        "search_cpu_seconds": clock.ended - clock.began,
        "search_steps": result.search_steps,
        "alpha_entropy": result.alpha_entropy,
        "skip_count": result.skip_count,
        "genotype": result.genotype,
    }


def compare(folder: Path, rows: list[Row], recipe: Recipe, images: int, job: tuple[str, int]) -> list[dict[str, Any]]:
    """All rows on a task at a seed."""
    torch.set_num_threads(1)
    task, seed = job
    dataset = draw(load_dataset(folder / f"{task}.npz"), seed, images)
    return [measure(dataset, row, seed, recipe) | {"task": task} for row in rows]


def mean(figures: list[dict[str, Any]], row: str, name: str) -> float:
    """Over tasks and seeds."""
    return statistics.fmean(figure[name] for figure in figures if figure["row"] == row)


def milliseconds(figures: list[dict[str, Any]], row: str) -> float:
    """CPU milliseconds a weight step, its share of α steps and evaluations included."""
    return 1e3 * mean(figures, row, "search_cpu_seconds") / mean(figures, row, "search_steps")


def over_darts(figures: list[dict[str, Any]], row: str, name: str) -> list[float]:
    """Points over plain DARTS, paired by task and seed."""
    plain = {(f["task"], f["seed"]): f[name] for f in figures if f["row"] == DARTS}
    return [100 * (f[name] - plain[f["task"], f["seed"]]) for f in figures if f["row"] == row]


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=Path, default=SHIPPED)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--images", type=int, default=150, help="training images of a task, about")
    parser.add_argument("--quick", action="store_true", help="one task, one seed, two epochs: figures that say nothing")
    parser.add_argument("--rows", nargs="*", choices=[row.name for row in ROWS], help="besides darts; default: all")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    tasks = [task for task in TASKS if (arguments.tasks / f"{task}.npz").exists()][: 1 if arguments.quick else None]
    seeds = range(1 if arguments.quick else arguments.seeds)
    recipe = Recipe.for_space(make_space())
    if arguments.quick:
        recipe = replace(recipe, epochs=2, child_epochs=2)
    # No early stop: rows are to differ by their variant, not by when a plateau was seen.
    recipe = replace(recipe, patience=recipe.epochs)
    rows = [row for row in ROWS if not arguments.rows or row.name in (DARTS, *arguments.rows)]
    jobs = [(task, seed) for task in tasks for seed in seeds]
    figures: list[dict[str, Any]] = []
    with ProcessPoolExecutor(arguments.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = pool.map(partial(compare, arguments.tasks, rows, recipe, arguments.images), jobs)
        for (task, seed), some in zip(jobs, found, strict=True):
            figures += some
            print(f"{task}, seed {seed}: {sum(f['search_cpu_seconds'] for f in some):.0f} s of search", flush=True)
    report(figures, [row.name for row in rows], seeds=list(seeds), arguments=arguments)


def report(figures: list[dict[str, Any]], rows: list[str], *, seeds: list[int], arguments: argparse.Namespace) -> None:
    """The table, the checks, the file."""
    plain = milliseconds(figures, DARTS)
    cost = {row: milliseconds(figures, row) / plain for row in rows}
    tasks = list(dict.fromkeys(figure["task"] for figure in figures))
    print_table(
        f"variants, mean over {len(tasks)} tasks and {len(seeds)} seeds (accuracies in points)",
        ["variant", "val", "held out", "− darts", "child", "− darts", "ms a step", "× darts", "entropy of α", "skips"],
        [
            [
                row,
                f"{100 * mean(figures, row, 'val_accuracy'):.1f}",
                f"{100 * mean(figures, row, 'test_accuracy'):.1f}",
                "" if row == DARTS else with_error(over_darts(figures, row, "test_accuracy")),
                f"{100 * mean(figures, row, 'child_test_accuracy'):.1f}",
                "" if row == DARTS else with_error(over_darts(figures, row, "child_test_accuracy")),
                f"{milliseconds(figures, row):.0f}",
                f"{cost[row]:.2f}",
                f"{mean(figures, row, 'alpha_entropy'):.3f}",
                f"{mean(figures, row, 'skip_count'):.1f}",
            ]
            for row in rows
        ],
    )
    worst = min(statistics.fmean(over_darts(figures, row, "child_test_accuracy")) for row in rows)
    finish(
        "variants",
        figures,
        [
            *(
                Check(f"cost of {name}", cost[name], f"≤ {limit}", "× darts", cost[name] <= limit)
                for name, limit in LIMITS.items()
                if name in cost
            ),
            Check("worst mean accuracy of child networks against darts", worst, "≥ -5", "points", worst >= -5.0),
        ],
        seeds=seeds,
        arguments={"tasks": tasks, "images": arguments.images, "quick": arguments.quick},
        path=arguments.json,
    )


if __name__ == "__main__":
    main()
