"""The optimiser of the weights: made from a recipe, given gradients, stored and brought back bit for bit."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from supernet_registry.search.recipe import Recipe

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "load_optimizer_state",
    "make_optimizer",
    "optimizer_state",
    "set_gradients",
    "set_rates",
]


class _Eager:
    """An optimiser that is never compiled.

    PyTorch wraps these methods in guards for `torch.compile`, which import its compiler when they are first called:
    seconds and hundreds of megabytes in every worker, for nothing. What they wrap is the same code.
    """

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)


class Adam(_Eager, torch.optim.Adam):
    """`torch.optim.Adam` without the compiler."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))


class AdamW(_Eager, torch.optim.AdamW):
    """`torch.optim.AdamW` without the compiler."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))


class SGD(_Eager, torch.optim.SGD):
    """`torch.optim.SGD` without the compiler."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.SGD.step))


def make_optimizer(
    weights: list[nn.Parameter], recipe: Recipe, *, learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """The recipe's optimiser of the weights."""
    if recipe.optimizer == "sgd":
        return SGD(weights, lr=learning_rate, momentum=recipe.momentum, weight_decay=weight_decay)
    # Fused: one kernel for all tensors; a supernet has hundreds of small ones.
    return AdamW(weights, lr=learning_rate, weight_decay=weight_decay, fused=True)


def set_gradients(parameters: list[nn.Parameter], gradients: Sequence[Tensor | None]) -> None:
    """Hand the optimiser its gradients; None for parameters that it is to pass over."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is None or gradient.stride() == parameter.stride():
            parameter.grad = gradient
        else:  # fused optimisers walk parameter and gradient side by side and want them laid out alike
            parameter.grad = torch.empty_like(parameter).copy_(gradient)


def set_rates(optimizer: torch.optim.Optimizer, *, learning_rate: float, weight_decay: float) -> None:
    """Of the steps that follow."""
    for group in optimizer.param_groups:
        group["lr"], group["weight_decay"] = learning_rate, weight_decay


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Per-parameter state only: settings come from the recipe, the learning rate from the step."""
    return {str(number): dict(values) for number, values in optimizer.state_dict()["state"].items()}


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Go on where `optimizer_state` was taken."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    fused = optimizer.defaults.get("fused", False)
    optimizer.state.clear()  # a state from before the first step holds nothing, and must leave nothing
    for number, values in state.items():
        parameter = parameters[int(number)]
        steps_on = parameter.device if fused else torch.device("cpu")  # where the optimiser keeps its step count
        # Laid out as the parameter is: a loaded tensor is contiguous, the parameter may be channels_last.
        optimizer.state[parameter] = {
            key: torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value.to(steps_on)
            for key, value in values.items()
        }
