"""Encoders: how well does √OTDD between sketches predict what a source is worth?

Measured against real transfers where these have left their results: `python -m benchmarks selection --json
results/selection.json` (12 targets searched from every source; another file by the environment variable
SELECTION_JSON) and `python -m benchmarks starts --json results/starts.json` (all other tasks before any step). See
`encoder_transfer.py` for the figures.

Two proxies need no transfer: whether a task's nearest neighbour is of its own domain, and whether the nearest earlier
step of a stream is the one that its author expects.

The generalist is trained here, on shipped tasks. None is a target of selection; two, print_hebrew and optdigits, are
among the others, which can only flatter it.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness.places import RESULTS, SHIPPED
from benchmarks.harness.report import Check, Options, Section, print_table
from benchmarks.similarity.encoder_transfer import Figures, SketchCache, evaluate
from benchmarks.similarity.other_encoders import RandomConvEncoder, RawEncoder, ScatteringEncoder
from supernet_registry.search.similarity import Encoder, Sketch, load_encoder, make_sketch, otdd
from supernet_registry.search.tasks import ImageDataset, TaskDerivation, dataset_from_arrays, derive, load_dataset

TRANSFERS = {
    "final gain": Path(os.environ.get("SELECTION_JSON", RESULTS / "selection.json")),
    "gain before any step": RESULTS / "starts.json",
}
GENERALIST = ("print_latin_lower", "print_latin_upper_wild", "print_hebrew", "fashion_tops", "texture3", "optdigits")
GENERALIST_IMAGES = 300  # training images of each of its tasks, about
GENERALIST_EPOCHS = 10
GENERALIST_SIDE = 32

DistanceMatrix = NDArray[np.float64]


def run(options: Options) -> Section:
    """Proxies always, transfers where there are any."""
    encoders = all_encoders(options)
    proxies = {encoder.name: proxy_figures(encoder, options) for encoder in encoders}
    print_proxies(proxies)
    figures: Figures = {"proxies": proxies}
    checks = [Check("encoders compared", len(encoders), "≥ 4", "", len(encoders) >= 4)]
    for title, path in TRANSFERS.items():
        if path.is_file() and not options.quick:
            transfer = evaluate(json.loads(path.read_text())["figures"], options.tasks, encoders, title=title)
            figures[title] = transfer.figures
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
    from supernet_registry.search.recipe import Recipe
    from supernet_registry.search.runs.pipeline import run_pipeline
    from supernet_registry.search.spaces import make_space

    names, images, epochs = (GENERALIST[-2:], 40, 1) if quick else (GENERALIST, GENERALIST_IMAGES, GENERALIST_EPOCHS)
    space = make_space()
    recipe = replace(Recipe.for_space(space).override(epochs=epochs), child_epochs=0)
    dataset = side_by_side([few_images(load_dataset(SHIPPED / f"{name}.npz"), images) for name in names])
    described = json.dumps([dataset.digest, space.id, asdict(recipe)], sort_keys=True)
    path = RESULTS / "encoders" / f"generalist-{hashlib.sha256(described.encode()).hexdigest()[:12]}.safetensors"
    if not path.exists():
        result = run_pipeline(dataset, space, recipe, device="cpu")
        print(f"generalist: {dataset.n_classes} classes, test accuracy {result.test_accuracy:.2f}", flush=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(result.weights)
    return path


def few_images(dataset: ImageDataset, images: int) -> ImageDataset:
    """About so many training images, a quarter as many for validation."""
    per_class = max(4, images // dataset.n_classes)
    return derive(dataset, TaskDerivation(n_train=per_class, n_val=max(2, per_class // 4)))


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
