"""From torch-style datasets to `ImageDataset`, without importing torch: its tensors and Pillow's images are told by
what they can do.

A torch-style dataset has `len()` and `[i]`, which gives `(image, label)`; Avalanche's also add a task label, which is
ignored here. Images are PIL images, tensors or arrays; channels may come first or last.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from supernet_registry.search.errors import InvalidDataset, SupernetRegistryError

if TYPE_CHECKING:
    from supernet_registry.search.tasks import ImageDataset

__all__ = ["convert"]

_SPLITS = ("train", "val", "test")


def convert(item: Any, *, name: str) -> tuple[ImageDataset, tuple[int, ...]]:
    """The dataset, its labels counted from 0, and the owner's number of each class in that order.

    Args:
        item: a torch-style dataset, or a mapping from "train", "test" and optionally "val" to such datasets.
        name: name of the task.

    Raises:
        InvalidDataset: not such a dataset, or images and labels that cannot be used.
    """
    from supernet_registry.search.tasks import dataset_from_arrays

    parts = dict(item) if isinstance(item, Mapping) else {"train": item}
    unknown = sorted(str(key) for key in parts if key not in _SPLITS)
    if unknown or "train" not in parts:
        raise InvalidDataset(
            f"{unknown[0]!r} is not a split." if unknown else "There is no split 'train'.",
            remedy="Name the splits 'train', 'val' and 'test'.",
            field=name,
        )
    read = {split: _read(dataset, f"{name}.{split}") for split, dataset in parts.items()}
    classes = tuple(int(label) for label in np.unique(read["train"][1]))
    warnings: list[str] = []
    arrays: dict[str, Any] = {}
    images = _one_shape({split: images for split, (images, _) in read.items()}, warnings)
    for split, (_, labels) in read.items():
        arrays[f"x_{split}"] = images[split]
        arrays[f"y_{split}"] = _renumber(labels, classes, f"{name}.{split}")
    try:
        dataset = dataset_from_arrays(**arrays, name=name, class_names=_class_names(parts["train"], classes))
    except SupernetRegistryError as error:
        error.field = f"{name}.{error.field}" if error.field else name
        raise
    return replace(dataset, warnings=(*warnings, *dataset.warnings)), classes


def _read(dataset: Any, field: str) -> tuple[list[NDArray[Any]], NDArray[np.int64]]:
    """All images as (h, w, c) arrays, and their labels."""
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise InvalidDataset(
            f"A {type(dataset).__name__} has no len() or no [i].",
            remedy="Give a map-style dataset, whose items are (image, label).",
            field=field,
        )
    images, labels = [], []
    for position in range(len(dataset)):
        sample = dataset[position]
        where = f"{field}[{position}]"
        if not isinstance(sample, (tuple, list)) or len(sample) < 2:
            raise InvalidDataset(
                f"An item is a {type(sample).__name__}, not (image, label).",
                remedy="Let the dataset's [i] return the image and its label.",
                field=where,
            )
        images.append(_to_array(sample[0], where))
        labels.append(_to_label(sample[1], where))
    if not images:
        raise InvalidDataset("The dataset is empty.", remedy="Leave the split out, or fill it.", field=field)
    return images, np.array(labels, np.int64)


def _to_array(image: Any, field: str) -> NDArray[Any]:
    """One image as (h, w, c). A tensor has its channels first, unless only the last axis can be one."""
    if hasattr(image, "convert"):  # Pillow
        image = image if image.mode in ("L", "RGB") else image.convert("L" if image.mode in ("1", "I") else "RGB")
    elif hasattr(image, "detach"):  # torch
        image = image.detach().cpu().numpy()
    array = np.asarray(image)
    if array.ndim == 2:
        return array[:, :, None]
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[2] not in (1, 3):
        return array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[2] in (1, 3):
        return array
    raise InvalidDataset(
        f"An image has shape {array.shape}.",
        remedy="Give PIL images, tensors (C, H, W) or arrays (H, W, C) with 1 or 3 channels.",
        field=field,
    )


def _to_label(label: Any, field: str) -> int:
    try:
        value = int(label)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidDataset(
            f"A label is {label!r}, not a whole number.", remedy="Number the classes.", field=field
        ) from error
    if value != label:
        raise InvalidDataset(f"A label is {label!r}, not a whole number.", remedy="Number the classes.", field=field)
    return value


def _one_shape(images: Mapping[str, list[NDArray[Any]]], warnings: list[str]) -> dict[str, NDArray[Any]]:
    """Stack each split's images, brought to the most frequent size and, if any has colour, to three channels."""
    from supernet_registry.search.tasks.pixels import resize, to_uint8

    shapes = Counter(image.shape for split in images.values() for image in split)
    if len(shapes) == 1:
        return {split: np.stack(items) for split, items in images.items()}
    sizes: Counter[tuple[int, int]] = Counter()
    for shape, count in shapes.items():
        sizes[shape[0], shape[1]] += count
    # The larger size wins a tie, so that the answer does not depend on the order of the images.
    size = max(sizes, key=lambda hw: (sizes[hw], hw))
    channels = max(shape[2] for shape in shapes)
    resized = sum(sizes.values()) - sizes[size]
    if resized:
        warnings.append(f"{resized} of {sum(sizes.values())} images were resized to {size[0]}x{size[1]} pixels.")
    stacked = {}
    for split, items in images.items():
        notes: list[str] = []
        uint8 = [to_uint8({split: image[None]}, notes)[split][0] for image in items]
        stacked[split] = np.stack([np.repeat(resize(a, size), channels // a.shape[2], axis=2) for a in uint8])
    return stacked


def _renumber(labels: NDArray[np.int64], classes: tuple[int, ...], field: str) -> NDArray[np.int64]:
    unknown = np.setdiff1d(labels, classes)
    if len(unknown):
        raise InvalidDataset(
            f"Class {int(unknown[0])} does not occur in train.",
            remedy="Remove its images, or add some to train.",
            field=field,
        )
    return np.searchsorted(np.array(classes), labels).astype(np.int64)


def _class_names(train: Any, classes: tuple[int, ...]) -> tuple[str, ...]:
    """The names that torchvision's datasets carry as `.classes`, also through `Subset`."""
    while not hasattr(train, "classes") and hasattr(train, "dataset"):
        train = train.dataset
    names = getattr(train, "classes", ())
    if isinstance(names, (list, tuple)) and all(0 <= label < len(names) for label in classes):
        return tuple(str(names[label]) for label in classes)
    return tuple(str(label) for label in classes)
