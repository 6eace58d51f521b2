"""Images without labels, brought to the form of a task: what a trained network is asked about. Imports no torch.

An image file goes through the same decoding and resizing as the image folder that a task was loaded from, so that a
test image is classified here as it was when the task's test accuracy was measured.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supernet_registry.search.errors import InvalidDataset
from supernet_registry.search.tasks.folders import IMAGE_SUFFIXES, decode_image, is_grey, is_image
from supernet_registry.search.tasks.pixels import resize, to_uint8

__all__ = ["NamedImages", "load_images"]

_ARRAYS = ("images", "x", "x_test")
"""Arrays of a .npz file that are taken for its images, the first that is there."""

_LUMA = np.array([0.299, 0.587, 0.114])
"""ITU-R 601, as Pillow converts colour to grey."""


@dataclass(frozen=True, eq=False)
class NamedImages:
    """Images (n, h, w, 1 or 3) uint8, and where each came from."""

    names: tuple[str, ...]
    images: NDArray[np.uint8]


def load_images(paths: Sequence[Path], *, size: tuple[int, int], channels: int, array: str = "") -> NamedImages:
    """The images of files, folders (searched in depth, in the order of their names) and .npz files.

    Args:
        paths: in the order in which the images are wanted.
        size: height and width that every image is resized to: the task's.
        channels: 1 turns colour into grey, 3 repeats grey.
        array: name of the array in .npz files; without one `images`, `x` or `x_test`, or the only array that there is.

    Raises:
        InvalidDataset: nothing there, no image, or one that cannot be read (its path is named).
    """
    names: list[str] = []
    parts: list[NDArray[np.uint8]] = []
    for path in paths:
        with _blamed_on(path):
            if path.suffix.lower() == ".npz" and path.is_file():
                images = _from_npz(path, array, size)
                names += [f"{path}[{position}]" for position in range(len(images))]
            else:
                root, files = _image_files(path)
                images = np.empty((len(files), *size, 3), np.uint8)
                for position, file in enumerate(files):
                    images[position] = decode_image(file, size, root)
                names += [str(file) for file in files]
        parts.append(_with_channels(images, channels))
    if not names:
        raise InvalidDataset("There are no images.", remedy="Name image files, folders or .npz files.", field="images")
    return NamedImages(tuple(names), np.concatenate(parts))


@contextmanager
def _blamed_on(path: Path) -> Iterator[None]:
    """What loaders of datasets say about a field of theirs, said about the path that was given here."""
    try:
        yield
    except InvalidDataset as error:
        error.field = str(path)
        raise


def _image_files(path: Path) -> tuple[Path, list[Path]]:
    """(folder that errors name files from, image files)."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if is_image(file))
        if files:
            return path, files
        raise InvalidDataset(
            "The folder holds no images.", remedy=f"Images are files ending in {', '.join(sorted(IMAGE_SUFFIXES))}."
        )
    if not path.is_file():
        raise InvalidDataset("There is no such file or folder.", remedy="Check the path.")
    return path.parent, [path]


def _from_npz(path: Path, array: str, size: tuple[int, int]) -> NDArray[np.uint8]:
    images = to_uint8({"test": _read_array(path, array)}, [])["test"]
    if images.shape[1:3] == size:
        return images
    resized = [resize(image, size) for image in images]
    return np.stack(resized) if resized else np.empty((0, *size, images.shape[3]), np.uint8)


def _read_array(path: Path, wanted: str) -> NDArray[Any]:
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("it is not a zip archive")
        with np.load(path, allow_pickle=False) as archive:
            names = list(archive.files)
            chosen = wanted or next((name for name in _ARRAYS if name in names), names[0] if len(names) == 1 else "")
            if chosen in names:
                return np.asarray(archive[chosen])
    except Exception as error:  # zipfile, zlib and numpy's header parser raise a dozen types on damaged files
        raise InvalidDataset(
            f"It cannot be read as .npz: {error}.",
            remedy="Write it by numpy.savez with plain arrays (no Python objects).",
        ) from error
    raise InvalidDataset(
        f"There is no array {wanted or ', '.join(_ARRAYS)} but {', '.join(names) or 'none at all'}.",
        remedy="Say which array holds the images.",
    )


def _with_channels(images: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    if images.shape[3] == channels:
        return images
    if channels == 3:
        return np.repeat(images, 3, axis=3)
    if is_grey(images):
        return np.ascontiguousarray(images[..., :1])
    grey: NDArray[np.uint8] = np.rint(images @ _LUMA).astype(np.uint8)
    return grey[..., None]
