"""The dataset as every other part sees it: three splits of uint8 images with labels, and their wire form.

Legend of shapes: n images, h height and w width in pixels, c channels (1 grey, 3 colour), k classes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search._safetensors import Header, pack, read_header, unpack
from search.errors import InvalidDataset

__all__ = ["MAX_CLASSES", "MAX_SIDE", "MIN_SIDE", "SPLITS", "ImageDataset", "Split"]

MIN_SIDE = 8
"""Smallest height and width in pixels: below it nothing is left after two reductions."""
MAX_SIDE = 224
"""Largest height and width in pixels; loaders shrink what is larger."""
MAX_CLASSES = 1000
SPLITS = ("train", "val", "test")

_METADATA_KEY = "images"
_WIRE_VERSION = 1


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
    """A labelled image-classification task. Built by `load_dataset`, `dataset_from_arrays`, `derive` or `from_bytes`,
    all of which check it; the bare constructor checks nothing beyond what `Split` does."""

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
        for name, array in self._arrays():
            sha.update(f"{name} {array.dtype.name} {array.shape}\n".encode())
            sha.update(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False)).data)
        return sha.hexdigest()

    def to_bytes(self) -> bytes:
        """The images blob: safetensors with six tensors; equal datasets with equal class names give equal bytes."""
        return pack(dict(self._arrays()), _METADATA_KEY, {"class_names": self.class_names, "version": _WIRE_VERSION})

    @classmethod
    def from_bytes(cls, data: bytes, name: str = "") -> ImageDataset:
        """The dataset of an images blob, checked as if it came from a stranger.

        Raises:
            InvalidDataset: not an images blob, or a dataset that `check_dataset` refuses.
        """
        from search.tasks.checks import checked

        try:
            header = read_header(data)
            class_names = _class_names(header)
            _check_tensors(header)
            arrays = unpack(data)
            train, val, test = (Split(arrays[f"{split}.images"], arrays[f"{split}.labels"]) for split in SPLITS)
        except ValueError as error:
            raise InvalidDataset(
                f"The bytes are not an images blob: {error}.",
                remedy="Send the result of ImageDataset.to_bytes().",
                field="images_blob",
            ) from error
        return checked(cls(name, train, val, test, class_names))

    def splits(self) -> Iterator[tuple[str, Split]]:
        """("train", …), ("val", …), ("test", …)."""
        for name in SPLITS:
            yield name, getattr(self, name)

    def _arrays(self) -> Iterator[tuple[str, NDArray[Any]]]:
        for name, split in self.splits():
            yield f"{name}.images", split.images
            yield f"{name}.labels", split.labels


def _check_tensors(header: Header) -> None:
    """Names and dtypes; shapes are left to `Split` and the lengths to the safetensors reader."""
    expected = {f"{split}.{part}": dtype for split in SPLITS for part, dtype in (("images", "U8"), ("labels", "I64"))}
    found = {name: info.dtype for name, info in header.tensors.items()}
    if found != expected:
        raise ValueError(f"it holds {found}")


def _class_names(header: Header) -> tuple[str, ...]:
    try:
        metadata = json.loads(header.metadata[_METADATA_KEY])
        version, names = metadata["version"], metadata["class_names"]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError("its metadata are missing") from error
    if version != _WIRE_VERSION:
        raise ValueError(f"wire version {version!r} is unknown here")
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise ValueError("class names are not strings")
    return tuple(names)
