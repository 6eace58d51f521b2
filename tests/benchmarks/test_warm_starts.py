"""The ways to begin a warm start that are compared do what they say."""

from __future__ import annotations

import pytest
import torch

from benchmarks.transfer import warm_starts
from supernet_registry.search.errors import InvalidArgument
from supernet_registry.search.networks.supernet import Network
from supernet_registry.search.spaces import make_space
from supernet_registry.search.starts.warm_start import transfer
from supernet_registry.search.training.data import make_generator

SPACE = make_space(channels=4)


def make_network(seed: int, n_classes: int = 3) -> Network:
    return Network(SPACE, n_classes, generator=make_generator(seed, "net"), alpha_scale=1.0)


@pytest.mark.parametrize("kept", [0.0, 0.6, 1.0])
def test_every_weight_is_moved_towards_a_fresh_one_and_nothing_else_is(kept):
    network, fresh = make_network(1), make_network(2)
    before, theirs = ({k: v.clone() for k, v in n.state_dict().items()} for n in (network, fresh))
    warm_starts.perturb(network, fresh, kept)
    moved = {name for name, _ in network.named_parameters() if not name.startswith(("head.", "alphas."))}
    for name, tensor in network.state_dict().items():
        wanted = kept * before[name] + (1.0 - kept) * theirs[name] if name in moved else before[name]
        torch.testing.assert_close(tensor, wanted)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in fresh.state_dict().items())


def test_a_coupled_head_answers_for_a_class_as_the_source_does_for_its_counterparts():
    source, target = make_network(1, n_classes=3), make_network(2, n_classes=2)
    transfer(target, source.state_dict(), "WEIGHTS_AND_ALPHAS")
    warm_starts.couple_head(
        target, source.state_dict(), torch.tensor([[0.0, 0.0, 0.5], [0.1, 0.3, 0.0]], dtype=torch.float64)
    )
    images = torch.randn(4, 3, 16, 16)
    theirs, ours = source(images), target(images)
    torch.testing.assert_close(ours, torch.stack([theirs[:, 2], 0.25 * theirs[:, 0] + 0.75 * theirs[:, 1]], dim=1))


@pytest.mark.parametrize("coupling", [torch.ones(3, 3), torch.ones(2, 2), torch.tensor([[1.0, 0, 0], [0, 0, 0]])])
def test_a_coupling_of_other_classes_or_without_mass_is_refused(coupling):
    source, target = make_network(1, n_classes=3), make_network(2, n_classes=2)
    before = target.head.weight.clone()
    with pytest.raises(InvalidArgument):
        warm_starts.couple_head(target, source.state_dict(), coupling)
    assert torch.equal(target.head.weight, before)
