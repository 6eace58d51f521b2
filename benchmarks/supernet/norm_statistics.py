"""BatchNorm statistics: the source's, a running average, or collected afresh.

    python benchmarks/supernet/norm_statistics.py [--tasks DIR] [--seeds 3] [--jobs 2] [--quick] [--json FILE]

The pairs of `transfer_choices.py`. Before any step: validation accuracy of the source's weights with a prototype head,
under the statistics that the source was stored with, and under those of the target's images. After the search, in its
last epoch: accuracy on images of the training split that were kept out of the draw, under PyTorch's running average
over the training batches (momentum 0.1) and under statistics collected afresh, as every evaluation here does it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor

from benchmarks.harness.report import finish, print_table, with_error
from benchmarks.supernet.child_choices import SHIPPED
from benchmarks.transfer.choices import RECIPE, RELATED, SHARED, SPACE, UNRELATED, draw, find, has, judge, search_source
from supernet_registry.search.networks.operations import BatchNorm
from supernet_registry.search.networks.supernet import Network
from supernet_registry.search.starts.prototypes import prototype_head
from supernet_registry.search.starts.setup import SearchSetup
from supernet_registry.search.training.data import Data, load_data
from supernet_registry.search.training.evaluation import collect_features, collect_logits, score_logits
from supernet_registry.search.training.loop import Loop

MOMENTUM_BATCHES = 9  # as if so many had been collected, the next one counts 0.1
FIGURES = {
    "start": ("source_statistics", "own_statistics"),
    "end": ("running_average", "collected_afresh"),
}
Row = dict[str, Any]


class RunningAverage:
    """What `torch.nn.BatchNorm2d` would have remembered of a network's training batches."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.norms = [module for module in network.modules() if isinstance(module, BatchNorm)]
        self.values = [(torch.zeros_like(n.running_mean), torch.ones_like(n.running_var)) for n in self.norms]

    @torch.no_grad()
    def add(self, images: Tensor) -> None:
        """A batch that was just trained on."""
        self.write()
        self.network.set_norm_mode("calibrate")
        for norm in self.norms:
            norm.batches = MOMENTUM_BATCHES
        self.network.features(images)
        self.values = [(norm.running_mean.clone(), norm.running_var.clone()) for norm in self.norms]
        self.network.set_norm_mode("train")

    @torch.no_grad()
    def write(self) -> None:
        """Into the network."""
        for norm, (mean, var) in zip(self.norms, self.values, strict=True):
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(var)


def start_accuracy(network: Network, data: Data) -> float:
    """Validation accuracy of a prototype head under the statistics that the network has."""
    network.set_norm_mode("eval")
    features, labels = collect_features(network, data, data.train, RECIPE)
    head = prototype_head(features, labels, data.n_classes)
    network.head.weight.data.copy_(head.weight)
    network.head.bias.data.copy_(head.bias)
    return score_logits(*collect_logits(network, data, data.val, RECIPE)).accuracy


def search(loop: Loop) -> RunningAverage:
    """Search to the end, as the pipeline does, and watch the batches."""
    average = RunningAverage(loop.network)
    while not loop.finished:
        for _ in range(loop.steps_per_epoch - 1):
            images, _ = loop.train_batch()
            loop.advance(1)
            average.add(images)
        images, _ = loop.train_batch()
        loop.run_epoch()
        average.add(images)
    return average


def measure(folder: Path, job: tuple[str, list[str], int]) -> list[Row]:
    """All targets of a source at one seed."""
    torch.set_num_threads(1)
    source, targets, seed = job
    tensors = search_source(folder, source, seed)
    return [
        {"source": source, "target": target, "seed": seed} | compare(folder, tensors, target, seed)
        for target in targets
    ]


def compare(folder: Path, tensors: Mapping[str, Tensor], target: str, seed: int) -> dict[str, float]:
    """The four accuracies of one target."""
    data = load_data(draw(find(folder, target), seed), SPACE, torch.device("cpu"))
    setup = SearchSetup(SPACE, data, RECIPE, seed, lambda: False)
    bare = Network(SPACE, data.n_classes, generator=None)
    bare.load_state_dict({n: t for n, t in tensors.items() if not n.startswith("head.")}, strict=False)
    row = {"source_statistics": start_accuracy(bare, data)}
    start, scratch = setup.prepare(tensors, "WEIGHTS_AND_ALPHAS"), setup.prepare(None, "SCRATCH")
    setup.choose_schedule(start, scratch)
    assert start.loop.best is not None
    row["own_statistics"] = start.loop.best.accuracy
    average = search(start.loop)
    average.write()
    average.network.set_norm_mode("eval")
    row["running_average"] = score_logits(*collect_logits(average.network, data, data.test, RECIPE)).accuracy
    row["collected_afresh"] = judge(average.network, data)
    return row


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=Path, default=SHARED if SHARED.is_dir() else SHIPPED)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--quick", action="store_true", help="one pair of either kind, one seed")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    kinds = {"related": RELATED, "unrelated": UNRELATED}
    pairs = {
        kind: [pair for pair in some if has(arguments.tasks, pair)][: 1 if arguments.quick else None]
        for kind, some in kinds.items()
    }
    every = [pair for some in pairs.values() for pair in some]
    seeds = range(1 if arguments.quick else arguments.seeds)
    jobs = [
        (source, [target for origin, target in every if origin == source], seed)
        for seed in seeds
        for source in dict.fromkeys(source for source, _ in every)
    ]
    with ProcessPoolExecutor(arguments.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        rows = [row for some in pool.map(partial(measure, arguments.tasks), jobs) for row in some]
    lines = []
    for kind, some in pairs.items():
        group = [row for row in rows if (row["source"], row["target"]) in some]
        for when, (old, new) in FIGURES.items():
            gains = [100 * (row[new] - row[old]) for row in group]
            means = [f"{100 * statistics.fmean(row[name] for row in group):.1f}" for name in (old, new)]
            lines.append([f"{kind}, {when}", *means, with_error(gains), f"{min(gains):+.1f}"])
    print_table(
        f"accuracy under two BatchNorm statistics, {len(seeds)} seeds",
        ["pairs, when", "remembered", "collected afresh", "difference", "worst"],
        lines,
    )
    finish(
        "norm_statistics",
        rows,
        [],
        seeds=list(seeds),
        arguments={"pairs": pairs, "quick": arguments.quick},
        path=arguments.json,
    )


if __name__ == "__main__":
    main()
