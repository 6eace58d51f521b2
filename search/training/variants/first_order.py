"""First-order DARTS (Liu 2019, algorithm 1 with ξ = 0)."""

from __future__ import annotations

from supernet_registry.search.training.variants.base import Variant

__all__ = ["Darts"]


class Darts(Variant):
    """Decides everything plainly: α descends ∇_α L_val(w, α), and weights are trained under softmax(α)."""
