"""Dropped operations: the weakest go, cost nothing, never come back, and leave a supernet that anyone can read."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from supernet_registry.search.errors import InvalidArgument
from supernet_registry.search.networks.supernet import Network
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.spaces import make_space
from supernet_registry.search.training.checkpoint import pack_checkpoint, unpack_checkpoint
from supernet_registry.search.training.data import load_data, make_generator
from supernet_registry.search.training.dropping import drop_weakest
from supernet_registry.search.training.evaluation import evaluate
from supernet_registry.search.training.loop import Loop
from supernet_registry.search.training.plan import Plan
from tests.search.reference import reference_logits
from tests.tiny_search import tiny_dataset, tiny_space

CPU = torch.device("cpu")
SPACE = tiny_space()
RECIPE = replace(Recipe.for_space(SPACE), batch_size=16, epochs=4, drop_shares=(0.25, 0.5), alpha_weight_decay=1e-3)
NONE = SPACE.operations.index("none")


def make_network(space=SPACE) -> Network:
    return Network(space, 2, generator=make_generator(0, "net"), alpha_scale=1.0)


def make_loop(recipe: Recipe = RECIPE) -> Loop:
    plan = Plan(
        phase="SEARCH",
        epochs=recipe.epochs,
        patience=99,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        label_smoothing=0.0,
        search_alphas=True,
    )
    data = load_data(tiny_dataset(), SPACE, CPU)
    return Loop(make_network(), data, recipe, plan, generator=make_generator(0, "loop"))


def modules_of(network: Network, row: int, column: int) -> list[torch.nn.Module]:
    """An operation, in every cell."""
    name = network.space.operations[column]
    return [block.edges[row][name] for block in network.blocks if hasattr(block, "edges") and name in block.edges[row]]


def dropped(network: Network) -> list[tuple[int, int]]:
    return [tuple(place) for place in (~network.kept["cell"]).nonzero().tolist()]


def test_every_edge_loses_its_weakest_operation_but_neither_none_nor_the_last_other():
    network = make_network()
    with torch.no_grad():
        network.alphas["cell"].copy_(torch.tensor([[-9.0, 1.0, 2.0, 3.0], [0.0, 3.0, 2.0, 1.0], [0.0, 1.0, 0.5, 2.0]]))
    expected = [{1, 2, 3}, {1, 2, 3}, {1, 2, 3}]
    for gone in ([1, 3, 2], [2, 2, 1], [None, None, None]):
        network.keep(drop_weakest(network))
        for row, column in enumerate(gone):
            expected[row] -= {column}
        kept = [set(row.nonzero().flatten().tolist()) for row in network.kept["cell"]]
        assert kept == [{NONE, *columns} for columns in expected]


@pytest.mark.parametrize("family", ["nas-bench-201", "darts"])
def test_what_is_left_is_the_textbook_mixture_renormalised(family):
    space = make_space(family, channels=4, **({"cells": 3, "nodes": 2} if family == "darts" else {}))
    network = make_network(space).double()
    images = torch.randn(4, 3, 16, 16, generator=make_generator(1, "images"), dtype=torch.float64)
    before = {kind: weights.detach().clone() for kind, weights in network.mixture().items()}
    network.keep(drop_weakest(network))
    mixture = {}
    for kind, weights in before.items():
        masked = weights * network.kept[kind]
        mixture[kind] = masked / masked.sum(dim=1, keepdim=True)
    torch.testing.assert_close(network(images), reference_logits(network, images, mixture), rtol=1e-9, atol=1e-9)


def test_a_dropped_operation_costs_nothing_and_is_not_trained():
    """Its convolutions are not called, neither in training nor in evaluation, and its weights stay as they are."""
    loop = make_loop(replace(RECIPE, drop_shares=(0.0,)))
    called: list[str] = []
    loop.advance(1)  # drops what is due at share 0
    modules = [module for place in dropped(loop.network) for module in modules_of(loop.network, *place)]
    convolutions = [part for module in modules for part in module.modules() if isinstance(part, torch.nn.Conv2d)]
    assert convolutions
    for convolution in convolutions:
        convolution.register_forward_hook(lambda *_: called.append("called"))
    before = [parameter.detach().clone() for module in modules for parameter in module.parameters()]
    loop.run_epoch()
    after = [parameter for module in modules for parameter in module.parameters()]
    assert called == []
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_operations_are_dropped_when_the_recipe_says_and_never_come_back():
    loop = make_loop()  # 4 epochs of 2 steps; at 0.25 and 0.5
    counts = []
    for _ in range(8):
        loop.advance(1)
        counts.append(len(dropped(loop.network)) if loop.network.kept else 0)
    assert counts == [0, 0, 3, 3, 6, 6, 6, 6]
    gone = dropped(loop.network)
    with torch.no_grad():
        for row, column in gone:
            loop.network.alphas["cell"][row, column] = 50.0  # whatever happens to its α
    genotype = loop.network.derive()["cell"]
    flat = [operation for node in genotype for operation, _ in node]
    assert all(flat[row] != SPACE.operations[column] for row, column in gone)
    assert all(loop.network.mixture()["cell"][row, column] == 0.0 for row, column in gone)


@pytest.mark.parametrize("after", [2, 5])
def test_a_resumed_search_has_dropped_the_same_operations_and_ends_the_same(after):
    whole, resumed = make_loop(), make_loop()
    whole.advance(after)
    whole.evaluate()
    resumed.load_state(unpack_checkpoint(pack_checkpoint(whole.state())))
    for loop in (whole, resumed):
        loop.run_epoch()
        loop.run_epoch()
        loop.restore_best()
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, resumed.network.state_dict()[name]), name


def test_the_best_state_is_read_by_whoever_knows_nothing_of_dropping():
    loop = make_loop()
    loop.run_epoch()
    loop.run_epoch()
    loop.run_epoch()
    kept = evaluate(loop.network, loop.data, loop.data.val, RECIPE)
    loop.best = None
    loop.note(kept)
    gone = dropped(loop.network)
    loop.restore_best()
    assert loop.network.kept == {}
    assert evaluate(loop.network, loop.data, loop.data.val, RECIPE).loss == pytest.approx(kept.loss, abs=1e-3)
    assert all(loop.network.mixture()["cell"][row, column] < 1e-5 for row, column in gone)


def test_shares_outside_of_the_search_are_refused():
    with pytest.raises(InvalidArgument, match="drop_shares"):
        RECIPE.override(drop_shares=(0.5, 1.5))
