"""Encoders that were compared with `pixels` and are no part of the product: numpy only, nothing downloaded.

    raw          the 16x16 colour image as it is, under a fixed orthogonal projection
    scattering   wavelet scattering of two layers (Bruna & Mallat 2013)
    random-conv  a network of two layers with fixed random filters (Jarrett et al. 2009; Coates, Lee & Ng 2011)

The last two see the luminance that `pixels` sees, standardised image by image, at 32x32, and end with the colours of
`pixels`; so only the code of the shapes differs. Their thousands of values are brought to 96 by a subsampled
randomised Hadamard transform, whose entries are +1 and -1 and thus the same on every machine.

No constant here was fitted: they are the published ones, or the first that were tried.
"""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.similarity.scattering import Scattering
from supernet_registry.search.determinism import random_order, random_signs, random_unit
from supernet_registry.search.similarity.encoders.base import check_images
from supernet_registry.search.similarity.encoders.pixels import (
    area_average,
    colour_terms,
    reduce_images,
    standardised_luminance,
)
from supernet_registry.search.storage.container import canonical_json

__all__ = ["RandomConvEncoder", "RawEncoder", "ScatteringEncoder", "hadamard_projection"]

SHAPE_TERMS = 96
COLOUR_SIDE = 16

Floats = NDArray[np.floating[Any]]


class _Candidate:
    """What the candidates share: batches, colours, and an id over all constants (written in capitals)."""

    name: str
    dimension = SHAPE_TERMS + 32
    _VERSION = 1
    _BATCH = 64  # images; the working set then stays in the cache

    @property
    def id(self) -> str:
        """Name, version and hash of the constants."""
        constants = {k: v for cls in type(self).__mro__ for k, v in vars(cls).items() if k.isupper() and k != "_BATCH"}
        return f"{self.name}-v{self._VERSION}-{hashlib.sha256(canonical_json(constants).encode()).hexdigest()[:16]}"

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features (n, d) of images (n, h, w, 1 or 3)."""
        check_images(images)
        parts = [self._encode_batch(images[i : i + self._BATCH]) for i in range(0, len(images), self._BATCH)]
        return np.concatenate(parts).astype(np.float32) if parts else np.empty((0, self.dimension), np.float32)

    def _encode_batch(self, images: NDArray[np.uint8]) -> Floats:
        luminance = standardised_luminance(reduce_images(images, 32)).astype(np.float32)
        shapes = hadamard_projection(self._shape_values(luminance), SHAPE_TERMS, self.name)
        return np.concatenate([shapes, colour_terms(reduce_images(images, COLOUR_SIDE))], axis=1)

    def _shape_values(self, luminance: NDArray[np.float32]) -> Floats:
        """(n, 32, 32) to (n, any)."""
        raise NotImplementedError


class RawEncoder(_Candidate):
    """Pixels in 0..1, neither standardised nor smoothed beyond 16x16: the baseline of the baselines."""

    name = "raw"
    dimension = 128

    def _encode_batch(self, images: NDArray[np.uint8]) -> Floats:
        reduced = reduce_images(images, COLOUR_SIDE)
        pixels = np.broadcast_to(reduced, (len(images), 3, COLOUR_SIDE, COLOUR_SIDE)).reshape(len(images), -1)
        return hadamard_projection(pixels / np.sqrt(pixels.shape[1]), self.dimension, self.name)


class ScatteringEncoder(_Candidate):
    """Orders 0 to 2 of the scattering transform, on a 4x4 grid of places.

    Args:
        order_0: keep the smoothed image itself. Without it ink and ground may be exchanged.
    """

    _SCALES, _ANGLES, _GRID = 3, 6, 4

    def __init__(self, *, order_0: bool = True) -> None:
        self.name = "scattering" if order_0 else "scattering, no order 0"
        self._first = 0 if order_0 else 1
        self._transform = Scattering(32, scales=self._SCALES, angles=self._ANGLES, grid=self._GRID)

    def _shape_values(self, luminance: NDArray[np.float32]) -> Floats:
        paths = self._transform(luminance)[:, self._first :]  # (n, paths, 4, 4)
        return paths.reshape(len(luminance), -1) / self._GRID


class RandomConvEncoder(_Candidate):
    """Two layers: patches of unit contrast, random zero-mean filters, a rectifier, area pooling. Both layers are kept.

    Args:
        rectifier: `abs`, for which ink and ground may be exchanged, or `relu`.
    """

    _FILTERS = (32, 64)
    _SIDES = (5, 3)  # of the filters
    _GRIDS = (8, 4)  # places left by the pooling of each layer
    _CONTRAST_FLOORS = (0.3, 0.05)  # of inputs with mean square about 1, and about 0.1

    def __init__(self, *, rectifier: str = "abs") -> None:
        self.name = f"random-conv, {rectifier}"
        self._relu = rectifier == "relu"

    def _shape_values(self, luminance: NDArray[np.float32]) -> Floats:
        first = self._layer(luminance[..., None], 0)  # (n, 8, 8, 32)
        second = self._layer(first, 1)  # (n, 4, 4, 64)
        grid = self._GRIDS[1]
        parts = (_area_pool(first, grid), second)
        return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1) / grid

    def _layer(self, maps: NDArray[np.float32], layer: int) -> NDArray[np.float32]:
        """(n, s, s, c) to (n, g, g, filters)."""
        side, channels = self._SIDES[layer], maps.shape[3]
        filters = _random_filters(self._FILTERS[layer], side, channels)  # (side² c, filters)
        margin = side // 2
        padded = np.pad(maps, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode="symmetric")
        windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(1, 2))
        patches = windows.transpose(0, 1, 2, 4, 5, 3).reshape(*maps.shape[:3], -1)  # (n, s, s, side² c)
        # The filters have mean zero: the patches' own need not be taken off.
        responses = patches @ filters / (patches.std(axis=-1, keepdims=True) + self._CONTRAST_FLOORS[layer])
        rectified = np.maximum(responses, 0.0) * np.sqrt(2.0) if self._relu else np.abs(responses)
        return _area_pool(rectified.astype(np.float32) / np.sqrt(filters.shape[1]), self._GRIDS[layer])


def hadamard_projection(values: Floats, dimension: int, key: str) -> Floats:
    """(n, D) to (n, dimension): orthogonal rows, squared lengths kept on average (Ailon & Chazelle 2009)."""
    return values @ _hadamard_columns(values.shape[1], dimension, key).astype(values.dtype)


@cache
def _hadamard_columns(size: int, dimension: int, key: str) -> NDArray[np.float64]:
    """Random rows of Sylvester's matrix, entry (-1)^popcount(i & j), with random signs of the inputs; (D, d)."""
    order = 1 << (size - 1).bit_length()
    rows = np.sort(random_order(order, "hadamard rows", key)[:dimension])
    both = rows[None, :] & np.arange(size)[:, None]
    parity = np.zeros_like(both)
    for bit in range(order.bit_length()):
        parity ^= (both >> bit) & 1
    signs = random_signs(size, "hadamard signs", key)
    columns: NDArray[np.float64] = (1.0 - 2.0 * parity) * signs[:, None] / np.sqrt(dimension)
    return columns


@cache
def _random_filters(count: int, side: int, channels: int) -> NDArray[np.float32]:
    """Zero-mean filters of unit length, (side² channels, count); twelve uniforms summed are nearly Gaussian."""
    size = side * side * channels
    normal = random_unit(12 * size * count, "random-conv", count, side, channels).reshape(12, size, count).sum(axis=0)
    centred = normal - normal.mean(axis=0)
    filters: NDArray[np.float32] = (centred / np.sqrt((centred**2).sum(axis=0))).astype(np.float32)
    return filters


def _area_pool(maps: NDArray[np.float32], grid: int) -> NDArray[np.float32]:
    """(n, s, s, c) to (n, g, g, c)."""
    average = area_average(maps.shape[1], grid).astype(np.float32)
    rows = np.tensordot(maps, average, axes=(1, 1))  # (n, s, c, g)
    pooled: NDArray[np.float32] = np.tensordot(rows, average, axes=(1, 1)).transpose(0, 2, 3, 1)  # (n, c, g, g) before
    return np.ascontiguousarray(pooled)
