"""Variants of DARTS: strategies that the one loop (`search.training.loop`) asks where they differ.

    darts              α descends ∇_α L_val(w, α); weights are trained under softmax(α)
    darts-2nd          α descends through one step of the weights                          second_order
    smooth-darts-rs    weights are trained under randomly perturbed mixtures               smooth
    smooth-darts-adv   weights are trained under the worst mixture nearby                  smooth
    pc-darts           a partial-channel space; α rests at first                           base
    drnas              mixtures are drawn from a Dirichlet distribution                    drnas

A variant is named by `Recipe.variant`; a new one is a class with the methods of `Darts` that it changes, a name in
`search.recipe`, and a member of the enum `Variant` on the wire.
"""

from __future__ import annotations

import torch

from supernet_registry.search.networks.supernet import Network
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.training.data import make_generator
from supernet_registry.search.training.variants.base import Batch, Bilevel, Darts, PcDarts
from supernet_registry.search.training.variants.drnas import DrNas
from supernet_registry.search.training.variants.second_order import SecondOrderDarts
from supernet_registry.search.training.variants.smooth import AdversarialSmoothDarts, RandomSmoothDarts

__all__ = [
    "AdversarialSmoothDarts",
    "Batch",
    "Bilevel",
    "Darts",
    "DrNas",
    "PcDarts",
    "RandomSmoothDarts",
    "SecondOrderDarts",
    "make_variant",
]


def make_variant(network: Network, recipe: Recipe, generator: torch.Generator) -> Darts:
    """The recipe's strategy for a network whose α are already where the search begins.

    It draws from a generator of its own, made from `generator`'s seed, so that no variant shifts the batches.
    """
    own = make_generator(generator.initial_seed(), "variant")
    match recipe.variant:
        case "darts":
            return Darts(network, recipe)
        case "darts-2nd":
            return SecondOrderDarts(network, recipe)
        case "smooth-darts-rs":
            return RandomSmoothDarts(network, recipe, own)
        case "smooth-darts-adv":
            return AdversarialSmoothDarts(network, recipe, own)
        case "pc-darts":
            return PcDarts(network, recipe)
        case "drnas":
            return DrNas(network, recipe, own)
