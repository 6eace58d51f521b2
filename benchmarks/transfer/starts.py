"""What stored supernets know of a target before any step: many targets in little time.

    python -m benchmarks starts [--seeds 3] [--work DIR] [--json FILE]

The sources are those of `python -m benchmarks selection`, found in its work folder or searched here; the targets are
all shared tasks that no source was made from, with about 100 training images. Each source is transferred, gets
BatchNorm statistics and a prototype head on the target's images, and is scored on images that its head has not seen:
those of the training split by cross-validation, and the validation split. Its gain is that accuracy less that of a
fresh supernet treated alike. No search is run, so that this costs seconds a pair where selection costs minutes, and
says less: how good the features are, not how good they become.

The rows have the form of selection's matrix; section `encoders` of `similarity` reads them from results/starts.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmarks.harness.places import RESULTS
from benchmarks.harness.report import Options, Section, print_table
from benchmarks.selection.runs import TRANSFER, Step, World, run_source, search_recipe
from benchmarks.selection.selection import GENERALIST, SOURCES, TARGETS
from supernet_registry.search.networks.stored import load_weights
from supernet_registry.search.starts.setup import SearchSetup
from supernet_registry.search.training.data import load_data
from supernet_registry.search.training.devices import pick_device

TRAINING_IMAGES, VALIDATION_IMAGES = 100, 60  # of a target, about

Row = dict[str, Any]


def all_targets(folder: Path) -> dict[str, Step]:
    """The selection's own where it has them, else all classes with few images each."""
    # A source with random labels has learnt nothing of its pictures: they may come again.
    used = {step.task for step in SOURCES.values() if step.labels != "random"}
    index = json.loads((folder / "index.json").read_text())["tasks"]
    return {
        task["name"]: TARGETS.get(task["name"])
        or Step(
            task["name"], max(5, TRAINING_IMAGES // task["n_classes"]), max(4, VALIDATION_IMAGES // task["n_classes"])
        )
        for task in index
        if task["name"] not in used
    }


def load_sources(world: World, seed: int) -> dict[str, Mapping[str, Tensor]]:
    """Weights of every source but the generalist, searched if they are not there yet."""
    loaded: dict[str, Mapping[str, Tensor]] = {}
    for name in world.sources:
        run_source(world, name, seed)
        weights = (world.folder / f"source-{name}-{seed}.safetensors").read_bytes()
        loaded[name] = load_weights(weights, "supernet")[1]
    return loaded


def measure(world: World, target: str, step: Step, seed: int, sources: Mapping[str, Mapping[str, Tensor]]) -> list[Row]:
    """One target: a row for every source."""
    dataset = step.load(world.tasks, seed)
    data = load_data(dataset, world.space, pick_device("cpu"))
    setup = SearchSetup(world.space, data, world.recipe, seed, lambda: False)
    scratch = setup.prepare(None, "SCRATCH").evidence.hits.mean().item()
    rows = []
    for source, tensors in sources.items():
        accuracy = setup.prepare(tensors, TRANSFER).evidence.hits.mean().item()
        rows.append(
            {"target": target, "source": source, "seed": seed, "accuracy": accuracy, "gain": accuracy - scratch}
        )
    return rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The work folder is selection's."""
    parser.set_defaults(work=RESULTS / "selection")


def run(options: Options) -> Section:
    """Every target from every source; of a smoke profile two from two, searched for two epochs."""
    if not (options.tasks / "index.json").is_file():
        raise SystemExit("This needs the shared tasks with their index.json (--tasks DIR).")
    every, targets, recipe = SOURCES, all_targets(options.tasks), search_recipe(2 if options.quick else 0)
    if options.quick:
        every, targets = (dict(list(steps.items())[:2]) for steps in (every, targets))
    world = World(options.tasks, options.work, every, TARGETS, [] if options.quick else GENERALIST, recipe)
    rows: list[Row] = []
    for seed in options.seed_range:
        sources = load_sources(world, seed)
        for target, step in targets.items():
            rows += measure(world, target, step, seed, sources)
        print(f"seed {seed}: {len(targets)} targets, {len(sources)} sources", flush=True)
    print_table(
        "gain in points of accuracy before any step, mean over seeds",
        ["target", "best source", "its gain", "median gain", "worst gain"],
        [[target, *summary([row for row in rows if row["target"] == target])] for target in targets],
    )
    return Section({"matrix": rows, "tasks": {name: vars(step) for name, step in {**every, **targets}.items()}}, [])


def summary(rows: list[Row]) -> list[str]:
    """A line of the table, for the rows of one target."""
    gains = {
        source: 100 * statistics.fmean(row["gain"] for row in rows if row["source"] == source)
        for source in dict.fromkeys(row["source"] for row in rows)
    }
    best = max(gains, key=lambda source: gains[source])
    return [best, *(f"{value:+.1f}" for value in (gains[best], statistics.median(gains.values()), min(gains.values())))]
