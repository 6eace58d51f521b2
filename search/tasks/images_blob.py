"""A dataset as one blob: safetensors with six tensors and the class names. Equal datasets give equal bytes."""

from __future__ import annotations

from supernet_registry.search.errors import InvalidDataset
from supernet_registry.search.storage.container import Header, Limits, pack, parse_json, read_header, unpack
from supernet_registry.search.tasks.checks import checked
from supernet_registry.search.tasks.dataset import SPLITS, ImageDataset, Split

__all__ = ["pack_images", "unpack_images"]

_METADATA_KEY = "images"
_WIRE_VERSION = 1
_LIMITS = Limits(dtypes=("U8", "I64"), header_bytes=1 << 20, tensors=6)


def pack_images(dataset: ImageDataset) -> bytes:
    """The images blob; equal datasets with equal class names give equal bytes."""
    metadata = {"class_names": dataset.class_names, "version": _WIRE_VERSION}
    return pack(dict(dataset.arrays()), _METADATA_KEY, metadata)


def unpack_images(data: bytes, name: str = "") -> ImageDataset:
    """The dataset of an images blob, checked as if it came from a stranger.

    Raises:
        InvalidDataset: not an images blob, or a dataset that `check_dataset` refuses.
    """
    try:
        header = read_header(data, _LIMITS)
        class_names = _class_names(header)
        _check_tensors(header)
        arrays = unpack(data)
        train, val, test = (Split(arrays[f"{split}.images"], arrays[f"{split}.labels"]) for split in SPLITS)
    except ValueError as error:
        raise InvalidDataset(
            f"The bytes are not an images blob: {error}.",
            remedy="Send the result of pack_images().",
            field="images_blob",
        ) from error
    return checked(ImageDataset(name, train, val, test, class_names))


def _check_tensors(header: Header) -> None:
    """Names and dtypes; shapes are left to `Split` and the lengths to the safetensors reader."""
    expected = {f"{split}.{part}": dtype for split in SPLITS for part, dtype in (("images", "U8"), ("labels", "I64"))}
    found = {name: info.dtype for name, info in header.tensors.items()}
    if found != expected:
        raise ValueError(f"it holds {found}")


def _class_names(header: Header) -> tuple[str, ...]:
    try:
        metadata = parse_json(header.metadata[_METADATA_KEY], "its metadata")
        version, names = metadata["version"], metadata["class_names"]
    except KeyError as error:
        raise ValueError("its metadata are missing") from error
    if version != _WIRE_VERSION:
        raise ValueError(f"wire version {version!r} is unknown here")
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise ValueError("class names are not strings")
    return tuple(names)
