"""What training descends: objectives, which the one loop (`search.training.loop`) asks for its losses.

An objective is named by `Recipe.objective`; `search.strategies.OBJECTIVES` lists them. A new one is a file here with a
class derived from `Objective`, and a line in that table.
"""

from __future__ import annotations

from supernet_registry.search.networks.supernet import Network
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.strategies import OBJECTIVES
from supernet_registry.search.training.objectives.objective import Forward, Objective

__all__ = ["Forward", "Objective", "make_objective"]


def make_objective(network: Network, recipe: Recipe, *, label_smoothing: float) -> Objective:
    """The recipe's objective for the training of a network."""
    objective: Objective = OBJECTIVES.load(recipe.objective)(network, recipe, label_smoothing=label_smoothing)
    return objective
