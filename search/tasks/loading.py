"""From files and arrays to a checked `ImageDataset`.

    .npz     x_train y_train x_val y_val x_test y_test (and optionally class_names); read with allow_pickle=False
    folder   train/CLASS/*.png val/… test/…, or CLASS/*.png alone (see `folders`)

A split that is missing is carved out of `train`, stratified by class and seeded, and a warning says so.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from supernet_registry.search.errors import InvalidDataset
from supernet_registry.search.tasks.checks import checked
from supernet_registry.search.tasks.dataset import MAX_SIDE, SPLITS, ImageDataset, Split
from supernet_registry.search.tasks.pixels import common_channels, shrink, to_uint8
from supernet_registry.search.tasks.splits import carve_missing

__all__ = ["dataset_from_arrays", "load_dataset"]


def load_dataset(path: str | Path, *, name: str | None = None) -> ImageDataset:
    """The dataset at `path`, a `.npz` file or an image folder, named after the file unless `name` is given.

    Raises:
        InvalidDataset: nothing there, not readable, or not a usable dataset; names the field or the file.
    """
    path = Path(path)
    if path.is_dir():
        from supernet_registry.search.tasks.folders import load_folder

        return load_folder(path, name=name or path.resolve().name)
    if not path.is_file():
        raise InvalidDataset(f"There is no file or folder {str(path)!r}.", remedy="Check the path.", field="dataset")
    if path.suffix.lower() != ".npz":
        raise InvalidDataset(
            f"{path.name!r} is neither a .npz file nor a folder.",
            remedy="Save arrays x_train, y_train, x_val, y_val, x_test, y_test by numpy.savez, or give a folder.",
            field="dataset",
        )
    arrays = _read_npz(path)
    class_names = arrays.pop("class_names", None)
    return dataset_from_arrays(
        *(arrays.get(key) for key in _ARRAY_KEYS),
        name=name or path.stem,
        class_names=[str(n) for n in np.ravel(class_names)] if class_names is not None else (),
    )


def dataset_from_arrays(
    x_train: ArrayLike | None,
    y_train: ArrayLike | None,
    x_val: ArrayLike | None = None,
    y_val: ArrayLike | None = None,
    x_test: ArrayLike | None = None,
    y_test: ArrayLike | None = None,
    *,
    name: str = "dataset",
    class_names: Sequence[str] = (),
    warnings: Sequence[str] = (),
) -> ImageDataset:
    """A checked dataset from arrays.

    Images are (n, h, w), (n, h, w, 1) or (n, h, w, 3). uint8 is taken as it is; other integers must lie in 0..255; bool
    becomes 0 and 255; floats in [0, 1] are multiplied by 255, floats that reach beyond 1 must lie in [0, 255], and both
    are rounded, with a warning. The rule is chosen by the largest value over all splits, so that no split is scaled
    unlike another. Labels are integers (n,) or (n, 1). Images over 224 pixels a side are shrunk, with a warning.

    Raises:
        InvalidDataset: with the field and the remedy.
    """
    given = {"train": (x_train, y_train), "val": (x_val, y_val), "test": (x_test, y_test)}
    notes = list(warnings)
    raw_images: dict[str, NDArray[Any]] = {}
    labels: dict[str, NDArray[np.int64]] = {}
    for split, (x, y) in given.items():
        if x is None and y is None and split != "train":
            continue
        if x is None or y is None:
            raise InvalidDataset(
                f"{'Images' if x is None else 'Labels'} of {split} are missing.",
                remedy=f"Give both x_{split} and y_{split}.",
                field=f"{'x' if x is None else 'y'}_{split}",
            )
        raw_images[split], labels[split] = np.asarray(x), _to_labels(np.asarray(y), field=f"y_{split}")
        if len(raw_images[split]) != len(labels[split]):
            raise InvalidDataset(
                f"x_{split} has {len(raw_images[split])} images, y_{split} {len(labels[split])} labels.",
                remedy="Give one label for each image.",
                field=f"y_{split}",
            )
    images = shrink(common_channels(to_uint8(raw_images, notes)), MAX_SIDE, notes)
    splits = carve_missing({s: Split(images[s], labels[s]) for s in images}, notes)
    n_classes = len(np.unique(splits["train"].labels))
    names = tuple(class_names) or tuple(str(i) for i in range(n_classes))
    return checked(ImageDataset(name=name, class_names=names, warnings=tuple(notes), **splits))


_ARRAY_KEYS = tuple(f"{part}_{split}" for split in SPLITS for part in "xy")


def _read_npz(path: Path) -> dict[str, NDArray[Any]]:
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("it is not a zip archive")
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files if key in {*_ARRAY_KEYS, "class_names"}}
    except Exception as error:  # zipfile, zlib and numpy's header parser raise a dozen types on damaged files
        raise InvalidDataset(
            f"{path.name!r} cannot be read as .npz: {error}.",
            remedy="Write it by numpy.savez with plain arrays (no Python objects).",
            field="dataset",
        ) from error


def _to_labels(labels: NDArray[Any], *, field: str) -> NDArray[np.int64]:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise InvalidDataset(
            f"Labels are {labels.dtype} of shape {labels.shape}.",
            remedy="Give one integer label for each image, shape (n,), counted from 0.",
            field=field,
        )
    return labels.astype(np.int64)
