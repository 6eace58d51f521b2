"""Pairs of tasks, source and target, and searches on them: what the benchmarks of warm starts and children share.

A target is judged on images that were kept out of its draw (of the training split, at most 600), so that a choice made
by such a benchmark has seen no test image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness.paired import Cell
from supernet_registry.search.networks.supernet import Network
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.spaces import make_space
from supernet_registry.search.starts.setup import SearchSetup
from supernet_registry.search.tasks import ImageDataset, Split, TaskDerivation, derive, load_dataset
from supernet_registry.search.training.data import Data, load_data, make_generator
from supernet_registry.search.training.evaluation import calibrate, collect_logits, score_logits
from supernet_registry.search.training.loop import Loop
from supernet_registry.search.training.plan import Plan

__all__ = [
    "RECIPE",
    "RELATED",
    "SPACE",
    "UNRELATED",
    "Pair",
    "child_plan",
    "choose_pairs",
    "draw",
    "draw_source",
    "files_of",
    "find",
    "finish_child",
    "has",
    "held_out",
    "judge",
    "name_of",
    "on_cpu",
    "pair_of",
    "run",
    "same_source",
    "search_from_scratch",
    "search_source",
]

SPACE = make_space()
RECIPE = Recipe.for_space(SPACE)
SOURCE_IMAGES, TARGET_IMAGES, VALIDATION_IMAGES = 400, 150, 75  # about
MOST_HELD_OUT = 600

Pair = tuple[str, str]
"""Source and target."""

RELATED: list[Pair] = [
    ("print_latin_lower", "print_greek"),
    ("print_latin_upper", "print_cyrillic"),
    ("print_latin_upper_wild", "print_digits_wild"),
    ("print_latin_upper_wild", "print_devanagari_wild"),
    ("fashion_tops", "fashion_tops_twin"),
    ("omni_katakana", "omni_latin"),
    ("omni_balinese", "omni_tagalog"),
    ("emoji_food", "emoji_animals"),
    ("mnist_0to4", "mnist_5to9"),
    ("mnist_all10", "hand_digits"),
]
"""Near relatives."""
UNRELATED: list[Pair] = [
    ("fashion_tops", "hand_digits"),
    ("omni_balinese", "print_hebrew"),
    ("mnist_0to4", "emoji_food"),
    ("fashion_tops", "print_latin_upper_wild"),
    ("texture3", "pneumonia"),
    ("print_latin_lower", "fashion_tops_twin"),
    ("emoji_food", "print_digits"),
    ("print_latin_upper_wild", "trash_grey"),
]
"""Sources of another domain, which a registry without relatives would offer."""


# Names


def name_of(pair: Pair) -> str:
    """A pair as the task of a cell."""
    return f"{pair[1]} ← {pair[0]}"


def pair_of(cell: Cell) -> Pair:
    """Source and target of a cell."""
    target, _, source = cell.task.partition(" ← ")
    return source, target


def same_source(cell: Cell) -> str:
    """Group of a cell: those that begin with the same source, which a process then searches once."""
    return f"{pair_of(cell)[0]}, {cell.seed}"


def files_of(folder: Path, cell: Cell) -> Iterator[Path]:
    """What the runs of a task or a pair are made from."""
    return (folder / f"{task}.npz" for task in cell.task.split(" ← "))


def has(folder: Path, *tasks: str) -> bool:
    """Whether all are there."""
    return all((folder / f"{task}.npz").exists() for task in tasks)


def choose_pairs(folder: Path, kinds: Mapping[str, Sequence[Pair]], *, quick: bool) -> dict[str, list[Pair]]:
    """Pairs of each kind that the folder has; one of a kind for a smoke profile."""
    there = {kind: [pair for pair in pairs if has(folder, *pair)] for kind, pairs in kinds.items()}
    return {kind: pairs[: 1 if quick else None] for kind, pairs in there.items()}


# Images


@cache
def find(folder: Path, task: str) -> ImageDataset:
    """A task by name."""
    return load_dataset(folder / f"{task}.npz")


def held_out(task: ImageDataset, n_train: int, n_val: int, seed: int) -> ImageDataset:
    """A draw of a task, whose test split is made of training images that were not drawn."""
    drawn = derive(task, TaskDerivation(n_train=n_train, n_val=n_val, seed=seed))
    used = {image.tobytes() for image in drawn.train.images}
    left = [i for i, image in enumerate(task.train.images) if image.tobytes() not in used]
    kept = np.sort(np.random.default_rng(0).permutation(left)[:MOST_HELD_OUT])
    return replace(drawn, test=Split(images=task.train.images[kept], labels=task.train.labels[kept]))


def draw(task: ImageDataset, seed: int) -> ImageDataset:
    """A target: a few images of every class, judged on those of the training split that are left."""
    n_train = max(4, TARGET_IMAGES // task.n_classes)
    return held_out(task, n_train, max(2, VALIDATION_IMAGES // task.n_classes), seed)


def draw_source(task: ImageDataset, seed: int) -> ImageDataset:
    """A source, with more images."""
    n_train = max(4, SOURCE_IMAGES // task.n_classes)
    return derive(task, TaskDerivation(n_train=n_train, n_val=max(3, n_train // 3), seed=seed))


def on_cpu(dataset: ImageDataset) -> Data:
    """Ready to be trained on."""
    return load_data(dataset, SPACE, torch.device("cpu"))


# Searches


def run(loop: Loop) -> list[tuple[int, float]]:
    """Search to the end; (steps, validation accuracy) of the start and of every epoch that was judged."""
    assert loop.best is not None
    points = [(0, loop.best.accuracy)]
    while not loop.finished:
        epoch = loop.run_epoch()
        if epoch.val_accuracy is not None:
            points.append((epoch.steps, epoch.val_accuracy))
    loop.restore_best()
    return points


def search_from_scratch(data: Data, seed: int, recipe: Recipe = RECIPE) -> Network:
    """The supernet of a search from scratch, in its best state."""
    loop = SearchSetup(SPACE, data, recipe, seed, lambda: False).prepare(None, "SCRATCH").loop
    run(loop)
    return loop.network


@lru_cache(maxsize=1)
def search_source(folder: Path, task: str, seed: int) -> dict[str, Tensor]:
    """Tensors of a supernet searched from scratch, from another initialisation than the targets'."""
    network = search_from_scratch(on_cpu(draw_source(find(folder, task), seed)), seed + 1000)
    return dict(network.state_dict())


def judge(network: Network, data: Data) -> float:
    """Accuracy on the held-out images."""
    calibrate(network, data, RECIPE)
    return score_logits(*collect_logits(network, data, data.test, RECIPE)).accuracy


def child_plan(recipe: Recipe, **changes: Any) -> Plan:
    """How a child network is trained."""
    plan = Plan(
        phase="CHILD",
        epochs=recipe.child_epochs,
        patience=recipe.child_epochs,
        learning_rate=recipe.child_learning_rate,
        weight_decay=recipe.child_weight_decay,
        label_smoothing=recipe.child_label_smoothing,
        search_alphas=False,
    )
    return replace(plan, **changes)


def finish_child(child: Network, data: Data, seed: int, recipe: Recipe = RECIPE) -> float:
    """Train a child network on the training split to the last epoch; its held-out accuracy."""
    plan = child_plan(recipe, keep_last=True, judged=False)
    loop = Loop(child, data, recipe, plan, generator=make_generator(seed, "child"))
    while not loop.finished:
        loop.run_epoch()
    loop.restore_best()
    return judge(child, data)
