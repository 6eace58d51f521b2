"""Kernels with backward passes of their own, against torch's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from supernet_registry.search.networks.cpu_kernels import depthwise, pointwise_norm
from supernet_registry.search.networks.operations import BatchNorm, DepthwiseConv
from supernet_registry.search.training.data import make_generator


def some(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=make_generator(sum(shape), "kernels"), dtype=torch.float64).requires_grad_()


def assert_same_gradients(mine: torch.Tensor, theirs: torch.Tensor, inputs: list[torch.Tensor]) -> None:
    torch.testing.assert_close(mine, theirs)
    upstream = torch.randn(mine.shape, generator=make_generator(0, "upstream"), dtype=mine.dtype)
    for a, b in zip(
        torch.autograd.grad(mine, inputs, upstream), torch.autograd.grad(theirs, inputs, upstream), strict=True
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("sides", [(8, 8), (7, 7), (5, 12), (2, 3), (1, 1)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
def test_a_depthwise_convolution_and_its_gradients_are_torchs(kernel, dilation, stride, sides):
    x = some(3, 4, *sides)
    module = DepthwiseConv(4, kernel, stride, dilation).double()
    expected = F.conv2d(x, module.weight, None, stride, dilation * (kernel // 2), dilation, 4)
    assert_same_gradients(module(x), expected, [x, module.weight])


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_pointwise_convolution_and_norm_and_their_gradients_are_torchs(layout):
    x, weight = some(3, 4, 5, 6), some(7, 4, 1, 1)
    norm_weight, norm_bias = some(7), some(7)
    x = x.detach().contiguous(memory_format=layout).requires_grad_()
    mine = pointwise_norm(x, weight, norm_weight, norm_bias, BatchNorm.eps)
    theirs = F.batch_norm(F.conv2d(x, weight), None, None, norm_weight, norm_bias, training=True, eps=BatchNorm.eps)
    assert_same_gradients(mine, theirs, [x, weight, norm_weight, norm_bias])


def test_second_derivatives_are_right_too():
    x, weight, pointwise, scale = some(2, 2, 4, 4), some(2, 1, 3, 3), some(3, 2, 1, 1), some(3)

    def both(*tensors: torch.Tensor) -> torch.Tensor:
        x, weight, pointwise, scale = tensors
        return pointwise_norm(depthwise(x, weight, 2), pointwise, scale, None, BatchNorm.eps)

    assert torch.autograd.gradgradcheck(both, (x, weight, pointwise, scale))


def test_the_map_between_convolution_and_norm_is_not_kept():
    kept = []
    x, weight, scale = some(2, 4, 8, 8), some(5, 4, 1, 1), some(5)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.shape) or tensor, lambda t: t):
        pointwise_norm(x, weight, scale, None, BatchNorm.eps)
    assert torch.Size([2, 5, 8, 8]) not in kept
