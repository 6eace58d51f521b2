"""The seam between a loop and what its steps descend.

Legend: B batch, K classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from torch import Tensor

from supernet_registry.search.networks.supernet import Mixture, Network
from supernet_registry.search.recipe import Recipe

__all__ = ["Forward", "Objective"]

Forward = Callable[[Tensor, Mixture | None], Tensor]
"""A network as training calls it: images (B, 3, H, W) and mixture (None for the one in force) to logits (B, K)."""


class Objective(ABC):
    """What the steps of one loop descend.

    Passes may be recorded and replayed: a loss reads tensors only where they stay, and changes none.

    Args:
        network: that is trained.
        recipe: settings; an objective's own among them.
        label_smoothing: of this training; search and child have their own.
    """

    def __init__(self, network: Network, recipe: Recipe, *, label_smoothing: float) -> None:
        self.network, self.recipe, self.label_smoothing = network, recipe, label_smoothing

    @abstractmethod
    def weight_loss(
        self, forward: Forward, images: Tensor, labels: Tensor, mixture: Mixture | None
    ) -> tuple[Tensor, Tensor]:
        """What a weight step descends, a mean over images (B, 3, H, W) and labels (B,), and the logits (B, K) by which
        hits are counted."""

    @abstractmethod
    def alpha_loss(self, forward: Forward, images: Tensor, labels: Tensor, mixture: Mixture | None) -> Tensor:
        """What an α step descends, a mean over clean images (B, 3, H, W) and labels (B,)."""

    def state(self) -> dict[str, Any]:
        """What `load_state` needs to go on bit for bit."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:  # noqa: B027 - nothing to do for most
        """Go on where `state` was taken."""
