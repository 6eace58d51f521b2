"""The searches behind `python -m benchmarks selection`: sources; targets from scratch, from each source, and by
taste.

Each finished search is one small file in the work folder, so that hours of them survive a kill and are never repeated.
The folder's name holds a hash of everything that a result depends on: tasks, recipe, search space, and for the
searches by taste the taste's own code.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.harness.kept import once
from supernet_registry.clients.wire.resources import Dataset, Metrics, NearestSources, SpaceDescriptor, SupernetVersion
from supernet_registry.clients.work.candidates import choose_candidates
from supernet_registry.registry.sources.candidates import (
    LearntDataset,
    Measured,
    candidates_of,
    generalist_candidate,
    place,
)
from supernet_registry.search.networks.stored import load_weights
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.runs.generalist import pretrain_generalist
from supernet_registry.search.runs.pipeline import Candidate, Decision, Listener, run_pipeline
from supernet_registry.search.similarity import Sketch, load_encoder, make_sketch, otdd
from supernet_registry.search.spaces import SearchSpace, make_space
from supernet_registry.search.starts import taste as taste_module
from supernet_registry.search.starts.setup import SearchSetup
from supernet_registry.search.tasks import ImageDataset, TaskDerivation, derive, load_dataset
from supernet_registry.search.training.data import load_data
from supernet_registry.search.training.devices import pick_device
from supernet_registry.search.training.evaluation import calibrate, collect_logits, score_logits

__all__ = ["TRANSFER", "Step", "World", "run_source", "run_target", "search_recipe"]

TRANSFER = "WEIGHTS_AND_ALPHAS"


@dataclass(frozen=True)
class Step:
    """A task as `streams.json` writes it; the seed of a repetition is added to its own."""

    task: str
    n_train: int | None = None
    n_val: int | None = None
    seed: int = 0
    transform: str | None = None
    labels: str | None = None

    def load(self, tasks: Path, repetition: int) -> ImageDataset:
        """The images of one repetition."""
        derivation = TaskDerivation(
            n_train=self.n_train,
            n_val=self.n_val,
            seed=self.seed + repetition,
            transform=self.transform,  # type: ignore[arg-type]  # TaskDerivation itself checks the value
            labels=self.labels,  # type: ignore[arg-type]
        )
        return derive(load_dataset(tasks / f"{self.task}.npz"), derivation)


@dataclass(frozen=True)
class World:
    """What is searched, and where results are kept. Sent to worker processes."""

    tasks: Path
    work: Path
    sources: Mapping[str, Step]
    targets: Mapping[str, Step]
    generalist: Sequence[str]
    """Sources that the generalist is pretrained on, with a head for each."""
    recipe: Recipe

    @property
    def space(self) -> SearchSpace:
        """The compact default."""
        return make_space()

    @property
    def folder(self) -> Path:
        """Where results of exactly this world lie."""
        described = {
            "sources": {name: asdict(step) for name, step in self.sources.items()},
            "targets": {name: asdict(step) for name, step in self.targets.items()},
            "generalist": list(self.generalist),
            "recipe": asdict(self.recipe),
            "space": self.space.id,
        }
        digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
        return self.work / digest[:12]

    @property
    def source_names(self) -> list[str]:
        """All sources, the generalist last."""
        return [*self.sources, "generalist"] if self.generalist else list(self.sources)


def run_source(world: World, name: str, seed: int) -> dict[str, Any]:
    """Search one source; its figures. The weights lie beside them."""

    def search() -> dict[str, Any]:
        learnt = world.generalist if name == "generalist" else [name]
        datasets = [world.sources[source].load(world.tasks, seed) for source in learnt]
        if name == "generalist":
            result = pretrain_generalist(datasets, world.space, world.recipe, seed=seed).result
        else:
            result = run_pipeline(datasets[0], world.space, world.recipe, seed=seed)
        _weights_path(world, name, seed).write_bytes(result.weights)
        return {
            "val_accuracy": result.val_accuracy,
            "test_accuracy": result.test_accuracy,
            "train_count": sum(len(dataset.train) for dataset in datasets),
            "val_count": sum(len(dataset.val) for dataset in datasets),
            "classes": sum(dataset.n_classes for dataset in datasets),
            "steps": result.search_steps,
            "seconds": result.search_seconds,
        }

    return once(world.folder / f"source-{_stem(name)}-{seed}.json", search)


def run_target(world: World, name: str, seed: int, sources: Sequence[str]) -> dict[str, Any]:
    """One target: from scratch, from the nearest and each of `sources` (no gate, no taste), and the registry's way."""
    dataset = world.targets[name].load(world.tasks, seed)
    folder = world.folder
    distances = once(folder / f"distances-{name}-{seed}.json", lambda: _distances(world, dataset, seed))
    if world.generalist:
        distances["generalist"] = _generalist_distance([distances[source] for source in world.generalist])
    scratch = once(folder / f"scratch-{name}-{seed}.json", lambda: _trial(world, dataset, seed, None))
    nearest = min(world.sources, key=lambda source: distances[source]["ot_distance"])
    from_sources = {
        source: once(
            folder / f"pair-{name}-{_stem(source)}-{seed}.json",
            lambda source=source: _trial(world, dataset, seed, _weights_path(world, source, seed)),  # type: ignore[misc]
        )
        for source in dict.fromkeys([*sources, nearest])
    }
    code = hashlib.sha256(
        (inspect.getsource(taste_module) + inspect.getsource(choose_candidates)).encode()
    ).hexdigest()[:8]
    auto = once(folder / f"auto-{code}-{name}-{seed}.json", lambda: _auto(world, dataset, seed, distances))
    facts = {"train_count": len(dataset.train), "val_count": len(dataset.val), "classes": dataset.n_classes}
    return {
        "target": name,
        "seed": seed,
        **facts,
        "distances": distances,
        "scratch": scratch,
        "sources": from_sources,
        "auto": auto,
    }


def _weights_path(world: World, name: str, seed: int) -> Path:
    return world.folder / f"source-{_stem(name)}-{seed}.safetensors"


def _stem(source: str) -> str:
    """A source in names of files; an earlier generalist, all classes side by side, was another thing."""
    return "generalist-heads" if source == "generalist" else source


def _trial(world: World, dataset: ImageDataset, seed: int, weights: Path | None) -> dict[str, Any]:
    """The whole search from one source, or from scratch, as the pipeline does it when nothing is to be decided."""
    data = load_data(dataset, world.space, pick_device("cpu"))
    setup = SearchSetup(world.space, data, world.recipe, seed, lambda: False)
    scratch = begun = setup.prepare(None, "SCRATCH")
    if weights is not None:
        _, tensors = load_weights(weights.read_bytes(), "supernet")
        begun = setup.prepare(tensors, TRANSFER)
        setup.choose_schedule(begun, scratch)
    loop, start = begun.loop, begun.loop.best
    assert start is not None
    curve = [(0, start.accuracy)]
    while not loop.finished:
        epoch = loop.run_epoch()
        curve.append((epoch.steps, epoch.val_accuracy))
    best = loop.restore_best()
    calibrate(loop.network, data, world.recipe)
    test = score_logits(*collect_logits(loop.network, data, data.test, world.recipe))
    return {
        "zero_step_accuracy": start.accuracy,
        "zero_step_loss": start.loss,
        "held_out_accuracy": begun.evidence.hits.mean().item(),
        "held_out_loss": begun.evidence.losses.mean().item(),
        "evidence": {"losses": begun.evidence.losses.tolist(), "hits": begun.evidence.hits.tolist()},
        "val_accuracy": best.accuracy,
        "test_accuracy": test.accuracy,
        "test_loss": test.loss,
        "steps": loop.steps,
        "epochs_planned": loop.plan.epochs,
        "curve": curve,
    }


class _Decided(Listener):
    """Keeps the decision."""

    def __init__(self) -> None:
        self.decision = Decision("", "SCRATCH", "")

    def on_decision(self, d: Decision) -> None:
        self.decision = d


def _auto(world: World, dataset: ImageDataset, seed: int, distances: Mapping[str, Any]) -> dict[str, Any]:
    """The registry's own way: rank, gates, taste, search."""
    chosen = _ranked(world, distances, seed)
    by_version = {f"supernets/{name}/versions/1": name for name in world.source_names}
    candidates = [
        Candidate(
            c.version,
            c.ot_distance,
            _weights_path(world, by_version[c.version], seed).read_bytes(),
            origin=c.origin,
        )
        for c in choose_candidates(NearestSources(candidates=chosen), world.recipe.taste_candidates)
    ]
    heard = _Decided()
    result = run_pipeline(dataset, world.space, world.recipe, seed=seed, candidates=candidates, listener=heard)
    return {
        "source": by_version.get(heard.decision.source, ""),
        "reason": heard.decision.reason,
        "tastes": [{**asdict(t), "version": by_version.get(t.version, "")} for t in heard.decision.tastes],
        "val_accuracy": result.val_accuracy,
        "test_accuracy": result.test_accuracy,
        "search_steps": result.search_steps,
        "taste_steps": result.taste_steps,
        "search_seconds": result.search_seconds,
        "taste_seconds": result.taste_seconds,
        "ranking": [(by_version[c.version], c.eligible, [r.code for r in c.reasons]) for c in chosen],
    }


def _ranked(world: World, distances: Mapping[str, Any], seed: int) -> tuple[Any, ...]:
    """All sources as the server would rank them, the generalist beside them."""
    candidates = []
    for name in world.sources:
        measured = Measured(
            dataset=_dataset(world, name, seed),
            same_dataset=False,
            embedding_distance=0.0,
            ot_distance=distances[name]["ot_distance"],
            ot_converged=distances[name]["converged"],
            chance=distances[name]["chance"],
            moments_only=False,
            versions=[_version(world, name, seed)],
        )
        candidates += candidates_of(measured, world.space)
    ranked = place(candidates, tie_band=0.04)
    if not world.generalist:
        return ranked
    learnt = [
        LearntDataset(
            dataset=_dataset(world, name, seed),
            same_dataset=False,
            chance=distances[name]["chance"],
            moments_only=False,
            embedding_distance=None,
            ot_distance=distances[name]["ot_distance"],
            ot_converged=distances[name]["converged"],
        )
        for name in world.generalist
    ]
    return (*ranked, generalist_candidate(_version(world, "generalist", seed), learnt, world.space))


def _version(world: World, name: str, seed: int) -> SupernetVersion:
    facts = run_source(world, name, seed)
    return SupernetVersion(
        name=f"supernets/{name}/versions/1",
        metrics=Metrics(val_accuracy=facts["val_accuracy"], test_accuracy=facts["test_accuracy"]),
        search_space=SpaceDescriptor(**world.space.to_json() | {"operations": world.space.operations}),
    )


def _dataset(world: World, name: str, seed: int) -> Dataset:
    val_count = run_source(world, name, seed)["val_count"]
    return Dataset(name=f"datasets/{name}", display_name=name, val_count=val_count)


def _distances(world: World, dataset: ImageDataset, seed: int) -> dict[str, Any]:
    """√OTDD from the target to every source."""
    encoder = load_encoder()
    target = make_sketch(dataset, encoder)
    result = {}
    for name, step in world.sources.items():
        sketch: Sketch = make_sketch(step.load(world.tasks, seed), encoder)
        found = otdd(target, sketch)
        result[name] = {
            "ot_distance": found.distance,
            "converged": found.converged,
            "chance": float(sketch.class_counts.max() / sketch.class_counts.sum()),
        }
    return result


def _generalist_distance(learnt: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The least distance to any of its datasets, as the registry tells it; its chance is their mean."""
    nearest = min(learnt, key=lambda facts: float(facts["ot_distance"]))
    return {**nearest, "chance": fmean(facts["chance"] for facts in learnt)}


def search_recipe(epochs: int = 0) -> Recipe:
    """The default recipe without child networks: selection is judged by supernets."""
    recipe = Recipe.for_space(make_space())
    return replace(recipe.override(epochs=epochs) if epochs else recipe, child_epochs=0)
