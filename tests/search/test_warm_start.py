"""What a warm start transfers, tensor by tensor; tempering of α; the prototype head."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from supernet_registry.search.errors import InvalidArgument, UnsafeWeights
from supernet_registry.search.networks.supernet import Network, alpha_entropy
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.spaces import make_space
from supernet_registry.search.starts.prototypes import prototype_head
from supernet_registry.search.starts.setup import SearchSetup
from supernet_registry.search.starts.warm_start import (
    MODES,
    carries_alphas,
    carries_weights,
    fit_head,
    soften_head,
    temper,
    transfer,
)
from supernet_registry.search.training.data import load_data, make_generator
from supernet_registry.search.training.evaluation import calibrate, calibrated_features, collect_features, evaluate
from tests.tiny_search import tiny_dataset, tiny_space

SPACE = make_space(channels=4)


def make_network(seed: int, n_classes: int = 3) -> Network:
    return Network(SPACE, n_classes, generator=make_generator(seed, "net"), alpha_scale=1.0)


@pytest.mark.parametrize("mode", MODES)
def test_every_tensor_is_either_the_sources_or_fresh_as_the_mode_says(mode):
    source, fresh, target = make_network(1, n_classes=5), make_network(2), make_network(2)
    for name, buffer in source.named_buffers():
        buffer.add_(0.5 if name else 0)
    given = source.state_dict()
    report = transfer(target, given, mode)
    for name, tensor in target.state_dict().items():
        kind = "head" if name.startswith("head.") else "alphas" if name.startswith("alphas.") else "weights"
        wanted = {"head": False, "alphas": carries_alphas(mode), "weights": carries_weights(mode)}[kind]
        assert torch.equal(tensor, given[name] if wanted else fresh.state_dict()[name]), name
        assert (name in report.copied, name in report.fresh) == (wanted, not wanted)


@pytest.mark.parametrize("mode", MODES)
def test_beta_travels_with_alpha(mode):
    space = make_space(channels=4, partial_channels=2)
    source, target = (Network(space, 3, generator=make_generator(seed, "net")) for seed in (1, 2))
    with torch.no_grad():
        source.betas["cell"].fill_(0.5)
    transfer(target, source.state_dict(), mode)
    assert (target.betas["cell"] == (0.5 if carries_alphas(mode) else 0.0)).all()


def test_the_modes_mean_what_they_are_called():
    assert [mode for mode in MODES if carries_weights(mode)] == ["WEIGHTS_AND_ALPHAS", "WEIGHTS_ONLY"]
    assert [mode for mode in MODES if carries_alphas(mode)] == ["WEIGHTS_AND_ALPHAS", "ALPHAS_ONLY"]


def test_a_source_that_lacks_a_tensor_or_has_another_shape_is_never_loaded_in_part():
    target, before = make_network(2), make_network(2).state_dict()
    whole = make_network(1).state_dict()
    missing = {name: tensor for name, tensor in whole.items() if name != "stem.0.weight"}
    surplus = {**whole, "stem.2.weight": torch.ones(1)}
    reshaped = {**whole, "alphas.cell": torch.zeros(6, 4)}
    for wrong in (missing, surplus, reshaped, {}):
        with pytest.raises(UnsafeWeights):
            transfer(target, wrong, "WEIGHTS_AND_ALPHAS")
    assert all(torch.equal(tensor, before[name]) for name, tensor in target.state_dict().items())


def test_an_unknown_mode_is_refused():
    with pytest.raises(InvalidArgument):
        transfer(make_network(1), make_network(2).state_dict(), "EVERYTHING")


def test_peaked_alpha_is_tempered_to_the_floor_and_keeps_its_order():
    network = make_network(1)
    with torch.no_grad():
        network.alphas["cell"].mul_(50.0)
    before = network.alphas["cell"].detach().clone()
    temperature = temper(network, 0.5)
    assert temperature > 1.0
    assert alpha_entropy(network.alpha_arrays()) == pytest.approx(0.5, abs=1e-3)
    assert torch.equal(network.alphas["cell"].argsort(dim=1), before.argsort(dim=1))


def test_alpha_that_is_still_undecided_is_left_alone():
    network = make_network(1)
    before = network.alphas["cell"].detach().clone()
    assert temper(network, 0.5) == 1.0
    assert torch.equal(network.alphas["cell"], before)


def test_the_prototype_head_is_the_bayes_classifier_of_two_gaussians():
    """With identity covariance: the weights are the class means, the biases minus half their squared lengths."""
    generator = make_generator(0, "gaussians")
    means = torch.tensor([[2.0, 0.0, 0.0], [-2.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    labels = torch.arange(6000) % 3
    features = means[labels] + torch.randn(6000, 3, generator=generator)
    head = prototype_head(features, labels, 3)
    weight, bias = head.weight, head.bias
    expected = (means - means.mean(dim=0)) - (means - means.mean(dim=0)).mean(dim=0)
    torch.testing.assert_close(weight - weight.mean(dim=0), expected, atol=0.15, rtol=0)
    logits = features @ weight.T + bias
    truth = features @ means.T - 0.5 * means.square().sum(dim=1)
    assert (logits.argmax(dim=1) == truth.argmax(dim=1)).float().mean() > 0.99


def test_the_prototype_head_is_not_overconfident_with_more_features_than_images():
    """Pure noise: a head that believed its training images would have a huge loss on others."""
    generator = make_generator(0, "noise")
    x, labels = torch.randn(80, 500, generator=generator), torch.arange(80) % 4
    head = prototype_head(x[:40], labels[:40], 4)
    weight, bias = head.weight, head.bias
    loss = torch.nn.functional.cross_entropy(x[40:] @ weight.T + bias, labels[40:]).item()
    assert loss < 1.6  # a uniform guess has log 4 = 1.39


def test_a_prototype_head_is_not_certain_where_classes_are_apart():
    """Features of a trained supernet fall together class by class. That no image of a few was held out in vain is no
    reason for logits in the thousands, by which one image of another kind would cost hundreds of nats."""
    generator = make_generator(2, "apart")
    labels = torch.arange(30) % 3
    x = torch.nn.functional.one_hot(labels, 40).float() + 1e-3 * torch.randn(30, 40, generator=generator)
    head = prototype_head(x, labels, 3)
    logits = x @ head.weight.T + head.bias
    assert (logits.argmax(dim=1) == labels).all()
    assert 0.9 < logits.softmax(dim=1).max(dim=1).values.min() < 0.999
    assert head.held_out_logits.abs().max() < 20.0


def test_held_out_logits_have_not_seen_the_labels_they_are_judged_by():
    """On pure noise the head knows its own training images by heart, and the held-out ones not at all."""
    generator = make_generator(1, "noise")
    x, labels = torch.randn(400, 300, generator=generator), torch.arange(400) % 4
    head = prototype_head(x, labels, 4)
    by_heart = ((x @ head.weight.T + head.bias).argmax(dim=1) == labels).float().mean()
    held_out = (head.held_out_logits.argmax(dim=1) == head.held_out_labels).float().mean()
    assert by_heart > 0.6
    assert held_out < 0.35  # chance is 0.25, three standard errors are 0.065


@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_prototype_head_lives_with_very_few_images(count):
    x = torch.randn(count, 10, generator=make_generator(0, "few"))
    head = prototype_head(x, torch.arange(count) % 2, 2)
    weight, bias = head.weight, head.bias
    assert weight.isfinite().all()
    assert bias.isfinite().all()


def test_fitting_the_head_classifies_an_easy_task_without_a_step():
    space = tiny_space()
    recipe = Recipe.for_space(space)
    data = load_data(tiny_dataset(), space, torch.device("cpu"))
    network = Network(space, 2, generator=make_generator(0, "net"))
    body = {name: p.detach().clone() for name, p in network.named_parameters() if not name.startswith("head.")}
    fit_head(network, data, recipe)
    assert evaluate(network, data, data.val, recipe).accuracy >= 0.9
    assert all(torch.equal(p, body[name]) for name, p in network.named_parameters() if name in body)


def test_a_softened_head_chooses_the_same_classes_and_is_less_sure():
    network, images = make_network(1), torch.randn(8, 3, 16, 16)
    before = network(images)
    soften_head(network, 0.3)
    torch.testing.assert_close(network(images), 0.3 * before)


def test_a_search_is_judged_with_its_prototype_head_and_trained_with_a_softer_one():
    space = tiny_space()
    data = load_data(tiny_dataset(), space, torch.device("cpu"))
    sharp, soft = (
        SearchSetup(space, data, replace(Recipe.for_space(space), head_scale=scale), 0, lambda: False).prepare(
            None, "SCRATCH"
        )
        for scale in (1.0, 0.5)
    )
    assert soft.loop.best == sharp.loop.best
    assert soft.evidence.gain_over(sharp.evidence)[0] == 0.0
    torch.testing.assert_close(soft.loop.network.head.weight, 0.5 * sharp.loop.network.head.weight)
    soft.loop.restore_best()
    torch.testing.assert_close(soft.loop.network.head.weight, sharp.loop.network.head.weight)


@pytest.mark.parametrize("eval_batch_size", [8, 256])
def test_calibrated_features_are_those_of_the_calibrated_network(eval_batch_size):
    """Whether the training split is passed through once, because it fits a batch, or twice."""
    space = tiny_space()
    recipe = replace(Recipe.for_space(space), eval_batch_size=eval_batch_size, calibration_images=10_000)
    data = load_data(tiny_dataset(), space, torch.device("cpu"))
    network = Network(space, 2, generator=make_generator(0, "net"))
    features, labels = calibrated_features(network, data, recipe)
    calibrate(network, data, recipe)
    expected, expected_labels = collect_features(network, data, data.train, recipe)
    # A batch is normalised by its plain variance, the statistics keep the unbiased one. They differ by 1 / (N H W),
    # here up to 1 / 128 in each of a dozen layers.
    assert (features - expected).norm() < 0.05 * expected.norm()
    assert torch.equal(labels, expected_labels)
