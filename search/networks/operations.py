"""The candidate operations of all search spaces, in a form that a mixture can share work between.

Every operation of DARTS and NAS-Bench-201 starts with something that depends on the state alone (ReLU or pooling) and
most end with BatchNorm. An `Operation` therefore names what it starts with (`shared`), which the cell computes once a
state, and takes its mixture weight as `scale`, which is folded into the BatchNorm's own weight, so that weighing an
operation costs no pass over the feature map. Both are exact, and tested against the textbook mixture.

Legend: B batch, C channels, H and W sides; maps are (B, C, H, W) in channels_last memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supernet_registry.search.networks.cpu_kernels import depthwise, pointwise_norm

__all__ = [
    "BatchNorm",
    "FactorizedReduce",
    "NormMode",
    "Operation",
    "ReluConvNorm",
    "SharedViews",
    "make_operation",
    "normalise",
]

NormMode = Literal["train", "calibrate", "eval"]
"""Statistics that BatchNorm uses: the batch's; the batch's, which it also collects; the collected ones."""


class BatchNorm(nn.Module):
    """BatchNorm that keeps no running average while it trains.

    A running average lags behind the weights, and for a warm start it is the source's. Statistics are collected
    afresh (`calibrate`: plain mean over batches) whenever the network is to be evaluated, and only then.
    """

    eps: ClassVar[float] = 1e-5
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, *, affine: bool) -> None:
        super().__init__()
        self.channels = channels
        self.weight = nn.Parameter(torch.ones(channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(channels)) if affine else None
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.mode: NormMode = "train"
        self.batches = 0  # collected since `calibrate` began

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        """(B, C, H, W) -> the same, times `scale` (a scalar)."""
        return normalise(x, [self], [scale])

    def collect(self, mean: Tensor, var: Tensor) -> None:
        """Add a batch's mean and variance, each (C,), to the plain averages."""
        self.batches += 1
        self.running_mean.lerp_(mean, 1.0 / self.batches)
        self.running_var.lerp_(var, 1.0 / self.batches)


def normalise(x: Tensor, norms: Sequence[BatchNorm], scales: Sequence[Tensor | None]) -> Tensor:
    """Normalise a map whose channels are those of several BatchNorms side by side: (B, ΣC, H, W) -> the same."""
    weight = _join([_scaled(norm, norm.weight, scale, 1.0) for norm, scale in zip(norms, scales, strict=True)])
    bias = _join([_scaled(norm, norm.bias, scale, 0.0) for norm, scale in zip(norms, scales, strict=True)])
    match norms[0].mode:
        case "train":
            return F.batch_norm(x, None, None, weight, bias, training=True, eps=BatchNorm.eps)
        case "eval":
            mean = _join([norm.running_mean for norm in norms])
            var = _join([norm.running_var for norm in norms])
            return F.batch_norm(x, mean, var, weight, bias, training=False, eps=BatchNorm.eps)
        case "calibrate":
            mean, var = norms[0].running_mean.new_zeros(2, x.shape[1])
            result = F.batch_norm(x, mean, var, weight, bias, training=True, momentum=1.0, eps=BatchNorm.eps)
            sizes = [norm.channels for norm in norms]
            for norm, mean_, var_ in zip(norms, mean.split(sizes), var.split(sizes), strict=True):
                norm.collect(mean_, var_)
            return result


def _scaled(norm: BatchNorm, value: Tensor | None, scale: Tensor | None, default: float) -> Tensor:
    """A BatchNorm's weight (default 1) or bias (default 0) times the mixture weight: (C,)."""
    if value is None:
        value = norm.running_mean.new_full((norm.channels,), default)
    return value if scale is None else value * scale


def _join(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


class SharedViews:
    """A state and what operations derive from it alone, each computed at most once."""

    def __init__(self, state: Tensor) -> None:
        self._state = state
        self._cache: dict[tuple[str, int], Tensor] = {("identity", 1): state}

    def get(self, name: str, stride: int) -> Tensor:
        """`identity`, `relu`, `avg_pool_3x3` or `max_pool_3x3` of the state; only pools look at the stride."""
        key = (name, stride if name in _POOLS else 1)
        if key not in self._cache:
            self._cache[key] = _POOLS[name](self._state, stride) if name in _POOLS else F.relu(self._state)
        return self._cache[key]


def _average_pool(x: Tensor, stride: int) -> Tensor:
    return F.avg_pool2d(x, 3, stride, 1, count_include_pad=False)


def _max_pool(x: Tensor, stride: int) -> Tensor:
    return F.max_pool2d(x, 3, stride, 1)


_POOLS: dict[str, Callable[[Tensor, int], Tensor]] = {"avg_pool_3x3": _average_pool, "max_pool_3x3": _max_pool}


class Operation(nn.Module):
    """One candidate operation. Attributes: `shared`, what it starts with; `stride`."""

    def __init__(self, shared: str, stride: int) -> None:
        super().__init__()
        self.shared = shared
        self.stride = stride

    def forward(self, shared: Tensor, scale: Tensor | None = None) -> Tensor:
        """`scale` × the operation, given `SharedViews.get(self.shared, self.stride)` of the state."""
        raise NotImplementedError

    def add_to(self, total: Tensor | None, shared: Tensor, scale: Tensor | None) -> Tensor:
        """`total` plus `scale` × the operation."""
        term = self.forward(shared, scale)
        return term if total is None else total + term


class Identity(Operation):
    """Skip connection of stride 1."""

    def __init__(self) -> None:
        super().__init__("identity", 1)

    def forward(self, shared: Tensor, scale: Tensor | None = None) -> Tensor:
        return shared if scale is None else shared * scale

    def add_to(self, total: Tensor | None, shared: Tensor, scale: Tensor | None) -> Tensor:
        return _add_scaled(self, total, shared, scale)


class Pool(Operation):
    """3×3 pooling; in DARTS' supernet it is followed by BatchNorm without scale and shift, in NAS-Bench-201 not."""

    def __init__(self, kind: str, channels: int, stride: int, *, norm: bool) -> None:
        super().__init__(kind, stride)
        self.norm = BatchNorm(channels, affine=False) if norm else None

    def forward(self, shared: Tensor, scale: Tensor | None = None) -> Tensor:
        if self.norm is not None:
            return self.norm.forward(shared, scale)
        return shared if scale is None else shared * scale

    def add_to(self, total: Tensor | None, shared: Tensor, scale: Tensor | None) -> Tensor:
        if self.norm is not None:
            return super().add_to(total, shared, scale)
        return _add_scaled(self, total, shared, scale)


def _add_scaled(operation: Operation, total: Tensor | None, shared: Tensor, scale: Tensor | None) -> Tensor:
    """`total + scale·shared` in one pass."""
    if total is None or scale is None:
        return Operation.add_to(operation, total, shared, scale)
    # Of one type: under autocast a float32 factor would turn the whole sum into float32.
    return torch.addcmul(total, shared, scale.to(shared.dtype))


class ReluConvNorm(Operation):
    """ReLU, convolution, BatchNorm."""

    def __init__(self, channels_in: int, channels: int, kernel: int, stride: int, *, affine: bool) -> None:
        super().__init__("relu", stride)
        self.conv = nn.Conv2d(channels_in, channels, kernel, stride, kernel // 2, bias=False)
        self.norm = BatchNorm(channels, affine=affine)

    def forward(self, shared: Tensor, scale: Tensor | None = None) -> Tensor:
        return self.norm.forward(self.conv(shared), scale)


class FactorizedReduce(Operation):
    """ReLU and two 1×1 convolutions of stride 2, the second shifted by a pixel, side by side; BatchNorm.

    Every second pixel is picked before the convolution: oneDNN's gradient of a strided 1×1 convolution in channels_last
    writes past its buffer when there are few channels (oneDNN issue 6035), and 4 of them crashed the process.
    """

    def __init__(self, channels_in: int, channels: int, *, affine: bool) -> None:
        super().__init__("relu", 2)
        self.conv_even = nn.Conv2d(channels_in, channels // 2, 1, bias=False)
        self.conv_odd = nn.Conv2d(channels_in, channels - channels // 2, 1, bias=False)
        self.norm = BatchNorm(channels, affine=affine)

    def forward(self, shared: Tensor, scale: Tensor | None = None) -> Tensor:
        even, odd = shared[:, :, ::2, ::2], shared[:, :, 1::2, 1::2]
        # An odd side has one row and column fewer when shifted; zeros keep both halves of one size.
        odd = F.pad(odd, (0, shared.shape[3] % 2, 0, shared.shape[2] % 2))
        return self.norm.forward(torch.cat([self.conv_even(even), self.conv_odd(odd)], dim=1), scale)


class SeparableConv(Operation):
    """Twice ReLU, depthwise and pointwise convolution, BatchNorm; only the first has the stride."""

    def __init__(self, channels: int, kernel: int, stride: int, *, affine: bool) -> None:
        super().__init__("relu", stride)
        self.depthwise_1 = DepthwiseConv(channels, kernel, stride)
        self.pointwise_1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm_1 = BatchNorm(channels, affine=affine)
        self.depthwise_2 = DepthwiseConv(channels, kernel, 1)
        self.pointwise_2 = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm_2 = BatchNorm(channels, affine=affine)

    def forward(self, shared: Tensor, scale: Tensor | None = None) -> Tensor:
        x = F.relu(_normalised(self.depthwise_1(shared), self.pointwise_1, self.norm_1, None), inplace=True)
        return _normalised(self.depthwise_2(x), self.pointwise_2, self.norm_2, scale)


class DilatedConv(Operation):
    """ReLU, depthwise convolution of dilation 2, pointwise convolution, BatchNorm."""

    def __init__(self, channels: int, kernel: int, stride: int, *, affine: bool) -> None:
        super().__init__("relu", stride)
        self.depthwise = DepthwiseConv(channels, kernel, stride, dilation=2)
        self.pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm = BatchNorm(channels, affine=affine)

    def forward(self, shared: Tensor, scale: Tensor | None = None) -> Tensor:
        return _normalised(self.depthwise(shared), self.pointwise, self.norm, scale)


def _normalised(x: Tensor, pointwise: nn.Conv2d, norm: BatchNorm, scale: Tensor | None) -> Tensor:
    """`scale` × BatchNorm of the pointwise convolution of x."""
    if norm.mode != "train" or x.device.type != "cpu":
        return norm.forward(pointwise(x), scale)
    weight = _scaled(norm, norm.weight, scale, 1.0)
    bias = None if norm.bias is None else _scaled(norm, norm.bias, scale, 0.0)
    return pointwise_norm(x, pointwise.weight, weight, bias, BatchNorm.eps)


class DepthwiseConv(nn.Conv2d):
    """Depthwise convolution without bias, padded so that a stride of 1 keeps the sides.

    With stride and dilation of 2 it reads even rows and columns only, and is an ordinary one of those.
    """

    def __init__(self, channels: int, kernel: int, stride: int, dilation: int = 1) -> None:
        padding = dilation * (kernel // 2)
        super().__init__(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, ceil(H / stride), ceil(W / stride))."""
        stride, dilation = self.stride[0], self.dilation[0]
        if stride == dilation == 2:
            x = x[:, :, ::2, ::2].contiguous(memory_format=torch.channels_last)
            stride = dilation = 1
        if stride == 1 and x.device.type == "cpu":
            return depthwise(x, self.weight, dilation)
        padding = dilation * (self.kernel_size[0] // 2)
        return F.conv2d(x, self.weight, None, stride, padding, dilation, self.groups)


def make_operation(name: str, channels: int, stride: int, *, affine: bool, normalise_pools: bool) -> Operation:
    """Build an operation by its name in the papers (`none` is not built: it contributes nothing)."""
    match name:
        case "skip_connect":
            return Identity() if stride == 1 else FactorizedReduce(channels, channels, affine=affine)
        case "avg_pool_3x3" | "max_pool_3x3":
            return Pool(name, channels, stride, norm=normalise_pools)
        case "nor_conv_1x1" | "nor_conv_3x3":
            return ReluConvNorm(channels, channels, int(name[-1]), stride, affine=affine)
        case "sep_conv_3x3" | "sep_conv_5x5":
            return SeparableConv(channels, int(name[-1]), stride, affine=affine)
        case "dil_conv_3x3" | "dil_conv_5x5":
            return DilatedConv(channels, int(name[-1]), stride, affine=affine)
        case _:
            raise ValueError(f"unknown operation {name!r}")
