"""Exact OTDD as it is served: all pairs of the benchmark tasks' sketches.

What each step takes, beside the plain way to do it (singular values, the network simplex on all arcs); how near the
lower bound comes, and how much time it saves in a re-rank of the 16 nearest by embedding when the 5 nearest are wanted;
and the sampling floor, the distance of two samples of one task.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import ot
from numpy.typing import NDArray

from benchmarks.harness.report import Check, Section, print_table
from supernet_registry.search.similarity import (
    DEFAULT_SKETCH_SIZE,
    Encoder,
    Sketch,
    TransportProblem,
    embed,
    make_sketch,
    otdd,
    sampling_floor,
)
from supernet_registry.search.similarity.class_gaussians import ClassGaussians, bures_wasserstein
from supernet_registry.search.similarity.coupling import exact_plan
from supernet_registry.search.tasks import ImageDataset

Floats = NDArray[np.float64]

SHORTLIST, WANTED = 16, 5
FLOOR_SIZES = (64, 128, 256, 512)
STEPS = ("label distances", "by singular values", "plan", "by simplex on all arcs")


def as_served(tasks: Mapping[str, ImageDataset], encoder: Encoder) -> Section:
    """Times, bounds, floors."""
    served = every_pair([make_sketch(task, encoder) for task in tasks.values()])
    print_served(served)
    floors = sampling_floors(tasks, encoder, served["median_nearest"])
    return Section(served | {"floors": floors}, served_checks(served))


def every_pair(sketches: Sequence[Sketch]) -> dict[str, Any]:
    """Times a pair, precision, bounds."""
    count = len(sketches)
    distances, bounds = np.zeros((count, count)), np.zeros((count, count))
    bound_s, solve_s = np.zeros((count, count)), np.zeros((count, count))
    steps: dict[str, list[float]] = {name: [] for name in STEPS}
    label_error, plan_error = 0.0, 0.0
    otdd(sketches[0], sketches[1])  # imports
    for i, j in itertools.combinations(range(count), 2):
        problem = TransportProblem(sketches[i], sketches[j])
        bounds[i, j] = bounds[j, i] = timed(problem.lower_bound, bound_s, i, j)
        distances[i, j] = distances[j, i] = timed(problem.solve, solve_s, i, j).distance
        if (i + j) % 5 == 0:
            errors = step_by_step(sketches[i], sketches[j], steps)
            label_error, plan_error = max(label_error, errors[0]), max(plan_error, errors[1])
    ratios = bounds[np.triu_indices(count, 1)] / distances[np.triu_indices(count, 1)]
    return {
        "pairs": count * (count - 1) // 2,
        "steps_ms": {name: 1e3 * float(np.mean(values)) for name, values in steps.items()},
        "label_error": label_error,
        "plan_error": plan_error,
        "bound_ms": 1e3 * float(bound_s[np.triu_indices(count, 1)].mean()),
        "solve_ms": 1e3 * float(solve_s[np.triu_indices(count, 1)].mean()),
        "bound_over_distance": {
            "mean": float(ratios.mean()),
            "least": float(ratios.min()),
            "most": float(ratios.max()),
        },
        "rerank": rerank(sketches, distances, bounds, bound_s, solve_s),
        "median_nearest": float(np.median(np.where(np.eye(count, dtype=bool), np.inf, distances).min(axis=1))),
    }


def step_by_step(a: Sketch, b: Sketch, steps: dict[str, list[float]]) -> tuple[float, float]:
    """Add what each step takes, ours and the plain way in turn; (label, plan) relative errors."""
    first, second = (ClassGaussians.of_factors(s.class_means, s.class_factors) for s in (a, b))
    labels = otdd(a, b).label_distances
    x, x2 = a.features.astype(np.float64), b.features.astype(np.float64)
    cost = ((x[:, None] - x2[None]) ** 2).sum(axis=2) + labels[a.labels[:, None], b.labels]
    cost /= cost.max()
    ways: dict[str, Callable[[], Any]] = {
        "label distances": lambda: bures_wasserstein(first, second),
        "by singular values": lambda: label_distances_by_singular_values(first, second),
        "plan": lambda: exact_plan(a.weights, b.weights, cost)[0],
        "by simplex on all arcs": lambda: ot.emd(a.weights, b.weights, cost, numItermax=10_000_000),
    }
    for name, seconds in best_cpu_seconds(ways, 1).items():
        steps[name].append(seconds)
    plan_error = float((ways["plan"]() * cost).sum() / (ways["by simplex on all arcs"]() * cost).sum() - 1.0)
    return largest_relative_error(labels, ways["by singular values"]()), abs(plan_error)


def label_distances_by_singular_values(a: ClassGaussians, b: ClassGaussians) -> Floats:
    """The plain way, in batches as well."""
    padded = b.padded()
    flat = padded.reshape(-1, padded.shape[2]).T
    nuclear = np.empty((len(a), len(b)))
    for c, factor in enumerate(a):
        cross = (factor @ flat).reshape(len(factor), *padded.shape[:2]).transpose(1, 0, 2)
        nuclear[c] = np.linalg.svd(cross, compute_uv=False).sum(axis=1)
    gaps = ((a.means[:, None] - b.means[None]) ** 2).sum(axis=2)
    distances: Floats = gaps + a.traces[:, None] + b.traces - 2.0 * nuclear
    return distances


def rerank(
    sketches: Sequence[Sketch], distances: Floats, bounds: Floats, bound_s: Floats, solve_s: Floats
) -> dict[str, float]:
    """The shortlist by embedding, solved in its order; a candidate whose bound is above the 5th best is skipped."""
    vectors = np.array([embed(sketch) for sketch in sketches])
    skipped, spent, plain, possible = [], 0.0, 0.0, []
    for target in range(len(sketches)):
        order = np.argsort(np.linalg.norm(vectors - vectors[target], axis=1), kind="stable")
        shortlist = order[order != target][:SHORTLIST]
        found: list[float] = []
        skips = 0
        for source in shortlist:
            pair = min(source, target), max(source, target)
            plain += solve_s[pair]
            if len(found) >= WANTED:
                spent += bound_s[pair]
                if bounds[pair] > sorted(found)[WANTED - 1]:
                    skips += 1
                    continue
            spent += solve_s[pair]
            found.append(float(distances[pair]))
        nearest = np.sort(distances[target][shortlist])
        assert np.array_equal(np.sort(found)[:WANTED], nearest[:WANTED]), "a bound cost a source"
        skipped.append(skips / len(shortlist))
        possible.append(max(0, len(shortlist) - WANTED) / len(shortlist))
    return {
        "skipped": float(np.mean(skipped)),
        "at_most": float(np.mean(possible)),
        "time_saved": 1.0 - spent / plain,
        "ms_a_query": 1e3 * spent / len(sketches),
    }


def print_served(served: dict[str, Any]) -> None:
    """Steps, bound, re-rank."""
    steps = served["steps_ms"]
    print_table(
        f"as served, sketches of {DEFAULT_SKETCH_SIZE} points: CPU ms a pair, {served['pairs']} pairs",
        ["step", "ours", "the plain way", "ratio"],
        [
            [name, f"{steps[name]:.1f}", f"{steps[plain]:.1f}", f"{steps[plain] / steps[name]:.2f}"]
            for name, plain in (STEPS[:2], STEPS[2:])
        ]
        + [["lower bound", f"{served['bound_ms']:.1f}", "", ""], ["distance", f"{served['solve_ms']:.1f}", "", ""]],
    )
    ratio, saved = served["bound_over_distance"], served["rerank"]
    print(f"bound / distance: mean {ratio['mean']:.3f}, least {ratio['least']:.3f}, most {ratio['most']:.3f}")
    print(
        f"re-rank of {SHORTLIST} for {WANTED}: {saved['skipped']:.0%} skipped (at most {saved['at_most']:.0%}), "
        f"{saved['time_saved']:.0%} of the time saved, {saved['ms_a_query']:.0f} ms a query"
    )


def served_checks(served: dict[str, Any]) -> list[Check]:
    """What must hold of every pair."""
    label_error, plan_error = served["label_error"], served["plan_error"]
    most = served["bound_over_distance"]["most"]
    return [
        Check("label distance error, sketches", label_error, "≤ 1e-6", "relative", label_error <= 1e-6),
        Check("plan error, sketches", plan_error, "≤ 1e-9", "relative", plan_error <= 1e-9),
        Check("largest lower bound over distance", most, "≤ 1", "", most <= 1.0),
    ]


def sampling_floors(
    tasks: Mapping[str, ImageDataset], encoder: Encoder, median_nearest: float
) -> list[dict[str, float]]:
    """The distance of two disjoint samples of a task, over the tasks that have enough images."""
    features = {name: (encoder.encode(task.train.images), task.train.labels) for name, task in tasks.items()}
    rows = []
    for size in FLOOR_SIZES:
        enough = [(x, y) for x, y in features.values() if len(y) >= 2 * size and np.bincount(y).min() >= 2]
        if not enough:
            continue
        floors = [sampling_floor(x, y, size=size) for x, y in enough]
        rows.append({"size": size, "tasks": len(enough), "median": float(np.median(floors)), "most": max(floors)})
    print_table(
        f"sampling floor (median distance to the nearest other task: {median_nearest:.3f})",
        ["points", "tasks", "median", "most"],
        [[str(row["size"]), str(row["tasks"]), f"{row['median']:.3f}", f"{row['most']:.3f}"] for row in rows],
    )
    return rows


# Measuring


def best_cpu_seconds(ways: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Least CPU seconds of each. They take turns, so that a busy moment of the machine hits all, and what takes less
    than a second runs three times a turn: a long run averages such moments out by itself."""
    best = dict.fromkeys(ways, math.inf)
    for _ in range(rounds):
        for name, way in ways.items():
            for _ in range(3):
                start = time.process_time()
                way()
                best[name] = min(best[name], time.process_time() - start)
                if best[name] > 1.0:
                    break
    return best


def timed(way: Callable[[], Any], seconds: Floats, i: int, j: int) -> Any:
    """The result, with the CPU seconds written down."""
    start = time.process_time()
    result = way()
    seconds[i, j] = time.process_time() - start
    return result


def largest_relative_error(values: Floats, exact: Floats) -> float:
    """Of any entry."""
    return float(np.abs(values / exact - 1.0).max())
