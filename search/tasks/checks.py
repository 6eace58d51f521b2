"""What makes a dataset usable, and what merely deserves a word."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from supernet_registry.search.errors import InvalidDataset
from supernet_registry.search.tasks.dataset import MAX_CLASSES, MAX_SIDE, MIN_SIDE, ImageDataset, Split

__all__ = ["check_dataset", "checked"]


def check_dataset(dataset: ImageDataset) -> tuple[str, ...]:
    """Warnings about a usable dataset.

    Raises:
        InvalidDataset: a split is empty, image shapes differ, a side is outside 8..224 pixels, there are fewer than
            two or more than 1000 classes, labels are negative or skip numbers, or `val` or `test` hold a class that
            `train` lacks.
    """
    _check_shapes(dataset)
    _check_labels(dataset)
    return (*_missing_classes(dataset), *_shared_images(dataset), *_constant_images(dataset))


def checked(dataset: ImageDataset) -> ImageDataset:
    """The dataset with the warnings of `check_dataset` appended to its own."""
    found = check_dataset(dataset)
    new = tuple(w for w in found if w not in dataset.warnings)
    return replace(dataset, warnings=dataset.warnings + new) if new else dataset


def _check_shapes(dataset: ImageDataset) -> None:
    for name, split in dataset.splits():
        if len(split) == 0:
            raise InvalidDataset(
                f"The {name} split is empty.", remedy="Every split needs at least one image.", field=name
            )
        if split.images.shape[1:] != dataset.train.images.shape[1:]:
            raise InvalidDataset(
                f"Images of {name} have shape {split.images.shape[1:]}, those of train {dataset.image_shape}.",
                remedy="Bring all splits to one size and one number of channels.",
                field=f"{name}.images",
            )
    h, w, _ = dataset.image_shape
    if min(h, w) < MIN_SIDE or max(h, w) > MAX_SIDE:
        raise InvalidDataset(
            f"Images are {h}x{w} pixels; {MIN_SIDE} to {MAX_SIDE} a side can be searched.",
            remedy="Resize them.",
            field="train.images",
        )


def _check_labels(dataset: ImageDataset) -> None:
    for name, split in dataset.splits():
        if int(split.labels.min()) < 0:
            raise InvalidDataset(
                f"Label {int(split.labels.min())} of {name} is negative.",
                remedy="Number the classes 0, 1, 2, ...",
                field=f"{name}.labels",
            )
    present = np.unique(dataset.train.labels)
    if len(present) < 2:
        raise InvalidDataset(
            f"The training split holds only class {int(present[0])}.",
            remedy="A classifier needs at least two classes.",
            field="train.labels",
        )
    highest = int(present[-1])
    if highest != len(present) - 1:
        missing = next(i for i, label in enumerate(present) if i != label)
        raise InvalidDataset(
            f"Labels of train skip {missing}: they reach {highest} with {len(present)} classes present.",
            remedy="Renumber: labels = np.unique(labels, return_inverse=True)[1], the same way for every split.",
            field="train.labels",
        )
    if len(present) > MAX_CLASSES:
        raise InvalidDataset(
            f"There are {len(present)} classes, at most {MAX_CLASSES} are supported.",
            remedy="Split the task, or check that the labels are classes and not values.",
            field="train.labels",
        )
    for name, split in (("val", dataset.val), ("test", dataset.test)):
        if int(split.labels.max()) > highest:
            raise InvalidDataset(
                f"Class {int(split.labels.max())} occurs in {name} and not in train.",
                remedy=f"Remove it from {name}, or add training images of it.",
                field=f"{name}.labels",
            )
    if len(dataset.class_names) != len(present):
        raise InvalidDataset(
            f"{len(dataset.class_names)} class names are given for {len(present)} classes.",
            remedy="Give one name for each class, in label order, or none.",
            field="class_names",
        )


def _missing_classes(dataset: ImageDataset) -> list[str]:
    """Small validation sets may miss a class; the figures then say nothing about it."""
    return [
        f"{name} has no image of {missing} of the {dataset.n_classes} classes."
        for name, split in dataset.splits()
        if (missing := int((split.class_counts(dataset.n_classes) == 0).sum()))
    ]


def _shared_images(dataset: ImageDataset) -> list[str]:
    """Identical images in train and in a split that is meant to judge it: its accuracy flatters."""
    seen = set(_image_digests(dataset.train))
    warnings = []
    for name, split in (("val", dataset.val), ("test", dataset.test)):
        shared = sum(digest in seen for digest in _image_digests(split))
        if shared:
            warnings.append(f"{shared} of {len(split)} images of {name} are identical to training images.")
    return warnings


def _constant_images(dataset: ImageDataset) -> list[str]:
    """One single colour: an empty picture, which cannot tell anything about its class."""
    flat = dataset.train.images.reshape(len(dataset.train), -1)
    constant: NDArray[np.bool_] = flat.min(axis=1) == flat.max(axis=1)
    count = int(constant.sum())
    return [f"{count} of {len(flat)} training images are of one single value."] if count else []


def _image_digests(split: Split) -> list[bytes]:
    return [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in split.images]
