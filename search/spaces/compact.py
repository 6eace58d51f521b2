"""The compact space: ours, for small images and few of them, and the default.

What it is made to contain is the network that beats a searched one of the published spaces on a few hundred images:
three convolutions, each followed by BatchNorm and max pooling. So that is its skeleton (a stem and two reductions, C,
2C and 4C channels, every one a 3×3 convolution that max pooling halves), and a cell of searched operations follows each
of the three. A cell of skip connections leaves the plain network; whatever the search puts there has to earn its place.

Why max pooling: with everything else equal, and on images of a style that training has not seen (`emoji_food`, 300
training images, 20 classes), the three-convolution network classifies 68% with max and 54% with average pooling; a
`nas-bench-201` network, which halves by strided convolutions and average pooling, 39 to 53% at any width. Cells begin
at half the image's resolution, where a pass over the maps costs a quarter, so that C=16 here takes less time than C=8
at full resolution.

Before any data speak, the architecture is a residual block in every cell: x + conv(x), of 88,000 parameters in all.

State 0 is a cell's input, the last state its output. An architecture is written as in NAS-Bench-201.
"""

from __future__ import annotations

from supernet_registry.search.spaces.family import SKIP, Block, Cell, Genotype, Node, PooledConv
from supernet_registry.search.spaces.nas_bench_201 import KIND, STAGES, NasBench201
from supernet_registry.search.spaces.space import SearchSpace

__all__ = ["Compact"]

_CONVOLUTION = "nor_conv_3x3"


class Compact(NasBench201):
    """The family `compact`."""

    name = "compact"
    operations = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3", "max_pool_3x3")
    defaults = {  # noqa: RUF012 - read only, as the base class says
        "channels": 16,
        "cells": 1,
        "nodes": 2,
        "stem_stride": 1,
        "head_pool": 4,
        "resolution": 32,
        "affine_batch_norm": True,
    }
    stem_pool = True

    def blocks(self, space: SearchSpace) -> tuple[Block, ...]:
        blocks: list[Block] = []
        for stage in range(STAGES):
            channels = space.channels * 2**stage
            if stage > 0:
                blocks.append(PooledConv(channels // 2, channels))
            cell = Cell(KIND, channels_in=(channels,), channels=channels, stride=1, preprocess=("none",))
            blocks.extend([cell] * space.cells)
        return tuple(blocks)

    def prior(self, space: SearchSpace) -> Genotype | None:
        """A 3×3 convolution on the first edge, skip connections on all others."""
        if not {_CONVOLUTION, SKIP} <= set(space.operations):
            return None
        first: Node = ((_CONVOLUTION, 0),)
        others = (tuple((SKIP, source) for source in range(node + 1)) for node in range(1, space.nodes))
        return {KIND: (first, *others)}
