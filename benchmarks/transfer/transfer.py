"""Warm-started against from scratch, and both against the network that a user writes in five minutes.

    python benchmarks/transfer/transfer.py [--tasks DIR] [--targets TASK ...] [--seeds 3] [--jobs 2] [--quick] [--json
    FILE]

For each pair of tasks (source, target) and each seed, the source is searched once; then the target is searched from
scratch and, with the taste, from the source's supernet. The source has twice the images of the target. The goal is
95 % of scratch's best validation accuracy; steps count weight updates, the taste's included. No number is tuned on
test data, and none here is chosen by the test accuracy: it is only reported. Pairs whose tasks DIR lacks are left out.

The fixed network (`search.runs.fixed_network`) gets the processor time of search, taste and child together: cold that
of the search from scratch, warm that of the warm one, from a network trained on the source for as long as the source's
search took. Child networks are trained on the training and the validation split, when all is chosen. So is the fixed
network; "held out" is one that leaves the validation split alone, as who tunes by it has to.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any, TypeVar

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from benchmarks.harness.report import Check, finish, print_table
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.runs.fixed_network import FixedRecipe, FixedResult, train_fixed
from supernet_registry.search.runs.pipeline import (
    Candidate,
    Decision,
    Epoch,
    Listener,
    PipelineResult,
    Taste,
    run_pipeline,
)
from supernet_registry.search.spaces import make_space
from supernet_registry.search.tasks import ImageDataset, TaskDerivation, derive, load_dataset
from supernet_registry.search.training.data import load_data
from supernet_registry.search.training.devices import pick_device

T = TypeVar("T")

SHIPPED = Path(__file__).parents[2] / "examples" / "tasks"
SHARED = Path(__file__).parents[3] / "shared" / "tasks"
SHARE = 0.95
"""The goal, as a share of scratch's best validation accuracy."""
HELD_OUT = ", held out"

NEAR = [
    ("print_latin_lower", "print_greek"),
    ("fashion_tops", "fashion_tops_twin"),
    ("print_latin_upper_wild", "print_digits_wild"),
    ("print_greek", "print_cyrillic"),
    ("print_latin_upper", "print_latin_lower"),
    ("print_latin_upper_wild", "print_devanagari_wild"),
    ("omni_katakana", "omni_latin"),
    ("omni_balinese", "omni_tagalog"),
    ("omni_latin", "omni_greek"),
    ("emoji_food", "emoji_animals"),
    ("emoji_vendor", "emoji_objects"),
    ("mnist_0to4", "mnist_5to9"),
    ("mnist_all10", "hand_digits"),
]
UNRELATED = [("texture3", "print_digits"), ("fashion_foot_bag", "print_hebrew")]
"""Here the source should not help, and must not hurt."""

Row = dict[str, Any]


class Curve(Listener):
    """The search's validation accuracy against its steps, and what the taste has seen."""

    def __init__(self) -> None:
        self.points: list[tuple[int, float]] = []
        self.tastes: tuple[Taste, ...] = ()

    def on_decision(self, d: Decision) -> None:
        self.tastes = d.tastes

    def on_epoch(self, e: Epoch) -> None:
        if e.phase == "SEARCH":
            self.points.append((e.steps, e.val_accuracy))

    def steps_to(self, accuracy: float) -> int | None:
        """Steps after which `accuracy` was first reached; None if never."""
        return next((steps for steps, value in self.points if value >= accuracy), None)


@dataclass(frozen=True)
class Job:
    """A pair at one seed."""

    folder: Path
    source: str
    target: str
    seed: int
    images: int
    near: bool


def load(folder: Path, task: str, seed: int, images: int) -> ImageDataset:
    """About `images` training images of a task and half as many for validation, drawn anew for every seed."""
    dataset = load_dataset(folder / f"{task}.npz")
    per_class = max(4, images // dataset.n_classes)
    return derive(dataset, TaskDerivation(n_train=per_class, n_val=max(3, per_class // 2), seed=seed))


def compare(job: Job) -> Row:
    """One pair, one seed: a row of figures."""
    torch.set_num_threads(1)
    source, target, seed = job.source, job.target, job.seed
    space = make_space()
    recipe = Recipe.for_space(space)
    before, dataset = load(job.folder, source, seed, 2 * job.images), load(job.folder, target, seed, job.images)
    cold, warm = Curve(), Curve()
    origin, origin_cpu = timed(lambda: run_pipeline(before, space, replace(recipe, child_epochs=0), seed=seed))
    scratch, cold_cpu = timed(lambda: run_pipeline(dataset, space, recipe, seed=seed, listener=cold))
    candidate = Candidate(version=source, ot_distance=0.0, weights=origin.weights)
    started, warm_cpu = timed(
        lambda: run_pipeline(dataset, space, recipe, seed=seed, candidates=[candidate], listener=warm)
    )
    device = pick_device("auto")
    data = load_data(dataset, space, device)
    fixed_source = train_fixed(load_data(before, space, device), recipe, seed=seed, cpu_seconds=origin_cpu)
    starts = {"cold": (cold_cpu, None), "warm": (warm_cpu, fixed_source.weights)}
    fixed = {
        start + suffix: train_fixed(data, recipe, seed=seed, cpu_seconds=cpu, source=source, fixed=settings)
        for start, (cpu, source) in starts.items()
        for suffix, settings in (("", FixedRecipe()), (HELD_OUT, FixedRecipe(holds_out=True)))
    }
    # Scratch took part in the taste: its accuracy before the first step belongs to its curve.
    tasted = {taste.version: taste for taste in warm.tastes if taste.steps}
    cold.points.insert(0, (0, tasted[""].val_accuracies[0]))
    winner = next(taste for taste in warm.tastes if taste.chosen)
    others = started.taste_steps - winner.steps[-1]  # the winner's own taste steps are counted on by its epochs
    tasting = [(0, winner.val_accuracies[0]), (started.taste_steps, winner.val_accuracies[-1])]
    warm.points = tasting + [(others + steps, value) for steps, value in warm.points]
    goal = SHARE * max(value for _, value in cold.points)
    cold_steps, warm_steps = cold.steps_to(goal), warm.steps_to(goal)
    return {
        "source": source,
        "target": target,
        "seed": seed,
        "near": job.near,
        "goal": goal,
        "scratch_steps": cold_steps,
        "warm_steps": warm_steps,
        "chosen": winner.version or "scratch",
        "taste_steps": started.taste_steps,
        "pass_steps": -(-len(dataset.train) // recipe.batch_size),
        "scratch": {**summary(scratch), "cpu_seconds": cold_cpu},
        "warm": {**summary(started), "cpu_seconds": warm_cpu},
        "fixed": {name: fixed_summary(result) for name, result in fixed.items()},
        "curves": {"scratch": cold.points, "warm": warm.points},
    }


def summary(result: PipelineResult) -> dict[str, float]:
    """What is left at the end of a run."""
    return {
        "val_accuracy": result.val_accuracy,
        "test_accuracy": result.test_accuracy,
        "child_test_accuracy": result.child_test_accuracy,
        "child_parameters": result.child_parameters,
        "steps": result.search_steps + result.taste_steps,
        "seconds": result.search_seconds + result.taste_seconds + result.child_seconds,
    }


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """A result and the processor time that it took, in seconds."""
    began = time.process_time()
    result = work()
    return result, time.process_time() - began


def fixed_summary(result: FixedResult) -> dict[str, float]:
    """The fixed network's figures."""
    return {
        "test_accuracy": result.test_accuracy,
        "parameters": result.parameters,
        "epochs": result.epochs,
        "cpu_seconds": result.cpu_seconds,
    }


def speed_up(row: Row) -> float:
    """Scratch's steps to the goal over the warm ones; 0 where the warm search never got there.

    Who is there before the first step is counted with one pass over the images, which the prototype head costs.
    """
    least = row["pass_steps"]
    return 0.0 if row["warm_steps"] is None else max(least, row["scratch_steps"]) / max(least, row["warm_steps"])


def gain(row: dict[str, Any], metric: str) -> float:
    """Points of accuracy, warm minus scratch."""
    return 100 * float(row["warm"][metric] - row["scratch"][metric])


def ahead_of_fixed(row: dict[str, Any], start: str) -> float:
    """Points of test accuracy, child minus fixed network; `start` is a key of `row["fixed"]`."""
    child = row["scratch" if start.startswith("cold") else "warm"]["child_test_accuracy"]
    return 100 * float(child - row["fixed"][start]["test_accuracy"])


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=Path, default=SHARED if SHARED.is_dir() else SHIPPED)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=200, help="training images of a target, about")
    parser.add_argument("--jobs", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--targets", nargs="+", metavar="TASK", help="only these; default: all that the folder has")
    parser.add_argument("--quick", action="store_true", help="two pairs, one seed")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    seeds = range(1 if arguments.quick else arguments.seeds)
    near, far = (NEAR[:2], []) if arguments.quick else (NEAR, UNRELATED)
    pairs = [pair for pair in near + far if all((arguments.tasks / f"{task}.npz").exists() for task in pair)]
    pairs = [(source, target) for source, target in pairs if target in (arguments.targets or [target])]
    if not pairs:
        parser.error("there is no such pair of tasks in the folder")
    jobs = [Job(arguments.tasks, *pair, seed, arguments.images, pair in near) for seed in seeds for pair in pairs]
    rows: list[Row] = []
    with ProcessPoolExecutor(arguments.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        for row in pool.map(compare, jobs):
            rows.append(row)
            print(f"{row['target']} ← {row['source']}, seed {row['seed']}: {speed_up(row):.1f}×", flush=True)
    print_table(
        "warm against scratch, mean over seeds (accuracies in points, warm − scratch)",
        ["target ← source", "steps scratch", "steps warm", "speed-up", "supernet test", "child test"],
        [table_row(source, target, rows) for source, target in pairs],
    )
    print_table(
        "test accuracy, mean over seeds: child network against the fixed one, same processor time",
        [
            "target",
            *("child cold", "fixed cold", "held out"),
            *("child warm", "fixed warm", "held out"),
            *("parameters, child", "fixed"),
        ],
        [fixed_row(target, rows) for _, target in pairs],
    )
    finish(
        "transfer",
        rows,
        [*transfer_checks(rows, pairs), *(check for start in rows[0]["fixed"] for check in fixed_checks(rows, start))],
        seeds=list(seeds),
        arguments={"images": arguments.images, "quick": arguments.quick, "targets": [target for _, target in pairs]},
        path=arguments.json,
    )


def transfer_checks(rows: list[Row], pairs: Iterable[tuple[str, str]]) -> list[Check]:
    """Speed and gain on near relatives; harm on any pair."""
    related = [row for row in rows if row["near"]]
    checks = []
    if related:
        speed = statistics.median(speed_up(row) for row in related)
        checks.append(Check("median speed-up, near relatives", speed, "≥ 5", "×", speed >= 5))
    for what, metric in (("supernet", "test_accuracy"), ("child", "child_test_accuracy")):
        worst = min(mean_gain(pair, rows, metric) for pair in pairs)
        name = f"change of {what} test accuracy"
        checks.append(Check(f"{name}, worst pair", worst, "≥ -1", "points", worst >= -1))
        if related:
            mean = statistics.fmean(gain(row, metric) for row in related)
            checks.append(Check(f"{name}, near relatives, mean", mean, "≥ 3", "points", mean >= 3))
    return checks


def fixed_checks(rows: list[Row], start: str) -> list[Check]:
    """Whether children are better than a fixed network, almost everywhere, and no larger."""
    side = "scratch" if start.startswith("cold") else "warm"
    mean = statistics.fmean(ahead_of_fixed(row, start) for row in rows)
    targets = {row["target"] for row in rows}
    leads = [statistics.fmean(ahead_of_fixed(row, start) for row in rows if row["target"] == t) for t in targets]
    share = 100 * statistics.fmean(lead >= 0 for lead in leads)
    size = statistics.fmean(row[side]["child_parameters"] for row in rows) / statistics.fmean(
        row["fixed"][start]["parameters"] for row in rows
    )
    return [
        Check(f"children over the fixed network, {start}: mean test accuracy", mean, "≥ 2", "points", mean >= 2),
        Check(f"children over the fixed network, {start}: targets at least as good", share, "≥ 90", "%", share >= 90),
        Check(f"children over the fixed network, {start}: parameters", size, "≤ 1", "×", size <= 1),
    ]


def fixed_row(target: str, rows: list[Row]) -> list[str]:
    """One line of the comparison with the fixed network."""
    mine = [row for row in rows if row["target"] == target]

    def mean(*path: str) -> float:
        return statistics.fmean(reduce(getitem, path, row) for row in mine)

    accuracies = [
        mean("scratch", "child_test_accuracy"),
        mean("fixed", "cold", "test_accuracy"),
        mean("fixed", "cold" + HELD_OUT, "test_accuracy"),
        mean("warm", "child_test_accuracy"),
        mean("fixed", "warm", "test_accuracy"),
        mean("fixed", "warm" + HELD_OUT, "test_accuracy"),
    ]
    sizes = [mean("warm", "child_parameters"), mean("fixed", "warm", "parameters")]
    return [target, *(f"{100 * accuracy:.1f}" for accuracy in accuracies), *(f"{size:,.0f}" for size in sizes)]


def mean_gain(pair: tuple[str, str], rows: list[Row], metric: str) -> float:
    """Mean over seeds of a pair's gain."""
    return statistics.fmean(gain(row, metric) for row in rows if (row["source"], row["target"]) == pair)


def table_row(source: str, target: str, rows: list[Row]) -> list[str]:
    """One line of the human table."""
    mine = [row for row in rows if (row["source"], row["target"]) == (source, target)]
    reached = [row["warm_steps"] for row in mine if row["warm_steps"] is not None]
    return [
        f"{target} ← {source}",
        f"{statistics.fmean(row['scratch_steps'] for row in mine):.0f}",
        f"{statistics.fmean(reached):.0f}" if reached else "never",
        " ".join(f"{speed_up(row):.1f}" for row in mine),
        f"{mean_gain((source, target), rows, 'test_accuracy'):+.1f}",
        f"{mean_gain((source, target), rows, 'child_test_accuracy'):+.1f}",
    ]


if __name__ == "__main__":
    main()
