"""The smallest search that is still a real one: two classes of stripes, one cell a stage, seconds on one core."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from supernet_registry.search.spaces import SearchSpace, make_space
from supernet_registry.search.tasks import ImageDataset, Split

__all__ = ["QUICK", "quick", "tiny_dataset", "tiny_space", "write_tiny_dataset"]


def quick(**settings: object) -> dict[str, Any]:
    """Options of `submit_search` for a search of seconds, with some settings otherwise."""
    return {"recipe": {"epochs": 2, "child_epochs": 1, "batch_size": 16, "patience": 99, **settings}}


QUICK = quick()


def tiny_dataset(seed: int = 0, *, n_classes: int = 2) -> ImageDataset:
    """Easy classes of 16×16 stripes, 16 + 8 + 8 images each; another seed is a near relative."""
    rng = np.random.default_rng(seed)

    def split(per_class: int) -> Split:
        labels = np.repeat(np.arange(n_classes), per_class)
        images = rng.integers(0, 60, size=(len(labels), 16, 16, 1))
        for image, label in zip(images, labels, strict=True):
            image[label :: n_classes + 1] += 150
        return Split(images=images.astype(np.uint8), labels=labels.astype(np.int64))

    names = tuple(f"class {i}" for i in range(n_classes))
    return ImageDataset(name=f"stripes {seed}", train=split(16), val=split(8), test=split(8), class_names=names)


def write_tiny_dataset(path: Path, seed: int = 0) -> Path:
    """The same as an .npz file."""
    dataset = tiny_dataset(seed)
    splits = {"train": dataset.train, "val": dataset.val, "test": dataset.test}
    images = {f"x_{name}": split.images for name, split in splits.items()}
    np.savez(path, **images, **{f"y_{name}": split.labels for name, split in splits.items()})
    return path


def tiny_space() -> SearchSpace:
    """Two nodes of four channels. No skip connections: with three edges the collapse gate would see too many."""
    operations = ("none", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
    sizes = {"channels": 4, "cells": 1, "nodes": 2, "stem_stride": 2, "head_pool": 2, "resolution": 16}
    return make_space("nas-bench-201", operations=operations, **sizes)
