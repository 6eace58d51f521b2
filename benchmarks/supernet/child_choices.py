"""Child networks: how long and how they are trained, and what the derived architecture is worth.

    python -m benchmarks child-choices [--tasks DIR] [--seeds 2] [--jobs 2] [--quick] [--json FILE]

Each task is searched from scratch, in the default space with the default recipe; its child networks differ in one
choice and inherit from the same supernet, except where the choice is one of the search's (α's prior). They are judged
on images that were kept out of the draw (of the training split, at most 600), so that a choice made here has seen no
test image. `best` is the epoch with the best validation accuracy, `last` the last one, both of the derived
architecture, trained on the training split alone; the others are the last epochs when trained on the validation split
as well (the default, and the only arm with it), under another recipe, of architectures derived with few skip
connections or without some operations, and of fixed architectures. Arms with one architecture share its child network.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness.paired import Arm, Cell, Experiment, Run, carry_out, cells_of, compare
from benchmarks.harness.pairs import (
    RECIPE,
    SPACE,
    child_plan,
    files_of,
    find,
    has,
    held_out,
    judge,
    on_cpu,
    search_from_scratch,
)
from benchmarks.harness.report import Options, Section, print_table, with_error
from supernet_registry.search.children.child import derive_child
from supernet_registry.search.networks.supernet import Network
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.spaces import Genotype, family_of
from supernet_registry.search.training.data import Data, make_generator
from supernet_registry.search.training.loop import Loop

TASKS = [
    ("hand_digits", 10, 3),
    ("print_hebrew", 10, 3),
    ("print_greek", 8, 3),
    ("print_digits_wild", 20, 5),
    ("mnist_5to9", 10, 5),
    ("omni_latin", 6, 3),
    ("fashion_tops", 20, 6),
    ("fashion_tops_twin", 12, 5),
    ("texture3", 10, 3),
    ("emoji_food", 8, 3),
    ("emoji_animals", 8, 3),
    ("print_thai", 6, 3),
    ("trash_grey", 20, 6),
    ("omni_tagalog", 6, 2),
]
"""Task, images a class for training, for validation; those that the folder lacks are left out."""
FIXED = {
    "all 3×3": "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|",
    "residual": "|nor_conv_3x3~0|+|skip_connect~0|skip_connect~1|",
    "residual, two 3×3": "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_3x3~1|",
    "all skip": "|skip_connect~0|+|skip_connect~0|skip_connect~1|",
}
RECIPES = {
    "half the epochs": replace(RECIPE, child_epochs=RECIPE.child_epochs // 2),
    "learning rate × 0.4": replace(RECIPE, child_learning_rate=0.4 * RECIPE.child_learning_rate),
    "weight decay 0.01": replace(RECIPE, child_weight_decay=0.01),
    "weight decay × 0.2": replace(RECIPE, child_weight_decay=0.2 * RECIPE.child_weight_decay),
    "weight decay × 2": replace(RECIPE, child_weight_decay=2.0 * RECIPE.child_weight_decay),
}
SEARCHES = {
    "the search's weight decay 0.01": replace(RECIPE, weight_decay=0.01),
    "the search's weight decay × 0.25": replace(RECIPE, weight_decay=0.25 * RECIPE.weight_decay),
    "the search's weight decay × 2": replace(RECIPE, weight_decay=2.0 * RECIPE.weight_decay),
    "α without prior": replace(RECIPE, alpha_prior=0.0),
    "half the prior": replace(RECIPE, alpha_prior=0.5 * RECIPE.alpha_prior),
}
LIMITS = {"no skip": 0, "at most one skip": 1}
DERIVED, BOTH = "derived", "both splits"
BANNED = {"convolutions only": ["skip_connect", "avg_pool_3x3", "max_pool_3x3"]}
OTHERS = [BOTH, *SEARCHES, *RECIPES, *LIMITS, *BANNED, *FIXED]
COLUMNS = {"last": (DERIVED, "last"), "best": (DERIVED, "best"), **{arm: (arm, "last") for arm in OTHERS}}
"""Arm and figure of every column."""


def train_child(
    supernet: Network, genotype: Genotype, data: Data, seed: int, recipe: Recipe = RECIPE
) -> dict[str, float]:
    """Accuracy on the held-out images after the last epoch and after the best one."""
    generator = make_generator(seed, "child-network")
    child = derive_child(supernet, genotype, data, recipe, generator=generator)
    plan = child_plan(recipe)
    loop = Loop(child, data, recipe, plan, generator=make_generator(seed, "child"))
    while not loop.finished:
        loop.run_epoch()
    last = copy.deepcopy(child)
    loop.restore_best()
    return {"last": judge(last, data), "best": judge(child, data)}


def derive_without(supernet: Network, banned: list[str]) -> Genotype:
    """The architecture with the largest α among the other operations."""
    supernet = copy.deepcopy(supernet)
    columns = [family_of(SPACE).operations.index(operation) for operation in banned]
    with torch.no_grad():
        for alphas in supernet.alphas.values():
            alphas[:, columns] = -1e9
    return supernet.derive()


@dataclass(frozen=True)
class Searched:
    """A supernet, and the children that it has by now."""

    data: Data
    supernet: Network
    accuracy: float
    seed: int
    trained: dict[str, dict[str, float]] = field(default_factory=dict)
    """Under the default recipe, by genotype: arms with one architecture share its child."""

    def child(self, genotype: Genotype) -> dict[str, float]:
        """Of an architecture, trained or known."""
        text = family_of(SPACE).format_genotype(genotype)
        if text not in self.trained:
            self.trained[text] = train_child(self.supernet, genotype, self.data, self.seed)
        return self.trained[text]


def prepare(folder: Path, cell: Cell) -> Searched:
    """The search that children share."""
    n_train, n_val = next(counts for name, *counts in TASKS if name == cell.task)
    data = on_cpu(held_out(find(folder, cell.task), n_train, n_val, cell.seed))
    supernet = search_from_scratch(data, cell.seed)
    return Searched(data, supernet, judge(supernet, data), cell.seed)


def measure(searched: Searched, arm: str, _cpu_s: float | None) -> dict[str, Any]:
    """One child, and the supernet where it is another one."""
    supernet, data, seed = searched.supernet, searched.data, searched.seed
    family, derived = family_of(SPACE), searched.supernet.derive()
    if arm == DERIVED:
        text = family.format_genotype(derived)
        return {"supernet": searched.accuracy, "genotype": text, **searched.child(derived)}
    if arm == BOTH:
        return train_child(supernet, derived, data.joined(), seed)
    if arm in RECIPES:
        return train_child(supernet, derived, data, seed, RECIPES[arm])
    if arm in SEARCHES:
        other = search_from_scratch(data, seed, SEARCHES[arm])
        return {"supernet": judge(other, data), **train_child(other, other.derive(), data, seed)}
    if arm in LIMITS:
        return searched.child(supernet.derive(most_skips=LIMITS[arm]))
    if arm in BANNED:
        return searched.child(derive_without(supernet, BANNED[arm]))
    return searched.child(family.parse_genotype(SPACE, FIXED[arm]))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Two seeds are enough of 14 tasks."""
    parser.set_defaults(seeds=2)


def run(options: Options) -> Section:
    """Every task, seed and choice."""
    tasks = [name for name, *_ in TASKS if has(options.tasks, name)][: 1 if options.quick else None]
    experiment = Experiment(
        arms=[Arm(DERIVED), *map(Arm, OTHERS)],
        cells=cells_of(tasks, options.seed_range),
        prepare=partial(prepare, options.tasks),
        measure=measure,
        described={"recipe": asdict(RECIPE), "space": SPACE.id, "tasks": TASKS},
        files=partial(files_of, options.tasks),
    )
    outcome = carry_out(experiment, options)
    complete = list(outcome.complete().values())
    runs = [run for by_arm in complete for run in by_arm.values()]
    if runs:
        lines = [[task, *means([r for r in complete if r[DERIVED].task == task])] for task in tasks]
        lines.append(["mean", *means(complete)])
        print_table(
            "accuracy of child networks on held-out images, mean over seeds", ["task", *COLUMNS],
            [line for line in lines if len(line) > 1],
        )  # fmt: skip
        for column in list(COLUMNS)[1:]:
            print_gain(column, "last", [points(r, column) - points(r, "last") for r in complete])
        for arm in SEARCHES:
            gains = compare(runs, "supernet", arm=arm, base=DERIVED).differences
            print_gain(f"supernet, {arm}", "supernet", gains)
    comparisons = [compare(runs, "last", arm=arm, base=DERIVED) for arm in OTHERS if runs]
    return Section(outcome.figures(comparisons), [], {"tasks": tasks}, missing=outcome.missing)


def points(runs: Mapping[str, Run], column: str) -> float:
    """Accuracy in a column, in percent."""
    arm, figure = COLUMNS[column]
    return 100 * float(runs[arm].figures[figure])


def means(cells: Sequence[Mapping[str, Run]]) -> list[str]:
    """Of every column; nothing of no cells."""
    return [f"{statistics.fmean(points(runs, column) for runs in cells):.1f}" for column in COLUMNS if cells]


def print_gain(arm: str, base: str, gains: Sequence[float]) -> None:
    """Mean difference of two arms, paired."""
    print(f"{arm} − {base}: {with_error(gains)} points (n = {len(gains)}), worst {min(gains):+.1f}")
