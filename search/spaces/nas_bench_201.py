"""NAS-Bench-201 (Dong & Yang 2020, arXiv:2001.00326): 5 operations on the 6 edges of a 4-state cell.

Stem, then three stages of cells with C, 2C and 4C channels and a residual block of stride 2 between two stages, then
BatchNorm, ReLU, pooling and a linear head. State 0 is the cell's input, state 3 its output. An architecture is
written `|op~0|+|op~0|op~1|+|op~0|op~1|op~2|`: one group a node, `~` gives the source state.

The paper has C=16, 5 cells a stage and global average pooling for 32×32 images. The defaults here are the compact
version for CPUs and small data: the wiring and the operations are the paper's, the stack is shallower, and the head
sees a 4×4 map, because with global pooling glyph-like tasks barely leave chance in a few hundred steps.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from supernet_registry.search.spaces.family import (
    Block,
    Cell,
    CellKind,
    Family,
    Genotype,
    Node,
    Residual,
    check_operation,
    invalid_genotype,
    softmax,
)
from supernet_registry.search.spaces.space import SearchSpace

__all__ = ["KIND", "STAGES", "NasBench201"]

STAGES = 3
KIND = "cell"


class NasBench201(Family):
    """The family `nas-bench-201`."""

    name = "nas-bench-201"
    operations: tuple[str, ...] = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
    defaults = {  # noqa: RUF012 - read only, as the base class says
        "channels": 8,
        "cells": 1,
        "nodes": 3,
        "stem_stride": 1,
        "head_pool": 4,
        "resolution": 32,
        "affine_batch_norm": True,
    }
    normalise_pools = False
    last_activation = True

    def cell_kinds(self, space: SearchSpace) -> tuple[CellKind, ...]:
        return (CellKind(KIND, inputs=1, nodes=space.nodes, output="last"),)

    def stem_channels(self, space: SearchSpace) -> int:
        return space.channels

    def blocks(self, space: SearchSpace) -> tuple[Block, ...]:
        blocks: list[Block] = []
        for stage in range(STAGES):
            channels = space.channels * 2**stage
            if stage > 0:
                blocks.append(Residual(channels // 2, channels))
            cell = Cell(KIND, channels_in=(channels,), channels=channels, stride=1, preprocess=("none",))
            blocks.extend([cell] * space.cells)
        return tuple(blocks)

    def features(self, space: SearchSpace) -> int:
        return space.channels * int(2 ** (STAGES - 1))

    def derive(
        self,
        space: SearchSpace,
        alphas: Mapping[str, NDArray[np.floating]],
        edges: Mapping[str, NDArray[np.floating]] | None = None,  # noqa: ARG002 - every edge is kept, however weak
    ) -> Genotype:
        """The strongest operation of every edge.

        `none` is left out, as DARTS does: its α only says how much of the other operations an edge wants, and two
        `none` too many cut the output off from the input.
        """
        weights = softmax(alphas[KIND])  # (edges, operations)
        if "none" in space.operations:
            weights[:, space.operations.index("none")] = -1.0
        (kind,) = self.cell_kinds(space)
        nodes: list[Node] = []
        for node in range(space.nodes):
            rows = [(row, edge) for row, edge in enumerate(kind.edges) if edge.target == 1 + node]
            nodes.append(tuple((space.operations[int(weights[row].argmax())], edge.source) for row, edge in rows))
        return {KIND: tuple(nodes)}

    def format_genotype(self, genotype: Genotype) -> str:
        return "+".join("|" + "".join(f"{op}~{source}|" for op, source in node) for node in genotype[KIND])

    def parse_genotype(self, space: SearchSpace, text: str) -> Genotype:
        nodes: list[Node] = []
        for number, group in enumerate(text.strip().split("+")):
            if not re.fullmatch(r"\|(\w+~\d+\|)+", group):
                raise invalid_genotype(text, "`|op~0|+|op~0|op~1|+|op~0|op~1|op~2|`")
            node = tuple((op, int(source)) for op, source in re.findall(r"(\w+)~(\d{1,3})\|", group))
            if [source for _, source in node] != list(range(number + 1)):
                raise invalid_genotype(text, "one operation for every earlier state of each node")
            for operation, _ in node:
                check_operation(space, operation)
            nodes.append(node)
        if len(nodes) != space.nodes:
            raise invalid_genotype(text, f"{space.nodes} nodes joined by `+`")
        return {KIND: tuple(nodes)}
