"""Strategies that do as little as a strategy may: what a newcomer would write, a class each."""

from __future__ import annotations

import torch.nn.functional as F

from supernet_registry.search.children.selection import Selection
from supernet_registry.search.training.objectives import Objective
from supernet_registry.search.training.variants import Variant


class Lazy(Variant):
    """α never moves."""

    def rests(self, loop) -> bool:
        return True


class Margin(Objective):
    """A multi-class hinge loss; remembers how many losses of weights it was asked for."""

    def __init__(self, network, recipe, *, label_smoothing: float) -> None:
        super().__init__(network, recipe, label_smoothing=label_smoothing)
        self.asked = 0

    def weight_loss(self, forward, images, labels, mixture):
        self.asked += 1
        logits = forward(images, mixture)
        return F.multi_margin_loss(logits, labels), logits

    def alpha_loss(self, forward, images, labels, mixture):
        return F.multi_margin_loss(forward(images, mixture), labels)

    def state(self):
        return {"asked": self.asked}

    def load_state(self, state) -> None:
        self.asked = state["asked"]


def select_first(supernet, data, recipe, *, generator, should_stop=lambda: False, runtime=None) -> Selection:
    """The largest α without any skip connection; claims three steps, by which it is told from others."""
    return Selection(supernet.derive(most_skips=0), supernet, steps=3)
