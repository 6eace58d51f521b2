"""Encoders: fixed maps from images to feature vectors. Distances exist only between sketches of one encoder id."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from supernet_registry.search.errors import InvalidArgument

__all__ = ["MAX_DIMENSION", "Encoder", "check_images"]


MAX_DIMENSION = 4096
"""Most features an image that a sketch holds."""


class Encoder(Protocol):
    """What every encoder offers; implementations are deterministic and keep no state between calls."""

    @property
    def id(self) -> str:
        """Name, version and hash of everything that the features depend on."""

    @property
    def name(self) -> str:
        """What `load_encoder` finds it by."""

    @property
    def dimension(self) -> int:
        """Features an image."""

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features (n, d) of images (n, h, w, c), c in {1, 3}, 8 to 224 pixels a side."""


def check_images(images: NDArray[np.uint8]) -> None:
    """Raises InvalidArgument for anything but uint8 (n, h, w, 1 or 3)."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in {1, 3}:
        raise InvalidArgument(
            f"Images are {images.dtype} of shape {images.shape}.",
            remedy="Give uint8 (n, h, w, 1 or 3).",
            field="images",
        )
