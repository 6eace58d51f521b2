"""Depthwise convolution and pointwise convolution with BatchNorm, with backward passes that suit CPUs.

Same results as torch's own, up to rounding; what differs is how gradients are computed and what is kept for them.

*Depthwise.* oneDNN's gradients of dilated depthwise convolutions take 10 to 40 times their forward pass (torch 2.15,
8 to 32 channels). All of them can be said with the fast kernels:

    input, stride 1      ∂x = g ∗ flipped w: the gradient of a convolution of odd kernel is one itself
    weight, dilation 2   tap i of output 2u+p reads input 2(u+i-c)+p: each of the four phases p (even and odd rows and
                         columns) is an ordinary convolution, so ∂w is that of the phases as a batch of 4B images
    stride and dilation 2   reads even rows and columns only: an ordinary convolution of those

*Pointwise and BatchNorm.* Between them stands a map that only the backward pass needs. It is computed again there (one
1×1 convolution, a few per cent of a step) instead of kept: a third of all activations of a `darts` supernet.

Both backward passes are made of differentiable operations, so that second derivatives are right too.

Legend: B batch, C channels, H and W sides, k kernel side; maps are (B, C, H, W).
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["depthwise", "pointwise_norm"]


def depthwise(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """Depthwise convolution of stride 1 that keeps the sides: x (B, C, H, W), weight (C, 1, k, k), k odd."""
    return cast("Tensor", _Depthwise.apply(x, weight, dilation))


def pointwise_norm(x: Tensor, weight: Tensor, norm_weight: Tensor, norm_bias: Tensor | None, eps: float) -> Tensor:
    """BatchNorm with batch statistics of a 1×1 convolution: x (B, C, H, W), weight (C', C, 1, 1), norms (C',)."""
    return cast("Tensor", _PointwiseNorm.apply(x, weight, norm_weight, norm_bias, eps))


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, dilation: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.dilation = dilation
        return _convolve(x, weight, dilation)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (g,) = gradients
        x, weight = ctx.saved_tensors
        of_x, of_weight = ctx.needs_input_grad[:2]
        return (
            depthwise(g, weight.flip(2, 3), ctx.dilation) if of_x else None,
            _weight_gradient(g, x, weight, ctx.dilation) if of_weight else None,
            None,
        )


def _convolve(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    return F.conv2d(x, weight, None, 1, dilation * (weight.shape[2] // 2), dilation, weight.shape[0])


def _weight_gradient(g: Tensor, x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """Σ over images and pixels of g × shifted x: (C, 1, k, k)."""
    if dilation == 2:
        side = weight.shape[2]
        g, x = _phases(g, side), _phases(x, side)
        dilation = 1
    padding = dilation * (weight.shape[2] // 2)
    _, gradient = _convolution_gradients(g, x, weight, padding, dilation, of_x=False, of_weight=True)
    assert gradient is not None
    return gradient


def _convolution_gradients(
    g: Tensor, x: Tensor, weight: Tensor, padding: int, dilation: int, *, of_x: bool, of_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    """torch's own gradients of a convolution of stride 1; its groups follow from the weight's shape."""
    gradients = torch.ops.aten.convolution_backward(
        g,
        x,
        weight,
        bias_sizes=None,
        stride=[1, 1],
        padding=[padding, padding],
        dilation=[dilation, dilation],
        transposed=False,
        output_padding=[0, 0],
        groups=x.shape[1] // weight.shape[1],
        output_mask=[of_x, of_weight, False],
    )
    return gradients[0], gradients[1]


def _phases(x: Tensor, least_side: int) -> Tensor:
    """Even and odd rows and columns apart: (B, C, H, W) -> (4B, C, ≥ H/2, ≥ W/2), channels_last.

    Zeros below and to the right make both sides even, and the phases' no shorter than the kernel, below which the
    weight gradient is slow again.
    """
    count, channels = x.shape[:2]
    rows, columns = (max(-(-side // 2), least_side) for side in x.shape[2:])
    x = F.pad(x, (0, 2 * columns - x.shape[3], 0, 2 * rows - x.shape[2]))
    x = x.permute(0, 2, 3, 1).reshape(count, rows, 2, columns, 2, channels).permute(2, 4, 0, 1, 3, 5)
    return x.reshape(4 * count, rows, columns, channels).permute(0, 3, 1, 2)


class _PointwiseNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, norm_weight: Tensor, norm_bias: Tensor | None, eps: float
    ) -> Tensor:
        y = F.conv2d(x, weight)
        result, mean, inverse_std = torch.native_batch_norm(
            y, norm_weight, norm_bias, None, None, training=True, momentum=0.0, eps=eps
        )
        ctx.save_for_backward(x, weight, norm_weight, mean, inverse_std)
        ctx.eps = eps
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (g,) = gradients
        x, weight, norm_weight, mean, inverse_std = ctx.saved_tensors
        of_x, of_weight, of_norm_weight, of_norm_bias = ctx.needs_input_grad[:4]
        of_y = of_x or of_weight
        gy, g_norm_weight, g_norm_bias = torch.ops.aten.native_batch_norm_backward(
            g,
            F.conv2d(x, weight),
            norm_weight,
            running_mean=None,
            running_var=None,
            save_mean=mean,
            save_invstd=inverse_std,
            train=True,
            eps=ctx.eps,
            output_mask=[of_y, of_norm_weight, of_norm_bias],
        )
        gx, g_weight = None, None
        if of_y:
            gx, g_weight = _convolution_gradients(gy, x, weight, 0, 1, of_x=of_x, of_weight=of_weight)
        return gx, g_weight, g_norm_weight if of_norm_weight else None, g_norm_bias if of_norm_bias else None, None
