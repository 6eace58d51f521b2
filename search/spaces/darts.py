"""DARTS (Liu, Simonyan & Yang 2019, arXiv:1806.09055): 8 operations, 4 nodes, normal and reduction cells.

Every cell hears of the two cells before it; its output is the concatenation of its 4 nodes. Cells at 1/3 and 2/3 of
the depth are reduction cells: their edges from the inputs have stride 2 and the channels double. All normal cells
share one α, all reduction cells another: 2 × 14 edges × 8 operations. A node of the derived architecture keeps its
two strongest incoming edges, `none` excluded (section 2.4). It is written as the reference code prints it:
`Genotype(normal=[('sep_conv_3x3', 0), …], normal_concat=range(2, 6), reduce=[…], reduce_concat=range(2, 6))`.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from supernet_registry.search.errors import InvalidArgument
from supernet_registry.search.spaces.family import (
    Block,
    Cell,
    CellKind,
    Family,
    Genotype,
    Node,
    check_operation,
    invalid_genotype,
    softmax,
)
from supernet_registry.search.spaces.space import SearchSpace

__all__ = ["Darts"]

_KINDS = ("normal", "reduce")
_STEM_MULTIPLIER = 3  # the reference's stem is three times as wide as the first cell
_EDGES_KEPT = 2  # incoming edges that a node of the derived cell keeps
_EXAMPLE = "`Genotype(normal=[('sep_conv_3x3', 0), …], normal_concat=range(2, 6), reduce=[…], reduce_concat=…)`"


class Darts(Family):
    """The family `darts`."""

    name = "darts"
    operations = (
        "none",
        "max_pool_3x3",
        "avg_pool_3x3",
        "skip_connect",
        "sep_conv_3x3",
        "sep_conv_5x5",
        "dil_conv_3x3",
        "dil_conv_5x5",
    )
    defaults = {  # noqa: RUF012 - read only, as the base class says
        "channels": 16,
        "cells": 8,
        "nodes": 4,
        "stem_stride": 1,
        "head_pool": 1,
        "resolution": 32,
        "affine_batch_norm": False,
    }
    normalise_pools = True
    last_activation = False
    edges_kept = _EDGES_KEPT

    def cell_kinds(self, space: SearchSpace) -> tuple[CellKind, ...]:
        return tuple(CellKind(name, inputs=2, nodes=space.nodes, output="concat") for name in _KINDS)

    def stem_channels(self, space: SearchSpace) -> int:
        return _STEM_MULTIPLIER * space.channels

    def blocks(self, space: SearchSpace) -> tuple[Block, ...]:
        reductions = {space.cells // 3, 2 * space.cells // 3}
        before_last = last = self.stem_channels(space)
        channels = space.channels
        blocks: list[Block] = []
        halved = False  # whether the cell before was a reduction: then the older input is twice as large
        for number in range(space.cells):
            reduction = number in reductions
            channels *= 2 if reduction else 1
            blocks.append(
                Cell(
                    "reduce" if reduction else "normal",
                    channels_in=(before_last, last),
                    channels=channels,
                    stride=2 if reduction else 1,
                    preprocess=("reduce" if halved else "project", "project"),
                )
            )
            before_last, last, halved = last, space.nodes * channels, reduction
        return tuple(blocks)

    def features(self, space: SearchSpace) -> int:
        last = self.blocks(space)[-1]
        assert isinstance(last, Cell)
        return space.nodes * last.channels

    def derive(
        self,
        space: SearchSpace,
        alphas: Mapping[str, NDArray[np.floating]],
        edges: Mapping[str, NDArray[np.floating]] | None = None,
    ) -> Genotype:
        genotype: dict[str, tuple[Node, ...]] = {}
        for kind in self.cell_kinds(space):
            weights = softmax(alphas[kind.name])  # (edges, operations)
            if edges is not None:
                weights = weights * edges[kind.name][:, None]  # PC-DARTS, section 3.3
            genotype[kind.name] = _derive_cell(space, kind, weights)
        return genotype

    def format_genotype(self, genotype: Genotype) -> str:
        parts = []
        for kind in _KINDS:
            nodes = genotype[kind]
            pairs = [pair for node in nodes for pair in node]
            parts.append(f"{kind}={pairs!r}, {kind}_concat=range(2, {2 + len(nodes)})")
        return f"Genotype({', '.join(parts)})"

    def parse_genotype(self, space: SearchSpace, text: str) -> Genotype:
        values = _parse_call(text)
        genotype: dict[str, tuple[Node, ...]] = {}
        for kind in _KINDS:
            pairs = _pairs(values.get(kind), text)
            concat = _concat(values.get(f"{kind}_concat"), text)
            if concat != list(range(2, 2 + space.nodes)):
                raise invalid_genotype(text, f"a genotype that concatenates all nodes, range(2, {2 + space.nodes})")
            genotype[kind] = _split_nodes(space, pairs, text)
        return genotype


def _derive_cell(space: SearchSpace, kind: CellKind, weights: NDArray[np.float64]) -> tuple[Node, ...]:
    """Two strongest edges of every node, each with its strongest operation other than `none`."""
    candidates = [column for column, name in enumerate(space.operations) if name != "none"]
    best = weights[:, candidates].max(axis=1)  # (edges,): strength of an edge, as the reference defines it
    nodes: list[Node] = []
    for target in range(kind.inputs, kind.inputs + kind.nodes):
        rows = [row for row, edge in enumerate(kind.edges) if edge.target == target]
        kept = sorted(sorted(rows, key=lambda row: -best[row])[:_EDGES_KEPT])
        nodes.append(
            tuple(
                (space.operations[candidates[int(weights[row, candidates].argmax())]], kind.edges[row].source)
                for row in kept
            )
        )
    return tuple(nodes)


def _split_nodes(space: SearchSpace, pairs: list[tuple[str, int]], text: str) -> tuple[Node, ...]:
    """The flat list of the community's format as nodes of two edges each."""
    if len(pairs) != _EDGES_KEPT * space.nodes:
        raise invalid_genotype(text, f"two (operation, state) pairs for each of {space.nodes} nodes")
    nodes: list[Node] = []
    for number in range(space.nodes):
        node = tuple(pairs[_EDGES_KEPT * number : _EDGES_KEPT * (number + 1)])
        sources = [source for _, source in node]
        if len(set(sources)) != _EDGES_KEPT or not all(0 <= source < 2 + number for source in sources):
            raise invalid_genotype(text, "two different earlier states for every node")
        for operation, _ in node:
            check_operation(space, operation)
        nodes.append(node)
    return tuple(nodes)


def _parse_call(text: str) -> dict[str, ast.expr]:
    """Keyword arguments of `Genotype(...)` as syntax trees: text of strangers is read, never executed."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise invalid_genotype(text, _EXAMPLE) from None
    if not (isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) and tree.func.id == "Genotype"):
        raise invalid_genotype(text, _EXAMPLE)
    return {keyword.arg: keyword.value for keyword in tree.keywords if keyword.arg}


def _pairs(tree: ast.expr | None, text: str) -> list[tuple[str, int]]:
    if not isinstance(tree, ast.List | ast.Tuple):
        raise invalid_genotype(text, _EXAMPLE)
    pairs: list[tuple[str, int]] = []
    for item in tree.elts:
        if not (isinstance(item, ast.Tuple) and len(item.elts) == 2):
            raise invalid_genotype(text, _EXAMPLE)
        operation, source = (_constant(element) for element in item.elts)
        if not (isinstance(operation, str) and type(source) is int):
            raise invalid_genotype(text, _EXAMPLE)
        pairs.append((operation, source))
    return pairs


def _concat(tree: ast.expr | None, text: str) -> list[int]:
    """`range(2, 6)` or `[2, 3, 4, 5]`."""
    if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) and tree.func.id == "range":
        match [_constant(argument) for argument in tree.args]:
            case [int(start), int(stop)] if 0 <= start <= stop < 100:
                return list(range(start, stop))
    if isinstance(tree, ast.List | ast.Tuple):
        values = [_constant(element) for element in tree.elts]
        return [value for value in values if type(value) is int]
    raise invalid_genotype(text, _EXAMPLE)


def _constant(tree: ast.expr) -> object:
    if isinstance(tree, ast.Constant):
        return tree.value
    raise InvalidArgument(
        "A genotype holds names and numbers only.", remedy=f"Write it as {_EXAMPLE}.", field="genotype"
    )
