"""The child network: the discrete architecture inside a searched supernet, trained, exported, loaded back, used.

The child inherits every tensor that it shares with the supernet, by name. In the supernet an operation's output was
weighed by softmax(α) and summed with its neighbours'; alone and unweighed it means something else to the layers
above, so the head is computed anew from the child's own features before fine-tuning. It is softened, too: a head that
is sure of every training image from the start leaves the layers below nothing to learn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from supernet_registry.search.errors import InvalidArgument, UnsafeWeights
from supernet_registry.search.networks.inputs import Normalisation, prepare_images
from supernet_registry.search.networks.stored import discrete_network, load_weights
from supernet_registry.search.networks.supernet import Network
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.spaces import Genotype
from supernet_registry.search.starts.warm_start import fit_head, soften_head
from supernet_registry.search.training.data import Data
from supernet_registry.search.training.devices import pick_device

__all__ = ["Child", "count_parameters", "derive_child", "inherit", "load_child", "make_child"]


def derive_child(
    supernet: Network, genotype: Genotype, data: Data, recipe: Recipe, *, generator: torch.Generator
) -> Network:
    """An architecture of a supernet as a network of its own, with inherited weights and a fresh head.

    With `recipe.child_channels` it has that width instead of the supernet's; nothing can be inherited then.
    """
    child = make_child(supernet, genotype, recipe, generator=generator).to(data.device)
    if child.space.channels == supernet.space.channels:
        inherit(child, supernet.state_dict())
    fit_head(child, data, recipe)
    soften_head(child, recipe.child_head_scale)
    return child


def make_child(supernet: Network, genotype: Genotype, recipe: Recipe, *, generator: torch.Generator) -> Network:
    """An architecture of a supernet with fresh weights."""
    space = supernet.space
    if recipe.child_channels:
        # A discrete network has no partial channels whatever its space says, and not every width could be divided.
        space = replace(space, channels=recipe.child_channels, partial_channels=1)
    return Network(space, supernet.n_classes, generator=generator, genotype=genotype)


def inherit(child: Network, supernet: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Copy every tensor that the supernet has under the child's name and in its shape; returns the names.

    Operations of a supernet with partial channels are narrower than the child's: those begin afresh. BatchNorm's scale
    and shift, where the supernet has none, stay 1 and 0, which changes nothing.
    """
    own = child.state_dict()
    names = tuple(name for name in own if name in supernet and own[name].shape == supernet[name].shape)
    with torch.no_grad():
        for name in names:
            own[name].copy_(supernet[name])
    return names


def count_parameters(network: Network) -> int:
    """Trainable numbers."""
    return sum(parameter.numel() for parameter in network.parameters())


@dataclass(frozen=True, slots=True)
class Child:
    """A trained child network, ready to use."""

    network: Network
    genotype: Genotype
    class_names: tuple[str, ...]
    normalisation: Normalisation
    size: tuple[int, int]
    metadata: Mapping[str, Any]

    @torch.no_grad()
    def predict(self, images: NDArray[np.uint8], *, batch_size: int = 256) -> NDArray[np.float32]:
        """Class probabilities (N, K) of images (N, h, w, 1 or 3); other sizes are resized.

        Raises:
            InvalidArgument: the images have another shape or type.
        """
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
            raise InvalidArgument(
                f"Images of shape {images.shape} and type {images.dtype} cannot be classified.",
                remedy="Give uint8 images of shape (n, height, width, 1 or 3).",
                field="images",
            )
        device = self.network.head.weight.device
        parts = [torch.empty(0, self.network.n_classes)]
        for start in range(0, len(images), batch_size):
            pixels = prepare_images(images[start : start + batch_size], self.size).to(device)
            parts.append(self.network(self.normalisation(pixels)).float().softmax(dim=1).cpu())
        return torch.cat(parts).numpy()


def load_child(data: bytes, *, device: str = "cpu") -> Child:
    """A child network from the bytes in `PipelineResult.child`, on a device (`auto`, `cpu`, `cuda`, `cuda:N`).

    Raises:
        UnsafeWeights, WeightsTooLarge, NotFinite: the bytes are not such a network.
    """
    info, tensors = load_weights(data, "child")
    network = discrete_network(info, tensors).to(pick_device(device))
    assert network.genotype is not None
    try:
        names = tuple(str(name) for name in info.metadata["class_names"])
        normalisation = Normalisation(_floats(info.metadata["mean"]), _floats(info.metadata["std"]))
        height, width = (int(side) for side in info.metadata["size"])
    except (KeyError, TypeError, ValueError):
        raise UnsafeWeights(
            "The metadata do not say how the child network is used.", remedy="Export it again.", field="weights"
        ) from None
    if len(names) != info.n_classes:
        raise UnsafeWeights(
            f"The metadata name {len(names)} classes, the network distinguishes {info.n_classes}.",
            remedy="Export it again.",
            field="weights",
        )
    return Child(network, network.genotype, names, normalisation, (height, width), info.metadata)


def _floats(values: Any) -> tuple[float, ...]:
    red, green, blue = values
    return float(red), float(green), float(blue)
