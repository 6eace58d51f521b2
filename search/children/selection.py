"""How an architecture is chosen from a searched supernet: the seam, and what comes out of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from supernet_registry.search.networks.supernet import Network
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.spaces import Genotype
from supernet_registry.search.strategies import DERIVATIONS
from supernet_registry.search.training.data import Data
from supernet_registry.search.training.runtime import Runtime

__all__ = ["Select", "Selection", "selector"]


@dataclass(frozen=True, slots=True)
class Selection:
    """What a selection has come to."""

    genotype: Genotype
    supernet: Network  # what was searched, fine-tuned towards the genotype where the recipe wants that
    steps: int  # weight steps of fine-tuning


class Select(Protocol):
    """A way from a supernet to an architecture; a strategy of the axis `derivation`."""

    def __call__(
        self,
        supernet: Network,
        data: Data,
        recipe: Recipe,
        *,
        generator: torch.Generator,
        should_stop: Callable[[], bool] = ...,
        runtime: Runtime | None = ...,
    ) -> Selection:
        """Derive an architecture from a searched supernet, which stays as it is.

        Args:
            supernet: on the device of the data.
            data: what it was searched on.
            recipe: settings; the strategy's own among them.
            generator: source of random choices.
            should_stop: polled now and then; True raises `SearchCancelled`.
            runtime: of what is trained on the way; None for this process alone.
        """


def selector(recipe: Recipe) -> Select:
    """The recipe's way from a supernet to an architecture."""
    select: Select = DERIVATIONS.load(recipe.derivation)
    return select
