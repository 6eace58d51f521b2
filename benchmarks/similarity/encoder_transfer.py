"""How well distances under an encoder predict what transfers have gained.

Distances are computed between the very datasets of the transfers. Sources with random labels or permuted pixels are
left out of the figures and told apart: distance is blind to what a source has learnt, so no encoder can be asked to
avoid them.

Three rows show what the figures can be: `source alone` ranks sources by their mean gain for the other targets, the same
for all targets; `another seed` ranks them by the gain that the other seeds measured; `by chance` draws one.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness.report import Check, Section, print_table
from supernet_registry.search.similarity import Encoder, Sketch, make_sketch, otdd
from supernet_registry.search.tasks import TaskDerivation, derive, load_dataset

__all__ = ["Figures", "SketchCache", "evaluate"]

RESAMPLES = 10_000
"""Of the targets, for the interval of a difference."""

Figures = dict[str, Any]


def evaluate(transfer: Mapping[str, Any], tasks: Path, encoders: Sequence[Encoder], *, title: str = "gain") -> Section:
    """Distances against measured gains, averaged over the seeds on which a source was tried.

    After a race (`selection.py --race`) a source far behind on the first seed has that one alone: good enough to say
    that it is far behind.

    Args:
        transfer: `matrix`, rows {target, source, seed, gain}, and `tasks`, name to step. Sources without a step (a
            generalist) are left out.
        tasks: folder of the tasks.
        encoders: the default first.
        title: what the gains are, for the tables.
    """
    steps: Mapping[str, Any] = transfer["tasks"]
    rows = [row for row in transfer["matrix"] if row["source"] in steps]
    sources = ordered(row["source"] for row in rows)
    honest = [name for name in sources if not is_poisoned(steps[name])]
    poisoned = [name for name in sources if is_poisoned(steps[name])]
    targets = ordered(row["target"] for row in rows)
    gain = mean_table(rows, targets, honest, "gain")
    results = {}
    for encoder in encoders:
        sketch = SketchCache(encoder, tasks)
        measured = [{**row, "distance": distance_of(sketch, steps, row)} for row in rows]
        near = mean_table(measured, targets, honest, "distance")
        results[encoder.name] = {
            **scores(-near, gain),
            "nearest": [honest[int(d.argmin())] for d in near],
            "poisoned_ranks": poisoned_ranks(near, mean_table(measured, targets, poisoned, "distance"), poisoned),
            "distances": near.tolist(),
        }
        print(f"{encoder.name}: rank correlation {np.mean(results[encoder.name]['rank_correlation']):.3f}", flush=True)
    default = results[encoders[0].name]
    for figures in results.values():
        figures["ahead_of_default"] = interval_of_difference(default, figures)
    references = {
        "source alone": scores(elsewhere(gain), gain),
        "another seed": between_seeds(rows, targets, honest),
        "by chance": scores_by_chance(gain),
    }
    print_transfer(title, results, references)
    return Section(
        {"targets": targets, "sources": honest, "gain": gain.tolist(), "references": references, **results},
        default_checks(title, results, default),
    )


def scores(predicted: NDArray[np.float64], gain: NDArray[np.float64]) -> Figures:
    """What ranking by `predicted` is worth, target by target; both (targets, sources)."""
    pairs = list(zip(predicted, gain, strict=True))
    return {
        "rank_correlation": [rank_correlation(p, g) for p, g in pairs],
        "regret": [100 * regret_of_best(p, g, 1) for p, g in pairs],
        "regret_top_3": [100 * regret_of_best(p, g, 3) for p, g in pairs],
    }


def elsewhere(gain: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean gain of each source over the *other* targets, (targets, sources)."""
    others: NDArray[np.float64] = (gain.sum(axis=0) - gain) / max(1, len(gain) - 1)
    return others


def between_seeds(rows: Sequence[Mapping[str, Any]], targets: Sequence[str], sources: Sequence[str]) -> Figures:
    """Each seed's gains predicted by the mean over the others; nothing with one seed, or where a race dropped some."""
    seeds = sorted({row["seed"] for row in rows})
    tried = {(row["target"], row["source"], row["seed"]) for row in rows}
    found: Figures = {}
    if len(seeds) < 2 or not tried.issuperset(itertools.product(targets, sources, seeds)):
        return found
    for seed in seeds:
        mine, others = ([row for row in rows if (row["seed"] == seed) == own] for own in (True, False))
        predicted, gain = (mean_table(part, targets, sources, "gain") for part in (others, mine))
        for key, values in scores(predicted, gain).items():
            found.setdefault(key, []).extend(values)
    return found


def scores_by_chance(gain: NDArray[np.float64]) -> Figures:
    """A source drawn at random."""
    return {"rank_correlation": [0.0], "regret": (100 * (gain.max(axis=1) - gain.mean(axis=1))).tolist()}


@dataclass
class SketchCache:
    """Sketches of derived tasks, written as `streams.json` writes them; each is made once."""

    encoder: Encoder
    tasks: Path

    def __post_init__(self) -> None:
        self._known: dict[str, Sketch] = {}

    def __call__(self, step: Mapping[str, Any], *, repetition: int = 0) -> Sketch:
        """The sketch of a step; a repetition adds its number to the step's seed."""
        fields = {name: step.get(name) for name in ("n_train", "n_val", "transform", "labels")}
        classes = tuple(step["classes"]) if step.get("classes") else None
        derivation = TaskDerivation(**fields, classes=classes, seed=step["seed"] + repetition)
        key = f"{step['task']} {derivation}"
        if key not in self._known:
            dataset = derive(load_dataset(self.tasks / f"{step['task']}.npz"), derivation)
            self._known[key] = make_sketch(dataset, self.encoder)
        return self._known[key]


def is_poisoned(step: Mapping[str, Any]) -> bool:
    """Nothing can be learnt from random labels, nothing of pictures from permuted pixels."""
    return bool(step["labels"] == "random" or step["transform"] == "permute_pixels")


def ordered(names: Iterable[str]) -> list[str]:
    """Each once, in order of first appearance."""
    return list(dict.fromkeys(names))


def distance_of(sketch: SketchCache, steps: Mapping[str, Any], row: Mapping[str, Any]) -> float:
    """√OTDD between the datasets of one run."""
    source, target = (sketch(steps[row[key]], repetition=row["seed"]) for key in ("source", "target"))
    return otdd(source, target).distance


def mean_table(
    rows: Sequence[Mapping[str, Any]], targets: Sequence[str], sources: Sequence[str], key: str
) -> NDArray[np.float64]:
    """(targets, sources): means over seeds."""
    values: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        values.setdefault((row["target"], row["source"]), []).append(row[key])
    return np.array([[statistics.fmean(values[target, source]) for source in sources] for target in targets])


def rank_correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Spearman's; 0 where one of the two is constant."""
    ranks = [mid_ranks(values) for values in (x, y)]
    a, b = (r - r.mean() for r in ranks)
    return float(a @ b / max(np.sqrt((a @ a) * (b @ b)), 1e-12))


def mid_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ties share the mean of their ranks."""
    below = (values[None, :] < values[:, None]).sum(axis=1)
    ranks: NDArray[np.float64] = below + 0.5 * (values[None, :] == values[:, None]).sum(axis=1)
    return ranks


def regret_of_best(predicted: NDArray[np.float64], gain: NDArray[np.float64], count: int) -> float:
    """What the best of the `count` first by prediction gains less than the best of all."""
    return float(gain.max() - gain[np.argsort(-predicted, kind="stable")[:count]].max())


def poisoned_ranks(
    honest: NDArray[np.float64], poisoned: NDArray[np.float64], names: Sequence[str]
) -> dict[str, float]:
    """Honest sources nearer than each poisoned one, mean over targets: 0 is always the nearest."""
    nearer = (honest[:, :, None] < poisoned[:, None, :]).sum(axis=1)
    return dict(zip(names, nearer.mean(axis=0).tolist(), strict=True))


def interval_of_difference(default: Figures, other: Figures) -> dict[str, tuple[float, float, float]]:
    """How much better than the default: mean, and 95 % percentile bootstrap over targets."""
    result = {}
    for key, sign in (("rank_correlation", 1.0), ("regret", -1.0)):
        change = sign * (np.array(other[key]) - np.array(default[key]))
        draws = np.random.default_rng(0).integers(0, len(change), (RESAMPLES, len(change)))
        low, high = np.quantile(change[draws].mean(axis=1), [0.025, 0.975])
        result[key] = (float(change.mean()), float(low), float(high))
    return result


def print_transfer(title: str, results: Mapping[str, Figures], references: Mapping[str, Figures]) -> None:
    def mean(figures: Figures, key: str, digits: int) -> str:
        return f"{np.mean(figures[key]):.{digits}f}" if figures.get(key) else "–"

    def ahead(figures: Figures, key: str) -> str:
        if "ahead_of_default" not in figures:
            return ""
        change, low, high = figures["ahead_of_default"][key]
        return f"{change:+.2f} [{low:+.2f}, {high:+.2f}]"

    print_table(
        f"distance against {title}, honest sources, mean over targets",
        ["encoder", "Spearman", "regret", "top 3", "Spearman, ahead by", "regret, ahead by"],
        [
            [
                name,
                mean(f, "rank_correlation", 3),
                mean(f, "regret", 2),
                mean(f, "regret_top_3", 2),
                ahead(f, "rank_correlation"),
                ahead(f, "regret"),
            ]
            for name, f in {**results, **references}.items()
        ],
    )
    poisoned = list(next(iter(results.values()))["poisoned_ranks"])
    print_table(
        "honest sources nearer than a poisoned one, mean over targets",
        ["encoder", *poisoned],
        [[name, *(f"{f['poisoned_ranks'][p]:.1f}" for p in poisoned)] for name, f in results.items()],
    )


def default_checks(title: str, results: Mapping[str, Figures], default: Figures) -> list[Check]:
    """The default stays unless another is clearly better."""
    clearly = [name for name, f in results.items() if f["ahead_of_default"]["rank_correlation"][1] > 0]
    correlation = float(np.mean(default["rank_correlation"]))
    return [
        Check(f"encoders that predict {title} clearly better than the default", len(clearly), "0", "", not clearly),
        Check(f"rank correlation of the default's distance with {title}", correlation, "> 0", "", correlation > 0),
    ]
