"""A fresh α that leans towards its family's prior architecture; a transferred one does not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from supernet_registry.search.networks.alpha_prior import lean
from supernet_registry.search.networks.supernet import Network
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.spaces import FAMILIES, family_of, make_space
from supernet_registry.search.starts.setup import SearchSetup
from supernet_registry.search.training.data import load_data, make_generator
from tests.tiny_search import tiny_dataset

SPACE = make_space(channels=4, resolution=16)


def fresh(space=SPACE, *, seed=0) -> Network:
    return Network(space, 2, generator=make_generator(seed, "net"))


@pytest.mark.parametrize("nodes", [1, 2, 3])
def test_a_leaning_alpha_derives_the_prior(nodes):
    space = make_space(channels=4, nodes=nodes)
    network = fresh(space)
    lean(network, 1.0)
    prior = family_of(space).prior(space)
    assert network.derive() == prior
    assert family_of(space).parse_genotype(space, family_of(space).format_genotype(prior)) == prior


def test_the_shares_of_a_leaning_edge_are_as_said():
    network = fresh()
    with torch.no_grad():
        network.alphas["cell"].zero_()
    lean(network, 2.0)
    share = np.exp(2.0) / (np.exp(2.0) + 5.0)
    weights = network.operation_weights()["cell"].detach()
    assert weights.max(dim=1).values.tolist() == pytest.approx([share] * 3)


def test_published_spaces_have_no_prior():
    for family in ("darts", "nas-bench-201"):
        space = make_space(family, channels=4)
        network, plain = fresh(space), fresh(space)
        assert FAMILIES[family].prior(space) is None
        lean(network, 2.0)
        assert all(torch.equal(network.alphas[kind], alpha) for kind, alpha in plain.alphas.items())


def test_a_space_without_the_operations_has_no_prior():
    space = make_space(operations=("none", "nor_conv_3x3"))
    assert family_of(space).prior(space) is None


@pytest.mark.parametrize("mode", ["WEIGHTS_AND_ALPHAS", "ALPHAS_ONLY", "WEIGHTS_ONLY"])
def test_what_a_source_has_learnt_takes_the_place_of_the_prior(mode):
    data = load_data(tiny_dataset(), SPACE, torch.device("cpu"))
    setup = SearchSetup(SPACE, data, Recipe.for_space(SPACE), 0, lambda: False)
    source = dict(fresh(seed=1).state_dict())
    alpha = setup.prepare(source, mode).loop.network.alphas["cell"]
    scratch = setup.prepare(None, "SCRATCH").loop.network
    if mode == "WEIGHTS_ONLY":
        assert torch.equal(alpha, scratch.alphas["cell"])
        assert scratch.derive() == family_of(SPACE).prior(SPACE)
    else:
        assert torch.equal(alpha, source["alphas.cell"])
