"""A fresh α that leans towards a known good architecture, where the family names one.

Under a uniform α every operation has the same small share of the mixture: features are averages of five paths of which
none is trained in earnest, and a hundred α steps on a few dozen validation images hardly change that. Leaning, the
supernet is from its first step mostly the network that a user would have written, and α says where the data want
something else. `none` or a transferred α is not touched: what a source has learnt takes the place of the prior.
"""

from __future__ import annotations

import torch

from supernet_registry.search.networks.supernet import Network
from supernet_registry.search.spaces import family_of

__all__ = ["lean"]


@torch.no_grad()
def lean(network: Network, strength: float) -> None:
    """Add `strength` to α of every operation of the family's `prior` architecture; nothing where there is none.

    With O operations, each such operation then has the share e^s / (e^s + O - 1) of its edge.
    """
    space = network.space
    family = family_of(space)
    prior = family.prior(space)
    if prior is None or not strength:
        return
    for kind in family.cell_kinds(space):
        for node, pairs in enumerate(prior[kind.name]):
            for operation, source in pairs:
                row = kind.row(source, kind.inputs + node)
                network.alphas[kind.name][row, space.operations.index(operation)] += strength
