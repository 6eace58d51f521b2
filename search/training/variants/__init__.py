"""Variants of DARTS: strategies that the one loop (`search.training.loop`) asks where they differ.

A variant is named by `Recipe.variant`; `search.strategies.VARIANTS` lists them. A new one is a file here with a class
that changes what it must of `Variant`, and a line in that table.
"""

from __future__ import annotations

import torch

from supernet_registry.search.networks.supernet import Network
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.strategies import VARIANTS
from supernet_registry.search.training.data import make_generator
from supernet_registry.search.training.variants.base import Batch, Bilevel, Variant

__all__ = ["Batch", "Bilevel", "Variant", "make_variant"]


def make_variant(network: Network, recipe: Recipe, generator: torch.Generator) -> Variant:
    """The recipe's strategy for a network whose α are already where the search begins.

    It draws from a generator of its own, made from `generator`'s seed, so that no variant shifts the batches.
    """
    own = make_generator(generator.initial_seed(), "variant")
    variant: Variant = VARIANTS.load(recipe.variant)(network, recipe, own)
    return variant
