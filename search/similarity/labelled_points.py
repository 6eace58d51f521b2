"""What is transported: weighted points with labels and the Gaussians of their classes, from a sketch or from samples.

Legend of shapes: n points; d feature dimension; k classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supernet_registry.search.errors import DimensionMismatch, EncoderMismatch, InvalidArgument, NotFinite
from supernet_registry.search.similarity.class_gaussians import ClassGaussians, squared_distances
from supernet_registry.search.similarity.sketch import Sketch

__all__ = ["LabelledPoints", "between_points", "check_comparable", "ground_cost"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LabelledPoints:
    """A labelled sample. Without labels all points are of class 0 and `gaussians` is None."""

    features: NDArray[Any]  # (n, d), float32 or float64
    labels: NDArray[np.intp]  # (n,), 0..k-1
    weights: Floats  # (n,), sum 1
    gaussians: ClassGaussians | None  # of k classes

    @classmethod
    def of_sketch(cls, sketch: Sketch) -> LabelledPoints:
        """The sampled points of a sketch; the Gaussians are those of its whole split."""
        gaussians = ClassGaussians.of_factors(sketch.class_means, sketch.class_factors)
        return cls(sketch.features, sketch.labels, sketch.weights, gaussians)

    @classmethod
    def of_samples(
        cls, x: NDArray[Any], y: NDArray[Any] | None, weights: NDArray[Any] | None, *, name: str
    ) -> LabelledPoints:
        """Checked samples with the exact Gaussians of their classes; `name` is what errors call them.

        Raises:
            InvalidArgument: see `otdd_samples`.
            NotFinite: NaN or infinity.
        """
        x = np.asarray(x)
        if x.ndim != 2 or 0 in x.shape or not np.issubdtype(x.dtype, np.floating):
            raise InvalidArgument(
                f"It is {x.dtype} of shape {x.shape}.", remedy="Give floats of shape (n, d).", field=name
            )
        if not np.isfinite(x).all():
            raise NotFinite("Values are NaN or infinite.", remedy="Check the features.", field=name)
        masses = _masses(weights, len(x), name)
        if y is None:
            return cls(x, np.zeros(len(x), dtype=np.intp), masses, None)
        labels = _labels(y, len(x), name)
        return cls(x, labels, masses, ClassGaussians.of_samples(x.astype(np.float64), labels, masses))

    @property
    def n_classes(self) -> int:
        return 1 if self.gaussians is None else len(self.gaussians)

    @property
    def membership(self) -> Floats:
        """1 where a point is of a class, (n, k)."""
        result: Floats = np.eye(self.n_classes)[self.labels]
        return result


def ground_cost(between_points: Floats, between_labels: Floats, a: LabelledPoints, b: LabelledPoints) -> Floats:
    """Cost of every pair of points, (n, m), from the squared distances of points (n, m) and of classes (k, l)."""
    cost: Floats = between_labels[a.labels[:, None], b.labels]  # in C order, which the solver would copy it into
    cost += between_points
    return cost


def between_points(a: LabelledPoints, b: LabelledPoints) -> Floats:
    """Squared distances of the features, (n, m)."""
    return squared_distances(a.features, b.features)


def check_comparable(a: Sketch, b: Sketch) -> None:
    """Raises EncoderMismatch or DimensionMismatch where no distance is defined."""
    if a.encoder_id != b.encoder_id:
        raise EncoderMismatch(
            f"Sketches of encoders {a.encoder_id!r} and {b.encoder_id!r} do not compare.",
            remedy="Sketch both datasets with the registry's encoder.",
            field="sketch.encoder_id",
        )
    if a.dimension != b.dimension:
        raise DimensionMismatch(
            f"Features have {a.dimension} and {b.dimension} dimensions.",
            remedy="Sketch both datasets again.",
            field="sketch.features",
        )


def _masses(weights: NDArray[Any] | None, n: int, name: str) -> Floats:
    if weights is None:
        return np.full(n, 1.0 / n)
    masses = np.asarray(weights, dtype=np.float64)
    if masses.shape != (n,) or not (np.isfinite(masses) & (masses > 0)).all():
        raise InvalidArgument(
            f"Weights of shape {masses.shape} are not {n} positive numbers.",
            remedy="Leave out points that weigh nothing, or leave out the weights for equal ones.",
            field=f"{name} weights",
        )
    result: Floats = masses / masses.sum()
    return result


def _labels(y: NDArray[Any], n: int, name: str) -> NDArray[np.intp]:
    labels = np.asarray(y)
    if labels.shape != (n,) or not np.issubdtype(labels.dtype, np.integer):
        raise InvalidArgument(
            f"Labels are {labels.dtype} of shape {labels.shape}.",
            remedy=f"Give integers of shape ({n},), or None for data without labels.",
            field=f"{name} labels",
        )
    present = np.unique(labels)
    if not np.array_equal(present, np.arange(len(present))):
        raise InvalidArgument(
            f"Labels take {len(present)} values from {present[0]} to {present[-1]}.",
            remedy="Use each of 0, 1, ... k-1; `np.unique(y, return_inverse=True)[1]` renames them.",
            field=f"{name} labels",
        )
    return labels.astype(np.intp)
