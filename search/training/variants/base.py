"""What a variant of DARTS may decide, and what it sees of the loop that asks it."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from supernet_registry.search.networks.supernet import Mixture, Network
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.training.data import Data

__all__ = ["Batch", "Bilevel", "Randomised", "Variant"]

Batch = tuple[Tensor, Tensor]
"""Normalised images (B, 3, H, W) and labels (B,)."""


class Bilevel(Protocol):
    """What a variant sees of the loop."""

    data: Data
    weights: list[nn.Parameter]
    architecture: list[nn.Parameter]
    weight_optimizer: torch.optim.Optimizer

    @property
    def share(self) -> float:
        """Steps done, as a share of all that are planned."""

    def learning_rate(self) -> float:
        """Of the next weight step."""

    def train_batch(self) -> Batch:
        """What the next weight step will see."""

    def train_loss(self, batch: Batch, mixture: Mixture | None = None) -> Tensor:
        """What a weight step descends."""

    def val_loss(self, batch: Batch, mixture: Mixture | None = None) -> Tensor:
        """What an α step descends."""

    def val_gradients(self, batch: Batch) -> tuple[Tensor, ...]:
        """Gradients of α of what an α step descends, under the mixture in force."""


class Variant:
    """A way to learn α and weights in turns; every method decides plainly, and variants change what they must.

    Args:
        network: whose α are already where the search begins.
        recipe: settings; a variant's own among them.
        generator: source of its random choices, on the CPU; nobody else draws from it.
    """

    decays_alpha: ClassVar[bool] = True  # whether α is held near zero by weight decay

    def __init__(self, network: Network, recipe: Recipe, generator: torch.Generator) -> None:
        self.network, self.recipe, self.generator = network, recipe, generator

    def rests(self, loop: Bilevel) -> bool:  # noqa: ARG002 - for variants that look at it
        """Whether α is left alone at this step."""
        return False

    def alpha_gradients(self, loop: Bilevel, batch: Batch) -> tuple[Tensor, ...]:
        """Gradients of `loop.architecture` on a batch of the validation split."""
        return loop.val_gradients(batch)

    def weight_mixture(self, loop: Bilevel, batch: Batch) -> Mixture | None:  # noqa: ARG002 - as above
        """The mixture, without gradient, under which the weight step sees its batch."""
        with torch.no_grad():
            return self.network.current_mixture()

    def state(self) -> dict[str, Any]:
        """What `load_state` needs to go on bit for bit."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""


class Randomised(Variant):
    """A variant that draws random numbers, always on the CPU."""

    def state(self) -> dict[str, Any]:
        return {"generator": self.generator.get_state()}

    def load_state(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["generator"])
