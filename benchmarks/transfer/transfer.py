"""Warm-started against from scratch, and both against the network that a user writes in five minutes.

    python -m benchmarks transfer [--tasks DIR] [--targets TASK ...] [--seeds 3] [--jobs 2] [--quick] [--json FILE]

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
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial, reduce
from operator import getitem
from pathlib import Path
from typing import Any

from benchmarks.harness.paired import Arm, Cell, Experiment, Run, carry_out, cells_of
from benchmarks.harness.pairs import Pair, choose_pairs, files_of, find, name_of, pair_of
from benchmarks.harness.report import Check, Options, Section, print_table
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
from supernet_registry.search.tasks import ImageDataset, TaskDerivation, derive
from supernet_registry.search.training.data import Data, load_data
from supernet_registry.search.training.devices import pick_device

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


SPACE = make_space()
RECIPE = Recipe.for_space(SPACE)
SCRATCH, WARM = "scratch", "warm"
STARTS = {"cold": SCRATCH, "cold" + HELD_OUT: SCRATCH, "warm": WARM, "warm" + HELD_OUT: WARM}
"""Of the fixed network, and the arm whose processor time it gets."""
FIXED = {start: f"fixed, {start}" for start in STARTS}
"""Their arms."""
ARMS = [Arm(SCRATCH), Arm(WARM), *(Arm(FIXED[start], spends=arm) for start, arm in STARTS.items())]


@dataclass(frozen=True)
class Target:
    """A target, its source's supernet, and the fixed network that was trained on the source for as long."""

    dataset: ImageDataset
    data: Data
    source: Candidate
    fixed_source: Mapping[str, Any]
    seed: int


def load(folder: Path, task: str, seed: int, images: int) -> ImageDataset:
    """About `images` training images of a task and half as many for validation, drawn anew for every seed."""
    dataset = find(folder, task)
    per_class = max(4, images // dataset.n_classes)
    return derive(dataset, TaskDerivation(n_train=per_class, n_val=max(3, per_class // 2), seed=seed))


def prepare(folder: Path, images: int, cell: Cell) -> Target:
    """Search the source, and train the fixed network on it."""
    (source, target), seed = pair_of(cell), cell.seed
    before, dataset = load(folder, source, seed, 2 * images), load(folder, target, seed, images)
    began = time.process_time()
    origin = run_pipeline(before, SPACE, replace(RECIPE, child_epochs=0), seed=seed)
    cpu_s = time.process_time() - began
    device = pick_device("auto")
    fixed = train_fixed(load_data(before, SPACE, device), RECIPE, seed=seed, cpu_seconds=cpu_s)
    candidate = Candidate(version=source, ot_distance=0.0, weights=origin.weights)
    return Target(dataset, load_data(dataset, SPACE, device), candidate, fixed.weights, seed)


def measure(target: Target, arm: str, cpu_s: float | None) -> dict[str, Any]:
    """One arm: a search with its curve, or a fixed network for as long."""
    if cpu_s is None:
        curve = Curve()
        candidates = [target.source] if arm == WARM else []
        result = run_pipeline(target.dataset, SPACE, RECIPE, seed=target.seed, candidates=candidates, listener=curve)
        tastes = [asdict(taste) for taste in curve.tastes]
        pass_steps = -(-len(target.dataset.train) // RECIPE.batch_size)
        return {
            **summary(result),
            "curve": curve.points,
            "tastes": tastes,
            "taste_steps": result.taste_steps,
            "pass_steps": pass_steps,
        }
    warm, holds_out = arm.startswith(FIXED["warm"]), arm.endswith(HELD_OUT)
    source = target.fixed_source if warm else None
    settings = FixedRecipe(holds_out=holds_out)
    return fixed_summary(
        train_fixed(target.data, RECIPE, seed=target.seed, cpu_seconds=cpu_s, source=source, fixed=settings)
    )


def row_of(runs: Mapping[str, Run], near: Sequence[Pair]) -> Row:
    """One pair, one seed: a row of figures."""
    scratch, warm = runs[SCRATCH], runs[WARM]
    source, target = pair_of(scratch.cell)
    tastes, taste_steps = warm.figures["tastes"], warm.figures["taste_steps"]
    # Scratch took part in the taste: its accuracy before the first step belongs to its curve.
    tasted = {taste["version"]: taste for taste in tastes if taste["steps"]}
    cold_curve = [(0, tasted[""]["val_accuracies"][0]), *scratch.figures["curve"]]
    winner = next(taste for taste in tastes if taste["chosen"])
    others = taste_steps - winner["steps"][-1]  # the winner's own taste steps are counted on by its epochs
    tasting = [(0, winner["val_accuracies"][0]), (taste_steps, winner["val_accuracies"][-1])]
    warm_curve = tasting + [(others + steps, value) for steps, value in warm.figures["curve"]]
    goal = SHARE * max(value for _, value in cold_curve)
    return {
        "source": source,
        "target": target,
        "seed": scratch.seed,
        "near": (source, target) in near,
        "goal": goal,
        "scratch_steps": steps_to(cold_curve, goal),
        "warm_steps": steps_to(warm_curve, goal),
        "chosen": winner["version"] or "scratch",
        "taste_steps": taste_steps,
        "pass_steps": scratch.figures["pass_steps"],
        "scratch": {**scratch.figures, "cpu_seconds": scratch.cpu_s},
        "warm": {**warm.figures, "cpu_seconds": warm.cpu_s},
        "fixed": {start: runs[arm].figures for start, arm in FIXED.items()},
        "curves": {"scratch": cold_curve, "warm": warm_curve},
    }


def steps_to(curve: Iterable[tuple[int, float]], accuracy: float) -> int | None:
    """Steps after which `accuracy` was first reached; None if never."""
    return next((steps for steps, value in curve if value >= accuracy), None)


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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is compared, on how many images."""
    parser.add_argument("--images", type=int, default=200, help="training images of a target, about")
    parser.add_argument("--targets", nargs="+", metavar="TASK", help="only these; default: all that the folder has")


def run(options: Options) -> Section:
    """Every pair and seed; of a smoke profile two pairs."""
    own = options.own
    kinds = {"near": NEAR[:2], "far": []} if options.quick else {"near": NEAR, "far": UNRELATED}
    there = choose_pairs(options.tasks, kinds, quick=False)
    pairs = [pair for some in there.values() for pair in some if pair[1] in (own.targets or [pair[1]])]
    if not pairs:
        raise SystemExit("There is no such pair of tasks in the folder.")
    experiment = Experiment(
        arms=ARMS,
        cells=cells_of(map(name_of, pairs), options.seed_range),
        prepare=partial(prepare, options.tasks, own.images),
        measure=measure,
        described={"recipe": asdict(RECIPE), "space": SPACE.id, "images": own.images},
        files=partial(files_of, options.tasks),
    )
    outcome = carry_out(experiment, options)
    rows = [row_of(runs, NEAR) for runs in outcome.complete().values()]
    arguments = {"images": own.images, "targets": [target for _, target in pairs]}
    pairs = [pair for pair in pairs if any((row["source"], row["target"]) == pair for row in rows)]
    if not rows:
        return Section(outcome.figures(), [], arguments, missing=outcome.missing)
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
    checks = [*transfer_checks(rows, pairs), *(check for start in FIXED for check in fixed_checks(rows, start))]
    return Section({"rows": rows, **outcome.figures()}, checks, arguments, missing=outcome.missing)


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
