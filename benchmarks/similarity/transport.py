"""Exact OTDD: side by side with the reference algorithm, and as it is served (`transport_as_served`).

Against the reference (`otdd_reference`): synthetic pairs of datasets, CPU seconds of one thread, best of a few runs
that take turns. Errors are against float64: label distances by scipy's `sqrtm`, the value by the network simplex on
all arcs.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness.report import Check, Options, Section, print_table
from benchmarks.similarity.transport_as_served import as_served, best_cpu_seconds, largest_relative_error
from supernet_registry.search.similarity import load_encoder, otdd_samples
from supernet_registry.search.tasks import load_dataset

Floats = NDArray[np.float64]

CLASSES = 10
POINTS = 1000
RANK = 20  # of the covariances, before noise
TARGETS = {512: 40.0, 64: 2.5}
NEWTON_SCHULZ_UP_TO = 512  # dimensions; beyond, a call takes minutes


def run(options: Options) -> Section:
    """Both parts."""
    dimensions = (64,) if options.quick else (64, 512, 784)
    points = 200 if options.quick else POINTS
    rows = [against_reference(d, points, rounds=1 if options.quick else 3) for d in dimensions]
    print_against_reference(rows)
    checks = reference_checks(rows)
    paths = sorted(options.tasks.glob("*.npz"))[:: 6 if options.quick else 1]
    served = as_served({path.stem: load_dataset(path) for path in paths}, load_encoder())
    return Section({"reference": [asdict(row) for row in rows], "served": served.figures}, checks + served.checks)


# Against the reference


@dataclass(frozen=True)
class Comparison:
    """One synthetic pair; seconds are CPU time of one thread, errors relative and at most."""

    dimension: int
    points: int
    ours_s: float
    default_call_s: float
    default_call_newton_schulz_s: float | None
    loop_s: float
    label_error: float
    value_error: float
    loop_label_error: float
    loop_value_error: float


def against_reference(d: int, n: int, *, rounds: int) -> Comparison:
    """Time and errors at one dimension."""
    os.environ.setdefault("POT_BACKEND_DISABLE_PYTORCH", "1")
    import torch

    from benchmarks.similarity.otdd_reference import (
        Samples,
        default_call,
        label_distances_in_a_loop,
        loop_and_exact_transport,
        newton_schulz_square_root,
    )

    torch.set_num_threads(1)
    (x, y), (x2, y2) = synthetic(0, n, d), synthetic(1, n, d)
    a, b = (Samples(torch.from_numpy(points), torch.from_numpy(labels)) for points, labels in ((x, y), (x2, y2)))
    otdd_samples(x, y, x2, y2)  # imports, threads
    seconds = best_cpu_seconds(
        {
            "ours": lambda: otdd_samples(x, y, x2, y2),
            "loop": lambda: loop_and_exact_transport(a, b),
            "default": lambda: default_call(a, b),
        },
        rounds,
    )
    if d <= NEWTON_SCHULZ_UP_TO:
        seconds |= best_cpu_seconds({"newton": lambda: default_call(a, b, newton_schulz_square_root)}, 1)
    ours = otdd_samples(x, y, x2, y2)
    exact_labels = label_distances_by_sqrtm(x, y, x2, y2, freedom=0)
    exact_value = value_of(x, y, x2, y2, exact_labels)
    unbiased_labels = label_distances_by_sqrtm(x, y, x2, y2, freedom=1)
    return Comparison(
        dimension=d,
        points=n,
        ours_s=seconds["ours"],
        default_call_s=seconds["default"],
        default_call_newton_schulz_s=seconds.get("newton"),
        loop_s=seconds["loop"],
        label_error=largest_relative_error(ours.label_distances, exact_labels),
        value_error=abs(ours.distance / exact_value - 1.0),
        loop_label_error=largest_relative_error(label_distances_in_a_loop(a, b).double().numpy(), unbiased_labels),
        loop_value_error=abs(loop_and_exact_transport(a, b) / value_of(x, y, x2, y2, unbiased_labels) - 1.0),
    )


def synthetic(seed: int, n: int, d: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """10 classes of known means, covariances of rank 20 and noise."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % CLASSES
    means = rng.normal(size=(CLASSES, d))
    factors = rng.normal(size=(CLASSES, RANK, d)) / np.sqrt(RANK)
    drawn = np.einsum("nr,nrd->nd", rng.normal(size=(n, RANK)), factors[labels])
    return (means[labels] + drawn + 0.1 * rng.normal(size=(n, d))).astype(np.float32), labels


def label_distances_by_sqrtm(
    x: NDArray[Any], y: NDArray[Any], x2: NDArray[Any], y2: NDArray[Any], *, freedom: int
) -> Floats:
    """The definition in float64. Where a covariance is singular, `sqrtm` works on its range, which it needs."""
    from scipy.linalg import sqrtm

    moments = [
        [(xs[ys == c].mean(axis=0), np.cov(xs[ys == c].T, ddof=freedom)) for c in range(CLASSES)]
        for xs, ys in ((x.astype(np.float64), y), (x2.astype(np.float64), y2))
    ]
    distances = np.empty((CLASSES, CLASSES))
    for i, (mean, cov) in enumerate(moments[0]):
        values, vectors = np.linalg.eigh(cov)
        inside = values > 1e-10 * values[-1]
        root = np.sqrt(values[inside])[:, None] * vectors[:, inside].T  # Σ^½ on its range, (r, d)
        for j, (mean2, cov2) in enumerate(moments[1]):
            product = root @ cov2 @ root.T
            cross = float(np.real(np.trace(sqrtm((product + product.T) / 2))))
            distances[i, j] = ((mean - mean2) ** 2).sum() + np.trace(cov) + np.trace(cov2) - 2 * cross
    return distances


def value_of(x: NDArray[Any], y: NDArray[Any], x2: NDArray[Any], y2: NDArray[Any], labels: Floats) -> float:
    """√ of the least cost, by the network simplex on all arcs."""
    import ot

    x2 = x2.astype(np.float64)
    cost = np.array([((row - x2) ** 2).sum(axis=1) for row in x.astype(np.float64)])
    cost += labels[y[:, None], y2]
    p, q = np.full(len(x), 1 / len(x)), np.full(len(x2), 1 / len(x2))
    return math.sqrt(ot.emd2(p, q, cost / cost.max(), numItermax=10_000_000) * cost.max())


def print_against_reference(rows: Sequence[Comparison]) -> None:
    """Seconds, ratios, errors."""
    print_table(
        f"exact OTDD, {CLASSES} classes, n = {rows[0].points}: CPU seconds, one thread",
        ["d", "ours", "default call", "ratio", "Newton-Schulz", "ratio", "loop + emd2", "ratio"],
        [
            [
                str(row.dimension),
                f"{row.ours_s:.3f}",
                *itertools.chain.from_iterable(
                    ("-", "-") if seconds is None else (f"{seconds:.2f}", f"{seconds / row.ours_s:.1f}")
                    for seconds in (row.default_call_s, row.default_call_newton_schulz_s, row.loop_s)
                ),
            ]
            for row in rows
        ],
    )
    print_table(
        "largest relative error against float64",
        ["d", "label distance", "value", "label distance, loop", "value, loop + emd2"],
        [
            [
                str(row.dimension),
                *(f"{e:.1e}" for e in (row.label_error, row.value_error, row.loop_label_error, row.loop_value_error)),
            ]
            for row in rows
        ],
    )


def reference_checks(rows: Sequence[Comparison]) -> list[Check]:
    """The numbers of the issue."""
    checks = []
    for row in rows:
        target = TARGETS.get(row.dimension)
        if target is not None:
            ratio = row.default_call_s / row.ours_s
            name = f"CPU ratio to the reference's default call, d={row.dimension}"
            checks.append(Check(name, ratio, f"≥ {target:g}", "x", ratio >= target))
    label_error, value_error = max(row.label_error for row in rows), max(row.value_error for row in rows)
    checks.append(Check("label distance error", label_error, "≤ 1e-6", "relative", label_error <= 1e-6))
    checks.append(Check("value error", value_error, "≤ 1e-5", "relative", value_error <= 1e-5))
    return checks
