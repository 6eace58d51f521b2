"""The default encoder: low frequencies of a small image. Needs neither torch nor a download.

An image of any size is reduced to 16x16 by area averaging and split into luminance and two colour differences.
Luminance is standardised image by image, so that contrast and exposure do not separate relatives; of each part the
lowest frequencies of the orthonormal cosine transform are kept, where natural images and glyphs have most of their
energy. That projection is orthogonal, so distances are those of the blurred images.
"""

from __future__ import annotations

import hashlib
from functools import cache

import numpy as np
from numpy.typing import NDArray

from supernet_registry.search.similarity.encoders.base import check_images
from supernet_registry.search.storage.container import canonical_json

__all__ = ["PixelEncoder", "area_average", "colour_terms", "low_frequencies", "reduce_images", "standardised_luminance"]


class PixelEncoder:
    """Low-frequency cosine coefficients of the standardised 16x16 image: 64 of luminance, 2 x 16 of colour."""

    name = "pixels"
    dimension = 96

    _VERSION = 1
    _SIDE = 16
    _LUMINANCE_TERMS = 64
    _COLOUR_TERMS = 16
    _CONTRAST_FLOOR = 0.05  # added to the standard deviation, of 0..1: noise in a blank image is not blown up
    _COLOUR_WEIGHT = 0.3  # measured on 36 tasks: at 1 a background's colour outweighs the shapes on it
    _BATCH_VALUES = 1 << 21  # float64 values in work at once: 16 MiB

    @property
    def id(self) -> str:
        return _pixel_encoder_id()

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        check_images(images)
        step = max(1, self._BATCH_VALUES // int(np.prod(images.shape[1:])))
        batches = [self._encode_batch(images[i : i + step]) for i in range(0, len(images), step)]
        return np.concatenate(batches) if batches else np.empty((0, self.dimension), np.float32)

    def _encode_batch(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        reduced = reduce_images(images, self._SIDE)  # (n, c, 16, 16), in 0..1
        shapes = low_frequencies(standardised_luminance(reduced), self._LUMINANCE_TERMS)
        return np.concatenate([shapes, colour_terms(reduced)], axis=1).astype(np.float32)


@cache
def _pixel_encoder_id() -> str:
    constants = {key: v for key, v in vars(PixelEncoder).items() if key.isupper() and key != "_BATCH_VALUES"}
    sha = hashlib.sha256(canonical_json(constants).encode())
    # Cosines differ in their last bit between maths libraries; the id must not.
    sha.update(np.rint(_cosines(PixelEncoder._SIDE) * 2**20).astype("<i4").tobytes())
    return f"pixels-v{PixelEncoder._VERSION}-{sha.hexdigest()[:16]}"


def reduce_images(images: NDArray[np.uint8], side: int) -> NDArray[np.float64]:
    """Area averages: (n, h, w, c) uint8 to (n, c, side, side) in 0..1."""
    _, h, w, _ = images.shape
    planes = images.transpose(0, 3, 1, 2).astype(np.float64) / 255.0
    reduced: NDArray[np.float64] = area_average(h, side) @ planes @ area_average(w, side).T
    return reduced


def standardised_luminance(reduced: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, c, s, s) in 0..1 to (n, s, s) of mean 0 and, but for faint images, mean square 1."""
    luminance = reduced.mean(axis=1)
    mean, std = luminance.mean(axis=(1, 2), keepdims=True), luminance.std(axis=(1, 2), keepdims=True)
    standardised: NDArray[np.float64] = (luminance - mean) / (std + PixelEncoder._CONTRAST_FLOOR)
    return standardised


def colour_terms(reduced: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, c, s, s) in 0..1 to (n, 32); a grey image is a colour image without colour."""
    terms, weight = PixelEncoder._COLOUR_TERMS, PixelEncoder._COLOUR_WEIGHT
    if reduced.shape[1] == 1:
        return np.zeros((len(reduced), 2 * terms))
    red, green, blue = reduced.transpose(1, 0, 2, 3)
    differences = ((red - green) / np.sqrt(2.0), (red + green - 2.0 * blue) / np.sqrt(6.0))
    return np.concatenate([weight * low_frequencies(plane, terms) for plane in differences], axis=1)


def low_frequencies(planes: NDArray[np.float64], terms: int) -> NDArray[np.float64]:
    """(n, s, s) to (n, terms); the squared length of all terms together would be the mean square of the plane."""
    side = planes.shape[1]
    c = _cosines(side) / np.sqrt(side)
    rows, columns = _lowest(side, terms)
    result: NDArray[np.float64] = (c @ planes @ c.T)[:, rows, columns]
    return result


@cache
def _cosines(side: int) -> NDArray[np.float64]:
    """Orthonormal cosine transform (DCT-II), (side, side)."""
    k, x = np.arange(side)[:, None], np.arange(side)[None, :]
    matrix: NDArray[np.float64] = np.sqrt(2.0 / side) * np.cos(np.pi * k * (x + 0.5) / side)
    matrix[0] /= np.sqrt(2.0)
    return matrix


@cache
def _lowest(side: int, terms: int) -> tuple[list[int], list[int]]:
    """Row and column indices of the lowest frequencies, by distance from zero, ties by row."""
    order = sorted((i * i + j * j, i, j) for i in range(side) for j in range(side))[:terms]
    return [i for _, i, _ in order], [j for _, _, j in order]


@cache
def area_average(source: int, target: int) -> NDArray[np.float64]:
    """(target, source): each target cell is the mean of the source interval it covers; rows sum to 1."""
    edges = np.linspace(0.0, source, target + 1)
    left, right = edges[:-1, None], edges[1:, None]
    cells = np.arange(source)[None, :]
    overlap = (np.minimum(right, cells + 1.0) - np.maximum(left, cells)).clip(min=0.0)
    result: NDArray[np.float64] = overlap / overlap.sum(axis=1, keepdims=True)
    return result
