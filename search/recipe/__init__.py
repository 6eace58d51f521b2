"""How a search is run: every number that is not part of the search space. Imports no torch."""

from supernet_registry.search.recipe.recipe import Recipe

__all__ = ["Recipe"]
