"""Conversions of image arrays to the one form used here: uint8 (n, h, w, c), at most 224 pixels a side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from supernet_registry.search.errors import InvalidDataset

__all__ = ["common_channels", "resize", "shrink", "to_uint8"]


def to_uint8(images: Mapping[str, NDArray[Any]], warnings: list[str]) -> dict[str, NDArray[np.uint8]]:
    """Images of every split as uint8 (n, h, w, c); the rule is in `dataset_from_arrays`.

    Raises:
        InvalidDataset: values or shapes that no rule covers.
    """
    shaped = {split: _to_nhwc(a, field=f"x_{split}") for split, a in images.items()}
    for split, a in shaped.items():
        _check_values(a, field=f"x_{split}")
    floats = [a for a in shaped.values() if a.dtype.kind == "f" and a.size]
    scale = 255.0 if floats and max(float(a.max()) for a in floats) <= 1.0 else 1.0
    if floats:
        interval = "[0, 1]" if scale == 255.0 else "[0, 255]"
        warnings.append(f"Floating-point images in {interval} were converted to 8 bits.")
    return {split: _as_uint8(a, scale) for split, a in shaped.items()}


def common_channels(images: Mapping[str, NDArray[np.uint8]]) -> dict[str, NDArray[np.uint8]]:
    """Grey splits beside colour ones become colour."""
    channels = max(a.shape[3] for a in images.values())
    return {split: np.repeat(a, channels // a.shape[3], axis=3) for split, a in images.items()}


def shrink(images: Mapping[str, NDArray[np.uint8]], max_side: int, warnings: list[str]) -> dict[str, NDArray[np.uint8]]:
    """Images of more than `max_side` pixels a side, reduced with their aspect ratio kept."""
    result = {}
    for split, a in images.items():
        h, w = a.shape[1:3]
        factor = max_side / max(h, w, 1)
        size = (max(1, round(h * factor)), max(1, round(w * factor)))
        if factor < 1 and len(a):
            warnings.append(f"Images of {split} were reduced from {h}x{w} to {size[0]}x{size[1]} pixels.")
            a = np.stack([resize(image, size) for image in a])  # noqa: PLW2901
        result[split] = a
    return result


def resize(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """One image (h, w, c) at another size (height, width): bilinear, with antialiasing where it is reduced."""
    if image.shape[:2] == size:
        return image
    grey = image.shape[2] == 1
    picture = Image.fromarray(image[:, :, 0] if grey else image)
    resized = np.asarray(picture.resize((size[1], size[0]), Image.Resampling.BILINEAR))
    return resized[:, :, None] if grey else resized


def _to_nhwc(images: NDArray[Any], *, field: str) -> NDArray[Any]:
    if images.ndim == 3:
        return images[..., None]
    if images.ndim == 4 and images.shape[3] in {1, 3}:
        return images
    remedy = "Give images as (n, h, w), (n, h, w, 1) or (n, h, w, 3)."
    if images.ndim == 4 and images.shape[1] in {1, 3}:
        remedy = "Channels seem to come first: use images.transpose(0, 2, 3, 1)."
    elif images.ndim == 4 and images.shape[3] == 4:
        remedy = "Drop the fourth (alpha) channel: images[..., :3]."
    raise InvalidDataset(f"Images have shape {images.shape}.", remedy=remedy, field=field)


def _check_values(images: NDArray[Any], *, field: str) -> None:
    kind = images.dtype.kind
    if kind not in "biuf":
        raise InvalidDataset(
            f"Images have dtype {images.dtype}.", remedy="Give uint8, or floats in [0, 1].", field=field
        )
    if kind == "f" and not np.isfinite(images).all():
        raise InvalidDataset(
            "Images hold NaN or infinite values.", remedy="Repair or remove those images.", field=field
        )
    if images.size and images.dtype != np.uint8 and kind != "b" and (images.min() < 0 or images.max() > 255):
        raise InvalidDataset(
            f"Image values lie in [{images.min()}, {images.max()}].",
            remedy="Scale them to 0..255 (or floats to [0, 1]); undo a normalisation first.",
            field=field,
        )


def _as_uint8(images: NDArray[Any], scale: float) -> NDArray[np.uint8]:
    if images.dtype == np.uint8:
        return np.ascontiguousarray(images)
    if images.dtype.kind == "b":
        return images.astype(np.uint8) * np.uint8(255)
    if images.dtype.kind == "f":
        return np.rint(images * scale).astype(np.uint8)
    return images.astype(np.uint8)
