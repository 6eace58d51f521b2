"""The largest α decides: DARTS' own way from a supernet to an architecture."""

from __future__ import annotations

from collections.abc import Callable

import torch

from supernet_registry.search.children.selection import Selection
from supernet_registry.search.networks.supernet import Network
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.training.data import Data
from supernet_registry.search.training.runtime import Runtime

__all__ = ["select_by_argmax"]


def select_by_argmax(
    supernet: Network,
    data: Data,  # noqa: ARG001 - α alone decides
    recipe: Recipe,
    *,
    generator: torch.Generator,  # noqa: ARG001 - nothing is drawn
    should_stop: Callable[[], bool] = lambda: False,  # noqa: ARG001 - it takes no time
    runtime: Runtime | None = None,  # noqa: ARG001 - nothing is trained
) -> Selection:
    """The family's architecture of the largest α, with at most `most_skips` skip connections a cell."""
    return Selection(supernet.derive(most_skips=recipe.most_skips), supernet, steps=0)
