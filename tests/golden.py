"""Golden digests: what searches, children, sketches and rankings are, bit for bit, for fixed seeds.

A change that must not change what the software does leaves them as they are; one that changes bits on purpose writes
them again, `python -m tests.golden`, and says why in a page of `docs/decisions/`. Bits depend on the processor and
on the libraries, so they are kept for each; `tests/test_golden.py` compares where it finds its own.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load

from supernet_registry.search.recipe import Recipe
from supernet_registry.search.results import PipelineResult
from supernet_registry.search.runs.fixed_network import train_fixed
from supernet_registry.search.runs.generalist import pretrain_generalist
from supernet_registry.search.runs.pipeline import Candidate, run_pipeline
from supernet_registry.search.similarity import embed, load_encoder, make_sketch, otdd
from supernet_registry.search.spaces import make_space
from supernet_registry.search.strategies import VARIANTS
from supernet_registry.search.tasks import load_dataset
from supernet_registry.search.training.data import load_data
from tests.tiny_search import tiny_dataset, tiny_space

FILE = Path(__file__).with_name("golden.json")
TASKS = Path(__file__).parents[1] / "examples" / "tasks"
TASK = "print_digits"
NEIGHBOURS = ("print_latin_upper", "print_hebrew", "fashion_tops", "optdigits")
RECIPE = replace(
    Recipe.for_space(tiny_space()),
    epochs=3, warm_epochs=2, child_epochs=2, batch_size=16, patience=99, taste_share=0.5,
)  # fmt: skip


def machine() -> str:
    """What bits depend on: libraries, instruction set, processor."""
    cpu = dict.fromkeys(("vendor_id", "cpu family", "model"), "?")
    info = Path("/proc/cpuinfo")
    for line in info.read_text("utf-8").split("\n\n")[0].splitlines() if info.exists() else ():
        name, _, value = line.partition(":")
        if name.strip() in cpu:
            cpu[name.strip()] = value.strip()
    capability = torch.backends.cpu.get_cpu_capability()
    libraries = f"torch {torch.__version__}, numpy {np.__version__}"
    return f"{libraries}, {platform.machine()} {capability}, {' '.join(cpu.values())}"


def digest_of(value: Any) -> str:
    """Sixteen hexadecimal digits of the sha256 of tensors (by name), or of anything that JSON can say."""
    sha = hashlib.sha256()
    if isinstance(value, Mapping) and all(isinstance(item, torch.Tensor) for item in value.values()):
        for name in sorted(value):
            tensor = value[name].contiguous()
            sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            sha.update(tensor.view(torch.uint8).numpy().tobytes() if tensor.dim() else repr(tensor.item()).encode())
    else:
        sha.update(json.dumps(value, sort_keys=True).encode())
    return sha.hexdigest()[:16]


def digests_of(result: PipelineResult) -> dict[str, str]:
    """Of weights, child, architecture and figures; not of times, nor of how files are written."""
    names = "val_accuracy test_accuracy child_test_accuracy child_parameters child_macs alpha_entropy skip_count"
    figures = [getattr(result, name) for name in (*names.split(), "search_steps", "taste_steps", "child_steps")]
    if result.child is None:
        figures[2:5] = [0.0, 0, 0]  # as what is absent was written when the digests were recorded
    found = {
        "weights": digest_of(load(result.weights)),
        "genotype": result.genotype,
        "figures": digest_of(figures),
    }
    if result.child is not None:
        found["child"] = digest_of(load(result.child))
    return found


def search(**options: Any) -> PipelineResult:
    """A search of seconds."""
    options = {"dataset": tiny_dataset(), "space": tiny_space(), "recipe": RECIPE, "device": "cpu", **options}
    return run_pipeline(options.pop("dataset"), options.pop("space"), options.pop("recipe"), **options)


@cache
def scratch() -> PipelineResult:
    """The search that others start from."""
    return search()


def in_default_space() -> dict[str, str]:
    """Search and child of the default space on a real task, a few epochs each."""
    space = make_space("compact")
    recipe = replace(Recipe.for_space(space), epochs=2, child_epochs=2)
    return digests_of(search(dataset=load_dataset(TASKS / f"{TASK}.npz"), space=space, recipe=recipe))


def variant(name: str) -> dict[str, str]:
    """One search of a variant, with an operation dropped on the way."""
    space = replace(tiny_space(), partial_channels=2) if name == "pc-darts" else tiny_space()
    recipe = replace(RECIPE, variant=name, epochs=2, child_epochs=0, drop_shares=(0.5,))
    return digests_of(search(space=space, recipe=recipe))


def warm(*, taste: bool) -> dict[str, str]:
    """A search that is offered a source: it tastes it, or takes it as it is told to."""
    source = Candidate("supernets/a/versions/1", 0.5, scratch().weights)
    return digests_of(search(dataset=tiny_dataset(1), candidates=[source], taste=taste))


def generalist() -> dict[str, str]:
    """Two tasks with a head each."""
    recipe = replace(RECIPE, epochs=2, child_epochs=0)
    result = pretrain_generalist([tiny_dataset(0), tiny_dataset(1, n_classes=3)], tiny_space(), recipe, device="cpu")
    return {**digests_of(result.result), "tasks": digest_of([asdict(task) for task in result.tasks])}


def fixed_network() -> dict[str, str]:
    """The network that searches are compared with."""
    data = load_data(tiny_dataset(), tiny_space(), torch.device("cpu"))
    result = train_fixed(data, RECIPE, seed=0, cpu_seconds=0.0)  # its fewest epochs
    return {"weights": digest_of(load(result.weights)), "figures": digest_of([result.test_accuracy, result.steps])}


def similarity() -> dict[str, str]:
    """Sketch, embedding, and the ranking of neighbours by exact distance."""
    encoder = load_encoder("pixels")
    target = make_sketch(load_dataset(TASKS / f"{TASK}.npz"), encoder)
    sketches = {name: make_sketch(load_dataset(TASKS / f"{name}.npz"), encoder) for name in NEIGHBOURS}
    distances = {name: otdd(target, sketch).distance for name, sketch in sketches.items()}
    return {
        "sketch": target.digest[:16],
        "embedding": hashlib.sha256(np.ascontiguousarray(embed(target)).tobytes()).hexdigest()[:16],
        "ranking": " < ".join(sorted(distances, key=distances.__getitem__)),
        "distances": digest_of([distance.hex() for distance in map(float, distances.values())]),
    }


CASES: dict[str, Callable[[], dict[str, str]]] = {
    "scratch": lambda: digests_of(scratch()),
    "compact": in_default_space,
    "warm": lambda: warm(taste=False),
    "tasted": lambda: warm(taste=True),
    "perturbation": lambda: digests_of(search(recipe=replace(RECIPE, derivation="perturbation", epochs=2))),
    "generalist": generalist,
    "fixed network": fixed_network,
    "similarity": similarity,
    **{f"variant {name}": lambda name=name: variant(name) for name in VARIANTS.names},
}


def main() -> None:
    """Write this machine's digests."""
    torch.set_num_threads(1)
    stored = json.loads(FILE.read_text("utf-8")) if FILE.exists() else {}
    stored[machine()] = {name: case() for name, case in CASES.items()}
    FILE.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n", "utf-8")


if __name__ == "__main__":
    main()
