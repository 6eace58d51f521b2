"""The parts of `cuda-check`; each is run as `python -m benchmarks.cuda_check.parts NAME FILE DEVICE SECONDS`.

A part stores every row as soon as it has it, for it may be ended at any moment.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.harness.places import ROOT
from benchmarks.harness.report import Check
from benchmarks.supernet.speed import CONFIGURATIONS, REHEARSAL, compare
from benchmarks.supernet.textbook import TextbookSupernet
from supernet_registry.search.children.child import make_child
from supernet_registry.search.errors import SearchCancelled
from supernet_registry.search.networks.supernet import Network
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.results import Epoch, Listener
from supernet_registry.search.runs.pipeline import run_pipeline
from supernet_registry.search.spaces import make_space
from supernet_registry.search.tasks import ImageDataset, Split
from supernet_registry.search.training.data import make_generator
from supernet_registry.search.training.recording import CudaGraphs, GradientPass, Record
from supernet_registry.search.training.runtime import Runtime

__all__ = ["PARTS", "Device", "Part", "Row"]

CLASSES = 10
MODES = ("float32", "bfloat16", "bfloat16, CUDA graph", "bfloat16, compiled")
LARGEST_ERROR = {"float32": 5e-3, "bfloat16": 5e-2}
"""Of a loss, relative to the textbook's in float32: TensorFloat-32 keeps ten bits, bfloat16 seven."""


@dataclass(frozen=True)
class Device:
    """Where it is measured."""

    name: str
    tiny: bool
    """Sizes of a rehearsal."""


@dataclass(frozen=True)
class Row:
    """One line of the report."""

    part: str
    name: str
    state: str
    """`measured`, `not run: …` or `failed: …`."""
    figures: dict[str, Any] = field(default_factory=dict)
    checks: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Part:
    """Rows that are found in so many seconds at most."""

    run: Callable[[Device, float], Iterator[Row]]
    rows: Sequence[str]
    seconds: float


def measured(part: str, name: str, figures: dict[str, Any], checks: Sequence[Check] = ()) -> Row:
    """A row with figures."""
    return Row(part, name, "measured", figures, [asdict(check) for check in checks])


# Tests


def gpu_tests(_: Device, seconds: float) -> Iterator[Row]:
    """What is marked `gpu`. The project's own settings of pytest want plugins that need not be here."""
    if importlib.util.find_spec("pytest") is None:
        yield Row("tests", TESTS, "not run: pytest is not installed")
        return
    files = sorted(path for path in (ROOT / "tests").rglob("test_*.py") if "mark.gpu" in path.read_text("utf-8"))
    here = Path(sys.argv[2]).parent
    settings, report = here / "pytest.ini", here / "tests.xml"
    settings.write_text("[pytest]\nmarkers =\n    gpu\n    shared_tasks\nfilterwarnings = error\n", "utf-8")
    options = [
        "-q",
        "-m",
        "gpu",
        "-p",
        "no:cacheprovider",
        "--continue-on-collection-errors",
        "--junitxml",
        str(report),
    ]
    command = [sys.executable, "-m", "pytest", "-c", str(settings), "--rootdir", str(ROOT), *options, *map(str, files)]
    subprocess.run(command, cwd=ROOT, stdout=sys.stderr, timeout=seconds, check=False)
    (suite,) = ET.parse(report).getroot().iter("testsuite")
    counts = {name: int(suite.get(name, "0")) for name in ("tests", "failures", "errors", "skipped")}
    failed = [
        f"{case.get('classname')}.{case.get('name')}: {(bad.get('message') or '').splitlines()[0][:200]}"
        for case in suite.iter("testcase")
        for bad in case
        if bad.tag in ("failure", "error")
    ]
    bad = counts["failures"] + counts["errors"]
    yield measured("tests", TESTS, {**counts, "failed": failed}, [Check(TESTS, bad, "0", "failed", bad == 0)])


TESTS = "tests marked gpu"


# Bilevel steps


def bilevel(device: Device, _: float) -> Iterator[Row]:
    """Of the search's own loop, against the textbook's."""
    for configuration in ON_CUDA:
        name = configuration.name
        if device.tiny and configuration.recorded:
            yield Row("bilevel", name, "not run: a CPU has no CUDA graphs")
            continue
        measured_on = REHEARSAL if device.tiny else configuration
        figures, checks = compare(measured_on, blocks=1 if device.tiny else 3, steps=1 if device.tiny else 5)
        seconds, peak = figures["seconds_a_step"], figures["peak_bytes"]
        found = {
            "ms a step, ours": 1e3 * seconds["ours"],
            "textbook": 1e3 * seconds["textbook"],
            "ratio": seconds["textbook"] / seconds["ours"],
            "MiB, ours": peak["ours"] / 2**20,
            "MiB, textbook": peak["textbook"] / 2**20,
            "share": peak["ours"] / peak["textbook"],
        }
        yield measured("bilevel", name, found, checks)


ON_CUDA = [configuration for configuration in CONFIGURATIONS if configuration.device == "cuda"]


# Gradient passes


def passes(device: Device, _: float) -> Iterator[Row]:
    """Of supernets and of a child, in every mode; the first of each is what the others are compared with."""
    space = REHEARSAL.space if device.tiny else ON_CUDA[0].space
    side, batch = (16, 8) if device.tiny else (32, 64)
    ours = Network(space, CLASSES, generator=make_generator(0, "benchmark"), alpha_scale=1.0)
    textbook = TextbookSupernet(space, CLASSES)
    textbook.copy_from(ours)
    recipe = Recipe.for_space(space)
    child = make_child(ours, ours.derive(), recipe, generator=make_generator(0, "child"))
    generator = make_generator(0, "images")
    images = torch.randn(batch, 3, side, side, generator=generator).to(device.name)
    labels = (torch.arange(batch) % CLASSES).to(device.name)
    base: dict[str, tuple[float, float]] = {}
    for name, network, modes in (
        ("textbook supernet", textbook, MODES[:2]),
        ("supernet", ours, MODES),
        ("child", child, MODES),
    ):
        network.to(device.name).train()
        for mode in modes:
            row = f"{name}, {mode}"
            try:
                loss, seconds = time_pass(network, images, labels, mode, device)
            except Exception as error:  # noqa: BLE001 - whatever a compiler or a driver raises is this row's result
                yield Row("passes", row, f"failed: {type(error).__name__}: {str(error)[:300]}")
                continue
            first_loss, first_seconds = base.setdefault("child" if name == "child" else "supernet", (loss, seconds))
            error = abs(loss - first_loss) / first_loss
            limit = LARGEST_ERROR[mode.partition(",")[0]]
            figures = {"ms": 1e3 * seconds, "times as fast": first_seconds / seconds, "loss": loss, "its error": error}
            check = Check(f"{row}: loss", error, f"≤ {limit:g}", "relative", error <= limit)
            yield measured("passes", row, figures, [check])


def time_pass(network: nn.Module, images: Tensor, labels: Tensor, mode: str, device: Device) -> tuple[float, float]:
    """Loss of the pass, and the least mean seconds of a block of passes."""
    if mode.endswith("compiled"):
        compiled = torch.compile(network, backend="eager" if device.tiny else "inductor")
        run = gradient_pass(compiled, mode)
        again: Callable[[], Sequence[Tensor | None]] = lambda: run(images, labels)  # noqa: E731
    elif mode.endswith("graph"):
        record: Record = run_again if device.tiny else CudaGraphs()
        again = record(gradient_pass(network, mode), [images, labels])
    else:
        run = gradient_pass(network, mode)
        again = lambda: run(images, labels)  # noqa: E731
    for _ in range(1 if device.tiny else 5):
        again()
    least = float("inf")
    count = 1 if device.tiny else 10
    for _ in range(1 if device.tiny else 5):
        synchronise(device)
        began = time.perf_counter()
        for _ in range(count):
            outputs = again()
        synchronise(device)
        least = min(least, (time.perf_counter() - began) / count)
    loss = outputs[0]
    assert loss is not None
    return float(loss), least


def gradient_pass(network: nn.Module, mode: str) -> GradientPass:
    """Loss and gradients of all parameters, as a function of images and labels."""
    parameters = list(network.parameters())

    def run(images: Tensor, labels: Tensor) -> Sequence[Tensor | None]:
        # Not on a CPU, where our kernels have no bfloat16 and a search does not use it: a rehearsal is in float32.
        mixed = images.device.type == "cuda" and mode.startswith("bfloat16")
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=mixed):
            loss = F.cross_entropy(network(images), labels)
        return [loss.detach(), *torch.autograd.grad(loss, parameters, allow_unused=True)]

    return run


def run_again(run: GradientPass, inputs: Sequence[Tensor]) -> Callable[[], Sequence[Tensor | None]]:
    """What a rehearsal has in place of a recording: the pass itself."""
    return lambda: run(*inputs)


def synchronise(device: Device) -> None:
    """Wait for what was launched."""
    if device.name == "cuda":
        torch.cuda.synchronize()


# A search


class Progress(Listener):
    """The epochs so far, and when it is time to stop."""

    def __init__(self, seconds: float) -> None:
        self.epochs: list[Epoch] = []
        self.began = time.monotonic()
        self._until = self.began + seconds

    def on_epoch(self, e: Epoch) -> None:
        self.epochs.append(e)

    def should_stop(self) -> bool:
        return time.monotonic() > self._until


def search(device: Device, seconds: float) -> Iterator[Row]:
    """As many of its epochs as the time allows."""
    epochs, images, batch = (2, 60, 20) if device.tiny else (50, 25_000, 256)
    recipe = Recipe.for_space(make_space()).override(epochs=epochs, patience=epochs, batch_size=batch)
    progress = Progress(0.85 * seconds - 10.0 if not device.tiny else seconds)
    cancelled = False
    runtime = Runtime.on(device.name, record=None if device.tiny else CudaGraphs())
    try:
        run_pipeline(
            generated(images, side=16 if device.tiny else 32),
            make_space(),
            replace(recipe, child_epochs=0),
            runtime=runtime,
            listener=progress,
        )
    except SearchCancelled:
        cancelled = True
    took = time.monotonic() - progress.began
    done, last = len(progress.epochs), progress.epochs[-1] if progress.epochs else None
    figures: dict[str, Any] = {"epochs": done, "of": epochs, "seconds": took, "stopped by its time": cancelled}
    checks = [Check(f"{SEARCH}: epochs", done, f"≥ {epochs}", "", done >= epochs)]
    if last is not None:
        a_step = sum(e.seconds for e in progress.epochs) / last.steps
        figures |= {"ms a step": 1e3 * a_step, "validation accuracy": last.val_accuracy}
        chance = 1.0 / CLASSES
        if not device.tiny:
            better = last.val_accuracy > 2 * chance
            checks.append(Check(f"{SEARCH}: validation accuracy", last.val_accuracy, f"> {2 * chance:g}", "", better))
    yield measured("search", SEARCH, figures, checks)


SEARCH = "search of 50 epochs, CUDA graphs"


def generated(images: int, *, side: int) -> ImageDataset:
    """Ten classes, each a fixed picture under as much noise, at a random place."""
    random = np.random.default_rng(0)
    pictures = random.normal(size=(CLASSES, side, side, 3))

    def split(count: int) -> Split:
        labels = np.arange(count) % CLASSES
        shown = np.empty((count, side, side, 3), np.uint8)
        for index, label in enumerate(labels):
            moved = np.roll(pictures[label], random.integers(-2, 3, 2), axis=(0, 1))
            noisy = moved + 2.0 * random.standard_normal((side, side, 3), dtype=np.float32)
            shown[index] = np.clip(128.0 + 30.0 * noisy, 0, 255)
        return Split(images=shown, labels=labels.astype(np.int64))

    names = tuple(f"class {number}" for number in range(CLASSES))
    return ImageDataset("generated", split(images), split(images), split(min(images, 1_000)), names)


PASSES = [
    *(f"textbook supernet, {mode}" for mode in MODES[:2]),
    *(f"{network}, {mode}" for network in ("supernet", "child") for mode in MODES),
]
PARTS = {
    "tests": Part(gpu_tests, [TESTS], 110.0),
    "bilevel": Part(bilevel, [configuration.name for configuration in ON_CUDA], 120.0),
    "passes": Part(passes, PASSES, 110.0),
    "search": Part(search, [SEARCH], 110.0),
}


def main(name: str, file: str, device: str, seconds: str) -> None:
    """Run a part and store its rows, one by one."""
    torch.set_num_threads(1)
    with Path(file).open("a", encoding="utf-8") as rows:
        for row in PARTS[name].run(Device(device, tiny=device == "cpu"), float(seconds)):
            rows.write(json.dumps(asdict(row)) + "\n")
            rows.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
