"""DARTS-PT's selection: what it is for, what it leaves alone, and its place in the pipeline."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from supernet_registry.search.children.perturbation import select_by_perturbation
from supernet_registry.search.children.selection import Selection
from supernet_registry.search.errors import InvalidArgument, SearchCancelled
from supernet_registry.search.networks.supernet import Network, Projection
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.runs.pipeline import Listener, PipelineResult, run_pipeline
from supernet_registry.search.spaces import SearchSpace, family_of, make_space
from supernet_registry.search.starts.warm_start import fit_head
from supernet_registry.search.training.data import Data, load_data, make_generator
from supernet_registry.search.training.devices import pick_device
from supernet_registry.search.training.evaluation import evaluate
from tests.search.reference import reference_logits
from tests.tiny_search import tiny_dataset, tiny_space

TINY = {"channels": 4, "resolution": 16, "stem_stride": 2, "affine_batch_norm": True}
CHAIN = make_space(
    "nas-bench-201", nodes=1, cells=1, head_pool=2, operations=("none", "nor_conv_1x1", "nor_conv_3x3"), **TINY
)
DARTS = make_space("darts", cells=3, nodes=2, head_pool=2, operations=("none", "sep_conv_3x3", "dil_conv_3x3"), **TINY)


def planted(space: SearchSpace, useful: tuple[int, str], alphas: np.ndarray) -> tuple[Network, Data, Recipe]:
    """A supernet in which no operation but one, on one edge of every cell, puts out anything but zeros."""
    data = load_data(tiny_dataset(), space, pick_device("cpu"))
    recipe = replace(Recipe.for_space(space), batch_size=16)
    network = Network(space, 2, generator=make_generator(0, "planted"))
    with torch.no_grad():
        for alpha in network.alphas.values():
            alpha.copy_(torch.from_numpy(alphas))
        for name, parameter in network.named_parameters():
            match = re.fullmatch(r"blocks\.\d+\.edges\.(\d+)\.(\w+)\.norm(_2)?\.(weight|bias)", name)
            if match and (int(match[1]), match[2]) != useful:
                parameter.zero_()
    fit_head(network, data, recipe)
    assert evaluate(network, data, data.val, recipe).accuracy > 0.7
    return network, data, recipe


def select(network: Network, data: Data, recipe: Recipe, *, seed: int = 0) -> Selection:
    return select_by_perturbation(network, data, recipe, generator=make_generator(seed, "derivation"))


def test_the_only_useful_operation_is_chosen_although_its_alpha_is_smaller():
    """The paper's point: how much weight an operation has is not how much the supernet needs it."""
    network, data, recipe = planted(CHAIN, (0, "nor_conv_3x3"), np.array([[0.0, 2.0, 0.0]], np.float32))
    assert network.derive() == {"cell": ((("nor_conv_1x1", 0),),)}
    assert select(network, data, recipe).genotype == {"cell": ((("nor_conv_3x3", 0),),)}


def test_the_only_useful_edge_is_kept_although_its_alpha_is_the_smallest():
    """Edges are decided as operations are; DARTS keeps two a node."""
    alphas = np.tile(np.array([[0.0, 2.0, 0.0]], np.float32), (5, 1))
    alphas[3, 1] = 1.0  # the edge from the last cell to the second node
    network, data, recipe = planted(DARTS, (3, "dil_conv_3x3"), alphas)
    assert 1 not in [source for _, source in network.derive()["normal"][1]]
    genotype = select(network, data, recipe).genotype
    for kind in ("normal", "reduce"):
        assert ("dil_conv_3x3", 1) in genotype[kind][1]
        assert [len(node) for node in genotype[kind]] == [2, 2]
    family = family_of(DARTS)
    assert family.parse_genotype(DARTS, family.format_genotype(genotype)) == genotype


@pytest.mark.parametrize("steps", [0, 1])
def test_the_selection_follows_from_its_generator_and_leaves_the_supernet_as_it_was(steps: int):
    network, data, recipe = planted(CHAIN, (0, "nor_conv_3x3"), np.zeros((1, 3), np.float32))
    recipe = replace(recipe, derivation_steps=steps)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items() if "running" not in name}
    first, second = select(network, data, recipe), select(network, data, recipe)
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in before.items())
    assert first.genotype == second.genotype
    assert first.steps == second.steps == steps
    tuned = dict(first.supernet.named_parameters())
    assert all(torch.equal(tuned[name], tensor) for name, tensor in second.supernet.named_parameters())
    assert torch.equal(tuned["stem.0.weight"], before["stem.0.weight"]) is (steps == 0)


def test_a_projection_is_the_textbook_mixture_with_those_weights():
    """Decided edges weigh 1, open ones as softmax(α) says, dropped ones and absent operations nothing."""
    space = make_space("nas-bench-201", channels=4, nodes=2)
    network = Network(space, 3, generator=make_generator(0, "test"), alpha_scale=1.0).double()
    images = torch.randn(4, 3, 16, 16, generator=make_generator(1, "images"), dtype=torch.float64)
    weights = network.mixture()["cell"].detach().clone()  # (3, 5)
    network.projection = projection = Projection.free(network)
    projection.decide("cell", 0, 3)
    projection.drop("cell", 1)
    weights[0], weights[0, 3], weights[1] = 0.0, 1.0, 0.0
    torch.testing.assert_close(network(images), reference_logits(network, images, {"cell": weights}))
    absent = weights.clone()
    absent[2, 1] = 0.0
    with projection.without("cell", 2, 1):
        torch.testing.assert_close(network(images), reference_logits(network, images, {"cell": absent}))
    torch.testing.assert_close(network.mixture()["cell"], weights)


SPACE = tiny_space()
RECIPE = replace(
    Recipe.for_space(SPACE),
    epochs=1,
    child_epochs=1,
    batch_size=16,
    derivation="perturbation",
    derivation_steps=1,
)


class Recorder(Listener):
    """Keeps checkpoints; says stop at a poll, if given."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.checkpoints: list[bytes] = []
        self.polls, self.stop_at = 0, stop_at

    def on_checkpoint(self, data: bytes) -> None:
        self.checkpoints.append(data)

    def should_stop(self) -> bool:
        self.polls += 1
        return self.polls == self.stop_at


def run(listener: Listener, **options) -> PipelineResult:
    return run_pipeline(tiny_dataset(), SPACE, RECIPE, device="cpu", listener=listener, **options)


def test_a_search_that_selects_by_perturbation_goes_on_from_any_checkpoint_and_after_any_stop():
    recorder = Recorder()
    whole = run(recorder)
    assert whole.child_steps == 3 + 3  # an epoch of both splits, and a step after the decision of each of three edges
    family_of(SPACE).parse_genotype(SPACE, whole.genotype)
    for checkpoint in recorder.checkpoints:
        assert run(Listener(), checkpoint=checkpoint).child == whole.child
    stopped = Recorder(stop_at=8)  # in the middle of the selection: two steps of the search came before
    with pytest.raises(SearchCancelled):
        run(stopped)
    assert run(Listener(), checkpoint=stopped.checkpoints[-1]).child == whole.child


def test_an_unknown_derivation_is_refused():
    with pytest.raises(InvalidArgument, match="guess"):
        replace(RECIPE, derivation="guess").check()
