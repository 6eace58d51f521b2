"""Memory of a training step: the estimate against the measured peak, and the batch size that follows from it."""

from __future__ import annotations

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from supernet_registry.search.errors import NotEnoughMemory
from supernet_registry.search.networks.supernet import Network
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.spaces import make_space
from supernet_registry.search.training.data import Batches, load_data, make_generator
from supernet_registry.search.training.loop import Loop
from supernet_registry.search.training.memory import StepMemory, fit_batch_size, free_bytes, measure_step
from supernet_registry.search.training.plan import Plan
from tests.tiny_search import tiny_dataset, tiny_space

SPACES = {
    "tiny": tiny_space(),
    "nas-bench-201": make_space("nas-bench-201", channels=4),
    "darts": make_space("darts", channels=4, cells=3, nodes=2),
}
DATA = load_data(tiny_dataset(), tiny_space(), torch.device("cpu"))
RECIPE = Recipe(batch_size=16)


def make_loop(space) -> Loop:
    plan = Plan(
        phase="SEARCH",
        epochs=2,
        patience=2,
        learning_rate=0.01,
        weight_decay=0.0,
        label_smoothing=0.0,
        search_alphas=True,
    )
    network = Network(space, 2, generator=make_generator(0, "net"))
    return Loop(network, DATA, RECIPE, plan, generator=make_generator(0, "loop"))


def allocated_at_peak(loop: Loop) -> int:
    """Bytes that one bilevel step has allocated at most, by the profiler's log of all allocations."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        loop.advance(1)
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    total = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        total += event.nbytes()
        peak = max(peak, total)
    return peak


@pytest.mark.parametrize("name", SPACES)
def test_the_estimate_lies_above_the_measured_peak_by_less_than_a_factor_of_two_and_a_half(name):
    loop = make_loop(SPACES[name])
    estimate = measure_step(loop.network, DATA).of(RECIPE.batch_size)
    peak = allocated_at_peak(loop)
    assert peak < estimate < 2.5 * peak


def test_measuring_leaves_the_network_as_it_was():
    network = make_loop(SPACES["darts"]).network
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    measure_step(network, DATA)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_the_batch_is_halved_until_a_step_fits_and_the_evaluations_batch_with_it():
    recipe, remark = fit_batch_size(RECIPE, DATA, StepMemory(0, 100.0), free=1000)
    assert (recipe.batch_size, recipe.eval_batch_size) == (8, 128)
    assert "8 images a step instead" in remark


@pytest.mark.parametrize("free", [None, 10**12])
def test_nothing_changes_where_memory_suffices_or_is_unknown(free):
    assert fit_batch_size(RECIPE, DATA, StepMemory(0, 100.0), free) == (RECIPE, "")


def test_where_not_even_two_images_fit_the_error_says_what_was_needed():
    with pytest.raises(NotEnoughMemory, match="100 MiB; 50 MiB of memory are free"):
        fit_batch_size(RECIPE, DATA, StepMemory(0, 50.0 * 2**20), free=50 * 2**20)


@pytest.mark.parametrize(("count", "batch_size"), [(95, 64), (97, 64), (3, 2), (1, 8), (64, 64)])
def test_the_largest_batch_is_known_before_any_is_drawn(count, batch_size):
    batches = Batches(count, batch_size, make_generator(0, "batches"))
    assert Batches.largest(count, batch_size) == max(len(batches.draw()) for _ in range(len(batches)))


def test_free_memory_is_some_of_the_machines():
    free = free_bytes(torch.device("cpu"))
    assert free is None or 0 < free < 2**50


@pytest.mark.gpu
def test_the_estimate_holds_on_a_gpu():
    device = torch.device("cuda")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    data = load_data(tiny_dataset(), tiny_space(), device)
    network = Network(SPACES["darts"], 2, generator=make_generator(0, "net")).to(device)
    plan = make_loop(SPACES["darts"]).plan
    loop = Loop(network, data, RECIPE, plan, generator=make_generator(0, "loop"))
    estimate = measure_step(network, data).of(RECIPE.batch_size)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    loop.advance(1)
    peak = torch.cuda.max_memory_allocated() - before
    assert peak < 1.5 * estimate  # the workspaces of cuDNN weigh more on tiny maps
    assert estimate < 3.0 * peak
    assert 0 < free_bytes(device) <= torch.cuda.get_device_properties(device).total_memory
