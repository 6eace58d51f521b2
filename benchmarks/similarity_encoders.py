"""Encoders: how well does √OTDD between sketches predict what a source is worth?

Measured against real transfer runs where `benchmarks/selection.py --json results/selection.json` has left them (another
file by the environment variable SELECTION_JSON): for every target its sources, their gain in test accuracy over
scratch, paired by seed. Distances are computed between the very datasets of those runs. Sources with random labels or
permuted pixels are left out of the figures and told apart: distance sees no labels, so no encoder can avoid them.

Without those runs two proxies remain: whether a task's nearest neighbour is of its own domain, and whether the nearest
earlier step of a stream is the one that its author expects. Both are printed in any case.

The generalist is trained here, on shipped tasks that are no target of the transfer runs.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from encoders import RandomConvEncoder, RawEncoder, ScatteringEncoder
from numpy.typing import NDArray
from report import Check, Options, Section, print_table

from search.similarity import Encoder, Sketch, load_encoder, make_sketch, otdd
from search.tasks import Derivation, ImageDataset, dataset_from_arrays, derive, load_dataset

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "examples" / "tasks"
SELECTION = Path(os.environ.get("SELECTION_JSON", ROOT / "results" / "selection.json"))
GENERALIST = ("print_latin_lower", "print_latin_upper_wild", "print_hebrew", "fashion_tops", "texture3", "optdigits")
GENERALIST_IMAGES = 300  # training images of each of its tasks, about
GENERALIST_EPOCHS = 10
GENERALIST_SIDE = 32
RESAMPLES = 10_000
"""Of the targets, for the interval of a difference."""

DistanceMatrix = NDArray[np.float64]
Figures = dict[str, Any]


def run(options: Options) -> Section:
    """Proxies always, transfer runs where there are any."""
    encoders = all_encoders(options)
    proxies = {encoder.name: proxy_figures(encoder, options) for encoder in encoders}
    print_proxies(proxies)
    figures: Figures = {"proxies": proxies}
    checks = [Check("encoders compared", len(encoders), "≥ 4", "", len(encoders) >= 4)]
    if SELECTION.is_file() and not options.quick:
        transfer = evaluate(json.loads(SELECTION.read_text())["figures"], options.tasks, encoders)
        figures["transfer"] = transfer.figures
        checks += transfer.checks
    return Section(figures, checks)


def all_encoders(options: Options) -> list[Encoder]:
    """The default first."""
    weights = train_generalist(quick=options.quick)
    return [
        load_encoder("pixels"),
        RawEncoder(),
        ScatteringEncoder(),
        ScatteringEncoder(order_0=False),
        RandomConvEncoder(rectifier="abs"),
        RandomConvEncoder(rectifier="relu"),
        load_encoder("supernet", weights=weights),
    ]


# The generalist


def train_generalist(*, quick: bool) -> Path:
    """Weights of a supernet searched on all classes of its tasks side by side; kept from run to run."""
    from search.pipeline import run_pipeline
    from search.recipe import Recipe
    from search.spaces import make_space

    names, images, epochs = (GENERALIST[-2:], 40, 1) if quick else (GENERALIST, GENERALIST_IMAGES, GENERALIST_EPOCHS)
    space = make_space()
    recipe = replace(Recipe.for_space(space).override(epochs=epochs), child_epochs=0)
    dataset = side_by_side([few_images(load_dataset(SHIPPED / f"{name}.npz"), images) for name in names])
    described = json.dumps([dataset.digest, space.id, asdict(recipe)], sort_keys=True)
    path = (
        ROOT / "results" / "encoders" / f"generalist-{hashlib.sha256(described.encode()).hexdigest()[:12]}.safetensors"
    )
    if not path.exists():
        result = run_pipeline(dataset, space, recipe, device="cpu")
        print(f"generalist: {dataset.n_classes} classes, test accuracy {result.test_accuracy:.2f}", flush=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(result.weights)
    return path


def few_images(dataset: ImageDataset, images: int) -> ImageDataset:
    """About so many training images, a quarter as many for validation."""
    per_class = max(4, images // dataset.n_classes)
    return derive(dataset, Derivation(n_train=per_class, n_val=max(2, per_class // 4)))


def side_by_side(datasets: Sequence[ImageDataset]) -> ImageDataset:
    """One task of all classes: grey repeated to colour, edges repeated up to 32 pixels."""
    arrays: dict[str, list[NDArray[Any]]] = {}
    first_class = 0
    for dataset in datasets:
        for name, split in dataset.splits():
            margin = (GENERALIST_SIDE - split.images.shape[1]) // 2
            colour = np.broadcast_to(split.images, (*split.images.shape[:3], 3))
            padded = np.pad(colour, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode="edge")
            arrays.setdefault(f"x_{name}", []).append(padded)
            arrays.setdefault(f"y_{name}", []).append(split.labels + first_class)
        first_class += dataset.n_classes
    joined: dict[str, Any] = {key: np.concatenate(parts) for key, parts in arrays.items()}
    return dataset_from_arrays(**joined, name="generalist")


# Proxies


def proxy_figures(encoder: Encoder, options: Options) -> Figures:
    """Neighbours in the own domain, expectations of the streams, and the cost."""
    same, tasks, strangers = domain_neighbours(encoder, options)
    met, expected, missed = stream_expectations(encoder, options)
    figures = {
        "id": encoder.id,
        "dimension": encoder.dimension,
        "cpu_ms_per_1000_images": cpu_milliseconds(encoder, 64 if options.quick else 1000),
        "same_domain": same,
        "tasks": tasks,
        "strangers": strangers,
        "expectations_met": met,
        "expectations": expected,
        "missed": missed,
    }
    print(f"{encoder.name}: {same}/{tasks} neighbours, {met}/{expected} expectations", flush=True)
    return figures


def cpu_milliseconds(encoder: Encoder, images: int) -> float:
    """Of 1000 images of 28x28, grey, in this one process, measured on `images` of them; the median of three."""
    batch = np.resize(load_dataset(SHIPPED / "fashion_all10.npz").train.images, (images, 28, 28, 1))
    encoder.encode(batch[:64])
    times = []
    for _ in range(3):
        began = time.process_time()
        encoder.encode(batch)
        times.append(1e6 * (time.process_time() - began) / images)
    return statistics.median(times)


def domain_neighbours(encoder: Encoder, options: Options) -> tuple[int, int, list[str]]:
    """Tasks whose nearest other task is of their domain, all that have such a relative, and the wrong neighbours."""
    domains = task_domains(options.tasks)
    names = list(domains)[:: 6 if options.quick else 1]
    datasets = [load_dataset(options.tasks / f"{name}.npz") for name in names]
    if options.quick:
        datasets = [few_images(dataset, 60) for dataset in datasets]
    nearest = pairwise([make_sketch(dataset, encoder) for dataset in datasets]).argmin(axis=1)
    found = [(domains[name], domains[names[other]]) for name, other in zip(names, nearest, strict=True)]
    of_domain = Counter(domains[name] for name in names)
    strangers = [
        f"{names[i]} → {names[nearest[i]]}"
        for i, (own, other) in enumerate(found)
        if own != other and of_domain[own] > 1
    ]
    with_relatives = sum(of_domain[own] > 1 for own, _ in found)
    return with_relatives - len(strangers), with_relatives, strangers


def task_domains(tasks: Path) -> dict[str, str]:
    """As the index tells them, else the first part of the name."""
    index = tasks / "index.json"
    if index.is_file():
        return {task["name"]: task["domain"] for task in json.loads(index.read_text())["tasks"]}
    return {path.stem: path.stem.partition("_")[0] for path in sorted(tasks.glob("*.npz"))}


def pairwise(sketches: Sequence[Sketch]) -> DistanceMatrix:
    """√OTDD between all of them, infinite on the diagonal."""
    distances = np.full((len(sketches), len(sketches)), np.inf)
    for i, sketch in enumerate(sketches):
        for j in range(i):
            distances[i, j] = distances[j, i] = otdd(sketch, sketches[j]).distance
    return distances


def stream_expectations(encoder: Encoder, options: Options) -> tuple[int, int, list[str]]:
    """Expected sources that are the nearest earlier step, all expected sources, and those missed.

    Steps that lead back to the same first task count as one. The long stream has no expectations of this kind.
    """
    path = options.tasks / "streams.json"
    streams = json.loads(path.read_text()) if path.is_file() and not options.quick else {}
    sketch = SketchCache(encoder, options.tasks)
    met, missed = 0, []
    for stream, steps in streams.items():
        if stream == "s_long":
            continue
        origins: list[int] = []
        for number, step in enumerate(steps):
            expected = step["expect"]
            origins.append(number if expected is None else origins[expected])
            if expected is None:
                continue
            nearest = min(range(number), key=lambda i, s=steps, me=step: otdd(sketch(s[i]), sketch(me)).distance)  # type: ignore[misc]
            if origins[nearest] == origins[expected]:
                met += 1
            else:
                missed.append(f"{stream}: {step['task']} → {steps[nearest]['task']}")
    return met, met + len(missed), missed


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
        derivation = Derivation(**fields, classes=classes, seed=step["seed"] + repetition)
        key = f"{step['task']} {derivation}"
        if key not in self._known:
            dataset = derive(load_dataset(self.tasks / f"{step['task']}.npz"), derivation)
            self._known[key] = make_sketch(dataset, self.encoder)
        return self._known[key]


def print_proxies(proxies: Mapping[str, Figures]) -> None:
    print_table(
        "encoders without transfer runs",
        ["encoder", "dimension", "CPU ms / 1000 images", "nearest of own domain", "expected source nearest"],
        [
            [
                name,
                str(f["dimension"]),
                f"{f['cpu_ms_per_1000_images']:.0f}",
                f"{f['same_domain']} of {f['tasks']}",
                f"{f['expectations_met']} of {f['expectations']}",
            ]
            for name, f in proxies.items()
        ],
    )


# Transfer runs


def evaluate(transfer: Mapping[str, Any], tasks: Path, encoders: Sequence[Encoder]) -> Section:
    """Distances against measured gains, averaged over seeds.

    Args:
        transfer: `matrix`, rows {target, source, seed, gain, zero_step_gain}, and `tasks`, name to step. Sources
            without a step (a generalist) are left out.
        tasks: folder of the tasks.
        encoders: the default first.
    """
    steps: Mapping[str, Any] = transfer["tasks"]
    rows = [row for row in transfer["matrix"] if row["source"] in steps]
    honest = [name for name in ordered(row["source"] for row in rows) if not is_poisoned(steps[name])]
    poisoned = [name for name in ordered(row["source"] for row in rows) if is_poisoned(steps[name])]
    targets = ordered(row["target"] for row in rows)
    gain, zero_step = (mean_table(rows, targets, honest, key) for key in ("gain", "zero_step_gain"))
    results = {}
    for encoder in encoders:
        sketch = SketchCache(encoder, tasks)
        measured = [{**row, "distance": distance_of(sketch, steps, row)} for row in rows]
        near = mean_table(measured, targets, honest, "distance")
        results[encoder.name] = {
            "rank_correlation": [rank_correlation(-d, g) for d, g in zip(near, gain, strict=True)],
            "rank_correlation_zero_step": [rank_correlation(-d, g) for d, g in zip(near, zero_step, strict=True)],
            "regret": [100 * regret_of_nearest(d, g, 1) for d, g in zip(near, gain, strict=True)],
            "regret_top_3": [100 * regret_of_nearest(d, g, 3) for d, g in zip(near, gain, strict=True)],
            "nearest": [honest[int(d.argmin())] for d in near],
            "poisoned_ranks": poisoned_ranks(near, mean_table(measured, targets, poisoned, "distance"), poisoned),
            "distances": near.tolist(),
        }
        print(f"{encoder.name}: rank correlation {np.mean(results[encoder.name]['rank_correlation']):.3f}", flush=True)
    default = encoders[0].name
    for figures in results.values():
        figures["ahead_of_default"] = interval_of_difference(results[default], figures)
    by_chance = 100 * float((gain.max(axis=1) - gain.mean(axis=1)).mean())
    print_transfer(results, by_chance, len(honest))
    return Section(
        {"targets": targets, "sources": honest, "gain": gain.tolist(), "regret_by_chance": by_chance, **results},
        default_checks(results, default),
    )


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


def regret_of_nearest(distances: NDArray[np.float64], gain: NDArray[np.float64], count: int) -> float:
    """What the best of the `count` nearest sources gains less than the best of all."""
    return float(gain.max() - gain[np.argsort(distances, kind="stable")[:count]].max())


def poisoned_ranks(
    honest: NDArray[np.float64], poisoned: NDArray[np.float64], names: Sequence[str]
) -> dict[str, float]:
    """Honest sources nearer than each poisoned one, mean over targets: 0 is always the nearest."""
    nearer = (honest[:, :, None] < poisoned[:, None, :]).sum(axis=1)
    return dict(zip(names, nearer.mean(axis=0).tolist(), strict=True))


def interval_of_difference(default: Figures, other: Figures) -> dict[str, tuple[float, float, float]]:
    """How much better than the default: mean, and 95 % percentile bootstrap over targets."""
    better: Mapping[str, Callable[[Any, Any], Any]] = {
        "rank_correlation": lambda mine, its: mine - its,
        "rank_correlation_zero_step": lambda mine, its: mine - its,
        "regret": lambda mine, its: its - mine,
    }
    result = {}
    for key, by in better.items():
        change = by(np.array(other[key]), np.array(default[key]))
        draws = np.random.default_rng(0).integers(0, len(change), (RESAMPLES, len(change)))
        low, high = np.quantile(change[draws].mean(axis=1), [0.025, 0.975])
        result[key] = (float(change.mean()), float(low), float(high))
    return result


def print_transfer(results: Mapping[str, Figures], by_chance: float, sources: int) -> None:
    def spread(name: str, key: str) -> str:
        mean, low, high = results[name]["ahead_of_default"][key]
        return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"

    print_table(
        f"distance against measured gain, {sources} honest sources, mean over targets (a source by chance: "
        f"{by_chance:.1f} points of regret)",
        ["encoder", "Spearman", "of the start", "regret", "regret, top 3", "Spearman − default", "regret, default −"],
        [
            [
                name,
                f"{np.mean(f['rank_correlation']):.3f}",
                f"{np.mean(f['rank_correlation_zero_step']):.3f}",
                f"{np.mean(f['regret']):.2f}",
                f"{np.mean(f['regret_top_3']):.2f}",
                spread(name, "rank_correlation"),
                spread(name, "regret"),
            ]
            for name, f in results.items()
        ],
    )
    poisoned = list(next(iter(results.values()))["poisoned_ranks"])
    print_table(
        "honest sources nearer than a poisoned one, mean over targets",
        ["encoder", *poisoned],
        [[name, *(f"{f['poisoned_ranks'][p]:.1f}" for p in poisoned)] for name, f in results.items()],
    )


def default_checks(results: Mapping[str, Figures], default: str) -> list[Check]:
    """The default stays unless another is clearly better."""
    clearly = [name for name, f in results.items() if f["ahead_of_default"]["rank_correlation"][1] > 0]
    correlation = float(np.mean(results[default]["rank_correlation"]))
    return [
        Check("encoders that predict gain clearly better than the default", len(clearly), "0", "", not clearly),
        Check("the default's rank correlation with gain, mean over targets", correlation, "> 0", "", correlation > 0),
    ]
