"""The slow, obvious supernet: every operation of every edge computed on its own, as the papers' equations read.

It borrows the tensors of a `Network` by name, and nothing else: no shared ReLU, no folded mixture weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from supernet_registry.search.networks.supernet import Network
from supernet_registry.search.spaces import family_of
from supernet_registry.search.spaces.family import Cell, PooledConv

EPS = 1e-5


def reference_logits(network: Network, images: Tensor, mixture: dict[str, Tensor]) -> Tensor:
    """Logits (B, K) of a supernet with batch statistics, for mixture weights (E, O) of every cell kind.

    With partial channels the mixture is that of the operations alone: the edges' softmax(β) is applied here.
    """
    t = dict(network.named_parameters())
    space, family = network.space, family_of(network.space)
    kinds = {kind.name: kind for kind in family.cell_kinds(space)}
    x = _bn(F.conv2d(images, t["stem.0.weight"], stride=space.stem_stride, padding=1), t, "stem.1")
    if family.stem_pool:
        x = F.max_pool2d(x, 2, ceil_mode=True)
    before_last = last = x
    for number, block in enumerate(family.blocks(space)):
        p = f"blocks.{number}"
        if isinstance(block, Cell):
            kind = kinds[block.kind]
            inputs = [last] if kind.inputs == 1 else [before_last, last]
            states = [
                _preprocess(x, how, t, f"{p}.preprocess.{i}")
                for i, (x, how) in enumerate(zip(inputs, block.preprocess, strict=True))
            ]
            for node in range(kind.nodes):
                total = 0.0
                for row, edge in enumerate(kind.edges):
                    if edge.target != kind.inputs + node:
                        continue
                    stride = block.stride if edge.source < kind.inputs else 1
                    state = states[edge.source]
                    whole, mixed = state.shape[1], state.shape[1] // space.partial_channels
                    edge_total = 0.0
                    for column, name in enumerate(space.operations):
                        weight = mixture[block.kind][row, column]
                        term = operation(name, state[:, :mixed], stride, t, f"{p}.edges.{row}.{name}", space.family)
                        edge_total = edge_total + weight * term
                    if space.partial_channels > 1:
                        rest = state[:, mixed:]
                        if stride == 2:
                            rest = F.max_pool2d(
                                F.pad(rest, (0, rest.shape[3] % 2, 0, rest.shape[2] % 2), value=-9e9), 2
                            )
                        joined = torch.cat([edge_total, rest], dim=1)
                        # The shuffle: channel c of the result is channel (c mod K) · C/K + c div K.
                        k = space.partial_channels
                        joined = joined[:, [(c % k) * (whole // k) + c // k for c in range(whole)]]
                        beta = t[f"betas.{block.kind}"]
                        rivals = [r for r, other in enumerate(kind.edges) if other.target == edge.target]
                        edge_total = joined * beta[row].exp() / beta[rivals].exp().sum()
                    total = total + edge_total
                states.append(total)
            nodes = states[kind.inputs :]
            before_last, last = last, nodes[-1] if kind.output == "last" else torch.cat(nodes, dim=1)
        elif isinstance(block, PooledConv):
            before_last, last = last, F.max_pool2d(_relu_conv_bn(last, 3, 1, t, f"{p}.conv"), 2, ceil_mode=True)
        else:
            y = _relu_conv_bn(last, 3, 2, t, f"{p}.conv_a")
            y = _relu_conv_bn(y, 3, 1, t, f"{p}.conv_b")
            short = F.conv2d(F.avg_pool2d(last, 2, 2, ceil_mode=True), t[f"{p}.shortcut.weight"])
            before_last, last = last, y + short
    if family.last_activation:
        last = F.relu(_bn(last, t, "last_norm"))
    features = F.adaptive_avg_pool2d(last, space.head_pool).flatten(1)
    return features @ t["head.weight"].T + t["head.bias"]


def operation(name: str, x: Tensor, stride: int, t: dict[str, Tensor], p: str, family: str) -> Tensor:
    """One operation as its paper defines it."""
    if name == "none":
        return torch.zeros_like(x[:, :, ::stride, ::stride])
    if name == "skip_connect":
        return x if stride == 1 else _factorized_reduce(x, t, p)
    if name.endswith("pool_3x3"):
        pool = (
            F.max_pool2d(x, 3, stride, 1)
            if name.startswith("max")
            else F.avg_pool2d(x, 3, stride, 1, count_include_pad=False)
        )
        return _bn(pool, t, f"{p}.norm") if family == "darts" else pool
    kernel = int(name[-1])
    if name.startswith("nor_conv"):
        return _relu_conv_bn(x, kernel, stride, t, p)
    channels = x.shape[1]
    if name.startswith("dil_conv"):
        x = F.conv2d(F.relu(x), t[f"{p}.depthwise.weight"], None, stride, kernel - 1, 2, channels)
        return _bn(F.conv2d(x, t[f"{p}.pointwise.weight"]), t, f"{p}.norm")
    for half, step in (("1", stride), ("2", 1)):  # sep_conv
        x = F.conv2d(F.relu(x), t[f"{p}.depthwise_{half}.weight"], None, step, kernel // 2, 1, channels)
        x = _bn(F.conv2d(x, t[f"{p}.pointwise_{half}.weight"]), t, f"{p}.norm_{half}")
    return x


def _preprocess(x: Tensor, how: str, t: dict[str, Tensor], p: str) -> Tensor:
    if how == "none":
        return x
    return _relu_conv_bn(x, 1, 1, t, f"{p}.1") if how == "project" else _factorized_reduce(x, t, f"{p}.1")


def _relu_conv_bn(x: Tensor, kernel: int, stride: int, t: dict[str, Tensor], p: str) -> Tensor:
    return _bn(F.conv2d(F.relu(x), t[f"{p}.conv.weight"], None, stride, kernel // 2), t, f"{p}.norm")


def _factorized_reduce(x: Tensor, t: dict[str, Tensor], p: str) -> Tensor:
    x = F.relu(x)
    even = F.conv2d(x, t[f"{p}.conv_even.weight"], stride=2)
    odd = F.conv2d(x[:, :, 1:, 1:], t[f"{p}.conv_odd.weight"], stride=2)
    assert even.shape == odd.shape or x.shape[2] % 2, "even sides give equal halves"
    odd = F.pad(odd, (0, even.shape[3] - odd.shape[3], 0, even.shape[2] - odd.shape[2]))
    return _bn(torch.cat([even, odd], dim=1), t, f"{p}.norm")


def _bn(x: Tensor, t: dict[str, Tensor], p: str) -> Tensor:
    """Batch statistics; scale and shift where the network has them."""
    mean = x.mean(dim=(0, 2, 3), keepdim=True)
    var = x.var(dim=(0, 2, 3), keepdim=True, correction=0)
    y = (x - mean) / (var + EPS).sqrt()
    if f"{p}.weight" in t:
        y = y * t[f"{p}.weight"].view(1, -1, 1, 1) + t[f"{p}.bias"].view(1, -1, 1, 1)
    return y
