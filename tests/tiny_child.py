"""A child network without a search: untrained, but calibrated, and stored as the pipeline stores it."""

from __future__ import annotations

import torch

from supernet_registry.search.networks.inputs import Normalisation
from supernet_registry.search.networks.stored import save_weights
from supernet_registry.search.networks.supernet import Network
from supernet_registry.search.spaces import SearchSpace, family_of
from supernet_registry.search.training.data import make_generator

__all__ = ["tiny_child"]


def tiny_child(
    space: SearchSpace, *, size: tuple[int, int] = (16, 16), class_names: tuple[str, ...] = ("a", "b", "ü")
) -> bytes:
    """The bytes of a child network whose BatchNorm statistics are those of noise."""
    classes = len(class_names)
    supernet = Network(space, classes, generator=make_generator(0, "supernet"), alpha_scale=1.0)
    genotype = supernet.derive()
    network = Network(space, classes, generator=make_generator(0, "child"), genotype=genotype)
    network.set_norm_mode("calibrate")
    network(torch.randn(16, 3, *size, generator=make_generator(0, "noise")))
    return save_weights(
        network,
        genotype=family_of(space).format_genotype(genotype),
        normalisation=Normalisation((0.4, 0.5, 0.6), (0.2, 0.3, 0.25)),
        size=size,
        facts={"class_names": list(class_names)},
    )
