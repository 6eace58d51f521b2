"""Optimal transport dataset distance (OTDD): Alvarez-Melis & Fusi, NeurIPS 2020, arXiv:2002.02923, sections 3 and 4.

A labelled point (x, y) stands in the product of feature space and the space of Gaussians: y is represented by the
Gaussian N(μ_y, Σ_y) of its class. The ground cost between (x, y) and (x', y') is

    c = ‖x - x'‖² + W₂²(N(μ_y, Σ_y), N(μ_y', Σ_y'))

and the distance is the *square root* of the least total cost over all couplings of the two point sets. Being W₂ over a
product of two metric spaces it is a metric; the raw value breaks the triangle inequality. Nothing in it is
approximated: label distances are exact (`class_gaussians`), and so is the coupling, without entropic regularisation,
with a certificate (`coupling`). What follows from the definition, and is tested:

- It is symmetric, to the last bit, and exactly zero between a dataset and itself.
- Names of classes do not matter: it is the same whatever the order of classes and points.
- Where either side has no labels, the label term is left out, and it is the W₂ of the features.

What it does not remove is the sampling error of its arguments: two samples of one distribution lie apart by
`sampling_floor`. A distance of that size means "the same distribution", not "this far apart". The floor is not
subtracted: what remained would be no metric, and could be negative.

Legend of shapes: n, m points; d feature dimension; k, l classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supernet_registry.search.determinism import random_order
from supernet_registry.search.errors import DimensionMismatch, InvalidArgument
from supernet_registry.search.similarity.bounds import dual_bound
from supernet_registry.search.similarity.class_gaussians import ClassGaussians, bures_wasserstein
from supernet_registry.search.similarity.coupling import exact_plan
from supernet_registry.search.similarity.labelled_points import (
    LabelledPoints,
    between_points,
    check_comparable,
    ground_cost,
)
from supernet_registry.search.similarity.sketch import Sketch

__all__ = [
    "TRANSPORT_ID",
    "TransportProblem",
    "TransportResult",
    "exact_plan",
    "label_distances",
    "lower_bound",
    "otdd",
    "otdd_samples",
    "sampling_floor",
]

Floats = NDArray[np.float64]

TRANSPORT_ID = "otdd-1"
"""Version of the distance. Raise it with every change of its values: distances stored under another are not used."""


@dataclass(frozen=True, eq=False)
class TransportResult:
    """Distance and explanation. The distance is √OTDD, in units of the feature space."""

    distance: float
    converged: bool  # whether the plan is proven optimal; otherwise `distance` is an upper bound
    class_coupling: Floats  # (k, l), mass moved between classes; rows and columns sum to class shares
    label_distances: Floats  # (k, l), squared W₂ between class Gaussians; zero without labels

    def transposed(self) -> TransportResult:
        """The same seen from the other side."""
        return replace(self, class_coupling=self.class_coupling.T, label_distances=self.label_distances.T)


class TransportProblem:
    """The distance of two sketches in two steps: a bound first, the rest only where the bound leaves hope.

    Args:
        a, b: sketches of the same encoder.

    Raises:
        EncoderMismatch: the sketches were made by different encoders.
        DimensionMismatch: features of different dimensions under one encoder id.
    """

    def __init__(self, a: Sketch, b: Sketch) -> None:
        check_comparable(a, b)
        self._same = a.digest == b.digest
        # One order for both directions: degenerate plans and rounding are then the same.
        self._swapped = a.digest > b.digest
        first, second = (b, a) if self._swapped else (a, b)
        self._a, self._b = LabelledPoints.of_sketch(first), LabelledPoints.of_sketch(second)

    @cached_property
    def _point_distances(self) -> Floats:
        return between_points(self._a, self._b)

    def lower_bound(self) -> float:
        """What the distance cannot fall below; see `bounds`. About a quarter of the time of `solve`."""
        return 0.0 if self._same else dual_bound(self._a, self._b, self._point_distances)

    def solve(self) -> TransportResult:
        """The exact distance."""
        if self._same:
            return _nothing_to_move(self._a, self._b)
        result = _transport(self._a, self._b, self._point_distances)
        return result.transposed() if self._swapped else result


def otdd(a: Sketch, b: Sketch) -> TransportResult:
    """√OTDD between two sketches. Classes count by their share of the whole split (`Sketch.weights`).

    Symmetric to the last bit, exactly 0 on itself, unchanged by the order of classes and points.

    Raises:
        EncoderMismatch, DimensionMismatch: see `TransportProblem`.
    """
    return TransportProblem(a, b).solve()


def lower_bound(a: Sketch, b: Sketch) -> float:
    """A number that √OTDD never falls below; see `bounds`. Symmetric to the last bit, 0 on itself.

    Raises:
        EncoderMismatch, DimensionMismatch: see `TransportProblem`.
    """
    return TransportProblem(a, b).lower_bound()


def otdd_samples(
    x: NDArray[Any],
    y: NDArray[Any] | None,
    x2: NDArray[Any],
    y2: NDArray[Any] | None,
    *,
    weights: NDArray[Any] | None = None,
    weights2: NDArray[Any] | None = None,
) -> TransportResult:
    """√OTDD between two samples, class Gaussians with the full covariances of their (weighted) points.

    The value that a sketch approximates: here nothing is cut to a rank, shrunk or sampled. Takes memory for a few
    (n, m) matrices of float64. Symmetric to the last bit, exactly 0 on itself.

    Args:
        x, x2: features, (n, d) and (m, d), float.
        y, y2: labels, (n,) and (m,), integers that use each of 0..k-1. None on either side leaves the label term out
            on both; the distance is then W₂ of the features, and that side has one row or column in `class_coupling`.
        weights, weights2: positive masses, (n,) and (m,), on any scale; equal ones by default.

    Raises:
        InvalidArgument: a shape, dtype, label or weight that is none of these.
        NotFinite: NaN or infinity among the features.
        DimensionMismatch: the features' dimensions differ.
    """
    a = LabelledPoints.of_samples(x, y, weights, name="first")
    b = LabelledPoints.of_samples(x2, y2, weights2, name="second")
    if a.features.shape[1] != b.features.shape[1]:
        raise DimensionMismatch(
            f"Features have {a.features.shape[1]} and {b.features.shape[1]} dimensions.",
            remedy="Encode both with the same encoder.",
            field="second",
        )
    order = _order(a, b)
    if order == 0:
        return _nothing_to_move(a, b)
    if order > 0:
        return _transport(b, a, between_points(b, a)).transposed()
    return _transport(a, b, between_points(a, b))


def label_distances(a: Sketch, b: Sketch) -> Floats:
    """Squared W₂ between the class Gaussians, shape (k, l), in float64."""
    first, second = (ClassGaussians.of_factors(s.class_means, s.class_factors) for s in (a, b))
    return bures_wasserstein(first, second)


def sampling_floor(x: NDArray[Any], y: NDArray[Any], *, size: int, seed: int = 0) -> float:
    """The distance of two disjoint samples of the same data: what a sketch of that size cannot see below.

    As in two sketches of one dataset, the class Gaussians are those of all points. The two samples are drawn class by
    class, in proportion, at least one point a class and at most half of it.

    Args:
        x: features, (N, d), float.
        y: labels, (N,), integers that use each of 0..k-1, each at least twice.
        size: points of each sample.
        seed: of the draw.

    Raises:
        InvalidArgument: as `otdd_samples`; `size` below 1; a class with a single point.
        NotFinite: NaN or infinity among the features.
    """
    whole = LabelledPoints.of_samples(x, y, None, name="data")
    counts = np.bincount(whole.labels)
    if size < 1 or counts.min() < 2:
        raise InvalidArgument(
            f"Samples of {size} points from classes of {counts.min()} and more.",
            remedy="Two disjoint samples need at least one point each of every class.",
            field="size" if size < 1 else "data labels",
        )
    share = min(0.5, size / len(whole.labels))
    halves: tuple[list[NDArray[np.intp]], list[NDArray[np.intp]]] = ([], [])
    for label, count in enumerate(counts):
        take = min(max(1, round(share * count)), count // 2)
        members = np.flatnonzero(whole.labels == label)[random_order(int(count), "floor", seed, label)]
        halves[0].append(members[:take])
        halves[1].append(members[take : 2 * take])
    one, other = (_part(whole, np.concatenate(half), counts) for half in halves)
    return _transport(one, other, between_points(one, other)).distance


def _transport(a: LabelledPoints, b: LabelledPoints, point_distances: Floats) -> TransportResult:
    if a.gaussians is None or b.gaussians is None:
        between_labels = np.zeros((a.n_classes, b.n_classes))
    else:
        between_labels = bures_wasserstein(a.gaussians, b.gaussians)
    cost = ground_cost(point_distances, between_labels, a, b)
    plan, converged = exact_plan(a.weights, b.weights, cost)
    return TransportResult(
        distance=float(np.sqrt(max(0.0, float(np.vdot(plan, cost))))),
        converged=converged,
        class_coupling=a.membership.T @ plan @ b.membership,
        label_distances=between_labels,
    )


def _nothing_to_move(a: LabelledPoints, b: LabelledPoints) -> TransportResult:
    """The result where points, weights and, on both sides or neither, labels are the same."""
    if a.gaussians is None or b.gaussians is None:
        between_labels = np.zeros((a.n_classes, b.n_classes))
    else:
        between_labels = bures_wasserstein(a.gaussians, b.gaussians)
        np.fill_diagonal(between_labels, 0.0)
    coupling = a.membership.T @ (a.weights[:, None] * b.membership)
    return TransportResult(0.0, converged=True, class_coupling=coupling, label_distances=between_labels)


def _order(a: LabelledPoints, b: LabelledPoints) -> int:
    """-1, 0 or 1 in some total order of samples, so that both directions are solved the same way; 0 if equal."""
    compared: list[tuple[NDArray[Any], NDArray[Any]]] = [(a.features, b.features), (a.weights, b.weights)]
    if a.gaussians is not None and b.gaussians is not None:
        compared.append((a.labels, b.labels))
    for one, other in compared:
        if one.shape != other.shape:
            return -1 if one.shape < other.shape else 1
        differ = np.flatnonzero(one != other)
        if len(differ):
            return -1 if one.flat[differ[0]] < other.flat[differ[0]] else 1
    return 0


def _part(whole: LabelledPoints, index: NDArray[np.intp], counts: NDArray[np.intp]) -> LabelledPoints:
    """Some of the points, weighing as much as their class does in the whole."""
    labels = whole.labels[index]
    weights = (counts / counts.sum() / np.bincount(labels))[labels]
    return LabelledPoints(whole.features[index], labels, weights / weights.sum(), whole.gaussians)
