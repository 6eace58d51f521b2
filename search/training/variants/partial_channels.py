"""PC-DARTS (Xu 2020, arXiv:1907.05737): DARTS in a space with partial channels.

Partial channels and edge normalisation belong to the network, since they change the shapes of its tensors: any
variant can search such a space. What is left is that α rests until the weights mean something, for operations with
weights would otherwise lose to those without.
"""

from __future__ import annotations

from supernet_registry.search.training.variants.base import Bilevel, Variant

__all__ = ["PcDarts"]


class PcDarts(Variant):
    """First-order DARTS whose α rests at first."""

    def rests(self, loop: Bilevel) -> bool:
        return loop.share < self.recipe.alpha_rest
