"""Optimal transport dataset distance (OTDD): Alvarez-Melis & Fusi, NeurIPS 2020, arXiv:2002.02923, sections 3 and 4.

A labelled point (x, y) stands in the product of feature space and the space of Gaussians: y is represented by the
Gaussian N(μ_y, Σ_y) of its class. The ground cost between (x, y) and (x', y') is

    c = ‖x - x'‖² + W₂²(N(μ_y, Σ_y), N(μ_y', Σ_y')),
    W₂² = ‖μ - μ'‖² + tr Σ + tr Σ' - 2 tr (Σ^½ Σ' Σ^½)^½                                (Bures-Wasserstein)

and the distance is the *square root* of the least total cost over all couplings of the two point sets. Being W₂ over a
product of two metric spaces it is a metric; the raw value breaks the triangle inequality. It is exact: no entropic
regularisation, and with Σ = FᵀF the last trace is the nuclear norm of F F'ᵀ, a matrix as small as the rank of F.

A floor remains: two samples of one distribution lie apart by their sampling error. A distance of that size means "the
same distribution", not "this far apart".

Legend of shapes: n, m points; d feature dimension; k, l classes; r rank of the covariance factors.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search.errors import DimensionMismatch, EncoderMismatch
from search.similarity.sketch import Sketch

__all__ = ["TRANSPORT_ID", "TransportResult", "exact_plan", "label_distances", "lower_bound", "otdd"]

TRANSPORT_ID = "otdd-1"
"""Version of the distance. Raise it with every change of its values: distances stored under another are not used."""

MAX_ITERATIONS = 10_000_000
"""Of the network simplex. POT's default of 100,000 stops short of the optimum from about n = 2000 on."""


@dataclass(frozen=True, eq=False)
class TransportResult:
    """Distance and explanation. The distance is √OTDD, in units of the feature space."""

    distance: float
    converged: bool  # whether the plan is proven optimal; otherwise `distance` is an upper bound
    class_coupling: NDArray[np.float64]  # (k, l), mass moved between classes; rows and columns sum to class shares
    label_distances: NDArray[np.float64]  # (k, l), squared W₂ between class Gaussians


def otdd(a: Sketch, b: Sketch) -> TransportResult:
    """√OTDD between two sketches. Classes count by their share of the whole split (`Sketch.weights`).

    Symmetric to the last bit, exactly 0 on itself, unchanged by the order of classes and points.

    Raises:
        EncoderMismatch: the sketches were made by different encoders.
        DimensionMismatch: features of different dimensions under one encoder id.
    """
    check_comparable(a, b)
    if a.digest == b.digest:
        shares = np.diag(a.class_counts / a.class_counts.sum())
        return TransportResult(0.0, converged=True, class_coupling=shares, label_distances=label_distances(a, a))
    if a.digest > b.digest:  # one order for both directions: degenerate plans and rounding are then the same
        swapped = otdd(b, a)
        return TransportResult(swapped.distance, swapped.converged, swapped.class_coupling.T, swapped.label_distances.T)
    between_labels = label_distances(a, b)
    cost = squared_distances(a.features, b.features) + between_labels[a.labels][:, b.labels]  # (n, m)
    plan, converged = exact_plan(a.weights, b.weights, cost)
    return TransportResult(
        distance=float(np.sqrt(max(0.0, float((plan * cost).sum())))),
        converged=converged,
        class_coupling=_one_hot(a).T @ plan @ _one_hot(b),
        label_distances=between_labels,
    )


def lower_bound(a: Sketch, b: Sketch) -> float:
    """A number that √OTDD never falls below, in O((n + m) d): lets a search skip the transport.

    Proof. W₂² between two Gaussians is at least ‖μ - μ'‖², so the cost of any coupling is at least the expectation of
    ‖z - z'‖² with z = (x, μ_y) in R^2d. That is a sum over coordinates, and in each, with means m, m' and standard
    deviations s, s' of the two marginals, E(z - z')² = (m - m')² + s² + s'² - 2 cov(z, z') ≥ (m - m')² + (s - s')² by
    Cauchy-Schwarz. The sum of the right-hand sides does not depend on the coupling, hence bounds the least cost. ∎

    Raises:
        EncoderMismatch, DimensionMismatch: as for `otdd`.
    """
    check_comparable(a, b)
    (mean_a, std_a), (mean_b, std_b) = _marginal_moments(a), _marginal_moments(b)
    squared = ((mean_a - mean_b) ** 2).sum() + ((std_a - std_b) ** 2).sum()
    return float(np.sqrt(squared))


def label_distances(a: Sketch, b: Sketch) -> NDArray[np.float64]:
    """Squared W₂ between the class Gaussians, shape (k, l), in float64."""
    f_a, f_b = a.class_factors.astype(np.float64), b.class_factors.astype(np.float64)
    nuclear = np.zeros((len(f_a), len(f_b)))
    if f_a.size and f_b.size:
        flat_b = f_b.reshape(-1, a.dimension).T  # (d, l r)
        for c, factor in enumerate(
            f_a
        ):  # a row of classes at a time: all cross-Gram matrices together can fill a memory
            gram = (factor @ flat_b).reshape(len(factor), len(f_b), -1).transpose(1, 0, 2)  # (l, r, r): F F'ᵀ
            nuclear[c] = np.linalg.svd(gram, compute_uv=False).sum(axis=-1)
    traces = (f_a**2).sum(axis=(1, 2))[:, None] + (f_b**2).sum(axis=(1, 2))[None, :]
    bures = (traces - 2.0 * nuclear).clip(min=0.0)
    distances: NDArray[np.float64] = squared_distances(a.class_means, b.class_means) + bures
    return distances


def exact_plan(
    p: NDArray[np.float64], q: NDArray[np.float64], cost: NDArray[np.float64], *, max_iterations: int = MAX_ITERATIONS
) -> tuple[NDArray[np.float64], bool]:
    """An optimal coupling (n, m) of masses p (n,) and q (m,), and whether the solver proves it optimal.

    Where it does not (POT warns then), the coupling is made whole, so that its cost is an upper bound.
    """
    # POT otherwise imports torch, which must never share the server's process with FAISS.
    os.environ.setdefault("POT_BACKEND_DISABLE_PYTORCH", "1")
    import ot

    largest = float(np.abs(cost).max()) or 1.0  # the solver's tolerance is absolute: costs of 1e-12 end anywhere
    plan, log = ot.emd(p, q, cost / largest, numItermax=max_iterations, log=True)
    converged = log["warning"] is None
    return (plan if converged else _completed(plan, p, q)), converged


def _completed(plan: NDArray[np.float64], p: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
    """A coupling of p and q from a plan that leaves mass behind (Altschuler, Weed & Rigollet 2017, algorithm 2)."""
    plan = plan * np.minimum(1.0, p / np.maximum(plan.sum(axis=1), 1e-300))[:, None]
    plan = plan * np.minimum(1.0, q / np.maximum(plan.sum(axis=0), 1e-300))[None, :]
    left_p, left_q = p - plan.sum(axis=1), q - plan.sum(axis=0)
    missing = left_p.sum()
    whole: NDArray[np.float64] = plan + np.outer(left_p, left_q) / missing if missing > 0 else plan
    return whole


def squared_distances(x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.float64]:
    """‖x_i - y_j‖², shape (n, m), in float64."""
    x64, y64 = x.astype(np.float64), y.astype(np.float64)
    squares = (x64**2).sum(axis=1)[:, None] + (y64**2).sum(axis=1)[None, :] - 2.0 * (x64 @ y64.T)
    result: NDArray[np.float64] = squares.clip(min=0.0)
    return result


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


def _marginal_moments(s: Sketch) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of every coordinate of (x, μ_y) under the sketch's weights, each (2d,)."""
    z = np.concatenate([s.features, s.class_means[s.labels]], axis=1).astype(np.float64)
    mean = s.weights @ z
    return mean, np.sqrt(s.weights @ (z - mean) ** 2)


def _one_hot(s: Sketch) -> NDArray[np.float64]:
    return np.eye(s.n_classes)[s.labels]  # (n, k)
