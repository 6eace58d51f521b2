"""Networks as safetensors bytes with one metadata key, and back.

`check_weights` is what stands between a stranger's bytes and torch: it is called before anything is loaded here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from supernet_registry.search.errors import UnsafeWeights
from supernet_registry.search.networks.inputs import Normalisation
from supernet_registry.search.networks.supernet import Network
from supernet_registry.search.spaces import family_of
from supernet_registry.search.storage.container import canonical_json
from supernet_registry.search.storage.weights import WeightsInfo, check_weights

__all__ = ["discrete_network", "load_weights", "save_weights"]


def save_weights(
    network: Network, *, genotype: str, normalisation: Normalisation, size: tuple[int, int], facts: dict[str, Any]
) -> bytes:
    """A supernet or discrete network as bytes; equal networks and facts give equal bytes.

    Args:
        network: what is stored; its BatchNorm statistics should be those of its data.
        genotype: the architecture derived from it, or its own.
        normalisation: of the pixels that it expects.
        size: height and width of the images that it was trained on.
        facts: further JSON values for the metadata (dataset digest, class names, metrics).
    """
    kind = "supernet" if network.genotype is None else "child"
    metadata = {
        "space": network.space.to_json(),
        "n_classes": network.n_classes,
        "genotype": genotype,
        "mean": list(normalisation.mean),
        "std": list(normalisation.std),
        "size": list(size),
        **facts,
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    return bytes(save(tensors, {kind: canonical_json(metadata)}))


def load_weights(data: bytes, kind: str) -> tuple[WeightsInfo, dict[str, Tensor]]:
    """Check bytes and load their tensors.

    Raises:
        UnsafeWeights, WeightsTooLarge, NotFinite: as `check_weights`; also if the bytes hold another kind.
    """
    info = check_weights(data)
    if info.kind != kind:
        raise UnsafeWeights(
            f"These weights are a {info.kind}, not a {kind}.", remedy=f"Give a {kind}.", field="weights"
        )
    return info, load(data)


def discrete_network(info: WeightsInfo, tensors: dict[str, Tensor]) -> Network:
    """The child network that a blob holds, in `eval` mode.

    Raises:
        InvalidArgument: the genotype is none of the space.
        UnsafeWeights: the tensors are not those of the described network.
    """
    genotype = family_of(info.space).parse_genotype(info.space, info.genotype)
    # On the meta device first: metadata may describe a network far larger than the tensors that came with them.
    with torch.device("meta"):
        network = Network(info.space, info.n_classes, generator=None, genotype=genotype)
    if _signature(network.state_dict()) != _signature(tensors):
        raise UnsafeWeights(
            "The tensors are not those of the network that the metadata describe.",
            remedy="Export the child network again.",
            field="weights",
        )
    network.load_state_dict(tensors, assign=True)
    network.to(memory_format=torch.channels_last)
    network.set_norm_mode("eval")
    return network


def _signature(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
