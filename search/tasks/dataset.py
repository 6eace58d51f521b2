"""The dataset as every other part sees it: three splits of uint8 images with labels.

Legend of shapes: n images, h height and w width in pixels, c channels (1 grey, 3 colour), k classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supernet_registry.search.errors import InvalidDataset

__all__ = ["MAX_CLASSES", "MAX_SIDE", "MIN_SIDE", "SPLITS", "ImageDataset", "Split"]

MIN_SIDE = 8
"""Smallest height and width in pixels: below it nothing is left after two reductions."""
MAX_SIDE = 224
"""Largest height and width in pixels; loaders shrink what is larger."""
MAX_CLASSES = 1000
SPLITS = ("train", "val", "test")


@dataclass(frozen=True, eq=False)
class Split:
    """Images of one split with their labels. The arrays are not copied: treat them as immutable.

    Raises:
        InvalidDataset: wrong dtype or rank, or lengths that differ.
    """

    images: NDArray[np.uint8]  # (n, h, w, c), c in {1, 3}
    labels: NDArray[np.int64]  # (n,), from 0

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8 or self.images.ndim != 4 or self.images.shape[3] not in {1, 3}:
            raise InvalidDataset(
                f"Images are {self.images.dtype} of shape {self.images.shape}, not uint8 (n, h, w, 1 or 3).",
                remedy="Build datasets with dataset_from_arrays or load_dataset, which convert what can be converted.",
                field="images",
            )
        if self.labels.dtype != np.int64 or self.labels.shape != self.images.shape[:1]:
            raise InvalidDataset(
                f"Labels are {self.labels.dtype} of shape {self.labels.shape} for {len(self.images)} images.",
                remedy="Give one int64 label for each image.",
                field="labels",
            )

    def __len__(self) -> int:
        return len(self.labels)

    def class_counts(self, n_classes: int) -> NDArray[np.int64]:
        """Images of each class, shape (k,)."""
        return np.bincount(self.labels, minlength=n_classes).astype(np.int64)


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """A labelled image-classification task. Built by `load_dataset`, `dataset_from_arrays`, `derive` or
    `unpack_images`, all of which check it; the bare constructor checks nothing beyond what `Split` does."""

    name: str
    train: Split
    val: Split
    test: Split
    class_names: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    @property
    def n_classes(self) -> int:
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(h, w, c)."""
        _, h, w, c = self.train.images.shape
        return int(h), int(w), int(c)

    @cached_property
    def digest(self) -> str:
        """sha256 (hexadecimal) over the arrays: what the dataset *is*, whatever it and its classes are called."""
        sha = hashlib.sha256()
        for name, array in self.arrays():
            sha.update(f"{name} {array.dtype.name} {array.shape}\n".encode())
            sha.update(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False)).data)
        return sha.hexdigest()

    def splits(self) -> Iterator[tuple[str, Split]]:
        """("train", …), ("val", …), ("test", …)."""
        for name in SPLITS:
            yield name, getattr(self, name)

    def arrays(self) -> Iterator[tuple[str, NDArray[Any]]]:
        """Images and labels of every split, by the names that digest and images blob know them by."""
        for name, split in self.splits():
            yield f"{name}.images", split.images
            yield f"{name}.labels", split.labels
