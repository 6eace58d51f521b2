"""Steps per second and peak memory of our supernet against the plain textbook one, side by side.

    python -m benchmarks supernet [--only TEXT] [--blocks 3] [--steps 1] [--json FILE]

A step is one first-order bilevel step: α on a validation batch, weights on an augmented training batch, same recipe,
same data, one thread. Both networks take turns in blocks of a few steps, so that a busy machine disturbs both; ratios
are of the least time a step: CPU seconds on a CPU, wall seconds on CUDA. Memory is measured in a fresh process for each
network: on a CPU the largest resident set minus what was resident before the first step (weights, images and libraries
are not counted, allocator overhead is), on CUDA the largest allocation minus what was allocated before it. Before
anything is timed, both give the same loss and gradients in float64. Where ours has partial channels (PC-DARTS), the
textbook network has all of them: another network, so that only time and memory are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self

import torch
import torch.nn.functional as F

from benchmarks.harness.places import ROOT
from benchmarks.harness.report import Check, Options, Section, print_table
from benchmarks.supernet.textbook import TextbookLoop, TextbookSupernet
from supernet_registry.search.networks.inputs import Normalisation
from supernet_registry.search.networks.supernet import Network
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.spaces import SearchSpace, make_space
from supernet_registry.search.training.data import Data, TensorSplit, make_generator
from supernet_registry.search.training.loop import Loop
from supernet_registry.search.training.plan import Plan
from supernet_registry.search.training.recording import PATIENCE, CudaGraphs
from supernet_registry.search.training.runtime import Runtime

CLASSES = 10
BATCHES = 4  # of images that are made up; what they show does not matter here


@dataclass(frozen=True)
class Configuration:
    """One comparison. Targets are asked for where the device is `device`."""

    name: str
    device: str
    space: SearchSpace
    side: int
    batch: int
    speed_target: float
    memory_target: float | None
    recorded: bool = False  # ours as CUDA graphs

    @property
    def textbook_space(self) -> SearchSpace:
        """With all channels."""
        return replace(self.space, partial_channels=1)


LARGE = make_space("darts", channels=16, cells=8)
CONFIGURATIONS = [
    Configuration("darts C=8 L=4, CPU", "cpu", make_space("darts", channels=8, cells=4), 28, 64, 2.0, 0.5),
    Configuration(
        "darts C=8 L=4, partial channels, CPU",
        "cpu",
        make_space("darts", channels=8, cells=4, partial_channels=4),
        28,
        64,
        3.0,
        None,
    ),
    Configuration("nas-bench-201 C=16, CPU", "cpu", make_space("nas-bench-201", channels=16), 32, 64, 1.5, None),
    Configuration("darts C=16 L=8, CUDA", "cuda", LARGE, 32, 64, 5.0, 0.6),
    Configuration("darts C=16 L=8, CUDA graphs", "cuda", LARGE, 32, 64, 5.0, 0.6, recorded=True),
]
REHEARSAL = Configuration("rehearsal", "cpu", make_space("nas-bench-201", channels=4, cells=1), 16, 8, 0.0, None)
"""Of `cuda-check` on a CPU."""
EVERY = [*CONFIGURATIONS, REHEARSAL]


class Steps(Protocol):
    """What makes bilevel steps."""

    def advance(self, steps: int) -> object:
        """Make so many."""


def make_loop(configuration: Configuration, which: str) -> Steps:
    """`ours` or `textbook`, ready for its first step."""
    device = torch.device(configuration.device)
    recipe = Recipe.for_space(configuration.space).override(batch_size=configuration.batch, alpha_every=1)
    plan = Plan(
        phase="SEARCH",
        epochs=recipe.epochs,
        patience=recipe.patience,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        label_smoothing=0.0,
        search_alphas=True,
    )
    data = made_up_data(configuration, device)
    ours = make_network(configuration).to(device)
    if which == "ours":
        runtime = Runtime(device, record=CudaGraphs() if configuration.recorded else None)
        return Loop(ours, data, recipe, plan, generator=make_generator(0, "benchmark"), runtime=runtime)
    textbook = TextbookSupernet(configuration.textbook_space, CLASSES).to(device)
    if configuration.textbook_space == configuration.space:
        textbook.copy_from(ours)
    return TextbookLoop(textbook, data, recipe, plan)


def make_network(configuration: Configuration) -> Network:
    """Ours, freshly initialised."""
    return Network(configuration.space, CLASSES, generator=make_generator(0, "benchmark"))


def made_up_data(configuration: Configuration, device: torch.device) -> Data:
    """Noise, one label after another."""
    count, side = BATCHES * configuration.batch, configuration.side
    images = torch.randint(0, 256, (count, 3, side, side), generator=make_generator(0, "images"), dtype=torch.uint8)
    split = TensorSplit(images.to(device, memory_format=torch.channels_last), torch.arange(count, device=device) % 10)
    return Data(split, split, split, CLASSES, Normalisation((0.5,) * 3, (0.3,) * 3), device)


def largest_difference(space: SearchSpace) -> float:
    """Largest relative difference of loss and gradients between the two, in float64 on a small batch."""
    ours = Network(space, CLASSES, generator=make_generator(0, "check"), alpha_scale=1.0).double()
    textbook = TextbookSupernet(space, CLASSES).double()
    textbook.copy_from(ours)
    images = torch.randn(4, 3, 16, 16, generator=make_generator(1, "check"), dtype=torch.float64)
    labels = torch.arange(4)
    values: list[dict[str, torch.Tensor]] = []
    for network in (ours, textbook):
        loss = F.cross_entropy(network(images), labels)
        names, parameters = zip(*network.named_parameters(), strict=True)
        gradients = torch.autograd.grad(loss, parameters)
        values.append({"loss": loss.detach(), **dict(zip(names, gradients, strict=True))})
    scale = max(float(value.abs().max()) for value in values[1].values())
    return max(float((values[0][name] - value).abs().max()) / scale for name, value in values[1].items())


def seconds_a_step(configuration: Configuration, *, blocks: int, steps: int) -> dict[str, float]:
    """Least mean seconds a step over the blocks, of each network; the first block warms up."""
    on_cuda = configuration.device == "cuda"
    warm_up = _first_steps(configuration)
    clock: Callable[[], float] = time.perf_counter if on_cuda else time.process_time
    synchronise: Callable[[], object] = torch.cuda.synchronize if on_cuda else (lambda: None)
    loops = {which: make_loop(configuration, which) for which in ("ours", "textbook")}
    best = dict.fromkeys(loops, float("inf"))
    for block in range(blocks + 1):
        for which, loop in loops.items():
            count = steps if block else warm_up
            synchronise()
            began = clock()
            loop.advance(count)
            synchronise()
            if block:
                best[which] = min(best[which], (clock() - began) / count)
    return best


def _first_steps(configuration: Configuration) -> int:
    """Steps after which every other is alike: two batch sizes at most are recorded after so many runs each."""
    return 2 * PATIENCE + 2 if configuration.recorded else 1


def peak_memory(configuration: Configuration, which: str) -> int:
    """Bytes by which a few steps raise the peak, in a fresh process."""
    arguments = [sys.executable, "-m", __name__, str(EVERY.index(configuration)), which]
    result = subprocess.run(arguments, capture_output=True, text=True, check=True, cwd=ROOT)
    return int(json.loads(result.stdout))


def measure_peak_here(configuration: Configuration, which: str) -> int:
    """What `peak_memory` does in its process."""
    loop = make_loop(configuration, which)
    if configuration.device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        loop.advance(1 + _first_steps(configuration))
        return torch.cuda.max_memory_allocated() - before
    with ResidentPeak() as peak:
        loop.advance(2)
    return peak.rise_bytes


class ResidentPeak:
    """Samples this process's resident set every few milliseconds; `rise_bytes` is its peak minus its beginning."""

    def __enter__(self) -> Self:
        self._before = self._peak = self._resident_bytes()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.rise_bytes = self._peak - self._before

    def _watch(self) -> None:
        while not self._done.wait(0.002):
            self._peak = max(self._peak, self._resident_bytes())

    @staticmethod
    def _resident_bytes() -> int:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


def compare(configuration: Configuration, *, blocks: int, steps: int) -> tuple[dict[str, Any], list[Check]]:
    """Figures and checks of one configuration."""
    alike = configuration.textbook_space == configuration.space
    difference = largest_difference(configuration.space) if alike else None
    seconds = seconds_a_step(configuration, blocks=blocks, steps=steps)
    memory = {which: peak_memory(configuration, which) for which in seconds}
    speed, share = seconds["textbook"] / seconds["ours"], memory["ours"] / memory["textbook"]
    name, target = configuration.name, configuration.memory_target
    checks = [
        Check(f"{name}: steps/s", speed, f"≥ {configuration.speed_target:g}", "x", speed >= configuration.speed_target)
    ]
    if difference is not None:
        checks.append(Check(f"{name}: loss and gradients", difference, "≤ 1e-9", "relative", difference <= 1e-9))
    if target is not None:
        checks.append(Check(f"{name}: peak memory", share, f"≤ {target:g}", "x", share <= target))
    figures = {
        "configuration": {**asdict(configuration), "space": configuration.space.to_json()},
        "device": torch.cuda.get_device_name() if configuration.device == "cuda" else "cpu",
        "seconds_a_step": seconds,
        "peak_bytes": memory,
        "difference": difference,
    }
    return figures, checks


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is measured, and how often."""
    parser.add_argument("--blocks", type=int, default=3, help="alternating blocks")
    parser.add_argument("--steps", type=int, default=1, help="steps a block")
    parser.add_argument("--only", default="", metavar="TEXT", help="configurations whose names contain TEXT")


def run(options: Options) -> Section:
    """All configurations that run here; of a smoke profile one, in one block."""
    blocks = 1 if options.quick else options.own.blocks
    chosen = [
        configuration
        for configuration in CONFIGURATIONS
        if options.own.only in configuration.name and (configuration.device == "cpu" or torch.cuda.is_available())
    ]
    figures, checks = [], []
    for configuration in chosen[-1:] if options.quick else chosen:
        found, more = compare(configuration, blocks=blocks, steps=options.own.steps)
        figures.append(found)
        checks += more
    print_table("bilevel step, one thread: ours / textbook", HEADINGS, [table_line(found) for found in figures])
    return Section(figures, checks, {"blocks": blocks, "steps": options.own.steps, "only": options.own.only}, seeds=[0])


HEADINGS = ["configuration", "steps/s", "", "ratio", "peak MiB", "", "ratio"]


def table_line(found: dict[str, Any]) -> list[str]:
    """One configuration."""
    seconds, peak = found["seconds_a_step"], found["peak_bytes"]
    return [
        found["configuration"]["name"],
        *(f"{1 / seconds[which]:.3g}" for which in ("ours", "textbook")),
        f"{seconds['textbook'] / seconds['ours']:.2f}",
        *(f"{peak[which] / 2**20:.0f}" for which in ("ours", "textbook")),
        f"{peak['ours'] / peak['textbook']:.2f}",
    ]


if __name__ == "__main__":  # the process that `peak_memory` starts
    torch.set_num_threads(1)
    print(measure_peak_here(EVERY[int(sys.argv[1])], sys.argv[2]))
