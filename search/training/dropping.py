"""Progressive shrinking: operations that α has given up are no longer computed.

The idea of P-DARTS (Chen 2019, arXiv:1904.12760) and of DrNAS's progressive scheme, without a change of depth or width:
at given shares of the search every edge loses its weakest operation. `none` stays, for its weight says how much an
edge is worth at all, and so does the strongest of the others. What is dropped never comes back in this search: its
weights get no gradient, α is normalised among the operations that are left, and the genotype cannot choose it.

Where α comes from a source, shares may be small, for it knows already; a fresh α knows nothing at share 0.
"""

from __future__ import annotations

import torch

from supernet_registry.search.networks.supernet import Kept, Network

__all__ = ["drop_weakest"]


@torch.no_grad()
def drop_weakest(network: Network) -> Kept:
    """What is kept when every edge loses its weakest operation, for `Network.keep`; (E, O) bool of every cell kind."""
    operations = network.space.operations
    kept: dict[str, torch.Tensor] = {}
    for kind, weights in network.operation_weights().items():
        before = network.kept.get(kind)
        mask = torch.ones_like(weights, dtype=torch.bool) if before is None else before.clone()
        droppable = mask.clone()
        if "none" in operations:
            droppable[:, operations.index("none")] = False
        weakest = weights.masked_fill(~droppable, float("inf")).argmin(dim=-1)  # (E,)
        rows = (droppable.sum(dim=-1) > 1).nonzero().flatten()  # the last one stays
        mask[rows, weakest[rows]] = False
        kept[kind] = mask
    return kept
