"""Recorded gradient passes: what a recording may not see, tested without a GPU by one that freezes as much.

A trace by `make_fx` is to a CPU what a CUDA graph is to a GPU: the kernels of one run, on the very tensors of that run,
with every decision of Python's and every number that left a tensor frozen. Results are written to one place, which the
next replay overwrites.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from supernet_registry.search.networks.supernet import Network
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.runs.generalist import pretrain_generalist
from supernet_registry.search.training.data import load_data, make_generator
from supernet_registry.search.training.loop import Loop
from supernet_registry.search.training.plan import Plan
from supernet_registry.search.training.recording import PATIENCE, CudaGraphs, GradientPass, Recorded
from supernet_registry.search.training.runtime import Runtime
from tests.tiny_search import tiny_dataset, tiny_space

SPACE = replace(tiny_space(), operations=("none", "nor_conv_3x3", "avg_pool_3x3"))
"""One convolution: a trace takes seconds, and is as long as the space is large."""
PARTIAL = replace(SPACE, partial_channels=2)
RECIPE = replace(Recipe.for_space(SPACE), batch_size=16, epochs=4, alpha_every=1)
STEPS = PATIENCE + 8
GENOTYPE = Network(SPACE, 2, generator=make_generator(0, "net")).derive()


class Trace:
    """Records by tracing; counts its recordings."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, run: GradientPass, inputs: Sequence[Tensor]) -> Callable[[], Sequence[Tensor | None]]:
        self.count += 1
        traced = make_fx(lambda places: run(*places))(list(inputs))
        with torch.no_grad():
            places = [None if result is None else result.clone() for result in traced(list(inputs))]

        @torch.no_grad()
        def replay() -> Sequence[Tensor | None]:
            for place, result in zip(places, traced(list(inputs)), strict=True):
                if place is not None:
                    place.copy_(result)
            return places

        return replay


@pytest.fixture
def trace() -> Trace:
    return Trace()


def make_loop(recipe: Recipe = RECIPE, *, space=SPACE, device="cpu", genotype=None, record=None) -> Loop:
    data = load_data(tiny_dataset(), space, torch.device(device))
    network = Network(space, 2, generator=make_generator(0, "net"), genotype=genotype).to(device)
    plan = Plan(
        phase="SEARCH" if genotype is None else "CHILD",
        epochs=recipe.epochs,
        patience=recipe.epochs,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        label_smoothing=0.1,
        search_alphas=genotype is None,
    )
    runtime = Runtime.on(device, record=record)
    return Loop(network, data, recipe, plan, generator=make_generator(0, "loop"), runtime=runtime)


def assert_same(one: Loop, other: Loop) -> None:
    for name, tensor in one.network.state_dict().items():
        torch.testing.assert_close(other.network.state_dict()[name], tensor, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    ("changes", "space"),
    [
        ({}, SPACE),
        ({"drop_shares": (0.2, 0.7)}, SPACE),
        ({"optimizer": "sgd"}, SPACE),
        ({"variant": "smooth-darts-rs"}, SPACE),
        ({"variant": "smooth-darts-adv", "perturbation_steps": 2}, SPACE),
        ({"variant": "drnas"}, SPACE),
        ({"variant": "darts-2nd"}, SPACE),
        ({"variant": "pc-darts"}, PARTIAL),
    ],
)
def test_a_recorded_search_is_the_plain_one(changes, space):
    recipe = replace(RECIPE, epochs=STEPS, **changes)
    plain, trace = make_loop(recipe, space=space), Trace()
    recorded = make_loop(recipe, space=space, record=trace)
    expected, found = plain.advance(STEPS), recorded.advance(STEPS)
    assert trace.count
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)
    assert_same(plain, recorded)


def test_a_recorded_child_network_is_the_plain_one(trace):
    recorded, plain = make_loop(genotype=GENOTYPE, record=trace), make_loop(genotype=GENOTYPE)
    plain.advance(STEPS)
    recorded.advance(STEPS)
    assert trace.count
    assert_same(plain, recorded)


def test_a_recorded_search_goes_on_from_a_state(trace):
    """Weights are read where they lie, so a state that is loaded is seen; what was dropped in it is recorded anew."""
    recipe = replace(RECIPE, epochs=STEPS, drop_shares=(0.2,))
    loop = make_loop(recipe, record=trace)
    loop.advance(STEPS)
    state = loop.snapshot()
    recordings = trace.count
    loop.advance(3)
    expected = {name: tensor.clone() for name, tensor in loop.network.state_dict().items()}
    loop.load_state(state)
    loop.advance(3)
    for name, tensor in loop.network.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-6, msg=name)
    assert trace.count > recordings


def test_a_short_trial_is_not_recorded(trace):
    make_loop(record=trace).advance(PATIENCE)
    assert not trace.count


def test_inputs_of_another_shape_are_recorded_by_themselves():
    trace = Trace()
    double = Recorded(lambda x: [2.0 * x, None], trace)
    for size in (3, 4) * (PATIENCE + 2):
        inputs = torch.randn(size)
        found, nothing = double(inputs)
        assert found is not None
        assert torch.equal(found, 2.0 * inputs)
        assert nothing is None
    assert trace.count == 2


def test_a_generalist_is_not_recorded(trace):
    """Its head is another one from step to step."""
    recipe = replace(RECIPE, epochs=9, patience=9)
    runtime = Runtime.on("cpu", record=trace)
    result = pretrain_generalist([tiny_dataset(1), tiny_dataset(2)], SPACE, recipe, runtime=runtime).result
    assert result.search_steps > 2 * PATIENCE
    assert not trace.count


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("drop_shares", [(), (0.2, 0.7)])
def test_a_cuda_graph_gives_the_gradients_of_the_plain_pass(drop_shares):
    recipe = replace(RECIPE, epochs=STEPS, drop_shares=drop_shares)
    plain = make_loop(recipe, device="cuda")
    recorded = make_loop(recipe, device="cuda", record=CudaGraphs())
    recorded.advance(STEPS)
    plain.load_state(recorded.state())
    batch = plain.train_batch()
    mixture = plain.network.mixture()
    weights = [weight.detach() for weight in mixture.values()]
    expected = [g.clone() for g in plain._weight_pass(*batch, *weights) if g is not None]
    for _ in range(PATIENCE + 2):
        found = [g for g in recorded._weight_pass(*batch, *weights) if g is not None]
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-2, atol=2e-3)  # bfloat16, and sums in no fixed order
