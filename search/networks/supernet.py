"""The supernet, and the discrete networks inside it: one module for both, built from a family's plan.

In a supernet every edge of every cell holds all operations, mixed with softmax(α) (DARTS, equation 2):

    ō(x) = Σ_o  exp(α_o) / Σ_o' exp(α_o')  ·  o(x)

With `space.partial_channels` K > 1 (PC-DARTS, arXiv:1907.05737) only the first 1/K of a state's channels go through the
mixture, the others go round it; edges are weighed among those of their node by softmax(β), and the channels of every
node are shuffled, so that all take part in turn.

In a discrete network (`genotype` given) an edge holds its one operation, unweighted, or nothing. Both name their
tensors alike (`blocks.3.edges.5.nor_conv_3x3.conv.weight`), so a child network inherits by name.

Legend: B batch, C channels, H and W sides, E edges, O operations, K classes, D = C·head_pool² features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from supernet_registry.search.networks.operations import (
    BatchNorm,
    FactorizedReduce,
    NormMode,
    Operation,
    ReluConvNorm,
    SharedViews,
    make_operation,
)
from supernet_registry.search.spaces import Genotype, SearchSpace, family_of
from supernet_registry.search.spaces.family import SKIP, Cell, CellKind, PooledConv, Residual
from supernet_registry.search.spaces.skip_limit import derive_with_few_skips

__all__ = ["Kept", "Mixture", "Network", "Projection", "alpha_entropy", "skip_count", "softmax"]

Mixture = Mapping[str, Tensor]
"""Mixture weights (E, O) of every kind of cell. The sum of a row is the weight of its edge."""

Kept = Mapping[str, Tensor]
"""Which operations are still computed, (E, O) bool of every kind of cell."""

_LEAST_WEIGHT = 1e-6  # of an operation in α that `settle` writes: no mixture feels it, and it stays finite


def softmax(alpha: Tensor) -> Tensor:
    """Softmax over the operations of every edge: (E, O) -> (E, O)."""
    return F.softmax(alpha, dim=-1)


class Projection:
    """Decisions about some edges of a supernet: what becomes of softmax(α) while the others are still open.

    weights = softmax(α) · open + decided, both (E, O): an open edge has its mixture weights, a decided one 1 for its
    operation, a dropped one nothing.
    """

    def __init__(self, open_weights: dict[str, Tensor], decided: dict[str, Tensor]) -> None:
        self._open, self._decided = open_weights, decided

    @classmethod
    def free(cls, network: Network) -> Projection:
        """Nothing is decided."""
        return cls(
            {kind: torch.ones_like(alpha, requires_grad=False) for kind, alpha in network.alphas.items()},
            {kind: torch.zeros_like(alpha, requires_grad=False) for kind, alpha in network.alphas.items()},
        )

    def __call__(self, mixture: Mixture) -> Mixture:
        """The mixture weights under these decisions."""
        return {kind: weights * self._open[kind] + self._decided[kind] for kind, weights in mixture.items()}

    def decide(self, kind: str, row: int, column: int) -> None:
        """An edge holds one operation from now on."""
        self.drop(kind, row)
        self._decided[kind][row, column] = 1.0

    def drop(self, kind: str, row: int) -> None:
        """An edge holds nothing from now on."""
        self._open[kind][row] = 0.0
        self._decided[kind][row] = 0.0

    @contextmanager
    def without(self, kind: str, row: int, column: int | None) -> Iterator[None]:
        """For a moment, an edge lacks an operation; with None it lacks them all."""
        where = (row, slice(None) if column is None else column)
        weights = self._open[kind], self._decided[kind]
        kept = [values[where].clone() for values in weights]
        for values in weights:
            values[where] = 0.0
        try:
            yield
        finally:
            for values, value in zip(weights, kept, strict=True):
                values[where] = value


class Network(nn.Module):
    """A supernet (no genotype) or a discrete network (genotype).

    Args:
        space: the search space.
        n_classes: K.
        generator: source of all initial weights; None leaves them as torch made them, to be overwritten.
        genotype: the architecture of a discrete network.
        alpha_scale: standard deviation of the initial α.
    """

    def __init__(
        self,
        space: SearchSpace,
        n_classes: int,
        *,
        generator: torch.Generator | None,
        genotype: Genotype | None = None,
        alpha_scale: float = 1e-3,
    ) -> None:
        super().__init__()
        self.space = space
        self.n_classes = n_classes
        self.genotype = genotype
        family = family_of(space)
        kinds = {kind.name: kind for kind in family.cell_kinds(space)}
        affine = space.affine_batch_norm or genotype is not None
        stem = family.stem_channels(space)
        self.stem = nn.Sequential(nn.Conv2d(3, stem, 3, space.stem_stride, 1, bias=False), BatchNorm(stem, affine=True))
        if family.stem_pool:
            self.stem.append(nn.MaxPool2d(2, ceil_mode=True))
        self.blocks = nn.ModuleList()
        for block in family.blocks(space):
            if isinstance(block, Residual):
                self.blocks.append(ResidualBlock(block, affine=affine))
            elif isinstance(block, PooledConv):
                self.blocks.append(PooledBlock(block, affine=affine))
            else:
                chosen = None if genotype is None else genotype[block.kind]
                self.blocks.append(MixedCell(space, kinds[block.kind], block, chosen, affine, family.normalise_pools))
        self.last_norm = BatchNorm(family.features(space), affine=True) if family.last_activation else None
        self.head = nn.Linear(family.features(space) * space.head_pool**2, n_classes)
        self.alphas = nn.ParameterDict()
        if genotype is None:
            for kind, shape in family.alpha_shapes(space).items():
                self.alphas[kind] = nn.Parameter(torch.empty(shape))
        self.projection: Projection | None = None  # decisions under way, of `search.children.perturbation`
        self.betas = nn.ParameterDict()  # (E,) of every kind; only with partial channels
        if genotype is None and space.partial_channels > 1:
            for kind, (edges, _) in family.alpha_shapes(space).items():
                self.betas[kind] = nn.Parameter(torch.zeros(edges))
        self._edges_of_nodes = {kind.name: _edges_of_nodes(kind) for kind in kinds.values()}
        self.mixing: Callable[[Tensor], Tensor] = (
            softmax  # from α to weights that sum to 1; see `search.training.variants`
        )
        self.kept: Kept = {}  # empty: all operations; see `keep`
        if generator is not None:
            initialise(self, generator, alpha_scale)
        self.to(memory_format=torch.channels_last)

    def weights(self) -> list[nn.Parameter]:
        """All parameters but α and β."""
        return [p for name, p in self.named_parameters() if not name.startswith(("alphas.", "betas."))]

    def architecture(self) -> list[nn.Parameter]:
        """α and, with partial channels, β: what the validation split trains."""
        return [*self.alphas.values(), *self.betas.values()]

    def operation_weights(self) -> Mixture:
        """softmax(α) among the operations that are kept, differentiable; every row sums to 1."""
        return self.among_kept({kind: self.mixing(alpha) for kind, alpha in self.alphas.items()})

    def among_kept(self, operations: Mixture) -> Mixture:
        """Operation weights with nothing left for dropped operations; every row sums to 1 again."""
        if not self.kept:
            return operations
        masked = {kind: weights * self.kept[kind] for kind, weights in operations.items()}
        return {kind: weights / weights.sum(dim=-1, keepdim=True) for kind, weights in masked.items()}

    def edge_weights(self) -> Mixture:
        """softmax(β) among the edges of every node, (E,) of every kind, differentiable; empty without β."""
        return {
            kind: torch.cat([F.softmax(part, dim=0) for part in beta.split(self._edges_of_nodes[kind])])
            for kind, beta in self.betas.items()
        }

    def weigh_edges(self, operations: Mixture) -> Mixture:
        """The mixture of given operation weights: times softmax(β), where there is β."""
        edges = self.edge_weights()
        return {k: weights * edges[k][:, None] for k, weights in operations.items()} if edges else operations

    def mixture(self) -> Mixture:
        """softmax(α), times softmax(β) where there is β; differentiable. Under a projection, what is left of it."""
        operations = self.operation_weights()
        return self.weigh_edges(operations if self.projection is None else self.projection(operations))

    def keep(self, kept: Kept) -> None:
        """Compute only these operations from now on; an empty mapping brings all of them back."""
        device = self.head.weight.device
        self.kept = {kind: mask.to(device) for kind, mask in kept.items()}
        skipped = {kind: frozenset(map(tuple, (~mask).nonzero().tolist())) for kind, mask in kept.items()}
        for block in self.blocks:
            if isinstance(block, MixedCell):
                block.skipped = skipped.get(block.kind.name, frozenset())

    @torch.no_grad()
    def settle(self) -> None:
        """Write the weights in force into α, so that plain softmax over all operations gives them.

        Whoever reads a stored supernet need not know by which variant it was searched.
        """
        if self.mixing is softmax and not self.kept:
            return
        for kind, alpha in self.alpha_arrays().items():
            self.alphas[kind].copy_(torch.from_numpy(alpha))
        self.mixing = softmax
        self.keep({})

    def current_mixture(self) -> Mixture | None:
        """`mixture()` of a supernet, None of a discrete network, whose edges are not weighted."""
        return self.mixture() if self.genotype is None else None

    def features(self, images: Tensor, mixture: Mixture | None = None) -> Tensor:
        """(B, 3, H, W) normalised images -> (B, D) what the head sees."""
        if mixture is None:
            mixture = self.current_mixture()
        before_last = last = self.stem(images)
        for block in self.blocks:
            if isinstance(block, MixedCell):
                weights = None if mixture is None else mixture[block.kind.name]
                inputs = [last] if block.kind.inputs == 1 else [before_last, last]
                before_last, last = last, block(inputs, weights)
            else:
                before_last, last = last, block(last)
        if self.last_norm is not None:
            last = F.relu(self.last_norm(last))
        return F.adaptive_avg_pool2d(last, self.space.head_pool).flatten(1)

    def forward(self, images: Tensor, mixture: Mixture | None = None) -> Tensor:
        """(B, 3, H, W) normalised images -> (B, K) logits. `mixture` replaces softmax(α)."""
        return cast("Tensor", self.head(self.features(images, mixture)))

    def set_norm_mode(self, mode: NormMode) -> None:
        """Switch all BatchNorm layers; `calibrate` starts the collection of statistics anew."""
        for module in self.modules():
            if isinstance(module, BatchNorm):
                module.mode = mode
                if mode == "calibrate":
                    module.batches = 0

    def alpha_arrays(self) -> dict[str, NDArray[np.float32]]:
        """α as arrays (E, O); whatever the variant and whatever was dropped, their softmax is `operation_weights`."""
        alphas: Mapping[str, Tensor] = dict(self.alphas.items())
        if self.mixing is not softmax or self.kept:
            alphas = {k: weights.clamp(min=_LEAST_WEIGHT).log() for k, weights in self.operation_weights().items()}
        return {kind: alpha.detach().float().cpu().numpy() for kind, alpha in alphas.items()}

    def derive(self, *, most_skips: int = -1) -> Genotype:
        """The discrete architecture that α and β prefer, with at most so many skip connections in a cell (-1: any)."""
        edges = {kind: weights.detach().float().cpu().numpy() for kind, weights in self.edge_weights().items()}
        family = family_of(self.space)
        return derive_with_few_skips(family, self.space, self.alpha_arrays(), edges or None, most=most_skips)


class MixedCell(nn.Module):
    """A cell whose edges mix the operations they hold."""

    def __init__(
        self,
        space: SearchSpace,
        kind: CellKind,
        plan: Cell,
        chosen: tuple[tuple[tuple[str, int], ...], ...] | None,
        affine: bool,  # noqa: FBT001 - private to this module
        normalise_pools: bool,  # noqa: FBT001
    ) -> None:
        super().__init__()
        self.kind = kind
        self.skipped: frozenset[tuple[int, ...]] = frozenset()  # (row, column) of operations that are not computed
        self._parts = space.partial_channels if chosen is None else 1  # K
        self._part = plan.channels // self._parts  # channels of a state that go through the mixture
        self._strides = tuple(plan.stride if edge.source < kind.inputs else 1 for edge in kind.edges)
        self._column = {name: column for column, name in enumerate(space.operations)}
        self.preprocess = nn.ModuleList(
            _preprocess(how, channels_in, plan.channels, affine=affine)
            for how, channels_in in zip(plan.preprocess, plan.channels_in, strict=True)
        )
        self.edges = nn.ModuleList()
        for edge, stride in zip(kind.edges, self._strides, strict=True):
            names = [
                name
                for name in space.operations
                if name != "none" and (chosen is None or (name, edge.source) in chosen[edge.target - kind.inputs])
            ]
            self.edges.append(
                nn.ModuleDict(
                    {
                        name: make_operation(name, self._part, stride, affine=affine, normalise_pools=normalise_pools)
                        for name in names
                    }
                )
            )

    def forward(self, inputs: list[Tensor], mixture: Tensor | None) -> Tensor:
        """Inputs (B, C_i, H, W) and mixture (E, O), or None for unweighted edges -> (B, C or nodes·C, H', W')."""
        scales = None if mixture is None else [row.unbind(0) for row in mixture.unbind(0)]  # [E][O] scalars
        states = [module(x) for module, x in zip(self.preprocess, inputs, strict=True)]
        views = [SharedViews(self._mixed_part(state)) for state in states]
        row = 0
        for _ in range(self.kind.nodes):
            total: Tensor | None = None
            first_row = row
            for view in views:
                for name, module in cast("nn.ModuleDict", self.edges[row]).items():
                    column = self._column[name]
                    if (row, column) in self.skipped:
                        continue
                    operation = cast("Operation", module)
                    scale = None if scales is None else scales[row][column]
                    total = operation.add_to(total, view.get(operation.shared, operation.stride), scale)
                row += 1
            if total is None:  # a node whose edges are all `none` is zero
                total = torch.zeros_like(self._mixed_part(states[-1]))
            if self._parts > 1:
                assert mixture is not None
                total = self._shuffle_in(total, states, mixture.sum(dim=-1), first_row)
            states.append(total)
            views.append(SharedViews(self._mixed_part(total)))
        nodes = states[self.kind.inputs :]
        return nodes[-1] if self.kind.output == "last" else torch.cat(nodes, dim=1)

    def _mixed_part(self, state: Tensor) -> Tensor:
        """The channels of a state that go through the mixture: (B, C, H, W) -> (B, C/K, H, W)."""
        return state if self._parts == 1 else state[:, : self._part]

    def _shuffle_in(self, mixed: Tensor, states: list[Tensor], edges: Tensor, first_row: int) -> Tensor:
        """A node of partial channels: what its mixtures sum to, beside what goes round them, channels shuffled.

        The paper joins and shuffles on every edge; both are linear and the same for all of them, so once a node is
        enough. `edges`: (all E,) weights; the node's begin at `first_row`.
        """
        rest: Tensor | None = None
        for row, state in enumerate(states, start=first_row):
            x = state[:, self._part :]
            if self._strides[row] == 2:
                x = F.max_pool2d(x, 2, 2, ceil_mode=True)  # an odd side is halved as by the operations
            scale = edges[row].to(x.dtype)
            rest = x * scale if rest is None else torch.addcmul(rest, x, scale)
        assert rest is not None
        return F.channel_shuffle(torch.cat([mixed, rest], dim=1), self._parts)


class ResidualBlock(nn.Module):
    """NAS-Bench-201's block between stages: two 3×3 convolutions beside average pooling and a 1×1 convolution."""

    def __init__(self, plan: Residual, *, affine: bool) -> None:
        super().__init__()
        self.conv_a = ReluConvNorm(plan.channels_in, plan.channels, 3, 2, affine=affine)
        self.conv_b = ReluConvNorm(plan.channels, plan.channels, 3, 1, affine=affine)
        self.shortcut = nn.Conv2d(plan.channels_in, plan.channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 2C, ceil(H/2), ceil(W/2))."""
        y = self.conv_b(F.relu(self.conv_a(F.relu(x)), inplace=True))
        # ceil_mode: an odd side keeps its last row, as the strided convolution beside it does.
        return cast("Tensor", y + self.shortcut(F.avg_pool2d(x, 2, 2, ceil_mode=True)))


class PooledBlock(nn.Module):
    """The compact space's block between stages: ReLU, 3×3 convolution, BatchNorm, 2×2 max pooling."""

    def __init__(self, plan: PooledConv, *, affine: bool) -> None:
        super().__init__()
        self.conv = ReluConvNorm(plan.channels_in, plan.channels, 3, 1, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 2C, ceil(H/2), ceil(W/2))."""
        return F.max_pool2d(self.conv(F.relu(x)), 2, ceil_mode=True)


def _preprocess(how: str, channels_in: int, channels: int, *, affine: bool) -> nn.Module:
    match how:
        case "none":
            return nn.Identity()
        case "project":
            return nn.Sequential(nn.ReLU(), ReluConvNorm(channels_in, channels, 1, 1, affine=affine))
        case _:
            return nn.Sequential(nn.ReLU(), FactorizedReduce(channels_in, channels, affine=affine))


def _edges_of_nodes(kind: CellKind) -> list[int]:
    """How many edges lead to each node."""
    return [kind.inputs + node for node in range(kind.nodes)]


def initialise(network: nn.Module, generator: torch.Generator, alpha_scale: float) -> None:
    """Draw all weights from `generator`: convolutions by He's rule, the head as torch's default, α near zero."""
    for name, parameter in network.named_parameters():
        if name.startswith("alphas."):
            nn.init.normal_(parameter, std=alpha_scale, generator=generator)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
        elif isinstance(module, nn.Linear):
            bound = module.in_features**-0.5
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)
            nn.init.uniform_(module.bias, -bound, bound, generator=generator)


def alpha_entropy(alphas: Mapping[str, NDArray[np.floating]]) -> float:
    """Mean entropy of softmax(α) over all edges, as a share of the largest possible: 1 is uniform, 0 is decided."""
    entropies: list[float] = []
    for alpha in alphas.values():
        p = np.exp(alpha.astype(np.float64) - alpha.max(axis=-1, keepdims=True))
        p /= p.sum(axis=-1, keepdims=True)
        entropies.extend((-(p * np.log(np.maximum(p, 1e-300))).sum(axis=-1) / np.log(max(2, p.shape[-1]))).tolist())
    return float(np.mean(entropies)) if entropies else 0.0


def skip_count(genotype: Genotype) -> int:
    """Skip connections in an architecture, the known sign of a collapsed search."""
    return sum(operation == SKIP for nodes in genotype.values() for node in nodes for operation, _ in node)
