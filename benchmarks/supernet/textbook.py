"""The plain supernet to compare with: modules as the papers and their reference code arrange them.

Every candidate operation is a module of its own that begins with its own ReLU; an edge is the weighted sum over all of
them, `none` included, which is computed as zeros. Maps are contiguous NCHW, a step computes all gradients and uses
those it needs. Modules are named as ours, so that one state dict fits both.

Legend: B batch, C channels, H and W sides, E edges, O operations; maps are (B, C, H, W).
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supernet_registry.search.recipe import Recipe
from supernet_registry.search.spaces import SearchSpace, family_of
from supernet_registry.search.spaces.family import Cell, CellKind, Residual
from supernet_registry.search.training.data import Augmentation, Batches, Data, make_generator
from supernet_registry.search.training.evaluation import autocast
from supernet_registry.search.training.plan import Plan


class Zero(nn.Module):
    """The operation `none`."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :: self.stride, :: self.stride].mul(0.0)


class ReluConvNorm(nn.Module):
    """ReLU, convolution, BatchNorm."""

    def __init__(self, channels_in: int, channels: int, kernel: int, stride: int, *, affine: bool) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.conv = nn.Conv2d(channels_in, channels, kernel, stride, kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.norm(self.conv(self.relu(x))))


class FactorizedReduce(nn.Module):
    """ReLU, two 1×1 convolutions of stride 2 side by side, BatchNorm. For even sides, as the reference code."""

    def __init__(self, channels_in: int, channels: int, *, affine: bool) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.conv_even = nn.Conv2d(channels_in, channels // 2, 1, 2, bias=False)
        self.conv_odd = nn.Conv2d(channels_in, channels - channels // 2, 1, 2, bias=False)
        self.norm = nn.BatchNorm2d(channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(x)
        odd = F.pad(x[:, :, 1:, 1:], (0, x.shape[3] % 2, 0, x.shape[2] % 2))
        return cast("Tensor", self.norm(torch.cat([self.conv_even(x), self.conv_odd(odd)], dim=1)))


class SeparableConv(nn.Module):
    """Twice ReLU, depthwise and pointwise convolution, BatchNorm."""

    def __init__(self, channels: int, kernel: int, stride: int, *, affine: bool) -> None:
        super().__init__()
        self.relu_1, self.relu_2 = nn.ReLU(), nn.ReLU()
        self.depthwise_1 = _depthwise(channels, kernel, stride, 1)
        self.pointwise_1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm_1 = nn.BatchNorm2d(channels, affine=affine)
        self.depthwise_2 = _depthwise(channels, kernel, 1, 1)
        self.pointwise_2 = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm_2 = nn.BatchNorm2d(channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm_1(self.pointwise_1(self.depthwise_1(self.relu_1(x))))
        return cast("Tensor", self.norm_2(self.pointwise_2(self.depthwise_2(self.relu_2(x)))))


class DilatedConv(nn.Module):
    """ReLU, depthwise convolution of dilation 2, pointwise convolution, BatchNorm."""

    def __init__(self, channels: int, kernel: int, stride: int, *, affine: bool) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.depthwise = _depthwise(channels, kernel, stride, 2)
        self.pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.norm(self.pointwise(self.depthwise(self.relu(x)))))


class Pool(nn.Module):
    """3×3 pooling, in `darts` with BatchNorm."""

    def __init__(self, name: str, channels: int, stride: int, *, norm: bool) -> None:
        super().__init__()
        self.pool = (
            nn.MaxPool2d(3, stride, 1)
            if name == "max_pool_3x3"
            else nn.AvgPool2d(3, stride, 1, count_include_pad=False)
        )
        self.norm = nn.BatchNorm2d(channels, affine=False) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.norm(self.pool(x)))


def _depthwise(channels: int, kernel: int, stride: int, dilation: int) -> nn.Conv2d:
    padding = dilation * (kernel - 1) // 2
    return nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False)


def _operation(name: str, channels: int, stride: int, *, affine: bool, normalise_pools: bool) -> nn.Module:
    kernel = int(name[-1]) if name[-1].isdigit() else 0
    if name == "none":
        return Zero(stride)
    if name == "skip_connect":
        return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, affine=affine)
    if name.endswith("pool_3x3"):
        return Pool(name, channels, stride, norm=normalise_pools)
    if name.startswith("nor_conv"):
        return ReluConvNorm(channels, channels, kernel, stride, affine=affine)
    make = SeparableConv if name.startswith("sep_conv") else DilatedConv
    return make(channels, kernel, stride, affine=affine)


class MixedCell(nn.Module):
    """A cell: every edge Σ_o softmax(α)_o · o(x), every node the sum of its edges (DARTS, equations 1 and 2)."""

    def __init__(self, space: SearchSpace, kind: CellKind, plan: Cell, *, normalise_pools: bool) -> None:
        super().__init__()
        self.kind = kind
        affine = space.affine_batch_norm
        self.preprocess = nn.ModuleList()
        for how, channels_in in zip(plan.preprocess, plan.channels_in, strict=True):
            if how == "none":
                self.preprocess.append(nn.Identity())
            elif how == "project":
                project = ReluConvNorm(channels_in, plan.channels, 1, 1, affine=affine)
                self.preprocess.append(nn.Sequential(nn.Identity(), project))
            else:
                reduce = FactorizedReduce(channels_in, plan.channels, affine=affine)
                self.preprocess.append(nn.Sequential(nn.Identity(), reduce))
        self.edges = nn.ModuleList()
        for edge in kind.edges:
            stride = plan.stride if edge.source < kind.inputs else 1
            operations = {
                name: _operation(name, plan.channels, stride, affine=affine, normalise_pools=normalise_pools)
                for name in space.operations
            }
            self.edges.append(nn.ModuleDict(operations))

    def forward(self, inputs: list[Tensor], mixture: Tensor) -> Tensor:
        states = [module(x) for module, x in zip(self.preprocess, inputs, strict=True)]
        row = 0
        for _ in range(self.kind.nodes):
            edges = []
            for state in states:
                operations = cast("nn.ModuleDict", self.edges[row]).values()
                edges.append(sum(w * operation(state) for w, operation in zip(mixture[row], operations, strict=True)))
                row += 1
            states.append(cast("Tensor", sum(edges)))
        nodes = states[self.kind.inputs :]
        return nodes[-1] if self.kind.output == "last" else torch.cat(nodes, dim=1)


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions beside average pooling and a 1×1 convolution."""

    def __init__(self, plan: Residual, *, affine: bool) -> None:
        super().__init__()
        self.conv_a = ReluConvNorm(plan.channels_in, plan.channels, 3, 2, affine=affine)
        self.conv_b = ReluConvNorm(plan.channels, plan.channels, 3, 1, affine=affine)
        self.shortcut = nn.Conv2d(plan.channels_in, plan.channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.conv_b(self.conv_a(x)) + self.shortcut(F.avg_pool2d(x, 2, 2, ceil_mode=True)))


class TextbookSupernet(nn.Module):
    """The supernet of a space, operation by operation."""

    def __init__(self, space: SearchSpace, n_classes: int) -> None:
        super().__init__()
        family = family_of(space)
        kinds = {kind.name: kind for kind in family.cell_kinds(space)}
        self.head_pool = space.head_pool
        stem = family.stem_channels(space)
        self.stem = nn.Sequential(nn.Conv2d(3, stem, 3, space.stem_stride, 1, bias=False), nn.BatchNorm2d(stem))
        self.blocks = nn.ModuleList(
            ResidualBlock(block, affine=space.affine_batch_norm)
            if isinstance(block, Residual)
            else MixedCell(space, kinds[block.kind], block, normalise_pools=family.normalise_pools)
            for block in family.blocks(space)
        )
        self.last_norm = nn.BatchNorm2d(family.features(space)) if family.last_activation else None
        self.head = nn.Linear(family.features(space) * space.head_pool**2, n_classes)
        self.alphas = nn.ParameterDict(
            {kind: nn.Parameter(torch.zeros(shape)) for kind, shape in family.alpha_shapes(space).items()}
        )

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, K) logits."""
        mixture = {kind: F.softmax(alpha, dim=-1) for kind, alpha in self.alphas.items()}
        before_last = last = self.stem(images)
        for block in self.blocks:
            if isinstance(block, MixedCell):
                inputs = [last] if block.kind.inputs == 1 else [before_last, last]
                before_last, last = last, block(inputs, mixture[block.kind.name])
            else:
                before_last, last = last, block(last)
        if self.last_norm is not None:
            last = F.relu(self.last_norm(last))
        return cast("Tensor", self.head(F.adaptive_avg_pool2d(last, self.head_pool).flatten(1)))

    def copy_from(self, ours: nn.Module) -> None:
        """Take over the parameters of a `Network`, by name; every one must find its own."""
        theirs = dict(ours.named_parameters())
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                parameter.copy_(theirs.pop(name))
        assert not theirs, f"without counterpart: {sorted(theirs)}"


class TextbookLoop:
    """First-order bilevel steps as the reference code makes them: `backward` through everything."""

    def __init__(self, network: TextbookSupernet, data: Data, recipe: Recipe, plan: Plan) -> None:
        self.network, self.data, self.recipe, self.plan = network, data, recipe, plan
        self.generator = make_generator(0, "textbook")
        self.augment = Augmentation.of(recipe)
        self.batches = {
            name: Batches(len(split), recipe.batch_size, self.generator)
            for name, split in (("train", data.train), ("val", data.val))
        }
        self.weights = [p for name, p in network.named_parameters() if not name.startswith("alphas.")]
        alphas = list(network.alphas.values())
        self.alpha_optimizer = torch.optim.Adam(
            alphas, lr=recipe.alpha_learning_rate, betas=recipe.alpha_betas, weight_decay=recipe.alpha_weight_decay
        )
        rate, decay = plan.learning_rate, plan.weight_decay
        self.weight_optimizer: torch.optim.Optimizer = (
            torch.optim.SGD(self.weights, lr=rate, momentum=recipe.momentum, weight_decay=decay)
            if recipe.optimizer == "sgd"
            else torch.optim.AdamW(self.weights, lr=rate, weight_decay=decay)
        )

    def advance(self, steps: int) -> None:
        """Make so many weight steps, an α step before each."""
        for _ in range(steps):
            self.alpha_optimizer.zero_grad()
            self._loss("val").backward()
            self.alpha_optimizer.step()
            self.weight_optimizer.zero_grad()
            self._loss("train").backward()
            nn.utils.clip_grad_norm_(self.weights, self.recipe.clip_norm)
            self.weight_optimizer.step()

    def _loss(self, name: str) -> Tensor:
        split = self.data.train if name == "train" else self.data.val
        indices = self.batches[name].draw().to(self.data.device)
        images = self.data.normalisation(split.images[indices])
        if name == "train":
            images = self.augment(images, self.generator)
        with autocast(self.data.device):
            return F.cross_entropy(self.network(images.contiguous()), split.labels[indices])
