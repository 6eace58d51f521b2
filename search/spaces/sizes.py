"""Spaces that differ in size only: which cell of the one stands for which of the other. Imports no torch.

Two spaces of one family that agree in everything but `channels` and `cells` hold the same α and the same kinds of
blocks. Blocks are matched by kind and stage (a stage ends where the sides are halved): block i of n in the target's
stage comes from block i·m/n of the m in the source's, so that a deeper network repeats cells and a shallower one leaves
some out. A stage without a cell of that kind (small `darts` stacks have stages of a reduction only) takes from the
nearest one that has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from supernet_registry.search.errors import SpaceMismatch
from supernet_registry.search.spaces.family import Block, Cell, Family
from supernet_registry.search.spaces.space import SearchSpace

__all__ = ["SIZES", "block_origins", "evenly", "unequal_fields"]

SIZES = ("channels", "cells")
"""Fields in which a source may differ from the target, since tensors can be mapped across them."""


def unequal_fields(source: SearchSpace, target: SearchSpace) -> list[str]:
    """Names of the fields in which two spaces differ."""
    return [f.name for f in fields(SearchSpace) if getattr(source, f.name) != getattr(target, f.name)]


def block_origins(family: Family, source: SearchSpace, target: SearchSpace) -> tuple[int, ...]:
    """For every block of a target's supernet the number of the source's block that it comes from.

    Raises:
        SpaceMismatch: the source has no block of a kind that the target needs.
    """
    theirs = _positions(family.blocks(source))
    ours = _positions(family.blocks(target))
    origins: dict[int, int] = {}
    for (kind, stage), positions in ours.items():
        stages = [other for other_kind, other in theirs if other_kind == kind]
        if not stages:
            raise SpaceMismatch(
                f"A supernet of {source.cells} cells has no {kind} cell, which one of {target.cells} cells needs.",
                remedy="Choose a deeper source, or start from scratch.",
                field="search_space.cells",
                metadata={"sourceSpace": source.id, "targetSpace": target.id},
            )
        nearest = min(stages, key=lambda other: (abs(other - stage), other))
        found = theirs[kind, nearest]
        for position, index in zip(positions, evenly(len(found), len(positions)), strict=True):
            origins[position] = found[index]
    return tuple(origins[position] for position in range(len(origins)))


def _positions(blocks: Sequence[Block]) -> dict[tuple[str, int], list[int]]:
    """Numbers of the blocks of every kind in every stage."""
    positions: dict[tuple[str, int], list[int]] = {}
    stage = 0
    for number, block in enumerate(blocks):
        kind, stride = (block.kind, block.stride) if isinstance(block, Cell) else ("reduction", 2)
        positions.setdefault((kind, stage), []).append(number)
        stage += stride == 2
    return positions


def evenly(count: int, wanted: int) -> list[int]:
    """`wanted` numbers below `count`, ascending and evenly spread: all of them and repetitions, or a part of them.

    Repeating and then leaving out gives the numbers themselves: there and back is 0, 1, 2, ….
    """
    if wanted >= count:
        return [number * count // wanted for number in range(wanted)]
    return [-(-number * count // wanted) for number in range(wanted)]
