"""Ways to begin a warm start that were tried and not kept; `benchmarks/transfer/choices.py` says why."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from supernet_registry.search.errors import InvalidArgument
from supernet_registry.search.networks.supernet import Network


@torch.no_grad()
def perturb(network: Network, fresh: Network, kept: float) -> None:
    """Shrink and perturb (Ash & Adams 2020, arXiv:1910.08475): every weight w becomes kept · w + (1 - kept) · w₀.

    w₀ is a fresh initialisation, whose scale is every layer's own. A network that was trained to the end learns a new
    task worse than a fresh one, though it begins better; halfway back it still begins better, and can learn. α, β, the
    head and BatchNorm's statistics, which are measured anew, are left alone.

    Args:
        network: has its source's weights.
        fresh: a network of the same space.
        kept: share of the source, from 0 to 1.
    """
    theirs = dict(fresh.named_parameters())
    for name, weight in network.named_parameters():
        if not name.startswith(("head.", "alphas.", "betas.")):
            weight.copy_(torch.lerp(theirs[name], weight, kept))


@torch.no_grad()
def couple_head(network: Network, source: Mapping[str, Tensor], coupling: Tensor) -> None:
    """Begin the head with the source's, through the class coupling of the datasets' transport plan.

    A class begins with the rows of the source's classes, weighed by the share of its mass that comes from each.

    Args:
        network: K classes.
        source: tensors of a supernet with L classes.
        coupling: (K, L) masses; no row may be empty.

    Raises:
        InvalidArgument: the coupling is of other classes, or a class has no mass.
    """
    weight, bias = source["head.weight"], source["head.bias"]
    mass = coupling.to(weight)
    if mass.shape != (network.n_classes, len(weight)) or not bool((mass.sum(dim=1) > 0.0).all()):
        raise InvalidArgument(
            f"A class coupling of shape {tuple(mass.shape)} does not lead from {len(weight)} classes of the source to "
            f"{network.n_classes} of the target.",
            remedy="Give the coupling of these two datasets, the target's classes in rows.",
            field="class_coupling",
        )
    shares = mass / mass.sum(dim=1, keepdim=True)
    network.head.weight.copy_(shares @ weight)
    network.head.bias.copy_(shares @ bias)
