"""Second-order DARTS (Liu 2019, equations 7 and 8): α sees what one step of the weights makes of it.

    ∇_α L_val(w', α)  =  ∂_α L_val(w', α)  -  ∂²_{α,w} L_train(w, α) · v ,        w' = w - s(∇_w L_train(w, α))

    with  v = s'·∇_{w'} L_val(w', α)   and   ∂²_{α,w} L_train · v  ≈  (∂_α L_train(w⁺) - ∂_α L_train(w⁻)) / 2ε ,
    w± = w ± εv ,   ε = 0.01 / ‖v‖

s is the step that the weights' optimiser would make: for SGD, as in the authors' code, with momentum and weight decay,
s' = ξ. The paper knows no AdamW; here its step is taken with the denominator √v̂ held constant, so that s' is one number
a weight. Neither knows of the clipping of gradients. The training batch is the one that the weight step then uses.

A ReLU that opens between w⁻ and w⁺ is seen by the difference and not by the derivative. In the compact space that is
most of it: early in a search of `print_greek` the paper's difference was wrong by more than the whole second term.
`Recipe.curvature = "exact"` differentiates twice instead, at a higher price.

Differences of gradients at points so near drown in bfloat16: nothing here runs under autocast.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from supernet_registry.search.training.variants.base import Batch, Bilevel, Variant

__all__ = ["SecondOrderDarts", "inner_step"]

_LEAST_NORM = 1e-12  # of v: below it there is no direction to look in


class SecondOrderDarts(Variant):
    """Needs three more passes than first order: one for the step, two for the difference."""

    radius: ClassVar[float] = 0.01  # ‖εv‖, as in the paper

    def alpha_gradients(self, loop: Bilevel, batch: Batch) -> tuple[Tensor, ...]:
        train = loop.train_batch()
        loss = loop.train_loss(train)
        gradients = _filled(torch.autograd.grad(loss, loop.weights, allow_unused=True), loop.weights)
        steps, slopes = inner_step(loop.weight_optimizer, gradients, loop.learning_rate())
        with _moved(loop.weights, steps):
            loss = loop.val_loss(batch)
            found = torch.autograd.grad(loss, [*loop.architecture, *loop.weights], allow_unused=True)
        count = len(loop.architecture)
        direct = _filled(found[:count], loop.architecture)
        v = torch._foreach_mul(_filled(found[count:], loop.weights), slopes)
        exact = self.recipe.curvature == "exact"
        curvature = _exact_curvature(loop, train, v) if exact else _curvature(loop, train, v, self.radius)
        return tuple(torch._foreach_sub(direct, curvature))


def inner_step(
    optimizer: torch.optim.Optimizer, gradients: Sequence[Tensor], learning_rate: float
) -> tuple[list[Tensor], list[Tensor]]:
    """What the optimiser's next step would add to the weights, and how much of a gradient goes into it, s' ≥ 0."""
    (group,) = optimizer.param_groups
    steps, slopes = [], []
    with torch.no_grad():
        for weight, gradient in zip(group["params"], gradients, strict=True):
            step = _sgd_step if "momentum" in group else _adamw_step
            change, slope = step(weight, gradient, optimizer.state.get(weight, {}), group, learning_rate)
            steps.append(change)
            slopes.append(slope)
    return steps, slopes


def _sgd_step(
    weight: Tensor, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any], learning_rate: float
) -> tuple[Tensor, Tensor]:
    direction = gradient + group["weight_decay"] * weight
    velocity = state.get("momentum_buffer")
    if velocity is not None:
        direction = direction + group["momentum"] * velocity
    return -learning_rate * direction, torch.full_like(weight, learning_rate)


def _adamw_step(
    weight: Tensor,
    gradient: Tensor,
    state: dict[str, Tensor],
    group: dict[str, Any],
    learning_rate: float,
) -> tuple[Tensor, Tensor]:
    beta_1, beta_2 = group["betas"]
    first = state.get("exp_avg", torch.zeros_like(weight))
    second = state.get("exp_avg_sq", torch.zeros_like(weight))
    steps = state["step"].to(weight.device).double() + 1.0 if state else torch.ones((), device=weight.device).double()
    first = beta_1 * first + (1.0 - beta_1) * gradient
    second = (beta_2 * second + (1.0 - beta_2) * gradient.square()) / (1.0 - beta_2**steps)
    rate = learning_rate / (1.0 - beta_1**steps) / (second.sqrt() + group["eps"])
    return -rate * first - learning_rate * group["weight_decay"] * weight, rate * (1.0 - beta_1)


def _curvature(loop: Bilevel, train: Batch, v: tuple[Tensor, ...], radius: float) -> tuple[Tensor, ...]:
    """∂²_{α,w} L_train · v by a central difference."""
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(v)))
    epsilon = radius / norm.clamp(min=_LEAST_NORM)
    sides = []
    for sign in (1.0, -1.0):
        with _moved(loop.weights, torch._foreach_mul(v, sign * epsilon)):
            loss = loop.train_loss(train)
            sides.append(_filled(torch.autograd.grad(loss, loop.architecture, allow_unused=True), loop.architecture))
    return tuple(torch._foreach_div(torch._foreach_sub(*sides), 2.0 * epsilon))


def _exact_curvature(loop: Bilevel, train: Batch, v: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """∂²_{α,w} L_train · v = ∂_α (∂_w L_train · v), v held constant."""
    loss = loop.train_loss(train)
    gradients = _filled(torch.autograd.grad(loss, loop.weights, create_graph=True, allow_unused=True), loop.weights)
    product = torch.stack([(g * part).sum() for g, part in zip(gradients, v, strict=True)]).sum()
    return tuple(_filled(torch.autograd.grad(product, loop.architecture, allow_unused=True), loop.architecture))


@contextmanager
def _moved(weights: Sequence[nn.Parameter], steps: tuple[Tensor, ...] | list[Tensor]) -> Iterator[None]:
    """Weights plus steps inside, and afterwards exactly what they were."""
    moved = tuple(weights)
    with torch.no_grad():
        before = [weight.clone() for weight in moved]
        torch._foreach_add_(moved, steps)
    try:
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(moved, before)


def _filled(gradients: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> list[Tensor]:
    """Zeros for what the loss does not depend on: operations that are dropped."""
    return [torch.zeros_like(p) if g is None else g for g, p in zip(gradients, parameters, strict=True)]
