"""Section `sketch`: what the served sketch loses against the exact distance of the whole training splits.

The reference is exact OTDD between up to 2,000 training images a task with full-rank class covariances from all of
them, as `otdd_samples` computes it; sketches of several sizes, and of moments only, are compared with it over pairs.
"""

from __future__ import annotations

import time
from itertools import combinations
from typing import Any

import numpy as np
from report import Check, Options, Section, print_table
from scipy.stats import spearmanr

from search.similarity import Sketch, load_encoder, make_sketch, otdd
from search.similarity.transport import otdd_samples
from search.tasks import ImageDataset, load_dataset

MOST_IMAGES = 2_000
TIE_BAND = 0.04
SERVED = "256"


def run(options: Options) -> Section:
    """Compare every size with the exact distance."""
    encoder = load_encoder()
    tasks = [load_dataset(path) for path in sorted(options.tasks.glob("*.npz"))[: 5 if options.quick else None]]
    exact = _matrix([_samples(task, encoder) for task in tasks], lambda a, b: otdd_samples(*a, *b).distance)
    settings: dict[str, dict[str, Any]] = {
        str(size): {"size": size} for size in ((256,) if options.quick else (64, 128, 256, 512))
    }
    settings["256, moments only"] = {"size": 256, "moments_only": True}
    rows = {name: _row(tasks, encoder, exact, given) for name, given in settings.items()}
    print_table(
        f"sketches against exact OTDD of whole splits, {len(tasks)} tasks",
        ["points", "Spearman", "same nearest", "mean error", "KiB", "ms a pair"],
        [
            [
                name,
                f"{row['spearman']:.4f}",
                f"{row['nearest']:.3f}",
                f"{100 * row['error']:.1f} %",
                f"{row['bytes'] / 1024:.0f}",
                f"{row['pair_ms']:.1f}",
            ]
            for name, row in rows.items()
        ],
    )
    served = rows[SERVED]
    checks = [
        Check("sketch: Spearman with exact OTDD", served["spearman"], "≥ 0.97", "", served["spearman"] >= 0.97),
        Check("sketch: same nearest outside ties", served["nearest"], "≥ 0.95", "", served["nearest"] >= 0.95),
    ]
    return Section({"tasks": [task.name for task in tasks], "settings": rows}, checks)


def _samples(task: ImageDataset, encoder: Any) -> tuple[Any, Any]:
    """Features (n, d) and labels (n,) of the training split, evenly thinned to 2,000."""
    count = len(task.train.labels)
    chosen = np.linspace(0, count - 1, min(count, MOST_IMAGES)).round().astype(int)
    return encoder.encode(task.train.images[chosen]).astype(np.float64), task.train.labels[chosen]


def _row(tasks: list[ImageDataset], encoder: Any, exact: Any, given: dict[str, Any]) -> dict[str, float]:
    sketches: list[Sketch] = [make_sketch(task, encoder, **given) for task in tasks]
    began = time.process_time()
    found = _matrix(sketches, lambda a, b: otdd(a, b).distance)
    seconds = time.process_time() - began
    upper = np.triu_indices(len(tasks), 1)
    return {
        "spearman": float(spearmanr(found[upper], exact[upper]).statistic),
        "nearest": _nearest_agreement(found, exact),
        "error": float(np.abs(found[upper] / exact[upper] - 1).mean()),
        "bytes": float(np.mean([len(sketch.to_bytes()) for sketch in sketches])),
        "pair_ms": 1e3 * seconds / len(upper[0]),
    }


def _matrix(items: list[Any], distance: Any) -> Any:
    """Distances (n, n), infinite on the diagonal."""
    result = np.full((len(items), len(items)), np.inf)
    for i, j in combinations(range(len(items)), 2):
        result[i, j] = result[j, i] = distance(items[i], items[j])
    return result


def _nearest_agreement(found: Any, exact: Any) -> float:
    """Share of tasks whose nearest by sketch is the exact nearest, or tied with it."""
    picked = exact[np.arange(len(exact)), found.argmin(axis=1)]
    return float((picked <= exact.min(axis=1) * (1.0 + TIE_BAND)).mean())
