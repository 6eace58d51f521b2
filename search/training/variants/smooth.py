"""Smooth DARTS (Chen & Hsieh 2020, arXiv:2002.05283): weights are trained under mixtures near softmax(α).

A mixture between operations that only works at one very point of the simplex says little about the discrete network
at its corner. Weights that must serve a whole neighbourhood,

    RS    w descends  E_δ L_train(w, p + δ)            δ uniform in the box ‖δ‖∞ ≤ ε
    ADV   w descends  max_δ L_train(w, p + δ)          by projected gradient ascent in the same box,

with p = softmax(α), smooth the validation loss in α. ε grows linearly to its maximum. Mixture weights stay in [0, 1],
dropped operations stay out, and α itself descends as in first-order DARTS.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from supernet_registry.search.networks.supernet import Mixture
from supernet_registry.search.training.evaluation import autocast
from supernet_registry.search.training.variants.base import Batch, Bilevel, Randomised

__all__ = ["AdversarialSmoothDarts", "RandomSmoothDarts"]


class RandomSmoothDarts(Randomised):
    """SDARTS-RS."""

    def radius(self, loop: Bilevel) -> float:
        """ε at this step."""
        return self.recipe.perturbation * loop.share

    def weight_mixture(self, loop: Bilevel, batch: Batch) -> Mixture | None:
        with torch.no_grad():
            centre = self.network.operation_weights()
            radius = self.radius(loop)
            operations = self.perturb(loop, batch, centre, radius) if radius else centre
            return self.network.weigh_edges(operations)

    def perturb(self, loop: Bilevel, batch: Batch, centre: Mixture, radius: float) -> Mixture:  # noqa: ARG002 - ADV looks
        """Operation weights at most `radius` from `centre`."""
        return self.scattered(centre, radius)

    def scattered(self, centre: Mixture, radius: float) -> Mixture:
        """Uniform in the box."""
        noise = {
            kind: (2.0 * torch.rand(p.shape, generator=self.generator, dtype=p.dtype) - 1.0).to(p.device)
            for kind, p in centre.items()
        }
        return _inside({kind: p + radius * noise[kind] for kind, p in centre.items()}, centre, radius)


class AdversarialSmoothDarts(RandomSmoothDarts):
    """SDARTS-ADV: as many passes more as the recipe has `perturbation_steps`."""

    def perturb(self, loop: Bilevel, batch: Batch, centre: Mixture, radius: float) -> Mixture:
        point = self.scattered(centre, radius)
        size = 2.0 * radius / self.recipe.perturbation_steps
        for _ in range(self.recipe.perturbation_steps):
            gradients = self._gradients(loop, batch, point)
            point = _inside({k: p + size * gradients[k].sign() for k, p in point.items()}, centre, radius)
        # Steps of one size may end below where they began, where the loss hardly slopes.
        return point if self._loss(loop, batch, point) > self._loss(loop, batch, centre) else centre

    def _gradients(self, loop: Bilevel, batch: Batch, operations: Mixture) -> Mapping[str, Tensor]:
        with torch.enable_grad():
            leaves = {kind: p.detach().requires_grad_() for kind, p in operations.items()}
            found = torch.autograd.grad(self._loss(loop, batch, leaves), list(leaves.values()))
        return dict(zip(leaves, found, strict=True))

    def _loss(self, loop: Bilevel, batch: Batch, operations: Mixture) -> Tensor:
        with autocast(loop.data.device):
            return loop.train_loss(batch, self.network.weigh_edges(operations))


def _inside(point: Mixture, centre: Mixture, radius: float) -> Mixture:
    """The nearest point that lies in the box and in [0, 1], with nothing for operations that have no weight."""
    return {
        kind: torch.minimum(torch.maximum(x, centre[kind] - radius), centre[kind] + radius).clamp(0.0, 1.0)
        * (centre[kind] > 0.0)
        for kind, x in point.items()
    }
