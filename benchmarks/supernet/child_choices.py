"""Child networks: how long and how they are trained, and what the derived architecture is worth.

    python benchmarks/supernet/child_choices.py [--tasks FOLDER] [--seeds 2] [--jobs 2] [--quick] [--json FILE]

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
import multiprocessing
import os
import statistics
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from benchmarks.harness.report import finish, print_table, with_error
from supernet_registry.search.children.child import derive_child
from supernet_registry.search.networks.supernet import Network
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.spaces import Genotype, family_of, make_space
from supernet_registry.search.starts.setup import SearchSetup
from supernet_registry.search.tasks import ImageDataset, Split, TaskDerivation, derive, load_dataset
from supernet_registry.search.training.data import Data, load_data, make_generator
from supernet_registry.search.training.evaluation import Score, calibrate, collect_logits, score_logits
from supernet_registry.search.training.loop import Loop, Plan

SHIPPED = Path(__file__).parents[2] / "examples" / "tasks"
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
MOST_HELD_OUT = 600
SPACE = make_space()
RECIPE = Recipe.for_space(SPACE)
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
BOTH = "both splits"
BANNED = {"convolutions only": ["skip_connect", "avg_pool_3x3", "max_pool_3x3"]}


def held_out(task: ImageDataset, n_train: int, n_val: int, seed: int) -> ImageDataset:
    """A draw of a task, whose test split is made of training images that were not drawn."""
    drawn = derive(task, TaskDerivation(n_train=n_train, n_val=n_val, seed=seed))
    used = {image.tobytes() for image in drawn.train.images}
    left = [i for i, image in enumerate(task.train.images) if image.tobytes() not in used]
    kept = np.sort(np.random.default_rng(0).permutation(left)[:MOST_HELD_OUT])
    return replace(drawn, test=Split(images=task.train.images[kept], labels=task.train.labels[kept]))


def search(data: Data, seed: int, recipe: Recipe = RECIPE) -> Network:
    """The supernet of a search from scratch, in its best state."""
    loop = SearchSetup(SPACE, data, recipe, seed, lambda: False).prepare(None, "SCRATCH").loop
    while not loop.finished:
        loop.run_epoch()
    loop.restore_best()
    return loop.network


def train_child(
    supernet: Network, genotype: Genotype, data: Data, seed: int, recipe: Recipe = RECIPE
) -> dict[str, float]:
    """Accuracy on the held-out images after the last epoch and after the best one."""
    generator = make_generator(seed, "child-network")
    child = derive_child(supernet, genotype, data, recipe, generator=generator)
    plan = Plan(
        phase="CHILD",
        epochs=recipe.child_epochs,
        patience=recipe.child_epochs,
        learning_rate=recipe.child_learning_rate,
        weight_decay=recipe.child_weight_decay,
        label_smoothing=recipe.child_label_smoothing,
        search_alphas=False,
    )
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


def judge(network: Network, data: Data) -> float:
    """Accuracy on the held-out images."""
    calibrate(network, data, RECIPE)
    score: Score = score_logits(*collect_logits(network, data, data.test, RECIPE))
    return score.accuracy


def compare(folder: Path, entry: tuple[str, int, int], seed: int) -> dict[str, Any]:
    """One task, one seed: a row of figures."""
    torch.set_num_threads(1)
    name, n_train, n_val = entry
    dataset = held_out(load_dataset(folder / f"{name}.npz"), n_train, n_val, seed)
    data = load_data(dataset, SPACE, torch.device("cpu"))
    supernet = search(data, seed)
    family = family_of(SPACE)
    derived = supernet.derive()
    row: dict[str, Any] = {"task": name, "seed": seed, "genotype": family.format_genotype(derived)}
    row["supernet"] = judge(supernet, data)
    row.update(train_child(supernet, derived, data, seed))
    row[BOTH] = train_child(supernet, derived, data.joined(), seed)["last"]
    for arm, recipe in SEARCHES.items():
        other = search(data, seed, recipe)
        row[f"supernet, {arm}"] = judge(other, data)
        row[arm] = train_child(other, other.derive(), data, seed)["last"]
    for arm, recipe in RECIPES.items():
        row[arm] = train_child(supernet, derived, data, seed, recipe)["last"]
    architectures = {
        **{arm: supernet.derive(most_skips=most) for arm, most in LIMITS.items()},
        **{arm: derive_without(supernet, banned) for arm, banned in BANNED.items()},
        **{arm: family.parse_genotype(SPACE, text) for arm, text in FIXED.items()},
    }
    trained = {row["genotype"]: row["last"]}
    for arm, genotype in architectures.items():
        text = family.format_genotype(genotype)
        if text not in trained:
            trained[text] = train_child(supernet, genotype, data, seed)["last"]
        row[arm] = trained[text]
    return row


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=Path, default=SHIPPED)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--quick", action="store_true", help="one task, one seed")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    tasks = [entry for entry in TASKS if (arguments.tasks / f"{entry[0]}.npz").exists()]
    tasks = tasks[: 1 if arguments.quick else None]
    seeds = range(1 if arguments.quick else arguments.seeds)
    jobs = [(entry, seed) for entry in tasks for seed in seeds]
    rows = []
    with ProcessPoolExecutor(arguments.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        for row in pool.map(partial(compare, arguments.tasks), *zip(*jobs, strict=True)):
            rows.append(row)
            print({name: f"{100 * v:.1f}" if isinstance(v, float) else v for name, v in row.items()}, flush=True)
    arms = ["last", "best", BOTH, *SEARCHES, *RECIPES, *LIMITS, *BANNED, *FIXED]
    names = dict.fromkeys(row["task"] for row in rows)
    lines = [[task, *(points([r[arm] for r in rows if r["task"] == task]) for arm in arms)] for task in names]
    lines.append(["mean", *(points([row[arm] for row in rows]) for arm in arms)])
    print_table("accuracy of child networks on held-out images, mean over seeds", ["task", *arms], lines)
    for arm in arms[1:]:
        print_gain(rows, arm, "last")
    for arm in SEARCHES:
        print_gain(rows, f"supernet, {arm}", "supernet")
    finish(
        "child_choices",
        rows,
        [],
        seeds=list(seeds),
        arguments={"tasks": list(names), "quick": arguments.quick},
        path=arguments.json,
    )


def print_gain(rows: list[dict[str, Any]], arm: str, base: str) -> None:
    """Mean difference of two arms, paired."""
    gains = [100 * (row[arm] - row[base]) for row in rows]
    print(f"{arm} − {base}: {with_error(gains)} points (n = {len(gains)}), worst {min(gains):+.1f}")


def points(values: list[float]) -> str:
    """Mean, in percent."""
    return f"{100 * statistics.fmean(values):.1f}"


if __name__ == "__main__":
    main()
