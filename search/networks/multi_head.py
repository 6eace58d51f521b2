"""A supernet with a head for each of several datasets: shared weights and α, one head in use at a time.

The heads that are not in use have no gradient in a step, so neither momentum nor weight decay moves them.

Legend: T datasets, K_t classes of dataset t, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

from supernet_registry.search.networks.supernet import Network
from supernet_registry.search.spaces import SearchSpace

__all__ = ["MultiHeadNetwork"]

_HEAD, _HEADS = "head.", "heads."  # prefixes of parameters: of a supernet's one head, and of all of ours


class MultiHeadNetwork(Network):
    """A supernet with T heads, of which one is selected: `head`, by which all that takes a `Network` can use it."""

    def __init__(
        self, space: SearchSpace, class_counts: Sequence[int], *, generator: torch.Generator | None, alpha_scale: float
    ) -> None:
        super().__init__(space, class_counts[0], generator=generator, alpha_scale=alpha_scale)
        features = self.head.in_features
        self.heads = nn.ModuleList([self.head, *(nn.Linear(features, count) for count in class_counts[1:])])
        del self.head
        self.select(0)

    def select(self, task: int) -> None:
        """Make dataset `task`'s head the one in use."""
        head = cast("nn.Linear", self.heads[task])
        # Not as a submodule: parameters and state are those of `heads`, whichever of them is selected.
        self.__dict__["head"] = head
        self.n_classes = head.out_features

    @torch.no_grad()
    def take(self, source: Network) -> None:
        """Copy everything but the heads."""
        own = self.state_dict()
        for name, tensor in source.state_dict().items():
            if not name.startswith(_HEAD):
                own[name].copy_(tensor)

    def joint(self) -> Network:
        """An ordinary supernet with the heads side by side as one, (Σ K_t, D)."""
        heads = [cast("nn.Linear", head) for head in self.heads]
        whole = Network(self.space, sum(head.out_features for head in heads), generator=None)
        shared = {name: tensor for name, tensor in self.state_dict().items() if not name.startswith(_HEADS)}
        joined = {
            "head.weight": torch.cat([head.weight for head in heads]),
            "head.bias": torch.cat([head.bias for head in heads]),
        }
        whole.load_state_dict({**shared, **joined})
        return whole
