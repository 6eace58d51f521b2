"""Derived tasks: fewer images, other inputs, other labels. The steps of a task stream, in the manner of CTrL.

Everything is drawn from hashes of the seed, so that a derived task has the same digest on every machine: the registry
recognises a task it has seen by that digest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from supernet_registry.search.determinism import random_order, random_uint16, random_unit
from supernet_registry.search.errors import InvalidArgument
from supernet_registry.search.tasks.checks import checked
from supernet_registry.search.tasks.dataset import ImageDataset, Split

__all__ = ["LabelChange", "TaskDerivation", "Transform", "derive"]

Transform = Literal["rot90", "invert", "permute_pixels", "rainbow", "noise"]
LabelChange = Literal["shuffle_ids", "random"]

NOISE_STD = 32.0
"""Standard deviation of the `noise` transform, in grey levels of 0..255."""
MIN_CONTRAST = 96.0
"""Least difference in luminance (0..255) between the ink and the ground colour of `rainbow`."""
_LUMINANCE = np.array([299, 587, 114])  # per mille, ITU-R BT.601


@dataclass(frozen=True)
class TaskDerivation:
    """How a task is made from another. The defaults change nothing.

    Raises:
        InvalidArgument: unknown transform or labels, or numbers out of range.
    """

    n_train: int | None = None  # training images a class; None keeps all
    n_val: int | None = None  # validation images a class; None keeps all
    seed: int = 0  # of the choice of images, and of every random part of transform and labels
    transform: Transform | None = None
    labels: LabelChange | None = None
    classes: tuple[int, ...] | None = None  # keep only these, relabelled 0, 1, ... in this order

    def __post_init__(self) -> None:
        for field, value, known in (("transform", self.transform, Transform), ("labels", self.labels, LabelChange)):
            if value is not None and value not in get_args(known):
                raise InvalidArgument(
                    f"Unknown {field} {value!r}.", remedy=f"Choose one of {', '.join(get_args(known))}.", field=field
                )
        for field, count in (("n_train", self.n_train), ("n_val", self.n_val)):
            if count is not None and count < 1:
                raise InvalidArgument(f"{field} is {count}.", remedy="At least one image a class.", field=field)
        if self.classes is not None and (len(self.classes) < 2 or len(set(self.classes)) != len(self.classes)):
            raise InvalidArgument(
                f"classes is {self.classes}.", remedy="Name at least two different classes.", field="classes"
            )


def derive(dataset: ImageDataset, derivation: TaskDerivation) -> ImageDataset:
    """The derived task: classes first, then the choice of images, then the transform, then the labels.

    `n_train` and `n_val` count images a class (a class that has fewer gives all it has); test stays whole. All splits
    are transformed alike, and labels change in all of them.

    Raises:
        InvalidArgument: `classes` names one that the dataset lacks.
        InvalidDataset: what is left is no task.
    """
    d = derivation
    splits = dict(dataset.splits())
    names = dataset.class_names
    if d.classes is not None:
        splits = {name: _keep_classes(split, d.classes, dataset.n_classes) for name, split in splits.items()}
        names = tuple(names[label] for label in d.classes)
    for name, count in (("train", d.n_train), ("val", d.n_val)):
        if count is not None:
            splits[name] = _draw(splits[name], count, d.seed, name)
    if d.transform is not None:
        splits = {n: Split(_transformed(s.images, d.transform, d.seed, n), s.labels) for n, s in splits.items()}
    if d.labels == "random":
        splits = {n: Split(s.images, s.labels[random_order(len(s), "labels", d.seed, n)]) for n, s in splits.items()}
    elif d.labels == "shuffle_ids":
        new_ids = _derangement(len(names), d.seed)
        splits = {n: Split(s.images, new_ids[s.labels]) for n, s in splits.items()}
        names = tuple(names[old] for old in np.argsort(new_ids))
    return checked(ImageDataset(dataset.name, splits["train"], splits["val"], splits["test"], names))


def _keep_classes(split: Split, classes: Sequence[int], n_classes: int) -> Split:
    unknown = [label for label in classes if not 0 <= label < n_classes]
    if unknown:
        raise InvalidArgument(
            f"There is no class {unknown[0]}.", remedy=f"Classes go from 0 to {n_classes - 1}.", field="classes"
        )
    new_labels = np.full(n_classes, -1, np.int64)
    new_labels[list(classes)] = np.arange(len(classes))
    labels = new_labels[split.labels]
    return Split(split.images[labels >= 0], labels[labels >= 0])


def _draw(split: Split, count: int, seed: int, name: str) -> Split:
    """At most `count` images of each class, in their old order."""
    chosen = []
    for label in np.unique(split.labels):
        members = np.flatnonzero(split.labels == label)
        chosen.append(members[random_order(len(members), "draw", seed, name, int(label))[:count]])
    indices = np.sort(np.concatenate(chosen)) if chosen else np.empty(0, np.int64)
    return Split(split.images[indices], split.labels[indices])


def _transformed(images: NDArray[np.uint8], transform: Transform, seed: int, split: str) -> NDArray[np.uint8]:
    if transform == "rot90":
        return np.ascontiguousarray(np.rot90(images, axes=(1, 2)))
    if transform == "invert":
        return 255 - images
    if transform == "permute_pixels":
        return _permute_pixels(images, seed)
    if transform == "rainbow":
        return _rainbow(images, seed)
    return _add_noise(images, seed, split)


def _permute_pixels(images: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """One permutation of the positions for all images; the channels of a pixel stay together."""
    n, h, w, c = images.shape
    order = random_order(h * w, "permute_pixels", seed)
    return images.reshape(n, h * w, c)[:, order].reshape(n, h, w, c)


def _rainbow(images: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """(n, h, w, 1 or 3) to (n, h, w, 3): grey level 0 becomes the ground colour, 255 the ink, between them a blend."""
    ink, ground = _two_colours(seed)
    levels = _luminance(images)
    table = np.linspace(0.0, 1.0, 256)[:, None] * (ink - ground) + ground  # (256, 3)
    result: NDArray[np.uint8] = np.rint(table).astype(np.uint8)[levels]
    return result


def _two_colours(seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The first pair of the seed's colours that can be told apart by luminance alone."""
    attempt = 0
    while True:
        ink, ground = np.floor(random_unit(6, "rainbow", seed, attempt) * 256).reshape(2, 3)
        if abs(float((ink - ground) @ _LUMINANCE)) >= 1000 * MIN_CONTRAST:
            return ink, ground
        attempt += 1


def _luminance(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(n, h, w, c) to (n, h, w), in integer arithmetic: the same everywhere."""
    if images.shape[3] == 1:
        return images[..., 0].astype(np.int64)
    luminance: NDArray[np.int64] = (images.astype(np.int64) * _LUMINANCE).sum(axis=3) // 1000
    return luminance


def _add_noise(images: NDArray[np.uint8], seed: int, split: str) -> NDArray[np.uint8]:
    """Sums of four uniform integers: near enough to a Gaussian, and the same everywhere, unlike logarithms."""
    noise = np.zeros(images.size, np.int64)
    for part in range(4):
        noise += random_uint16(images.size, "noise", seed, split, part) - 32768
    std = np.sqrt(4 / 12) * 65536  # of the sum
    noisy = images.astype(np.float64) + np.rint(noise * (NOISE_STD / std)).reshape(images.shape)
    result: NDArray[np.uint8] = noisy.clip(0, 255).astype(np.uint8)
    return result


def _derangement(n: int, seed: int) -> NDArray[np.int64]:
    """A permutation that leaves no class its number: rotate along a random order."""
    order = random_order(n, "shuffle_ids", seed)
    new_ids = np.empty(n, np.int64)
    new_ids[order] = np.roll(order, -1)
    return new_ids
