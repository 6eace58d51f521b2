"""The supernet against the slow, obvious reference; gradients, BatchNorm modes, discrete networks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from supernet_registry.search.networks.operations import BatchNorm, FactorizedReduce
from supernet_registry.search.networks.supernet import Network, alpha_entropy, skip_count
from supernet_registry.search.spaces import family_of, make_space
from supernet_registry.search.training.data import make_generator
from tests.search.reference import reference_logits

SPACES = {
    "compact": make_space("compact", channels=4),
    "nas-bench-201": make_space("nas-bench-201", channels=4),
    "nas-bench-201, plain norms": make_space("nas-bench-201", channels=4, affine_batch_norm=False, stem_stride=2),
    "darts": make_space("darts", channels=4, cells=3, nodes=2),
    "darts, affine, odd sides": make_space("darts", channels=4, cells=3, nodes=2, affine_batch_norm=True),
}
PARTIAL = {
    "nas-bench-201, half of the channels": make_space("nas-bench-201", channels=4, partial_channels=2),
    "darts, a quarter": make_space("darts", channels=8, cells=3, nodes=2, partial_channels=4),
    "darts, a quarter, odd sides": make_space("darts", channels=8, cells=3, nodes=3, partial_channels=4),
}


def make_supernet(space, n_classes=3, alpha_scale=1.0):
    network = Network(space, n_classes, generator=make_generator(0, "test"), alpha_scale=alpha_scale)
    return network.double()  # near-ties in max pooling flip in float32 and would drown real differences


def some_images(side=16, count=4):
    return torch.randn(count, 3, side, side, generator=make_generator(1, "images"), dtype=torch.float64)


@pytest.mark.parametrize("name", [*SPACES, *PARTIAL])
def test_logits_and_gradients_equal_the_textbook_mixture(name):
    """With partial channels joined, weighed and shuffled on every edge, as the paper has it: gradients reach β, too."""
    network, images = make_supernet((SPACES | PARTIAL)[name]), some_images(18 if "odd" in name else 16)
    with torch.no_grad():
        for beta in network.betas.values():
            beta.normal_(generator=make_generator(3, "beta"))
    labels = torch.arange(4) % 3
    logits = network(images)
    expected = reference_logits(network, images, network.operation_weights())
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)

    parameters = list(network.parameters())
    mine = torch.autograd.grad(F.cross_entropy(logits, labels), parameters, allow_unused=True)
    theirs = torch.autograd.grad(F.cross_entropy(expected, labels), parameters, allow_unused=True)
    for (parameter, _), a, b in zip(network.named_parameters(), mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9, msg=parameter)


def test_the_mixture_is_the_softmax_of_alpha():
    network = make_supernet(SPACES["darts"])
    for kind, alpha in network.alphas.items():
        e = alpha.exp()
        torch.testing.assert_close(network.mixture()[kind], e / e.sum(dim=1, keepdim=True))


@pytest.mark.parametrize("name", SPACES)
def test_a_supernet_with_one_hot_mixture_is_the_discrete_network(name):
    """Up to the scale and shift that a discrete network has in addition, which begin as 1 and 0."""
    from supernet_registry.search.children.child import inherit

    supernet = make_supernet(SPACES[name])
    genotype = supernet.derive()
    child = Network(supernet.space, 3, generator=make_generator(2, "child"), genotype=genotype).double()
    inherit(child, supernet.state_dict())
    mixture = {kind: torch.zeros_like(alpha) for kind, alpha in supernet.alphas.items()}
    for kind in family_of(supernet.space).cell_kinds(supernet.space):
        for row, edge in enumerate(kind.edges):
            for operation, source in genotype[kind.name][edge.target - kind.inputs]:
                if source == edge.source:
                    mixture[kind.name][row, supernet.space.operations.index(operation)] = 1.0
    images = some_images()
    for network in (supernet, child):
        network.set_norm_mode("calibrate")
    supernet.features(images, mixture)
    child.features(images)
    for network in (supernet, child):
        network.set_norm_mode("eval")
    torch.testing.assert_close(child(images), supernet(images, mixture))


def test_all_channels_in_the_mixture_is_the_plain_supernet():
    """K = 1 adds nothing: the same tensors, the same id."""
    space = make_space(channels=4)
    plain, partial = (make_supernet(s) for s in (space, make_space(channels=4, partial_channels=1)))
    assert partial.space.id == space.id
    assert set(plain.state_dict()) == set(partial.state_dict())
    assert torch.equal(plain(some_images()), partial(some_images()))


def test_uniform_beta_weighs_the_edges_of_a_node_equally():
    network = make_supernet(PARTIAL["darts, a quarter"])
    weights = network.edge_weights()["normal"]
    torch.testing.assert_close(weights, torch.tensor([1 / 2, 1 / 2, 1 / 3, 1 / 3, 1 / 3]).double())
    torch.testing.assert_close(network.mixture()["normal"].sum(dim=1), weights)


def test_every_architecture_parameter_and_operation_of_a_partial_supernet_gets_a_gradient():
    network = make_supernet(PARTIAL["darts, a quarter"])
    loss = F.cross_entropy(network(some_images()), torch.arange(4) % 3)
    for name, gradient in zip(
        dict(network.named_parameters()), torch.autograd.grad(loss, list(network.parameters())), strict=True
    ):
        assert gradient.abs().sum() > 0.0, name


def test_the_genotype_follows_beta_times_alpha():
    """The third edge of a node has the strongest operation and by far the weakest β."""
    network = make_supernet(PARTIAL["darts, a quarter"], alpha_scale=0.0)
    column = network.space.operations.index("sep_conv_3x3")
    with torch.no_grad():
        network.alphas["normal"][2:, column] = torch.tensor([1.0, 1.1, 3.0])
    assert [source for _, source in network.derive()["normal"][1]] == [1, 2]
    with torch.no_grad():
        network.betas["normal"][4] = -5.0
    assert [source for _, source in network.derive()["normal"][1]] == [0, 1]


def test_a_child_of_a_partial_supernet_has_all_channels_and_inherits_what_fits():
    from supernet_registry.search.children.child import inherit

    supernet = make_supernet(PARTIAL["darts, a quarter"])
    child = Network(supernet.space, 3, generator=make_generator(2, "child"), genotype=supernet.derive()).double()
    names = inherit(child, supernet.state_dict())
    assert "stem.0.weight" in names
    assert not any(".edges." in name and "pointwise" in name for name in names)
    assert child(some_images()).shape == (4, 3)
    assert not [name for name in child.state_dict() if name.startswith(("alphas", "betas"))]


def test_a_factorised_reduction_of_few_channels_has_the_gradient_of_the_strided_convolution():
    """In float32 and channels_last, where oneDNN's own gradient of the strided one writes past its buffer."""
    reduce = FactorizedReduce(4, 4, affine=False).to(memory_format=torch.channels_last)
    for side in (16, 17):
        x = torch.randn(16, 4, side, side, generator=make_generator(side, "x"))
        weights = [reduce.conv_even.weight, reduce.conv_odd.weight]
        y = reduce(x.contiguous(memory_format=torch.channels_last))
        odd = F.pad(x[:, :, 1:, 1:], (0, side % 2, 0, side % 2))
        # In float64 oneDNN has no part.
        inputs = zip((x, odd), weights, strict=True)
        plain = torch.cat([F.conv2d(part.double(), weight.double(), stride=2) for part, weight in inputs], dim=1)
        expected = F.batch_norm(plain, None, None, training=True)
        slopes = torch.randn(y.shape, generator=make_generator(1, "slopes"))
        found, wanted = ((out * slopes).sum() for out in (y, expected))
        for a, b in zip(torch.autograd.grad(found, weights), torch.autograd.grad(wanted, weights), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_equal_generators_give_equal_networks_and_leave_torchs_own_alone():
    space = SPACES["nas-bench-201"]
    a, b = (Network(space, 3, generator=make_generator(5, "x")).state_dict() for _ in range(2))
    c = Network(space, 3, generator=make_generator(6, "x")).state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["stem.0.weight"], c["stem.0.weight"])


def test_calibration_averages_the_statistics_of_its_batches_and_starts_anew():
    norm = BatchNorm(2, affine=False)
    network = torch.nn.Sequential(norm)
    batches = [torch.randn(8, 2, 3, 3, generator=make_generator(n, "bn")) for n in range(3)]
    for _ in range(2):  # the second time forgets the first
        norm.mode, norm.batches = "calibrate", 0
        for batch in batches:
            network(batch)
    mean = torch.stack([batch.mean(dim=(0, 2, 3)) for batch in batches]).mean(dim=0)
    var = torch.stack([batch.var(dim=(0, 2, 3)) for batch in batches]).mean(dim=0)
    torch.testing.assert_close(norm.running_mean, mean)
    torch.testing.assert_close(norm.running_var, var)
    norm.mode = "eval"
    expected = F.batch_norm(batches[0], mean, var)
    torch.testing.assert_close(network(batches[0]), expected)


def test_training_leaves_collected_statistics_alone():
    network = make_supernet(SPACES["nas-bench-201"])
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    network(some_images())
    assert all(torch.equal(before[name], buffer) for name, buffer in network.named_buffers())


@pytest.mark.parametrize("side", [16, 17, 28, 32])
def test_every_side_fits_every_space(side):
    for space in SPACES.values():
        assert make_supernet(space)(some_images(side, count=2)).shape == (2, 3)


def test_entropy_is_one_for_uniform_and_zero_for_decided_alpha():
    assert alpha_entropy({"cell": np.zeros((6, 5))}) == pytest.approx(1.0)
    assert alpha_entropy({"cell": 1e3 * np.eye(5)}) == pytest.approx(0.0, abs=1e-9)


def test_skip_connections_are_counted():
    space = make_space("nas-bench-201")
    text = "|skip_connect~0|+|skip_connect~0|none~1|+|none~0|none~1|skip_connect~2|"
    assert skip_count(family_of(space).parse_genotype(space, text)) == 3
