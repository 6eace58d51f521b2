"""A lower bound of √OTDD at a fraction of its time, which lets a search skip most exact transports.

Two relaxations, each of which only lowers the value:

1. Label distances are replaced by lower bounds (`bures_wasserstein_bound`), which lowers every coupling's cost.
2. The least cost over couplings is replaced by the value ⟨p, u⟩ + ⟨q, v⟩ of one feasible pair of dual potentials
   (`coupling.feasible_potentials`): weak duality, Σ_ij P_ij C_ij ≥ Σ_ij P_ij (u_i + v_j) = ⟨p, u⟩ + ⟨q, v⟩. ∎

Measured over all pairs of the 36 benchmark tasks, beside what else was tried: the bound takes a fifth of the time of
the distance and reaches 0.976 of it (0.918 at worst). Within a shortlist of 16 it rules out 53 % when the 5 nearest
are wanted, where 69 % is what a perfect one could. Bounds from marginals see nothing of the distance that two samples
of one distribution have, which is most of a near one: means and standard deviations of every coordinate of (x, μ_y)
reach 0.65, with quantiles and the spread of labels 0.71, Gelbrich's bound on the joint covariance 0.76; each rules out
2 %.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from supernet_registry.search.similarity.class_gaussians import ClassGaussians, squared_distances
from supernet_registry.search.similarity.coupling import feasible_potentials
from supernet_registry.search.similarity.labelled_points import LabelledPoints, ground_cost

__all__ = ["bures_wasserstein_bound", "dual_bound"]

Floats = NDArray[np.float64]

_SLACK = 1e-5
"""Share of the traces given away by a bound computed in float32, a hundred times its rounding."""
_ROUNDING = 1e-12  # of the largest cost, given away for the sums of float64


def bures_wasserstein_bound(a: ClassGaussians, b: ClassGaussians) -> Floats:
    """Lower bounds of `bures_wasserstein`, (k, l), at a tenth of its time. They reach 0.88 of it on sketches.

    Proof. A matrix is the sum of its rows, each a matrix of rank one with its length as nuclear norm, so by the
    triangle inequality ‖M‖_* ≤ Σ_i ‖row i of M‖, and the same with columns. With rows of F along the axes of Σ, as
    sketches have them, that is Σ_i σ_i σ'_i, σ and σ' the two standard deviations along those axes. ∎
    """
    traces = a.traces[:, None] + b.traces
    nuclear = np.zeros_like(traces)
    scaled = _unit_trace(b)  # (l, r', d)
    flat = scaled.reshape(-1, scaled.shape[2]).T  # (d, l r')
    for c, factor in enumerate(_unit_trace(a)):
        cross = (factor @ flat).reshape(len(factor), *scaled.shape[:2])  # (r, l, r')
        by_rows = np.sqrt(np.einsum("ijk,ijk->ij", cross, cross)).sum(axis=0)
        by_columns = np.sqrt(np.einsum("ijk,ijk->jk", cross, cross)).sum(axis=1)
        nuclear[c] = np.minimum(by_rows, by_columns)
    nuclear *= np.sqrt(a.traces[:, None] * b.traces)
    bures = (1.0 - _SLACK) * traces - 2.0 * nuclear
    bounds: Floats = squared_distances(a.means, b.means) + bures.clip(min=0.0)
    return bounds


def dual_bound(a: LabelledPoints, b: LabelledPoints, point_distances: Floats) -> float:
    """The bound between samples whose points' squared distances (n, m) are known."""
    if a.gaussians is None or b.gaussians is None:
        cost = point_distances
    else:
        cost = ground_cost(point_distances, bures_wasserstein_bound(a.gaussians, b.gaussians), a, b)
    u, v = feasible_potentials(a.weights, b.weights, cost)
    return math.sqrt(max(0.0, float(a.weights @ u + b.weights @ v) - _ROUNDING * float(cost.max())))


def _unit_trace(gaussians: ClassGaussians) -> NDArray[np.float32]:
    """Factors (k, r, d) scaled to trace 1, so that squares of their products stay inside float32."""
    scale = np.sqrt(np.maximum(gaussians.traces, np.finfo(np.float64).tiny))
    return (gaussians.padded() / scale[:, None, None]).astype(np.float32)
