"""The Gaussians N(μ_c, Σ_c) that stand for classes, and their Bures-Wasserstein distances.

    W₂² = ‖μ - μ'‖² + tr Σ + tr Σ' - 2 tr (Σ^½ Σ' Σ^½)^½

A covariance is kept as a factor F (r, d) with Σ = FᵀF, so that F = U Σ^½ with UᵀU the identity on Σ's range. Then the
last trace, ‖Σ^½ Σ'^½‖_*, is the nuclear norm (sum of singular values) of U Σ^½ Σ'^½ U'ᵀ = F F'ᵀ: a matrix as small as
the ranks, the cross-Gram matrix M. No square root of a d by d matrix is ever taken.

Legend of shapes: k, l classes; r rank of a class's factor; R the ranks of all classes together; d feature dimension.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ClassGaussians", "bures_wasserstein", "squared_distances"]

Floats = NDArray[np.float64]

_EPS = float(np.finfo(np.float64).eps)
_PRECISION = 1e-8
"""Relative error of a distance up to which singular values are taken from the eigenvalues of M Mᵀ."""
_VANISHING = 1e-14
"""Share of the traces below which a difference of covariances is rounding."""


@dataclass(frozen=True, eq=False)
class ClassGaussians:
    """Means and covariance factors of k classes; the factors' rows lie below one another, class by class."""

    means: Floats  # (k, d)
    factors: Floats  # (R, d)
    ranks: NDArray[np.intp]  # (k,), sum R

    @classmethod
    def of_factors(cls, means: NDArray[Any], factors: NDArray[Any]) -> ClassGaussians:
        """Of means (k, d) and factors of one rank (k, r, d), as a sketch holds them. Rows that are zero go."""
        rows = factors.astype(np.float64).reshape(-1, factors.shape[2])
        kept = rows.any(axis=1)
        return cls(means.astype(np.float64), rows[kept], kept.reshape(factors.shape[:2]).sum(axis=1))

    @classmethod
    def of_samples(cls, x: Floats, labels: NDArray[np.intp], weights: Floats) -> ClassGaussians:
        """Of all points x (n, d) of each class 0..k-1, exactly: the covariance of the class's weighted points.

        A class of n_c points gets min(n_c - 1, d) rows.
        """
        means, factors = [], []
        for c in range(int(labels.max()) + 1):
            members = labels == c
            share = weights[members] / weights[members].sum()
            mean = share @ x[members]
            means.append(mean)
            factors.append(_factor(x[members] - mean, share))
        ranks = np.array([len(factor) for factor in factors])
        return cls(np.array(means), np.concatenate(factors), ranks)

    @cached_property
    def traces(self) -> Floats:
        """tr Σ of every class, (k,)."""
        return np.array([float((factor**2).sum()) for factor in self])

    def __len__(self) -> int:
        return len(self.means)

    def __iter__(self) -> Iterator[Floats]:
        """The factor of every class, (r, d)."""
        yield from np.split(self.factors, np.cumsum(self.ranks)[:-1])

    def padded(self) -> Floats:
        """The factors with zero rows below, all of the largest rank, (k, r, d)."""
        within = np.arange(self.ranks.max(initial=0)) < self.ranks[:, None]  # (k, r)
        padded = np.zeros((*within.shape, self.means.shape[1]))
        padded[within] = self.factors
        return padded


def bures_wasserstein(a: ClassGaussians, b: ClassGaussians) -> Floats:
    """Squared W₂ between all classes of a and of b, (k, l), in float64.

    Relative error below 1e-8, as long as the covariance part is above 1e-7 of the traces or the means' part is; for
    classes nearer than that the absolute error stays at 1e-15 of the traces, and a covariance part below 1e-14 of
    them is zero.
    """
    if a.ranks.max(initial=0) > b.ranks.max(initial=0):  # eigenvalues cost the cube of the rank on the left
        return bures_wasserstein(b, a).T
    gaps = squared_distances(a.means, b.means)
    traces = a.traces[:, None] + b.traces
    bures = traces.copy()
    padded = b.padded()  # (l, r', d)
    flat = padded.reshape(-1, padded.shape[2]).T  # (d, l r')
    for c, factor in enumerate(a):  # a class at a time: all cross-Gram matrices together can fill a memory
        if factor.size and flat.size:
            cross = (factor @ flat).reshape(len(factor), *padded.shape[:2]).transpose(1, 0, 2)  # (l, r, r'): F F'ᵀ
            bures[c] -= 2.0 * _nuclear_norms(cross, gaps[c] + traces[c])
    bures[bures < _VANISHING * traces] = 0.0
    distances: Floats = gaps + bures
    return distances


def squared_distances(x: NDArray[Any], y: NDArray[Any]) -> Floats:
    """‖x_i - y_j‖², shape (n, m), in float64. Centred first, so that points far from the origin lose no digits."""
    centre = x.mean(axis=0, dtype=np.float64)
    x64, y64 = x - centre, y - centre
    squares: Floats = x64 @ (-2.0 * y64.T)
    squares += np.einsum("ij,ij->i", x64, x64)[:, None]
    squares += np.einsum("ij,ij->i", y64, y64)
    return np.maximum(squares, 0.0, out=squares)


def _nuclear_norms(cross: Floats, scale: Floats) -> Floats:
    """Sums of singular values of matrices (l, r, r'), exact enough for scale - 2 ‖M‖_* to keep `_PRECISION`.

    Eigenvalues of M Mᵀ take 0.6 of the time of singular values. Their error, some r ε σ₁², is nothing beside a large
    singular value but becomes up to √(r ε) σ₁ in a vanishing one; where that could show, singular values are computed.
    """
    squares = np.linalg.eigvalsh(cross @ cross.transpose(0, 2, 1)).clip(min=0.0)  # (l, r)
    values = np.sqrt(squares)
    norms: Floats = values.sum(axis=1)
    off = cross.shape[1] * _EPS * squares[:, -1:]
    errors = np.minimum(np.sqrt(off), off / np.maximum(values, 1e-300)).sum(axis=1)
    doubtful = 2.0 * errors > _PRECISION * (scale - 2.0 * norms)
    if doubtful.any():
        norms[doubtful] = np.linalg.svd(cross[doubtful], compute_uv=False).sum(axis=1)
    return norms


def _factor(centred: Floats, share: Floats) -> Floats:
    """F (r, d) with FᵀF = Σ_i w_i x_i x_iᵀ, for points that their weights w balance: Σ_i w_i x_i = 0.

    Rows √w_i x_i would do, but √w is in their null space: M would have a singular value of zero, which is the one that
    M Mᵀ blurs. So a Householder reflection turns √w to the first axis, and the first row, which is zero then, goes.
    """
    rows = np.sqrt(share)[:, None] * centred
    axis = np.sqrt(share)
    axis[0] += 1.0  # √w has length one: √w + e₁ is the mirror's normal, and has the length √(2 axis[0])
    reflected: Floats = (rows - np.outer(axis, (axis @ rows) / axis[0]))[1:]
    if len(reflected) > reflected.shape[1]:
        reflected = np.asarray(np.linalg.qr(reflected, mode="r"))  # FᵀF = RᵀR
    return reflected
