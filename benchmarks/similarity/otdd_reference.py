"""What the authors' own OTDD code computes, re-created to be timed beside ours in one process.

Written from the papers, and checked by reading microsoft/otdd (commit 72f1b22), of which no line is copied:

- Alvarez-Melis & Fusi, NeurIPS 2020 (arXiv:2002.02923), section 4 and appendix: Gaussian classes, label distances in
  closed form with covariances of n_c - 1 degrees of freedom, one matrix square root a class and one a pair of classes;
  in float32, by eigendecomposition that drops eigenvalues below d ε λ_max (the default), or by 20 Newton-Schulz
  iterations (the option "approximate").
- Its default call debiases, for which the label distances within both datasets are computed too: with 10 classes a
  side 45 + 45 + 100 = 190 pairs.
- Feydy et al., AISTATS 2019 (arXiv:1810.08278), and Feydy's thesis (2020), section 3.3: the debiased Sinkhorn
  divergence as GeomLoss computes it, symmetric averaged updates in the log domain with ε falling from the squared
  diameter to blur² by scaling² an iteration; here blur² = 0.1, scaling 0.5, cost ½ ‖x - x'‖² + ½ W².

Left out, in favour of the reference: its data loading and its two passes for the moments of a class. Its value is the
Sinkhorn divergence, about half of the squared distance, and not an OTDD to compare ours with; so there is a second
baseline, its label distances followed by the exact transport, whose value is.

Legend of shapes: n, m points; d feature dimension; k, l classes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import ot
import torch
from torch import Tensor

__all__ = ["Samples", "default_call", "label_distances_in_a_loop", "loop_and_exact_transport"]

SquareRoot = Callable[[Tensor], Tensor]

BLUR_SQUARED = 0.1
SCALING = 0.5
NEWTON_SCHULZ_ITERATIONS = 20


@dataclass(frozen=True, eq=False)
class Samples:
    """A labelled sample in float32."""

    x: Tensor  # (n, d)
    y: Tensor  # (n,), int64, 0..k-1

    def moments(self) -> tuple[Tensor, Tensor]:
        """Means (k, d) and covariances (k, d, d) of the classes."""
        classes = [self.x[self.y == c] for c in range(int(self.y.max()) + 1)]
        return torch.stack([x.mean(dim=0) for x in classes]), torch.stack([torch.cov(x.T) for x in classes])


def spectral_square_root(matrix: Tensor) -> Tensor:
    """By eigendecomposition; eigenvalues that could be rounding count as zero."""
    values, vectors = torch.linalg.eigh(matrix)
    smallest = values.max() * len(values) * torch.finfo(values.dtype).eps
    roots = torch.where(values > smallest, values, torch.zeros_like(values)).sqrt()
    result: Tensor = vectors @ torch.diag(roots) @ vectors.T
    return result


def newton_schulz_square_root(matrix: Tensor) -> Tensor:
    """By a fixed number of coupled Newton-Schulz iterations on the matrix divided by its Frobenius norm."""
    norm = matrix.norm()
    identity = torch.eye(len(matrix))
    root, inverse = matrix / norm, identity
    for _ in range(NEWTON_SCHULZ_ITERATIONS):
        step = 1.5 * identity - 0.5 * inverse @ root
        root, inverse = root @ step, step @ inverse
    result: Tensor = root * norm.sqrt()
    return result


def default_call(a: Samples, b: Samples, square_root: SquareRoot = spectral_square_root) -> float:
    """The debiased value with all label distances that it needs."""
    (means_a, covs_a), (means_b, covs_b) = a.moments(), b.moments()
    roots_a, roots_b = [square_root(c) for c in covs_a], [square_root(c) for c in covs_b]
    k, total = len(means_a), len(means_a) + len(means_b)
    between = torch.zeros(total, total)
    between[:k, :k] = _within(means_a, covs_a, roots_a, square_root)
    between[k:, k:] = _within(means_b, covs_b, roots_b, square_root)
    between[:k, k:] = _across(means_a, covs_a, roots_a, means_b, covs_b, square_root)
    between[k:, :k] = between[:k, k:].T
    second = Samples(b.x, b.y + k)
    costs = [_halved_cost(s, t, between) for s, t in ((a, a), (second, second), (a, second))]
    return _sinkhorn_divergence(*costs, diameter=_diameter(a, second))


def loop_and_exact_transport(a: Samples, b: Samples, square_root: SquareRoot = spectral_square_root) -> float:
    """√ of the least cost: label distances in a loop, then the network simplex."""
    between = label_distances_in_a_loop(a, b, square_root)
    cost = 2.0 * _halved_cost(a, b, between).double().numpy()
    n, m = cost.shape
    return math.sqrt(ot.emd2(np.full(n, 1.0 / n), np.full(m, 1.0 / m), cost, numItermax=10_000_000))


def label_distances_in_a_loop(a: Samples, b: Samples, square_root: SquareRoot = spectral_square_root) -> Tensor:
    """Squared W₂ between all classes of a and of b, (k, l)."""
    (means_a, covs_a), (means_b, covs_b) = a.moments(), b.moments()
    return _across(means_a, covs_a, [square_root(c) for c in covs_a], means_b, covs_b, square_root)


def _within(means: Tensor, covs: Tensor, roots: list[Tensor], square_root: SquareRoot) -> Tensor:
    distances = torch.zeros(len(means), len(means))
    for i, j in itertools.combinations(range(len(means)), 2):
        distances[i, j] = distances[j, i] = _gaussians(means[i], covs[i], roots[i], means[j], covs[j], square_root)
    return distances


def _across(
    means_a: Tensor, covs_a: Tensor, roots_a: list[Tensor], means_b: Tensor, covs_b: Tensor, square_root: SquareRoot
) -> Tensor:
    distances = torch.zeros(len(means_a), len(means_b))
    for i, j in itertools.product(range(len(means_a)), range(len(means_b))):
        distances[i, j] = _gaussians(means_a[i], covs_a[i], roots_a[i], means_b[j], covs_b[j], square_root)
    return distances


def _gaussians(mean: Tensor, cov: Tensor, root: Tensor, mean2: Tensor, cov2: Tensor, square_root: SquareRoot) -> Tensor:
    cross = square_root(root @ cov2 @ root)
    bures = (cov + cov2 - 2.0 * cross).diagonal().sum().relu()
    return ((mean - mean2) ** 2).sum() + bures


def _halved_cost(a: Samples, b: Samples, between_labels: Tensor) -> Tensor:
    """½ ‖x - x'‖² + ½ W², (n, m)."""
    squares = (a.x**2).sum(dim=1)[:, None] + (b.x**2).sum(dim=1) - 2.0 * (a.x @ b.x.T)
    pairs = between_labels.shape[1] * a.y[:, None] + b.y
    return squares / 2 + between_labels.flatten()[pairs.flatten()].reshape(pairs.shape) / 2


def _diameter(a: Samples, b: Samples) -> float:
    """Diagonal of the box around all points; the label counts as a coordinate there."""
    points = torch.cat([torch.cat([s.x, s.y[:, None].float()], dim=1) for s in (a, b)])
    return float((points.max(dim=0).values - points.min(dim=0).values).norm())


def _sinkhorn_divergence(cost_aa: Tensor, cost_bb: Tensor, cost_ab: Tensor, *, diameter: float) -> float:
    """OT_ε(a, b) - ½ OT_ε(a, a) - ½ OT_ε(b, b), of equal weights."""
    log_a = torch.full((len(cost_aa),), -math.log(len(cost_aa)))
    log_b = torch.full((len(cost_bb),), -math.log(len(cost_bb)))

    def softmin(epsilon: float, cost: Tensor, log_weights: Tensor) -> Tensor:
        return -epsilon * torch.logsumexp(log_weights[None, :] - cost / epsilon, dim=1)

    def step(epsilon: float, f: Tensor, g: Tensor, f_aa: Tensor, g_bb: Tensor) -> tuple[Tensor, ...]:
        return (
            softmin(epsilon, cost_ab, log_b + g / epsilon),
            softmin(epsilon, cost_ab.T, log_a + f / epsilon),
            softmin(epsilon, cost_aa, log_a + f_aa / epsilon),
            softmin(epsilon, cost_bb, log_b + g_bb / epsilon),
        )

    schedule = _epsilons(diameter)
    zeros_a, zeros_b = torch.zeros_like(log_a), torch.zeros_like(log_b)
    potentials = step(schedule[0], zeros_a, zeros_b, zeros_a, zeros_b)
    for epsilon in schedule:
        updated = step(epsilon, *potentials)
        potentials = tuple((old + new) / 2 for old, new in zip(potentials, updated, strict=True))
    f, g, f_aa, g_bb = step(schedule[-1], *potentials)
    return float((f - f_aa).mean() + (g - g_bb).mean())


def _epsilons(diameter: float) -> list[float]:
    falling = np.arange(2 * math.log(diameter), math.log(BLUR_SQUARED), 2 * math.log(SCALING))
    return [diameter**2, *np.exp(falling).tolist(), BLUR_SQUARED]
