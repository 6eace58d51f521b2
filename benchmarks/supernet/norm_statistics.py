"""BatchNorm statistics: the source's, a running average, or collected afresh.

    python -m benchmarks norm-statistics [--tasks DIR] [--seeds 3] [--jobs 2] [--quick] [--json FILE]

The pairs of `transfer-choices`. Before any step: validation accuracy of the source's weights with a prototype head,
under the statistics that the source was stored with, and under those of the target's images. After the search, in its
last epoch: accuracy on images of the training split that were kept out of the draw, under PyTorch's running average
over the training batches (momentum 0.1) and under statistics collected afresh, as every evaluation here does it.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness.paired import Arm, Cell, Experiment, carry_out, cells_of
from benchmarks.harness.pairs import (
    RECIPE,
    RELATED,
    SPACE,
    UNRELATED,
    choose_pairs,
    draw,
    files_of,
    find,
    judge,
    name_of,
    on_cpu,
    pair_of,
    same_source,
    search_source,
)
from benchmarks.harness.report import Options, Section, print_table, with_error
from supernet_registry.search.networks.operations import BatchNorm
from supernet_registry.search.networks.supernet import Network
from supernet_registry.search.starts.prototypes import prototype_head
from supernet_registry.search.starts.setup import SearchSetup
from supernet_registry.search.training.data import Data
from supernet_registry.search.training.evaluation import collect_features, collect_logits, score_logits
from supernet_registry.search.training.loop import Loop

MOMENTUM_BATCHES = 9  # as if so many had been collected, the next one counts 0.1
FIGURES = {
    "start": ("source_statistics", "own_statistics"),
    "end": ("running_average", "collected_afresh"),
}


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


@dataclass(frozen=True)
class Target:
    """A target and the source that its search begins with."""

    data: Data
    source: Mapping[str, Tensor]
    seed: int


def prepare(folder: Path, cell: Cell) -> Target:
    """With the source searched, once for all its targets."""
    source, target = pair_of(cell)
    tensors = search_source(folder, source, cell.seed)
    return Target(on_cpu(draw(find(folder, target), cell.seed)), tensors, cell.seed)


def measure(target: Target, _arm: str, _cpu_s: float | None) -> dict[str, Any]:
    """The four accuracies."""
    data = target.data
    setup = SearchSetup(SPACE, data, RECIPE, target.seed, lambda: False)
    bare = Network(SPACE, data.n_classes, generator=None)
    bare.load_state_dict({n: t for n, t in target.source.items() if not n.startswith("head.")}, strict=False)
    row = {"source_statistics": start_accuracy(bare, data)}
    start, scratch = setup.prepare(target.source, "WEIGHTS_AND_ALPHAS"), setup.prepare(None, "SCRATCH")
    setup.choose_schedule(start, scratch)
    assert start.loop.best is not None
    row["own_statistics"] = start.loop.best.accuracy
    average = search(start.loop)
    average.write()
    average.network.set_norm_mode("eval")
    row["running_average"] = score_logits(*collect_logits(average.network, data, data.test, RECIPE)).accuracy
    row["collected_afresh"] = judge(average.network, data)
    return row


def run(options: Options) -> Section:
    """Every pair and seed, in one search that is looked at in four ways."""
    pairs = choose_pairs(options.tasks, {"related": RELATED, "unrelated": UNRELATED}, quick=options.quick)
    experiment = Experiment(
        arms=[Arm("search")],
        cells=cells_of([name_of(pair) for some in pairs.values() for pair in some], options.seed_range),
        prepare=partial(prepare, options.tasks),
        measure=measure,
        described={"recipe": asdict(RECIPE), "space": SPACE.id},
        files=partial(files_of, options.tasks),
        group=same_source,
    )
    outcome = carry_out(experiment, options)
    lines = []
    for kind, some in pairs.items():
        group = [run.figures for run in outcome.runs if pair_of(run.cell) in some]
        for when, (old, new) in FIGURES.items() if group else ():
            gains = [100 * (row[new] - row[old]) for row in group]
            means = [f"{100 * statistics.fmean(row[name] for row in group):.1f}" for name in (old, new)]
            lines.append([f"{kind}, {when}", *means, with_error(gains), f"{min(gains):+.1f}"])
    print_table(
        f"accuracy under two BatchNorm statistics, {len(options.seed_range)} seeds",
        ["pairs, when", "remembered", "collected afresh", "difference", "worst"],
        lines,
    )
    return Section(outcome.figures(), [], {"pairs": pairs}, missing=outcome.missing)
