"""Child networks: the last epoch or the best one, and what the derived architecture is worth.

    python benchmarks/child_choices.py [--tasks FOLDER] [--seeds 2] [--quick] [--json FILE]

Each task is searched once from scratch, in the default space with the default recipe; its child networks differ in one
choice and inherit from the same supernet. They are judged on images that were kept out of the draw (of the training
split, at most 600), so that a choice made here has seen no test image. `best` is the epoch with the best validation
accuracy, `last` the last one, both of the derived architecture; the others are the last epochs of fixed architectures.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from report import finish, print_table

from search.child import derive_child
from search.data import Data, load_data, make_generator
from search.evaluation import Score, calibrate, collect_logits, score_logits
from search.loop import Loop, Plan
from search.recipe import Recipe
from search.spaces import Genotype, family_of, make_space
from search.supernet import Network
from search.tasks import Derivation, ImageDataset, Split, derive, load_dataset
from search.taste import SearchSetup

SHIPPED = Path(__file__).parents[1] / "examples" / "tasks"
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
]
"""Task, images a class for training, for validation; those that the folder lacks are left out."""
FIXED = {
    "all 3×3": "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|",
    "3×3 and skip": "|nor_conv_3x3~0|+|nor_conv_3x3~0|skip_connect~1|",
    "all skip": "|skip_connect~0|+|skip_connect~0|skip_connect~1|",
}
MOST_HELD_OUT = 600
SPACE = make_space()
RECIPE = Recipe.for_space(SPACE)


def held_out(task: ImageDataset, n_train: int, n_val: int, seed: int) -> ImageDataset:
    """A draw of a task, whose test split is made of training images that were not drawn."""
    drawn = derive(task, Derivation(n_train=n_train, n_val=n_val, seed=seed))
    used = {image.tobytes() for image in drawn.train.images}
    left = [i for i, image in enumerate(task.train.images) if image.tobytes() not in used]
    kept = np.sort(np.random.default_rng(0).permutation(left)[:MOST_HELD_OUT])
    return replace(drawn, test=Split(images=task.train.images[kept], labels=task.train.labels[kept]))


def search(data: Data, seed: int) -> Network:
    """The supernet of a search from scratch, in its best state."""
    loop = SearchSetup(SPACE, data, RECIPE, seed, lambda: False).prepare(None, "SCRATCH").loop
    while not loop.finished:
        loop.run_epoch()
    loop.restore_best()
    return loop.network


def train_child(supernet: Network, genotype: Genotype, data: Data, seed: int) -> dict[str, float]:
    """Accuracy on the held-out images after the last epoch and after the best one."""
    generator = make_generator(seed, "child-network")
    child = derive_child(supernet, genotype, data, RECIPE, generator=generator)
    plan = Plan(
        phase="CHILD",
        epochs=RECIPE.child_epochs,
        patience=RECIPE.child_epochs,
        learning_rate=RECIPE.child_learning_rate,
        weight_decay=RECIPE.child_weight_decay,
        label_smoothing=RECIPE.child_label_smoothing,
        search_alphas=False,
    )
    loop = Loop(child, data, RECIPE, plan, generator=make_generator(seed, "child"))
    while not loop.finished:
        loop.run_epoch()
    last = copy.deepcopy(child)
    loop.restore_best()
    return {"last": judge(last, data), "best": judge(child, data)}


def judge(network: Network, data: Data) -> float:
    """Accuracy on the held-out images."""
    calibrate(network, data, RECIPE)
    score: Score = score_logits(*collect_logits(network, data, data.test, RECIPE))
    return score.accuracy


def compare(path: Path, n_train: int, n_val: int, seed: int) -> dict[str, Any]:
    """One task, one seed: a row of figures."""
    data = load_data(held_out(load_dataset(path), n_train, n_val, seed), SPACE, torch.device("cpu"))
    supernet = search(data, seed)
    family = family_of(SPACE)
    derived = supernet.derive()
    row: dict[str, Any] = {"task": path.stem, "seed": seed, "genotype": family.format_genotype(derived)}
    row.update(train_child(supernet, derived, data, seed))
    for name, text in FIXED.items():
        row[name] = train_child(supernet, family.parse_genotype(SPACE, text), data, seed)["last"]
    return row


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=Path, default=SHIPPED)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="one task, one seed")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    known = [(arguments.tasks / f"{name}.npz", train, val) for name, train, val in TASKS]
    tasks = [entry for entry in known if entry[0].exists()][: 1 if arguments.quick else None]
    seeds = range(1 if arguments.quick else arguments.seeds)
    rows = []
    for path, n_train, n_val in tasks:
        for seed in seeds:
            rows.append(compare(path, n_train, n_val, seed))
            print({name: f"{100 * v:.1f}" if isinstance(v, float) else v for name, v in rows[-1].items()}, flush=True)
    arms = ["best", "last", *FIXED]
    names = dict.fromkeys(row["task"] for row in rows)
    lines = [[task, *(points([r[arm] for r in rows if r["task"] == task]) for arm in arms)] for task in names]
    lines.append(["mean", *(points([row[arm] for row in rows]) for arm in arms)])
    print_table("accuracy of child networks on held-out images, mean over seeds", ["task", *arms], lines)
    gains = [100 * (row["last"] - row["best"]) for row in rows]
    error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else float("nan")
    print(f"last − best: {statistics.fmean(gains):+.2f} ± {error:.2f} points (standard error, n = {len(gains)})")
    finish(
        "child_choices",
        rows,
        [],
        seeds=list(seeds),
        arguments={"tasks": list(names), "quick": arguments.quick},
        path=arguments.json,
    )


def points(values: list[float]) -> str:
    """Mean, in percent."""
    return f"{100 * statistics.fmean(values):.1f}"


if __name__ == "__main__":
    main()
