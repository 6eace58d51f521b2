"""Several runs in one process: each has its own runtime, and none disturbs another."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import torch

from supernet_registry.search.recipe import Recipe
from supernet_registry.search.runs.generalist import pretrain_generalist
from supernet_registry.search.runs.pipeline import run_pipeline
from supernet_registry.search.training.parallel import Ranks
from supernet_registry.search.training.runtime import Runtime
from tests.tiny_search import tiny_dataset, tiny_space

SPACE = tiny_space()
RECIPE = replace(Recipe.for_space(SPACE), epochs=3, child_epochs=2, batch_size=16, patience=99)


class Others(Ranks):
    """A group that nobody else is in; notes whether it is asked."""

    asked = 0

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        self.asked += 1
        return tensor


def runs(runtime: Runtime):
    """Three that draw random numbers in ways of their own."""
    pair = [tiny_dataset(0), tiny_dataset(1)]
    return [
        lambda: run_pipeline(tiny_dataset(), SPACE, replace(RECIPE, variant="drnas"), runtime=runtime),
        lambda: run_pipeline(tiny_dataset(1), SPACE, replace(RECIPE, derivation="perturbation"), runtime=runtime),
        lambda: pretrain_generalist(pair, SPACE, RECIPE, runtime=runtime).result,
    ]


def test_runs_in_threads_of_one_process_give_the_bits_of_runs_one_after_another():
    runtime = Runtime.on("cpu")
    expected = [run() for run in runs(runtime)]
    with ThreadPoolExecutor(3) as pool:
        found = [future.result() for future in [pool.submit(run) for run in runs(runtime)]]
    for one, other in zip(found, expected, strict=True):
        assert one.weights == other.weights
        assert one.child == other.child


def test_a_run_trains_with_the_processes_that_it_is_given_and_no_others():
    ranks = Others()
    runtime = Runtime.on("cpu", ranks=ranks)
    recipe = replace(RECIPE, child_epochs=0)
    run_pipeline(tiny_dataset(), SPACE, recipe, runtime=runtime.alone())
    assert not ranks.asked
    run_pipeline(tiny_dataset(), SPACE, recipe, runtime=runtime)
    assert ranks.asked
