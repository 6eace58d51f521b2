"""OTDD straight from its definition: matrix square roots for every pair of classes, a linear program for the plan."""

from __future__ import annotations

import numpy as np
from scipy.linalg import sqrtm
from scipy.optimize import linprog

__all__ = ["cost_matrix", "gaussian_distance", "otdd_value", "sample_gaussians"]


def gaussian_distance(mean: np.ndarray, cov: np.ndarray, mean2: np.ndarray, cov2: np.ndarray) -> float:
    """Squared W₂ of two Gaussians as textbooks write it."""
    # The square root of a singular matrix is what scipy does badly: lift both a little.
    lift = 1e-12 * np.eye(len(mean))
    root = sqrtm(cov + lift)
    cross = sqrtm(root @ (cov2 + lift) @ root)
    return float((mean - mean2) @ (mean - mean2) + np.trace(cov + cov2 - 2 * np.real(cross)))


def sample_gaussians(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Mean and covariance of the weighted points of every class."""
    found = []
    for c in range(y.max() + 1):
        points, share = x[y == c], weights[y == c] / weights[y == c].sum()
        mean = sum(w * point for w, point in zip(share, points, strict=True))
        cov = sum(w * np.outer(point - mean, point - mean) for w, point in zip(share, points, strict=True))
        found.append((mean, cov))
    return found


def cost_matrix(x: np.ndarray, y: np.ndarray, x2: np.ndarray, y2: np.ndarray, between_labels: np.ndarray) -> np.ndarray:
    """Ground cost, one pair of points at a time."""
    cost = np.empty((len(x), len(x2)))
    for i, (point, p) in enumerate(zip(x.astype(float), y, strict=True)):
        for j, (other, q) in enumerate(zip(x2.astype(float), y2, strict=True)):
            cost[i, j] = ((point - other) ** 2).sum() + between_labels[p, q]
    return cost


def otdd_value(cost: np.ndarray, p: np.ndarray, q: np.ndarray) -> float:
    """√ of the least cost over all couplings, as a linear program in n m variables."""
    n, m = cost.shape
    rows = np.kron(np.eye(n), np.ones(m))
    columns = np.kron(np.ones(n), np.eye(m))
    solution = linprog(cost.ravel(), A_eq=np.vstack([rows, columns])[:-1], b_eq=np.concatenate([p, q])[:-1])
    return float(np.sqrt(solution.fun))
