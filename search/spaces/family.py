"""What a family of search spaces must say: its cells, how they are stacked, and how an architecture is written.

A family is described, not programmed: `search.networks.supernet` builds any of them from the plan, with the operations
of `search.networks.operations`. A third space is one file like `nas_bench_201.py` plus one entry in
`search.spaces.FAMILIES` (and its operations, where they are new).

Legend: a cell is a directed acyclic graph of *states*. Its inputs are states 0..inputs-1, its nodes follow. An *edge*
carries a mixture of operations from an earlier state to a node; edges are ordered by target, then by source, and this
is the order of the rows of α, shape (edges, operations).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from supernet_registry.search.errors import InvalidArgument
from supernet_registry.search.spaces.space import SearchSpace

__all__ = [
    "SKIP",
    "Block",
    "Cell",
    "CellKind",
    "Edge",
    "Family",
    "Genotype",
    "Node",
    "PooledConv",
    "Residual",
    "edges_of",
    "softmax",
]

SKIP = "skip_connect"
"""The operation that hands on what it gets: the name is the same in all families."""

Node = tuple[tuple[str, int], ...]
"""What a node of a discrete cell sums up: (operation, source state) pairs."""

Genotype = Mapping[str, tuple[Node, ...]]
"""A discrete architecture: the nodes of every cell kind."""


@dataclass(frozen=True, slots=True)
class Edge:
    """One edge of a cell, as state numbers."""

    source: int
    target: int


@dataclass(frozen=True, slots=True)
class CellKind:
    """The wiring that all cells of one kind share, together with their α."""

    name: str
    inputs: int  # states that come from earlier blocks: 1 or 2
    nodes: int
    output: Literal["last", "concat"]  # the last node, or all nodes side by side

    @property
    def edges(self) -> tuple[Edge, ...]:
        """All edges: every node hears of every earlier state."""
        return edges_of(self.inputs, self.nodes)

    def row(self, source: int, target: int) -> int:
        """Row of α of an edge."""
        return self.edges.index(Edge(source, target))


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell in the stack."""

    kind: str
    channels_in: tuple[int, ...]  # of each input, the oldest first
    channels: int  # of every node
    stride: int  # 2 in a reduction cell: applied by the edges that leave an input
    preprocess: tuple[Literal["none", "project", "reduce"], ...]  # what each input goes through first


@dataclass(frozen=True, slots=True)
class Residual:
    """A residual block of two 3×3 convolutions that halves the side (NAS-Bench-201's between two stages)."""

    channels_in: int
    channels: int


@dataclass(frozen=True, slots=True)
class PooledConv:
    """ReLU, a 3×3 convolution, BatchNorm and 2×2 max pooling: halves the side."""

    channels_in: int
    channels: int


Block = Cell | Residual | PooledConv


class Family(ABC):
    """A family of search spaces.

    Attributes:
        name: what `SearchSpace.family` says.
        operations: the paper's operations, in its order; a space may use a subset in the same order.
        defaults: default values of the other fields of `SearchSpace`.
        normalise_pools: whether pooling operations are followed by BatchNorm.
        last_activation: whether BatchNorm and ReLU stand between the last block and the pooling before the head.
        stem_pool: whether 2×2 max pooling follows the stem.
        edges_kept: incoming edges that a node of a discrete cell keeps; None for all.
    """

    name: str
    operations: tuple[str, ...]
    defaults: Mapping[str, Any]
    normalise_pools: bool
    last_activation: bool
    stem_pool: bool = False
    edges_kept: int | None = None

    @abstractmethod
    def cell_kinds(self, space: SearchSpace) -> tuple[CellKind, ...]:
        """The kinds of cell, each with its own α."""

    @abstractmethod
    def stem_channels(self, space: SearchSpace) -> int:
        """Channels that the stem convolution puts out."""

    @abstractmethod
    def blocks(self, space: SearchSpace) -> tuple[Block, ...]:
        """The blocks from stem to head."""

    @abstractmethod
    def features(self, space: SearchSpace) -> int:
        """Channels of the last feature map, before pooling."""

    @abstractmethod
    def derive(
        self,
        space: SearchSpace,
        alphas: Mapping[str, NDArray[np.floating]],
        edges: Mapping[str, NDArray[np.floating]] | None = None,
    ) -> Genotype:
        """The discrete architecture that the architecture parameters prefer.

        Args:
            space: what they belong to.
            alphas: kind -> (edges, operations).
            edges: kind -> (edges,), the weight of every edge among those of its node; None where they are not weighed.
        """

    @abstractmethod
    def format_genotype(self, genotype: Genotype) -> str:
        """Write an architecture as the family's community writes it."""

    @abstractmethod
    def parse_genotype(self, space: SearchSpace, text: str) -> Genotype:
        """Read what `format_genotype` or the community's code wrote; raises `InvalidArgument`."""

    def prior(self, space: SearchSpace) -> Genotype | None:  # noqa: ARG002 - families that have one look at it
        """An architecture that is good before anything is known of the data (`search.networks.alpha_prior`); None: no
        idea."""
        return None

    def alpha_shapes(self, space: SearchSpace) -> dict[str, tuple[int, int]]:
        """Shape (edges, operations) of α for every kind of cell."""
        return {kind.name: (len(kind.edges), len(space.operations)) for kind in self.cell_kinds(space)}


def edges_of(inputs: int, nodes: int) -> tuple[Edge, ...]:
    """Edges of a densely connected cell, ordered by target and then by source."""
    return tuple(Edge(source, inputs + node) for node in range(nodes) for source in range(inputs + node))


def softmax(alpha: NDArray[np.floating]) -> NDArray[np.float64]:
    """Softmax over the last axis, in float64."""
    a = np.asarray(alpha, dtype=np.float64)
    e = np.exp(a - a.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def check_operation(space: SearchSpace, operation: str) -> None:
    """Raise `InvalidArgument` if a genotype names an operation that the space lacks."""
    if operation not in space.operations:
        raise InvalidArgument(
            f"Operation {operation!r} is not in the search space ({', '.join(space.operations)}).",
            remedy="Correct the name, or use a space with that operation.",
            field="genotype",
        )


def invalid_genotype(text: str, expected: str) -> InvalidArgument:
    """The error for text that is no genotype of a family."""
    return InvalidArgument(f"Not a genotype: {text[:200]!r}.", remedy=f"Write it as {expected}.", field="genotype")
