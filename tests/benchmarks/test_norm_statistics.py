"""The benchmark of BatchNorm statistics: its running average is PyTorch's."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.supernet import norm_statistics
from supernet_registry.search.networks.operations import BatchNorm
from supernet_registry.search.networks.supernet import Network
from supernet_registry.search.spaces import make_space


def test_the_running_average_is_that_of_pytorch() -> None:
    generator = torch.Generator().manual_seed(0)
    network = Network(make_space(channels=4), 3, generator=generator)
    average = norm_statistics.RunningAverage(network)
    convolution, ours = network.stem[0], network.stem[1]
    assert isinstance(ours, BatchNorm)
    theirs = nn.BatchNorm2d(ours.channels, momentum=0.1)
    for _ in range(3):
        images = torch.randn(8, 3, 28, 28, generator=generator)
        average.add(images)
        theirs(convolution(images))
        network.set_norm_mode("calibrate")  # an evaluation between two batches leaves no trace
        network.features(images[:2])
    average.write()
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
