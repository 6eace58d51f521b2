"""At most so many skip connections in a cell: P-DARTS' guard against collapse.

Skip connections train fastest, and α follows: a DARTS search that runs too long ends in cells of skip connections that
say nothing about the data any more. P-DARTS (Chen 2019, arXiv:1904.12760, section 3.4) and DARTS+ (Liang 2019,
arXiv:1909.06035) allow two in a cell: while there are more, the one with the smallest weight is forgotten and the cell
derived again, by the family's own rule. So another operation may take its edge, or another edge its place.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from supernet_registry.search.spaces.family import SKIP, CellKind, Family, Genotype, softmax
from supernet_registry.search.spaces.space import SearchSpace

__all__ = ["derive_with_few_skips"]

_FORGOTTEN = -1e9  # α of an operation that is not to be chosen


def derive_with_few_skips(
    family: Family,
    space: SearchSpace,
    alphas: Mapping[str, NDArray[np.floating]],
    edges: Mapping[str, NDArray[np.floating]] | None = None,
    *,
    most: int,
) -> Genotype:
    """`family.derive`, with at most `most` skip connections in a cell; as many as α wants if `most` is negative.

    Where a cell offers nothing but skip connections on an edge, they stay.
    """
    genotype = family.derive(space, alphas, edges)
    if most < 0 or SKIP not in space.operations:
        return genotype
    column = space.operations.index(SKIP)
    left = {kind: np.array(alpha, dtype=np.float64) for kind, alpha in alphas.items()}
    for kind in family.cell_kinds(space):
        alpha = left[kind.name]
        while len(rows := _skips(kind, genotype)) > most:
            alpha[rows[np.argmin(softmax(alpha)[rows, column])], column] = _FORGOTTEN
            derived = family.derive(space, left, edges)
            if _skips(kind, derived) == rows:
                break
            genotype = derived
    return genotype


def _skips(kind: CellKind, genotype: Genotype) -> list[int]:
    """Rows of α of the edges that hold a skip connection."""
    return [
        kind.row(source, kind.inputs + node)
        for node, pairs in enumerate(genotype[kind.name])
        for operation, source in pairs
        if operation == SKIP
    ]
