"""The supernet, and the discrete networks inside it: one module for both, built from a family's plan.

In a supernet every edge of every cell holds all operations, mixed with softmax(α) (DARTS, equation 2):

    ō(x) = Σ_o  exp(α_o) / Σ_o' exp(α_o')  ·  o(x)

In a discrete network (`genotype` given) an edge holds its one operation, unweighted, or nothing. Both name their
tensors alike (`blocks.3.edges.5.nor_conv_3x3.conv.weight`), so a child network inherits by name.

Legend: B batch, C channels, H and W sides, E edges, O operations, K classes, D = C·head_pool² features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from search.operations import (
    BatchNorm,
    FactorizedReduce,
    NormMode,
    Operation,
    ReluConvNorm,
    SharedViews,
    make_operation,
)
from search.spaces import Genotype, SearchSpace, family_of
from search.spaces.family import Cell, CellKind, Residual

__all__ = ["Mixture", "Network", "alpha_entropy", "skip_count"]

Mixture = Mapping[str, Tensor]
"""Mixture weights (E, O) of every kind of cell."""


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
        self.blocks = nn.ModuleList()
        for block in family.blocks(space):
            if isinstance(block, Residual):
                self.blocks.append(ResidualBlock(block, affine=affine))
            else:
                chosen = None if genotype is None else genotype[block.kind]
                self.blocks.append(MixedCell(space, kinds[block.kind], block, chosen, affine, family.normalise_pools))
        self.last_norm = BatchNorm(family.features(space), affine=True) if family.last_activation else None
        self.head = nn.Linear(family.features(space) * space.head_pool**2, n_classes)
        self.alphas = nn.ParameterDict()
        if genotype is None:
            for kind, shape in family.alpha_shapes(space).items():
                self.alphas[kind] = nn.Parameter(torch.empty(shape))
        if generator is not None:
            initialise(self, generator, alpha_scale)
        self.to(memory_format=torch.channels_last)

    def weights(self) -> list[nn.Parameter]:
        """All parameters but α."""
        return [parameter for name, parameter in self.named_parameters() if not name.startswith("alphas.")]

    def mixture(self) -> Mixture:
        """softmax(α), differentiable."""
        return {kind: F.softmax(alpha, dim=-1) for kind, alpha in self.alphas.items()}

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
        """α as arrays (E, O)."""
        return {kind: alpha.detach().float().cpu().numpy() for kind, alpha in self.alphas.items()}

    def derive(self) -> Genotype:
        """The discrete architecture that α prefers."""
        return family_of(self.space).derive(self.space, self.alpha_arrays())


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
        self._column = {name: column for column, name in enumerate(space.operations)}
        self.preprocess = nn.ModuleList(
            _preprocess(how, channels_in, plan.channels, affine=affine)
            for how, channels_in in zip(plan.preprocess, plan.channels_in, strict=True)
        )
        self.edges = nn.ModuleList()
        for edge in kind.edges:
            stride = plan.stride if edge.source < kind.inputs else 1
            names = [
                name
                for name in space.operations
                if name != "none" and (chosen is None or (name, edge.source) in chosen[edge.target - kind.inputs])
            ]
            self.edges.append(
                nn.ModuleDict(
                    {
                        name: make_operation(
                            name, plan.channels, stride, affine=affine, normalise_pools=normalise_pools
                        )
                        for name in names
                    }
                )
            )

    def forward(self, inputs: list[Tensor], mixture: Tensor | None) -> Tensor:
        """Inputs (B, C_i, H, W) and mixture (E, O), or None for unweighted edges -> (B, C or nodes·C, H', W')."""
        scales = None if mixture is None else [row.unbind(0) for row in mixture.unbind(0)]  # [E][O] scalars
        states = [module(x) for module, x in zip(self.preprocess, inputs, strict=True)]
        views = [SharedViews(state) for state in states]
        row = 0
        for _ in range(self.kind.nodes):
            total: Tensor | None = None
            for view in views:
                for name, module in cast("nn.ModuleDict", self.edges[row]).items():
                    operation = cast("Operation", module)
                    scale = None if scales is None else scales[row][self._column[name]]
                    total = operation.add_to(total, view.get(operation.shared, operation.stride), scale)
                row += 1
            # A node whose edges are all `none` is zero.
            states.append(torch.zeros_like(states[-1]) if total is None else total)
            views.append(SharedViews(states[-1]))
        nodes = states[self.kind.inputs :]
        return nodes[-1] if self.kind.output == "last" else torch.cat(nodes, dim=1)


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


def _preprocess(how: str, channels_in: int, channels: int, *, affine: bool) -> nn.Module:
    match how:
        case "none":
            return nn.Identity()
        case "project":
            return nn.Sequential(nn.ReLU(), ReluConvNorm(channels_in, channels, 1, 1, affine=affine))
        case _:
            return nn.Sequential(nn.ReLU(), FactorizedReduce(channels_in, channels, affine=affine))


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
    return sum(operation == "skip_connect" for nodes in genotype.values() for node in nodes for operation, _ in node)
