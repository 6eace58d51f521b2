"""Variants of DARTS side by side: accuracy of supernet and child network, and what a search costs.

    python benchmarks/variants.py [--quick] [--seeds 2] [--rows NAME ...] [--json FILE]

Every variant searches the same small tasks from scratch with the same recipe, its own paper's defaults, and the same
seeds, so that differences between two rows are paired. Three rows are no variants of their own: second order with
exact second derivatives, PC-DARTS with half of the channels instead of a quarter, because the compact space is narrow,
and DARTS that drops operations on its way. Seconds are CPU seconds of this process, since the machine may be shared.
Test accuracy is only reported; nothing is chosen by it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from report import Check, finish, print_table

from search.pipeline import Decision, Epoch, Listener, run_pipeline
from search.recipe import Recipe, VariantName
from search.spaces import make_space
from search.tasks import Derivation, ImageDataset, derive, load_dataset

TASKS = Path(__file__).parents[1] / "examples" / "tasks"
NAMES = ["print_greek", "fashion_tops_twin", "print_digits"]
METRICS = ["val_accuracy", "test_accuracy", "child_val_accuracy", "child_test_accuracy"]


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    variant: VariantName = "darts"
    partial_channels: int = 1
    drop_shares: tuple[float, ...] = ()
    curvature: Literal["difference", "exact"] = "difference"


ROWS = [
    Row("darts"),
    Row("darts-2nd", "darts-2nd"),
    Row("darts-2nd, exact", "darts-2nd", curvature="exact"),
    Row("smooth-darts-rs", "smooth-darts-rs"),
    Row("smooth-darts-adv", "smooth-darts-adv"),
    Row("pc-darts, K = 4", "pc-darts", partial_channels=4),
    Row("pc-darts, K = 2", "pc-darts", partial_channels=2),
    Row("drnas", "drnas"),
    Row("darts, dropping at 0.3, 0.6", drop_shares=(0.3, 0.6)),
]

LIMITS = {
    "darts-2nd": 3.0,
    "darts-2nd, exact": 3.0,
    "smooth-darts-rs": 1.15,
    "smooth-darts-adv": 8.0,
    "pc-darts, K = 4": 1.0,
    "drnas": 1.2,
    "darts, dropping at 0.3, 0.6": 0.9,
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


def load(task: str, images: int, seed: int) -> ImageDataset:
    """About `images` training images and half as many for validation, drawn anew for every seed."""
    dataset = load_dataset(TASKS / f"{task}.npz")
    per_class = max(4, images // dataset.n_classes)
    return derive(dataset, Derivation(n_train=per_class, n_val=max(3, per_class // 2), seed=seed))


def measure(row: Row, task: str, seed: int, images: int, recipe: Recipe) -> dict[str, Any]:
    """One search: its figures."""
    clock = Clock()
    space = make_space(partial_channels=row.partial_channels)
    recipe = replace(recipe, variant=row.variant, drop_shares=row.drop_shares, curvature=row.curvature)
    result = run_pipeline(load(task, images, seed), space, recipe, seed=seed, device="cpu", listener=clock)
    return {
        "row": row.name,
        "task": task,
        "seed": seed,
        **{metric: getattr(result, metric) for metric in METRICS},
        "search_cpu_seconds": clock.ended - clock.began,
        "search_steps": result.search_steps,
        "alpha_entropy": result.alpha_entropy,
        "skip_count": result.skip_count,
        "genotype": result.genotype,
    }


def mean(figures: list[dict[str, Any]], row: str, name: str) -> float:
    """Over tasks and seeds."""
    return statistics.fmean(figure[name] for figure in figures if figure["row"] == row)


def milliseconds(figures: list[dict[str, Any]], row: str) -> float:
    """CPU milliseconds a weight step, its share of α steps and evaluations included."""
    return 1e3 * mean(figures, row, "search_cpu_seconds") / mean(figures, row, "search_steps")


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--images", type=int, default=150, help="training images of a task, about")
    parser.add_argument("--epochs", type=int, default=10, help="of the search and of the child network, each")
    parser.add_argument("--quick", action="store_true", help="one task, one seed, two epochs: figures that say nothing")
    parser.add_argument("--rows", nargs="*", choices=[row.name for row in ROWS], help="besides darts; default: all")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    seeds = range(1 if arguments.quick else arguments.seeds)
    epochs = 2 if arguments.quick else arguments.epochs
    tasks = NAMES[:1] if arguments.quick else NAMES
    # No early stop: rows are to differ by their variant, not by when a plateau was seen.
    recipe = Recipe.for_space(make_space())
    recipe = replace(recipe, epochs=epochs, child_epochs=epochs, patience=epochs, child_holds_out=True)
    rows = [row for row in ROWS if not arguments.rows or row.name in ("darts", *arguments.rows)]
    figures = []
    for task in tasks:
        for seed in seeds:
            for row in rows:
                figures.append(measure(row, task, seed, arguments.images, recipe))
                last = figures[-1]
                print(f"{task}, seed {seed}, {row.name}: {last['search_cpu_seconds']:.1f} s", flush=True)
    report(figures, rows, seeds=list(seeds), arguments=arguments, epochs=epochs)


def report(
    figures: list[dict[str, Any]], rows: list[Row], *, seeds: list[int], arguments: argparse.Namespace, epochs: int
) -> None:
    """The table, the checks, the file."""
    print_table(
        f"variants, mean over {len({f['task'] for f in figures})} tasks and {len(seeds)} seeds (accuracies in points)",
        ["variant", "supernet val", "test", "child val", "test", "ms a step", "entropy of α", "skips"],
        [
            [
                row.name,
                *(f"{100 * mean(figures, row.name, metric):.1f}" for metric in METRICS),
                f"{milliseconds(figures, row.name):.0f}",
                f"{mean(figures, row.name, 'alpha_entropy'):.3f}",
                f"{mean(figures, row.name, 'skip_count'):.1f}",
            ]
            for row in rows
        ],
    )
    plain = milliseconds(figures, "darts")
    ratios = {row.name: milliseconds(figures, row.name) / plain for row in rows}
    worst = min(
        mean(figures, row.name, "child_test_accuracy") - mean(figures, "darts", "child_test_accuracy") for row in rows
    )
    finish(
        "variants",
        figures,
        [
            *(
                Check(f"cost of {name}", ratios[name], f"≤ {limit}", "× darts", ratios[name] <= limit)
                for name, limit in LIMITS.items()
                if name in ratios
            ),
            Check("worst mean child test accuracy against darts", 100 * worst, "≥ -5", "points", worst >= -0.05),
        ],
        seeds=seeds,
        arguments={"images": arguments.images, "epochs": epochs, "quick": arguments.quick},
        path=arguments.json,
    )


if __name__ == "__main__":
    main()
