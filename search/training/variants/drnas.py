"""DrNAS (Chen 2021, arXiv:2006.10355): the mixture is drawn from a Dirichlet distribution, and α learns its parameters.

    θ ~ Dir(β) ,   β = elu(α) + 1 ,        α descends  E_θ L_val(w, θ) + λ KL(Dir(β) ‖ Dir(1))

The draw is differentiable in β (implicit reparametrisation, as torch's `rsample` does it), so it explores and still
gives a gradient of every operation. KL keeps the draws from becoming certain; it takes the place of α's weight decay.
Networks are judged under the mean, β / Σβ. For α ≤ 0 that is softmax(α) exactly, and nearly so for small α > 0.

A transferred α is on softmax's scale: it is converted so that the mean is its softmax, with Σβ the number of
operations.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Dirichlet, kl_divergence

from supernet_registry.search.networks.supernet import Mixture, Network, softmax
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.training.evaluation import autocast
from supernet_registry.search.training.variants.base import Batch, Bilevel, Randomised

__all__ = ["DrNas", "concentration", "dirichlet_mean"]

_LEAST_CONCENTRATION = 1e-4  # below it draws are exactly one-hot, and their gradient is no number


def concentration(alpha: Tensor) -> Tensor:
    """β = elu(α) + 1, (E, O)."""
    return (F.elu(alpha) + 1.0).clamp(min=_LEAST_CONCENTRATION)


def dirichlet_mean(alpha: Tensor) -> Tensor:
    """E[θ] = β / Σβ, (E, O)."""
    beta = concentration(alpha)
    return beta / beta.sum(dim=-1, keepdim=True)


class _Draw(torch.autograd.Function):
    """`Dirichlet(β).rsample()` from a generator; torch's own knows but the global one, which other threads use."""

    @staticmethod
    def forward(ctx: Any, beta: Tensor, generator: torch.Generator) -> Tensor:
        theta = torch._sample_dirichlet(beta, generator=generator)
        ctx.save_for_backward(theta, beta)
        return theta

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        theta, beta = ctx.saved_tensors
        total = beta.sum(-1, keepdim=True).expand_as(beta)
        slope = torch._dirichlet_grad(theta, beta, total)
        return slope * (gradient - (theta * gradient).sum(-1, keepdim=True)), None


class DrNas(Randomised):
    """Draws once for every α step and once for every weight step."""

    decays_alpha = False

    def __init__(self, network: Network, recipe: Recipe, generator: torch.Generator) -> None:
        super().__init__(network, recipe, generator)
        with torch.no_grad():
            for alpha in network.alphas.values():
                beta = alpha.shape[-1] * softmax(alpha)
                alpha.copy_(torch.where(beta > 1.0, beta - 1.0, beta.log()))
        network.mixing = dirichlet_mean

    def alpha_gradients(self, loop: Bilevel, batch: Batch) -> tuple[Tensor, ...]:
        with autocast(loop.data.device):
            loss = loop.val_loss(batch, self.draw())
        return torch.autograd.grad(loss + self.recipe.dirichlet_anchor * self.divergence(), loop.architecture)

    def weight_mixture(self, loop: Bilevel, batch: Batch) -> Mixture | None:  # noqa: ARG002 - drawn blindly
        with torch.no_grad():
            return self.draw()

    def draw(self) -> Mixture:
        """A mixture from the distribution, differentiable in α. Among kept operations it is again a Dirichlet's."""
        return self.network.weigh_edges(
            self.network.among_kept({kind: self._draw(alpha) for kind, alpha in self.network.alphas.items()})
        )

    def _draw(self, alpha: Tensor) -> Tensor:
        """(E, O) -> (E, O). In float64 on the CPU: a few dozen numbers, and equal draws on every device."""
        beta = concentration(alpha.double().cpu())
        own = torch.Generator().manual_seed(int(torch.randint(2**62, (), generator=self.generator)))
        theta: Tensor = _Draw.apply(beta, own)
        return theta.to(alpha)

    def divergence(self) -> Tensor:
        """KL(Dir(β) ‖ Dir(1)), summed over all edges."""
        terms = []
        for alpha in self.network.alphas.values():
            beta = concentration(alpha)
            terms.append(kl_divergence(Dirichlet(beta), Dirichlet(torch.ones_like(beta))).sum())
        return torch.stack(terms).sum()
