"""Tasks derived from the benchmark tasks, to search among: class subsets, fewer images, transforms, other labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from supernet_registry.search.determinism import random_order
from supernet_registry.search.tasks import ImageDataset, Split, TaskDerivation, derive
from supernet_registry.search.tasks.derivation import Transform

__all__ = ["DerivedTask", "derived_tasks", "with_merged_classes"]

TRANSFORMS: tuple[Transform, ...] = ("rot90", "invert", "permute_pixels", "rainbow", "noise")
LABEL_CHANGES = ("random", "merged")
"""Kinds of derived task that have the same images as their parent and differ from it in labels alone."""


@dataclass(frozen=True)
class DerivedTask:
    """A task and where it comes from."""

    parent: str
    kind: str  # "itself", "half 1", "few", "rot90", "random", ...
    task: ImageDataset


def derived_tasks(tasks: Mapping[str, ImageDataset], *, seed: int) -> Iterator[DerivedTask]:
    """Of every task: itself, two halves of its classes, a part of its images, two transforms, other labels."""
    for index, (name, task) in enumerate(tasks.items()):
        yield DerivedTask(name, "itself", task)
        for kind, derivation in _derivations(task, index, seed):
            yield DerivedTask(name, kind, derive(task, derivation))
        if task.n_classes >= 4:
            yield DerivedTask(name, "merged", with_merged_classes(task, seed))


def with_merged_classes(task: ImageDataset, seed: int) -> ImageDataset:
    """Random pairs of classes made one; an odd one stays alone."""
    groups = np.argsort(random_order(task.n_classes, "merged", seed, task.name)) // 2
    splits = {name: Split(split.images, groups[split.labels]) for name, split in task.splits()}
    names = tuple(f"group {group}" for group in range(int(groups.max()) + 1))
    return ImageDataset(task.name, splits["train"], splits["val"], splits["test"], names)


def _derivations(task: ImageDataset, index: int, seed: int) -> Iterator[tuple[str, TaskDerivation]]:
    order = [int(c) for c in random_order(task.n_classes, "halves", seed, task.name)]
    half = task.n_classes // 2
    if half >= 2:  # disjoint
        yield "half 1", TaskDerivation(classes=tuple(sorted(order[:half])))
        yield "half 2", TaskDerivation(classes=tuple(sorted(order[half:])))
    fewest = int(task.train.class_counts(task.n_classes).min())
    yield "few", TaskDerivation(n_train=max(5, fewest // 4), seed=seed)
    for step in range(2):
        transform = TRANSFORMS[(2 * index + step + seed) % len(TRANSFORMS)]
        yield transform, TaskDerivation(transform=transform, seed=seed)
    yield "random", TaskDerivation(labels="random", seed=seed)
