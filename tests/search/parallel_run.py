"""What each process of a group does in `test_parallel`; started there once, with torchrun's variables."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from supernet_registry.search.errors import InvalidArgument
from supernet_registry.search.networks.supernet import Network
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.runs.pipeline import Candidate, Listener, run_pipeline
from supernet_registry.search.runs.together import dismiss, follow, run_together
from supernet_registry.search.training.data import load_data, make_generator
from supernet_registry.search.training.loop import Loop
from supernet_registry.search.training.parallel import ProcessLost, joined
from supernet_registry.search.training.plan import Plan
from supernet_registry.search.training.runtime import Runtime
from tests.tiny_search import tiny_dataset, tiny_space

RECIPE = Recipe.for_space(tiny_space()).override(batch_size=16, epochs=2, child_epochs=2, patience=9)


def one_step(out: Path, runtime: Runtime) -> None:
    """Gradients of the first weight step and α step, in float64, with BatchNorm in eval mode, which splits exactly."""
    torch.set_default_dtype(torch.float64)
    try:
        _one_step(out, runtime)
    finally:
        torch.set_default_dtype(torch.float32)


def _one_step(out: Path, runtime: Runtime) -> None:
    data = load_data(tiny_dataset(), tiny_space(), torch.device("cpu"))
    network = Network(tiny_space(), 2, generator=make_generator(0, "net"))
    network.set_norm_mode("eval")
    network.set_norm_mode = lambda _: None  # type: ignore[method-assign]  # the loop would train with batch statistics
    plan = Plan(
        phase="SEARCH",
        epochs=2,
        patience=9,
        learning_rate=0.0,
        weight_decay=0.0,
        label_smoothing=0.1,
        search_alphas=True,
    )
    generator = make_generator(0, "loop")
    loop = Loop(network, data, replace(RECIPE, clip_norm=0.0), plan, generator=generator, runtime=runtime)
    loop.advance(1)
    found = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    if runtime.ranks.rank == 0:
        save_file({name: tensor.contiguous() for name, tensor in found.items()}, out)


def pipeline(out: Path, runtime: Runtime) -> None:
    """Three searches led by the first process: one that is refused, one, and one that starts from its result."""
    if runtime.ranks.rank:
        follow(runtime)
        return
    try:  # refused in both alike; the next search finds them ready
        run_together(tiny_dataset(0), tiny_space(), replace(RECIPE, variant="darts-2nd"), seed=0, runtime=runtime)
    except InvalidArgument as error:
        assert error.field == "variant"
    first = run_together(tiny_dataset(0), tiny_space(), RECIPE, seed=0, runtime=runtime)
    candidate = Candidate("first", 0.1, first.weights)
    second = run_together(tiny_dataset(1), tiny_space(), RECIPE, seed=0, runtime=runtime, candidates=[candidate])
    dismiss(runtime)
    out.write_text(json.dumps({"steps": second.search_steps, "accuracy": second.test_accuracy}))


class Digests(Listener):
    """Digest of every checkpoint, times left out: what this process believes the state to be."""

    def __init__(self) -> None:
        self.losses: list[tuple[float, float]] = []

    def on_epoch(self, e) -> None:
        self.losses.append((e.train_loss, e.val_loss))


def alike(out: Path, runtime: Runtime) -> None:
    """The same pipeline in all processes; each writes what it has come to."""
    listener = Digests()
    result = run_pipeline(tiny_dataset(), tiny_space(), RECIPE, seed=0, runtime=runtime, listener=listener)
    digests = [hashlib.sha256(data).hexdigest() for data in (result.weights, result.child or b"")]
    out.with_suffix(f".{runtime.ranks.rank}").write_text(json.dumps([*digests, listener.losses]))


def killed(out: Path, runtime: Runtime) -> None:
    """One process is killed in the middle of a search; the other says so."""

    class Kill(Listener):
        def on_epoch(self, e) -> None:
            if runtime.ranks.rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)

    try:
        run_pipeline(tiny_dataset(), tiny_space(), RECIPE, seed=0, runtime=runtime, listener=Kill())
    except ProcessLost as error:
        out.write_text(str(error))
        os._exit(3)  # the group is gone: there is nobody left to say goodbye to


def main() -> None:
    """Everything, one after the other: starting a group takes far longer than what it does here."""
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    with joined("cpu") as ranks:
        runtime = Runtime.on("cpu", ranks=ranks)
        one_step(folder / "step", runtime)
        alike(folder / "alike", runtime)
        pipeline(folder / "pipeline", runtime)
        killed(folder / "killed", runtime)  # the last: nobody comes back from it


if __name__ == "__main__":
    main()
