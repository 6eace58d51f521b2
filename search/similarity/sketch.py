"""The sketch of a dataset: what a client computes locally and sends instead of images.

What it holds: a class-stratified sample of encoder features with labels, and for every class the mean, a low-rank
factor of the covariance and the count, these over the *whole* training split. With `moments_only` the sample is not of
images but of the class Gaussians.

What it reveals, beside the number of training images of each class; of validation and test images nothing:

- Ordinary, encoder `pixels`: each sampled feature vector is a low-resolution copy of one image; a person can be
  recognised on it as on a thumbnail. Other encoders (a supernet, `torchvision:`) send no copy, but images can be
  approximated from such features by inversion, and anyone who holds an image can tell whether it was sampled.
- `moments_only`: of every class the mean and the main directions of variation, with `pixels` an average image and some
  32 "eigenimages", and no feature of any single image: the points are drawn from the class Gaussians and tell nothing
  beyond them (`moment_points`). Moments of few images are nearly those images: up to 33 images a class, the
  directions span all of them, so that whoever holds an image can tell whether it was among them. Classes of fewer
  than `MIN_CLASS_IMAGES` are refused. This is no differential privacy.
- Class means and factors are in both kinds. In an ordinary sketch a class of one image is that image.

`moments_only` is the client's promise to the owner of the images: a receiver takes the mark on trust. Where even
moments are too much, keep the registry itself on a machine that may see the images.

Legend of shapes: n sampled points, d feature dimension, k classes, r rank of the covariance factors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supernet_registry.search.determinism import random_order
from supernet_registry.search.errors import DimensionMismatch, InvalidArgument, InvalidSketch, NotFinite
from supernet_registry.search.similarity.encoders.base import MAX_DIMENSION, Encoder
from supernet_registry.search.similarity.moment_points import moment_points
from supernet_registry.search.storage.container import Header, Limits, pack, parse_json, read_header, unpack
from supernet_registry.search.tasks.dataset import MAX_CLASSES, ImageDataset, Split

__all__ = [
    "DEFAULT_SKETCH_SIZE",
    "MAX_SKETCH_BYTES",
    "MAX_SKETCH_SIZE",
    "MIN_CLASS_IMAGES",
    "Sketch",
    "make_sketch",
]

DEFAULT_SKETCH_SIZE = 256
"""Sampled points. Over the 36 benchmark tasks, 256 points rank pairs as exact OTDD of all training images does
(Spearman 0.998, values 1.1 % off) and find the same nearest source or one within 4 % of it for every task; 64 points
0.996, 1.9 % and 94 % of tasks, 1024 points 0.999, 1.2 % and all, at 1.8 times the time of a distance."""
MAX_SKETCH_SIZE = 4096
MAX_RANK = 64
MAX_FACTORS = 8192
"""Most rows of covariance factors over all classes: one label-distance matrix then costs seconds at worst."""
MAX_SKETCH_BYTES = 64 << 20

FACTOR_RANK = 32
"""Rank of the class covariance factors that `make_sketch` computes. Over the 36 benchmark tasks label distances are
then 0.8 % off those of rank 64 on average (24: 2.7 %, 16: 5.8 %), at 6 ms for 10 by 10 classes. Above 128 classes it
falls, so that all factors together stay below 4096 rows."""
SHRINKAGE_IMAGES = 2.0
"""A class of this many images takes half of its covariance from the average over all classes. Measured with 5 images
a class, 20 to 47 classes: W₂ to other classes is 7.0 % off (15.4 % unshrunk), and 97 % of classes find themselves in
the full data."""
MIN_CLASS_IMAGES = 5
"""Fewest training images a class of which `moments_only` sends moments."""

_METADATA_KEY = "sketch"
_WIRE_VERSION = 1
_LIMITS = Limits(dtypes=("F32", "I64"), header_bytes=1 << 20, tensors=5)
_LARGEST_VALUE = 1e6  # beyond it squares of squares leave float32
_GRID = 2.0**-14  # rounding of what is stored: hides the last bits, in which linear algebra libraries differ


@dataclass(frozen=True, eq=False)
class Sketch:
    """See the module. The arrays are not copied: treat them as immutable.

    Raises:
        DimensionMismatch: shapes that do not fit each other.
        NotFinite: NaN or infinity.
        InvalidSketch: anything else that no honest sketch has.
    """

    features: NDArray[np.float32]  # (n, d), sampled, class by class
    labels: NDArray[np.int64]  # (n,), every class 0..k-1 occurs
    class_means: NDArray[np.float32]  # (k, d), whole split
    class_factors: NDArray[np.float32]  # (k, r, d), covariance of class c is F[c].T @ F[c]
    class_counts: NDArray[np.int64]  # (k,), images of the class in the whole split
    encoder_id: str
    moments_only: bool = False  # features are drawn from the class Gaussians; the client's word, see the module

    def __post_init__(self) -> None:
        _check_shapes(self)
        _check_values(self)

    @property
    def n_classes(self) -> int:
        return len(self.class_counts)

    @property
    def dimension(self) -> int:
        return int(self.features.shape[1])

    @cached_property
    def weights(self) -> NDArray[np.float64]:
        """Mass of each point, shape (n,), sum 1: its class's share of the whole split over the class's points."""
        points = np.bincount(self.labels, minlength=self.n_classes)
        share = self.class_counts / self.class_counts.sum()
        mass = (share / points)[self.labels]
        weights: NDArray[np.float64] = mass / mass.sum()
        return weights

    @cached_property
    def digest(self) -> str:
        """sha256 of the wire form, hexadecimal."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def to_bytes(self) -> bytes:
        """The wire form: safetensors, deterministic."""
        metadata: dict[str, object] = {"encoder_id": self.encoder_id, "version": _WIRE_VERSION}
        if self.moments_only:  # otherwise absent: bytes and digests of before there was such a setting stay as they are
            metadata["moments_only"] = True
        return pack(dict(self._arrays()), _METADATA_KEY, metadata)

    @classmethod
    def from_bytes(cls, data: bytes) -> Sketch:
        """A sketch from outside; sizes are judged by the header before anything is allocated.

        Raises:
            InvalidSketch, DimensionMismatch, NotFinite: with the offending field.
        """
        if len(data) > MAX_SKETCH_BYTES:
            raise InvalidSketch(
                f"The sketch has {len(data)} bytes, at most {MAX_SKETCH_BYTES} are read.",
                remedy="Sketch with fewer points.",
                field="sketch",
            )
        try:
            header = read_header(data, _LIMITS)
            encoder_id, moments_only = _metadata(header)
            _check_header(header)
            return cls(**unpack(data), encoder_id=encoder_id, moments_only=moments_only)
        except ValueError as error:
            raise InvalidSketch(
                f"The bytes are not a sketch: {error}.", remedy="Send the result of Sketch.to_bytes().", field="sketch"
            ) from error

    def _arrays(self) -> Iterator[tuple[str, NDArray[Any]]]:
        for name in _TENSORS:
            yield name, getattr(self, name)


_TENSORS = {
    "features": ("F32", 2, np.float32),
    "labels": ("I64", 1, np.int64),
    "class_means": ("F32", 2, np.float32),
    "class_factors": ("F32", 3, np.float32),
    "class_counts": ("I64", 1, np.int64),
}


def make_sketch(
    dataset: ImageDataset,
    encoder: Encoder,
    *,
    size: int = DEFAULT_SKETCH_SIZE,
    seed: int = 0,
    moments_only: bool = False,
) -> Sketch:
    """The sketch of the training split.

    Args:
        size: sampled points, shared out over the classes in proportion to their images, at least one a class. A class
            never gives more than it has, and of a smaller split every image is taken.
        seed: of the sample. The same dataset, encoder, size and seed give the same bytes.
        moments_only: points are drawn from the class Gaussians; no feature of any single image is in the sketch.

    Raises:
        InvalidArgument: `size` out of range; with `moments_only`, a class of fewer than `MIN_CLASS_IMAGES` images.
        NotFinite: the encoder returns NaN or infinity.
    """
    if not 2 <= size <= MAX_SKETCH_SIZE:
        raise InvalidArgument(f"size is {size}.", remedy=f"Choose 2 to {MAX_SKETCH_SIZE} points.", field="size")
    split = dataset.train
    counts = split.class_counts(dataset.n_classes)
    if moments_only:
        _check_class_sizes(dataset.class_names, counts)
    features = _on_grid(encoder.encode(split.images))  # (N, d)
    if not np.isfinite(features).all():
        raise NotFinite(
            f"Encoder {encoder.name} returned values that are not finite.",
            remedy="Check its weights.",
            field="features",
        )
    means, factors = _class_moments(features, split.labels, counts)
    if moments_only:
        quota = _shares(counts, size)
        points, labels = _on_grid(moment_points(means, factors, quota, seed)), np.repeat(np.arange(len(quota)), quota)
    else:
        sample = _stratified_sample(split, counts, size=size, seed=seed)
        points, labels = features[sample], split.labels[sample]
    return Sketch(
        features=points.astype(np.float32),
        labels=labels,
        class_means=means,
        class_factors=factors,
        class_counts=counts,
        encoder_id=encoder.id,
        moments_only=moments_only,
    )


def _check_class_sizes(names: Sequence[str], counts: NDArray[np.int64]) -> None:
    smallest = int(counts.argmin())
    if counts[smallest] < MIN_CLASS_IMAGES:
        raise InvalidArgument(
            f"Class {names[smallest]!r} has {counts[smallest]} training images; moments of fewer than "
            f"{MIN_CLASS_IMAGES} are nearly the images themselves.",
            remedy="Add images, drop the class, or make an ordinary sketch.",
            field="moments_only",
        )


def _class_moments(
    features: NDArray[np.float64], labels: NDArray[np.int64], counts: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Means (k, d) and covariance factors (k, r, d).

    The covariance of a class with few images is mostly noise and has no rank to speak of; it is drawn towards the
    average over all classes: (1 - s) Σ_c + s Σ_within with s = 2 / (2 + n_c).
    """
    n_classes, d = len(counts), features.shape[1]
    members = [features[labels == c] for c in range(n_classes)]
    means = np.array([x.mean(axis=0) for x in members])
    within = sum((_scatter(x, mean) for x, mean in zip(members, means, strict=True)), np.zeros((d, d))) / counts.sum()
    share = SHRINKAGE_IMAGES / (SHRINKAGE_IMAGES + counts)
    rank = min(FACTOR_RANK, d, max(1, MAX_FACTORS // 2 // n_classes))
    factors = np.empty((n_classes, rank, d))
    for c, (x, mean) in enumerate(zip(members, means, strict=True)):  # computed twice rather than kept: k d² is large
        factors[c] = _low_rank_factor((1 - share[c]) * _scatter(x, mean) / counts[c] + share[c] * within, rank)
    return _on_grid(means).astype(np.float32), _on_grid(factors).astype(np.float32)


def _scatter(x: NDArray[np.float64], mean: NDArray[np.float64]) -> NDArray[np.float64]:
    centred = x - mean
    result: NDArray[np.float64] = centred.T @ centred
    return result


def _low_rank_factor(covariance: NDArray[np.float64], rank: int) -> NDArray[np.float64]:
    """F (r, d), F.T @ F the best approximation of that rank; rows by falling variance, largest entry positive."""
    values, vectors = np.linalg.eigh(covariance)
    rows = (vectors[:, ::-1][:, :rank] * np.sqrt(values[::-1][:rank].clip(min=0.0))).T
    largest = np.take_along_axis(rows, np.abs(rows).argmax(axis=1)[:, None], axis=1)
    result: NDArray[np.float64] = np.where(largest < 0, -rows, rows)
    return result


def _stratified_sample(split: Split, counts: NDArray[np.int64], *, size: int, seed: int) -> NDArray[np.int64]:
    """Indices (n,), class by class."""
    quota = _shares(counts, size)
    chosen = []
    for label, take in enumerate(quota):
        members = np.flatnonzero(split.labels == label)
        chosen.append(np.sort(members[random_order(len(members), "sketch", seed, label)[:take]]))
    return np.concatenate(chosen)


def _shares(counts: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Points of each class: proportional, at least one, never more than there are (largest remainder method)."""
    size = int(min(max(size, len(counts)), counts.sum()))
    exact = size * counts / counts.sum()
    quota: NDArray[np.int64] = np.maximum(np.floor(exact).astype(np.int64), 1)
    while quota.sum() < size:
        room = np.where(quota < counts, exact - quota, -np.inf)
        quota[int(room.argmax())] += 1
    while quota.sum() > size:  # many classes were lifted to one: take from those furthest above their share
        excess = np.where(quota > 1, quota - exact, -np.inf)
        quota[int(excess.argmax())] -= 1
    return quota


def _on_grid(values: NDArray[Any]) -> NDArray[np.float64]:
    rounded: NDArray[np.float64] = np.rint(values.astype(np.float64) / _GRID) * _GRID
    return rounded


def _metadata(header: Header) -> tuple[str, bool]:
    """Encoder id and whether the sketch is of moments only."""
    try:
        metadata = parse_json(header.metadata[_METADATA_KEY], "its metadata")
        version, encoder_id = metadata["version"], metadata["encoder_id"]
        moments_only = metadata.get("moments_only", False)
    except KeyError as error:
        raise ValueError("its metadata are missing") from error
    if version != _WIRE_VERSION:
        raise ValueError(f"wire version {version!r} is unknown here")
    if not isinstance(encoder_id, str):
        raise ValueError("the encoder id is not a string")
    if not isinstance(moments_only, bool):
        raise ValueError("moments_only is neither true nor false")
    return encoder_id, moments_only


def _check_header(header: Header) -> None:
    """Names, dtypes and ranks, so that what is unpacked fits the fields; sizes are bounded by the bytes themselves."""
    found = {name: (info.dtype, len(info.shape)) for name, info in header.tensors.items()}
    if found != {name: (dtype, rank) for name, (dtype, rank, _) in _TENSORS.items()}:
        raise ValueError(f"it holds {found}")


def _check_shapes(s: Sketch) -> None:
    for name, (_, rank, dtype) in _TENSORS.items():
        array = getattr(s, name)
        if array.dtype != dtype or array.ndim != rank:
            raise InvalidSketch(
                f"It is {array.dtype} of shape {array.shape}.",
                remedy=f"{rank} axes of {np.dtype(dtype).name} are expected.",
                field=f"sketch.{name}",
            )
    (n, d), k, r = s.features.shape, len(s.class_counts), s.class_factors.shape[1]
    expected = {"labels": (n,), "class_means": (k, d), "class_factors": (k, r, d)}
    for name, shape in expected.items():
        if getattr(s, name).shape != shape:
            raise DimensionMismatch(
                f"Its shape is {getattr(s, name).shape}; beside features {(n, d)} and {k} classes it must be {shape}.",
                remedy="Sketch the dataset again.",
                field=f"sketch.{name}",
            )
    for what, value, low, high in (
        ("points", n, 2, MAX_SKETCH_SIZE),
        ("dimensions", d, 1, MAX_DIMENSION),
        ("classes", k, 2, MAX_CLASSES),
        ("factors a class", r, 0, MAX_RANK),
        ("factors in all", k * r, 0, MAX_FACTORS),
    ):
        if not low <= value <= high:
            raise InvalidSketch(
                f"It has {value} {what}; {low} to {high} are accepted.",
                remedy="Sketch the dataset with the client of this release.",
                field="sketch",
            )


def _check_values(s: Sketch) -> None:
    for name in ("features", "class_means", "class_factors"):
        array = getattr(s, name)
        if not np.isfinite(array).all():
            raise NotFinite(
                f"{int((~np.isfinite(array)).sum())} values are NaN or infinite.",
                remedy="Check the images and the encoder's weights.",
                field=f"sketch.{name}",
            )
        if array.size and float(np.abs(array).max()) > _LARGEST_VALUE:
            raise InvalidSketch(
                f"A value of {float(np.abs(array).max()):.3g} is beyond ±{_LARGEST_VALUE:.0e}.",
                remedy="Normalise the encoder's features.",
                field=f"sketch.{name}",
            )
    k = len(s.class_counts)
    if int(s.labels.min()) < 0 or int(s.labels.max()) >= k or len(np.unique(s.labels)) != k:
        raise InvalidSketch(
            f"Labels must use each of 0..{k - 1}.", remedy="Sketch the dataset again.", field="sketch.labels"
        )
    points = np.bincount(s.labels, minlength=k)
    if (s.class_counts < points).any() or int(s.class_counts.max()) > 2**40:
        raise InvalidSketch(
            "Counts must be at least the sampled points of each class.",
            remedy="Sketch the dataset again.",
            field="sketch.class_counts",
        )
    if not 0 < len(s.encoder_id) <= 256 or not (s.encoder_id.isascii() and s.encoder_id.isprintable()):
        raise InvalidSketch(
            "The encoder id must be 1 to 256 printable ASCII characters.",
            remedy="Sketch the dataset again.",
            field="sketch.encoder_id",
        )
