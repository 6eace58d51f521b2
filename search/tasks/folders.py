"""Image folders: train/CLASS/*.png with val/ and test/ beside it, or CLASS/*.png alone.

Read in two passes, so that a folder of large photographs never lies in memory at full size: headers first, to agree on
one size, then each image decoded, turned as its EXIF tag says and resized at once.
"""

from __future__ import annotations

import warnings as python_warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from supernet_registry.search.errors import InvalidDataset
from supernet_registry.search.tasks.checks import checked
from supernet_registry.search.tasks.dataset import MAX_SIDE, MIN_SIDE, ImageDataset, Split
from supernet_registry.search.tasks.pixels import resize
from supernet_registry.search.tasks.splits import carve_missing

__all__ = ["IMAGE_SUFFIXES", "decode_image", "is_grey", "is_image", "load_folder"]

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
_SPLIT_FOLDERS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
_EXIF_ORIENTATION = 0x0112
_TURNED_BY_A_QUARTER = frozenset({5, 6, 7, 8})


@dataclass(frozen=True)
class _File:
    path: Path
    label: int
    size: tuple[int, int]  # height, width as seen after EXIF orientation


def load_folder(root: Path, *, name: str) -> ImageDataset:
    """The dataset in an image folder; class numbers follow the sorted folder names.

    Images are grey if every one of them is, colour otherwise. Transparency is laid over white. If sizes differ, all are
    resized to the median height and width; a size outside 8..224 pixels is brought inside. Warnings say so.

    Raises:
        InvalidDataset: no classes, a class without images, a class of val or test unknown in train, or an image that is
            empty or cannot be read (its path is named).
    """
    folders = _split_folders(root)
    class_names = _class_folders(folders["train"])
    if not class_names:
        raise InvalidDataset(
            f"{str(folders['train'])!r} has no class folders.",
            remedy="Lay images out as train/CLASS/*.png (val/ and test/ beside it), or as CLASS/*.png.",
            field="dataset",
        )
    files = {split: _list_files(folder, class_names, root) for split, folder in folders.items()}
    notes: list[str] = []
    size = _common_size([f.size for split in files.values() for f in split], notes)
    images = {split: _decode_all(listed, size, root) for split, listed in files.items()}
    if all(is_grey(a) for a in images.values()):
        images = {split: np.ascontiguousarray(a[..., :1]) for split, a in images.items()}
    labels = {split: np.array([f.label for f in listed], np.int64) for split, listed in files.items()}
    splits = carve_missing({s: Split(images[s], labels[s]) for s in files}, notes)
    return checked(ImageDataset(name=name, class_names=tuple(class_names), warnings=tuple(notes), **splits))


def _split_folders(root: Path) -> dict[str, Path]:
    """The folder of each split that exists; the root itself is `train` where there is no train folder."""
    found = {
        split: root / alias
        for split, aliases in _SPLIT_FOLDERS.items()
        for alias in aliases
        if (root / alias).is_dir() and _class_folders(root / alias)  # else it may be a class called "train"
    }
    return found if "train" in found else {"train": root}


def _class_folders(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _list_files(folder: Path, class_names: list[str], root: Path) -> list[_File]:
    unknown = sorted(set(_class_folders(folder)) - set(class_names))
    if unknown:
        raise InvalidDataset(
            f"Class {unknown[0]!r} of {folder.name} does not occur in train.",
            remedy="Add training images of it, or remove the folder.",
            field=folder.name,
        )
    listed: list[_File] = []
    for label, class_name in enumerate(class_names):
        paths = sorted(p for p in (folder / class_name).rglob("*") if is_image(p))
        listed += [_File(path, label, _read_size(path, root)) for path in paths]
    if not listed:
        raise InvalidDataset(
            f"{str(folder)!r} holds no images.",
            remedy=f"Images are files ending in {', '.join(sorted(IMAGE_SUFFIXES))}.",
            field="dataset",
        )
    empty = sorted({*range(len(class_names))} - {f.label for f in listed})
    if empty and folder.name not in {*_SPLIT_FOLDERS["val"], *_SPLIT_FOLDERS["test"]}:
        raise InvalidDataset(
            f"Class folder {class_names[empty[0]]!r} holds no images.",
            remedy="Add images or remove the folder.",
            field="dataset",
        )
    return listed


def is_image(path: Path) -> bool:
    """Whether it is called like an image file, and not hidden."""
    return path.suffix.lower() in IMAGE_SUFFIXES and path.is_file() and not path.name.startswith(".")


def _common_size(sizes: list[tuple[int, int]], warnings: list[str]) -> tuple[int, int]:
    """The median height and width, brought inside the limits with the aspect ratio kept as far as they allow."""
    height, width = (int(side) for side in np.median(np.array(sizes), axis=0))
    factor = min(1.0, MAX_SIDE / max(height, width))
    size = (max(MIN_SIDE, round(height * factor)), max(MIN_SIDE, round(width * factor)))
    different = Counter(sizes)
    resized = len(sizes) - different[size]
    if resized:
        kinds = f"{len(different)} sizes" if len(different) > 1 else f"size {height}x{width}"
        warnings.append(f"{resized} of {len(sizes)} images, of {kinds}, were resized to {size[0]}x{size[1]} pixels.")
    return size


def _read_size(path: Path, root: Path) -> tuple[int, int]:
    with _opened(path, root) as image:
        turned = image.getexif().get(_EXIF_ORIENTATION) in _TURNED_BY_A_QUARTER
        width, height = image.size
    return (width, height) if turned else (height, width)


def _decode_all(files: list[_File], size: tuple[int, int], root: Path) -> NDArray[np.uint8]:
    images = np.empty((len(files), *size, 3), np.uint8)
    for position, file in enumerate(files):
        images[position] = decode_image(file.path, size, root)
    return images


def decode_image(path: Path, size: tuple[int, int], root: Path) -> NDArray[np.uint8]:
    """One image file, turned as its EXIF tag says, at `size` (height, width): (h, w, 3).

    Raises:
        InvalidDataset: it is empty or cannot be read; it is named as seen from `root`.
    """
    with _opened(path, root) as image:
        return resize(_to_rgb(ImageOps.exif_transpose(image)), size)


class _opened:  # noqa: N801  reads as the context manager it is
    """Pillow's image of a file; whatever Pillow raises meanwhile becomes an InvalidDataset that names the file."""

    def __init__(self, path: Path, root: Path) -> None:
        self._path = path
        self._shown = path.relative_to(root)

    def __enter__(self) -> Image.Image:
        try:
            with python_warnings.catch_warnings():
                python_warnings.simplefilter("error", Image.DecompressionBombWarning)
                self._image = Image.open(self._path)
        except Exception as error:
            raise self._unreadable(error) from error
        return self._image

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._image.close()
        if isinstance(error, Exception):
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> InvalidDataset:
        empty = self._path.stat().st_size == 0 if self._path.exists() else False
        return InvalidDataset(
            f"Image {str(self._shown)!r} {'is empty' if empty else f'cannot be read: {error}'}.",
            remedy="Repair or remove the file.",
            field="dataset",
            metadata={"file": str(self._shown)},
        )


def _to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """(h, w, 3); transparency over white; 16-bit grey by its high byte (Pillow's own conversion would clip it)."""
    if image.mode.startswith("I;16") or image.mode == "I":
        grey = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in {"RGBA", "LA", "PA"} or "transparency" in image.info:
        over = image.convert("RGBA")
        ground = Image.new("RGBA", over.size, (255, 255, 255, 255))
        return np.asarray(Image.alpha_composite(ground, over).convert("RGB"))
    return np.asarray(image.convert("RGB"))


def is_grey(images: NDArray[np.uint8]) -> bool:
    """Whether all pixels of (n, h, w, 3) have three equal channels."""
    return bool((images[..., 0] == images[..., 1]).all() and (images[..., 1] == images[..., 2]).all())
