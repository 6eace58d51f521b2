"""Variants of DARTS: of each the property that defines it, and that all go on bit for bit from their state."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from supernet_registry.search.errors import InvalidArgument
from supernet_registry.search.networks.supernet import Network, softmax
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.spaces import make_space
from supernet_registry.search.strategies import VARIANTS
from supernet_registry.search.training.checkpoint import pack_checkpoint, unpack_checkpoint
from supernet_registry.search.training.data import load_data, make_generator
from supernet_registry.search.training.loop import Loop
from supernet_registry.search.training.plan import Plan
from supernet_registry.search.training.variants import Batch, make_variant
from supernet_registry.search.training.variants.drnas import DrNas, concentration, dirichlet_mean
from supernet_registry.search.training.variants.second_order import SecondOrderDarts, inner_step
from supernet_registry.search.training.variants.smooth import AdversarialSmoothDarts, RandomSmoothDarts
from tests.tiny_search import tiny_dataset, tiny_space

CPU = torch.device("cpu")
SPACE = tiny_space()
PARTIAL = replace(SPACE, channels=8, partial_channels=4)
RECIPE = Recipe.for_space(SPACE).override(batch_size=16, epochs=4)


def make_loop(recipe: Recipe, *, space=None) -> Loop:
    space = space or (PARTIAL if VARIANTS.check(recipe.variant).needs else SPACE)
    network = Network(space, 2, generator=make_generator(0, "net"), alpha_scale=0.5)
    plan = Plan(
        phase="SEARCH",
        epochs=recipe.epochs,
        patience=99,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        label_smoothing=0.1,
        search_alphas=True,
    )
    data = load_data(tiny_dataset(), space, CPU)
    return Loop(network, data, recipe, plan, generator=make_generator(0, "loop"))


def assert_equal_networks(one: Loop, other: Loop) -> None:
    for name, tensor in one.network.state_dict().items():
        assert torch.equal(tensor, other.network.state_dict()[name]), name


@pytest.mark.parametrize("variant", VARIANTS.names)
def test_every_variant_goes_on_bit_for_bit_from_its_state(variant):
    """In the middle of an epoch, with operations dropped before and after."""
    recipe = replace(RECIPE, variant=variant, drop_shares=(0.3, 0.7))
    whole, resumed = make_loop(recipe), make_loop(recipe)
    whole.advance(3)
    resumed.load_state(unpack_checkpoint(pack_checkpoint(whole.state())))
    assert whole.run_epoch().train_loss == resumed.run_epoch().train_loss
    assert whole.run_epoch().train_loss == resumed.run_epoch().train_loss
    assert_equal_networks(whole, resumed)
    assert whole.restore_best() == resumed.restore_best()
    assert_equal_networks(whole, resumed)


@pytest.mark.parametrize("variant", VARIANTS.names)
def test_no_variant_shifts_the_batches(variant):
    """They are the same whatever else is drawn, so that two variants are compared on the same images."""
    plain, other = make_loop(replace(RECIPE, variant="darts")), make_loop(replace(RECIPE, variant=variant))
    if variant == "pc-darts":  # which draws no validation batches while α rests
        other = make_loop(replace(RECIPE, variant=variant, alpha_rest=0.0))
    plain.advance(3)
    other.advance(3)
    assert torch.equal(plain.train_batch()[0], other.train_batch()[0])


@pytest.mark.parametrize("wrong", [{"variant": "darts-3rd"}, {"curvature": "guessed"}, {"perturbation": -0.1}])
def test_an_impossible_setting_is_refused(wrong):
    with pytest.raises(InvalidArgument) as caught:
        RECIPE.override(**wrong)
    assert caught.value.remedy


# Second order


@dataclass
class FixedBatches:
    """What a variant sees of a loop, with the same two batches for ever, in float64."""

    network: Network
    weight_optimizer: torch.optim.Optimizer
    rate: float
    share: float = 0.5
    train: Batch = field(init=False)
    val: Batch = field(init=False)

    def __post_init__(self) -> None:
        self.data = load_data(tiny_dataset(), self.network.space, CPU)
        self.weights, self.architecture = self.network.weights(), self.network.architecture()
        dtype = self.weights[0].dtype
        self.train, self.val = (
            (self.data.normalisation(split.images).to(dtype), split.labels)
            for split in (self.data.train, self.data.val)
        )

    def learning_rate(self) -> float:
        return self.rate

    def train_batch(self) -> Batch:
        return self.train

    def train_loss(self, batch: Batch, mixture=None) -> Tensor:
        return torch.nn.functional.cross_entropy(self.network(batch[0], mixture), batch[1])

    val_loss = train_loss


def make_fixed(optimizer: str = "sgd", *, dtype=torch.float64, rate: float = 0.1) -> FixedBatches:
    network = Network(SPACE, 2, generator=make_generator(3, "net"), alpha_scale=0.5).to(dtype)
    weights = network.weights()
    made = (
        torch.optim.SGD(weights, lr=rate, momentum=0.9, weight_decay=1e-2)
        if optimizer == "sgd"
        else torch.optim.AdamW(weights, lr=rate, weight_decay=1e-2)
    )
    loop = FixedBatches(network, made, rate)
    for _ in range(2):  # so that there is momentum
        made.zero_grad()
        loop.train_loss(loop.train).backward()
        made.step()
    made.zero_grad()
    return loop


def unrolled_loss(loop: FixedBatches) -> float:
    """L_val(w', α), the weights moved by the step that the optimiser would make."""
    before = [weight.detach().clone() for weight in loop.weights]
    gradients = torch.autograd.grad(loop.train_loss(loop.train), loop.weights)
    steps, _ = inner_step(loop.weight_optimizer, gradients, loop.rate)
    with torch.no_grad():
        for weight, step in zip(loop.weights, steps, strict=True):
            weight.add_(step)
        loss = loop.val_loss(loop.val).item()
        for weight, old in zip(loop.weights, before, strict=True):
            weight.copy_(old)
    return loss


@pytest.mark.parametrize("curvature", ["difference", "exact"])
def test_the_second_order_gradient_is_that_of_the_unrolled_loss(curvature):
    """Equation 7 against a numerical gradient of L_val(w - ξ(∇L_train + momentum + decay), α).

    At a radius at which no ReLU switches: a derivative does not see that, and the paper's 0.01 does.
    """
    loop = make_fixed()
    variant = SecondOrderDarts(loop.network, replace(RECIPE, curvature=curvature), make_generator(0, "none"))
    variant.radius = 1e-6
    (found,) = variant.alpha_gradients(loop, loop.val)
    (first_order,) = torch.autograd.grad(loop.val_loss(loop.val), loop.architecture)
    alpha, numerical = loop.architecture[0], torch.zeros_like(found)
    for place in np.ndindex(*alpha.shape):
        losses = []
        for change in (1e-6, -1e-6):
            with torch.no_grad():
                alpha[place] += change
            losses.append(unrolled_loss(loop))
            with torch.no_grad():
                alpha[place] -= change
        numerical[place] = (losses[0] - losses[1]) / 2e-6
    error = (found - numerical).norm() / numerical.norm()
    assert error < 1e-5
    assert (first_order - numerical).norm() / numerical.norm() > 0.1  # the second term is not negligible


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_inner_step_is_the_one_that_the_optimiser_makes(optimizer):
    loop = make_fixed(optimizer)
    before = [weight.detach().clone() for weight in loop.weights]
    gradients = torch.autograd.grad(loop.train_loss(loop.train), loop.weights)
    steps, slopes = inner_step(loop.weight_optimizer, gradients, loop.rate)
    for weight, gradient in zip(loop.weights, gradients, strict=True):
        weight.grad = gradient
    loop.weight_optimizer.step()
    for weight, old, step, slope in zip(loop.weights, before, steps, slopes, strict=True):
        torch.testing.assert_close(weight.detach() - old, step, rtol=1e-9, atol=1e-12)
        assert (slope > 0).all()


@pytest.mark.parametrize("curvature", ["difference", "exact"])
def test_the_inner_step_leaves_no_trace_in_the_weights(curvature):
    loop = make_fixed(dtype=torch.float32)
    before = [weight.detach().clone() for weight in loop.weights]
    SecondOrderDarts(loop.network, replace(RECIPE, curvature=curvature), make_generator(0, "none")).alpha_gradients(
        loop, loop.val
    )
    assert all(torch.equal(weight, old) for weight, old in zip(loop.weights, before, strict=True))


# Smooth DARTS


@pytest.mark.parametrize("variant", ["smooth-darts-rs", "smooth-darts-adv"])
def test_without_perturbation_smooth_darts_is_darts_bit_for_bit(variant):
    plain, smooth = make_loop(RECIPE), make_loop(replace(RECIPE, variant=variant, perturbation=0.0))
    for loop in (plain, smooth):
        loop.run_epoch()
        loop.run_epoch()
    assert_equal_networks(plain, smooth)


def test_the_random_perturbation_is_uniform_within_its_radius():
    loop = make_fixed(dtype=torch.float32)
    variant = RandomSmoothDarts(loop.network, RECIPE, make_generator(0, "noise"))
    centre = {"cell": torch.full((3, 4), 0.25)}
    changes = torch.stack([variant.scattered(centre, 0.03)["cell"] - 0.25 for _ in range(1000)])  # (1000, 3, 4)
    assert changes.abs().max() <= 0.03 + 1e-7
    assert changes.mean().abs() < 1e-3
    quarters = torch.histc(changes, bins=4, min=-0.03, max=0.03) / changes.numel()
    torch.testing.assert_close(quarters, torch.full((4,), 0.25), atol=0.02, rtol=0.0)


def test_the_radius_grows_linearly_to_its_maximum():
    loop = make_fixed(dtype=torch.float32)
    variant = RandomSmoothDarts(loop.network, replace(RECIPE, perturbation=0.2), make_generator(0, "noise"))
    assert [variant.radius(replace_share(loop, share)) for share in (0.0, 0.5, 1.0)] == [0.0, 0.1, 0.2]


def replace_share(loop: FixedBatches, share: float) -> FixedBatches:
    loop.share = share
    return loop


def test_perturbed_weights_stay_between_0_and_1_and_give_nothing_to_what_has_none():
    loop = make_fixed(dtype=torch.float32)
    variant = RandomSmoothDarts(loop.network, RECIPE, make_generator(0, "noise"))
    centre = {"cell": torch.tensor([[0.0, 0.01, 0.99, 0.0]] * 3)}
    for _ in range(20):
        point = variant.scattered(centre, 0.5)["cell"]
        assert ((point >= 0.0) & (point <= 1.0)).all()
        assert (point[:, [0, 3]] == 0.0).all()


@pytest.mark.parametrize("seed", range(3))
def test_the_adversarial_perturbation_raises_the_loss_more_than_chance_and_stays_in_the_ball(seed):
    loop, radius = make_fixed(dtype=torch.float32), 0.05
    variant = AdversarialSmoothDarts(loop.network, RECIPE, make_generator(seed, "noise"))
    before = {name: tensor.clone() for name, tensor in loop.network.state_dict().items()}
    with torch.no_grad():
        centre = loop.network.operation_weights()
        worst = variant.perturb(loop, loop.train, centre, radius)
        losses = [loop.train_loss(loop.train, variant.scattered(centre, radius)).item() for _ in range(10)]
        assert loop.train_loss(loop.train, worst) > sum(losses) / len(losses)
        assert loop.train_loss(loop.train, worst) > loop.train_loss(loop.train, centre)
    assert (worst["cell"] - centre["cell"]).abs().max() <= radius + 1e-6
    assert all(torch.equal(tensor, before[name]) for name, tensor in loop.network.state_dict().items())


def test_smooth_darts_trains_its_weights_under_another_mixture_than_darts():
    plain, smooth = make_loop(RECIPE), make_loop(replace(RECIPE, variant="smooth-darts-rs", perturbation=0.3))
    for loop in (plain, smooth):
        loop.advance(4)
    assert not torch.equal(plain.network.stem[0].weight, smooth.network.stem[0].weight)


# PC-DARTS


def test_in_pc_darts_alpha_and_beta_rest_at_first_and_then_learn():
    loop = make_loop(replace(RECIPE, variant="pc-darts", alpha_rest=0.5))
    before = [parameter.detach().clone() for parameter in loop.architecture]
    assert len(before) == 2
    loop.advance(4)  # of 8
    assert all(torch.equal(now, old) for now, old in zip(loop.architecture, before, strict=True))
    loop.advance(1)
    assert not any(torch.equal(now, old) for now, old in zip(loop.architecture, before, strict=True))


def test_pc_darts_refuses_a_space_without_partial_channels():
    recipe = replace(RECIPE, variant="pc-darts")
    recipe.check_space(PARTIAL)
    with pytest.raises(InvalidArgument, match="partial channels") as caught:
        recipe.check_space(SPACE)
    assert caught.value.remedy


# DrNAS


def make_drnas(alpha_scale: float = 1.0) -> DrNas:
    network = Network(SPACE, 2, generator=make_generator(0, "net"), alpha_scale=alpha_scale).double()
    variant = make_variant(network, replace(RECIPE, variant="drnas"), make_generator(1, "loop"))
    assert isinstance(variant, DrNas)
    return variant


def test_drnas_draws_mixtures_whose_mean_the_network_is_judged_under():
    variant = make_drnas()
    with torch.no_grad():
        draws = torch.stack([variant.draw()["cell"] for _ in range(4000)])  # (4000, E, O)
        mean = variant.network.mixture()["cell"]
    torch.testing.assert_close(draws.sum(dim=-1), torch.ones(4000, 3).double())
    torch.testing.assert_close(draws.mean(dim=0), mean, atol=0.02, rtol=0.0)
    variance = mean * (1.0 - mean) / (SPACE_OPERATIONS + 1.0)  # of a Dirichlet whose parameters sum to O
    torch.testing.assert_close(draws.var(dim=0), variance, atol=0.01, rtol=0.0)


SPACE_OPERATIONS = len(SPACE.operations)


def test_the_gradient_of_a_draw_is_on_average_that_of_the_mean():
    variant = make_drnas()
    alpha = variant.network.alphas["cell"]
    costs = torch.randn(alpha.shape, generator=make_generator(2, "costs"), dtype=torch.float64)
    drawn = torch.stack([(variant.draw()["cell"] * costs).sum() for _ in range(2000)]).mean()
    (found,) = torch.autograd.grad(drawn, alpha)
    (expected,) = torch.autograd.grad((dirichlet_mean(alpha) * costs).sum(), alpha)
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0.05)


def test_a_transferred_alpha_means_the_same_mixture_to_drnas_and_goes_back_as_it_came():
    network = Network(SPACE, 2, generator=make_generator(0, "net"), alpha_scale=1.0).double()
    before = network.mixture()["cell"].detach()
    make_variant(network, replace(RECIPE, variant="drnas"), make_generator(1, "loop"))
    beta = concentration(network.alphas["cell"])
    torch.testing.assert_close(beta.sum(dim=-1), torch.full((3,), 4.0).double())
    torch.testing.assert_close(network.mixture()["cell"], before)
    network.settle()
    assert network.mixing is softmax
    torch.testing.assert_close(network.mixture()["cell"], before, atol=1e-6, rtol=1e-6)


def test_the_divergence_from_the_uniform_distribution_is_zero_there_and_positive_elsewhere():
    variant = make_drnas()
    assert variant.divergence() > 0.1
    with torch.no_grad():
        variant.network.alphas["cell"].zero_()
    assert variant.divergence().abs() < 1e-12


def test_drnas_leaves_torchs_own_generator_alone():
    variant = make_drnas()
    before = torch.get_rng_state()
    variant.draw()
    assert torch.equal(torch.get_rng_state(), before)


def test_a_decided_alpha_still_gives_numbers():
    variant = make_drnas()
    with torch.no_grad():
        variant.network.alphas["cell"].copy_(torch.tensor([[-60.0, -20.0, 0.0, 30.0]] * 3))
    (gradient,) = torch.autograd.grad(
        (variant.draw()["cell"] ** 2).sum() + variant.divergence(), variant.network.alphas["cell"]
    )
    assert gradient.isfinite().all()
    assert all(np.isfinite(alpha).all() for alpha in variant.network.alpha_arrays().values())


def test_a_space_with_partial_channels_can_be_searched_by_any_variant():
    loop = make_loop(replace(RECIPE, variant="smooth-darts-adv"), space=PARTIAL)
    assert loop.run_epoch().train_loss > 0.0
    assert make_space(channels=16, partial_channels=4).partial_channels == 4
