"""What a child network should keep of a supernet that was searched from a source.

    python benchmarks/transfer/warm_children.py [--tasks DIR] [--seeds 3] [--jobs 2] [--quick] [--json FILE]

Each cell is a pair of near relatives of `transfer_choices.py` and a seed: a search from the source, a search from
scratch, and children that differ in one choice, all trained alike on both splits. They are judged on images of the
training split that were kept out of the draw, so that no test image is seen.
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import os
import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from benchmarks.harness.report import finish, print_table, with_error
from benchmarks.supernet.child_choices import SHIPPED
from benchmarks.transfer.choices import (
    RECIPE,
    RELATED,
    SHARED,
    SPACE,
    draw,
    find,
    finish_child,
    has,
    judge,
    run,
    search_source,
)
from benchmarks.transfer.warm_starts import perturb
from supernet_registry.search.children.child import inherit, make_child
from supernet_registry.search.networks.supernet import Network
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.starts.setup import SearchSetup
from supernet_registry.search.starts.warm_start import fit_head, soften_head
from supernet_registry.search.training.data import Data, load_data, make_generator

SCRATCH, DEFAULT = "scratch", "default"
NOISY = "wild"
Row = dict[str, Any]


@dataclass(frozen=True)
class Pair:
    """Two searched supernets of one target, and what their children are trained on."""

    scratch: Network
    warm: Network
    data: Data
    seed: int

    def child(self, weights: Network, architecture: Network, *, kept: float = 1.0, recipe: Recipe = RECIPE) -> float:
        """Held-out accuracy of a child that keeps a share of what it inherits; the rest is a fresh initialisation."""
        generator = make_generator(self.seed, "child-network")
        child = make_child(architecture, architecture.derive(), recipe, generator=generator)
        fresh = copy.deepcopy(child)
        inherit(child, weights.state_dict())
        perturb(child, fresh, kept)
        fit_head(child, self.data, recipe)
        soften_head(child, recipe.child_head_scale)
        return finish_child(child, self.data, self.seed, recipe)


SLOW = replace(RECIPE, child_learning_rate=0.4 * RECIPE.child_learning_rate)
ARMS: dict[str, Callable[[Pair], float]] = {
    SCRATCH: lambda pair: pair.child(pair.scratch, pair.scratch),
    DEFAULT: lambda pair: pair.child(pair.warm, pair.warm),
    "scratch's weights": lambda pair: pair.child(pair.scratch, pair.warm),
    "scratch's architecture": lambda pair: pair.child(pair.warm, pair.scratch),
    "nothing inherited": lambda pair: pair.child(pair.warm, pair.warm, kept=0.0),
    "shrunk to 0.5 and perturbed": lambda pair: pair.child(pair.warm, pair.warm, kept=0.5),
    "rate × 0.4": lambda pair: pair.child(pair.warm, pair.warm, recipe=SLOW),
}


def measure(folder: Path, job: tuple[tuple[str, str], int]) -> Row:
    """One pair at one seed."""
    torch.set_num_threads(1)
    (source, target), seed = job
    data = load_data(draw(find(folder, target), seed), SPACE, torch.device("cpu"))
    setup = SearchSetup(SPACE, data, RECIPE, seed, lambda: False)
    scratch = setup.prepare(None, "SCRATCH")
    warm = setup.prepare(search_source(folder, source, seed), "WEIGHTS_AND_ALPHAS")
    setup.choose_schedule(warm, scratch)
    for start in (scratch, warm):
        run(start.loop)
    pair = Pair(scratch.loop.network, warm.loop.network, data.joined(), seed)
    row: Row = {"source": source, "target": target, "seed": seed}
    row["supernets"] = [judge(network, data) for network in (pair.scratch, pair.warm)]
    return row | {arm: child(pair) for arm, child in ARMS.items()}


def gains(rows: list[Row], arm: str, base: str) -> str:
    """Points of one arm over another, paired, and the worst; nothing of an arm over itself."""
    points = [100 * (row[arm] - row[base]) for row in rows]
    return "" if arm == base else f"{with_error(points)} ({min(points):+.1f})"


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=Path, default=SHARED if SHARED.is_dir() else SHIPPED)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--quick", action="store_true", help="one pair, one seed")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    pairs = [pair for pair in RELATED if has(arguments.tasks, pair)][: 1 if arguments.quick else None]
    seeds = range(1 if arguments.quick else arguments.seeds)
    jobs = [(pair, seed) for seed in seeds for pair in pairs]
    rows: list[Row] = []
    with ProcessPoolExecutor(arguments.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        for row in pool.map(partial(measure, arguments.tasks), jobs):
            rows.append(row)
            print({name: f"{100 * value:.1f}" if isinstance(value, float) else value for name, value in row.items()})
    groups = {"all": rows, "clean": [row for row in rows if NOISY not in row["target"]]}
    for name, group in groups.items():
        if group:
            print_table(
                f"{name}: {len(group)} runs; points on held-out images (worst)",
                ["child", "accuracy", "over scratch's child", "over the default"],
                [
                    [
                        arm,
                        f"{100 * statistics.fmean(row[arm] for row in group):.1f}",
                        gains(group, arm, SCRATCH),
                        gains(group, arm, DEFAULT),
                    ]
                    for arm in ARMS
                ],
            )
    finish(
        "warm_children",
        rows,
        [],
        seeds=list(seeds),
        arguments={"pairs": pairs, "quick": arguments.quick},
        path=arguments.json,
    )


if __name__ == "__main__":
    main()
