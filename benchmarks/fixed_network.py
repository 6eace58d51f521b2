"""What a user writes in five minutes: three convolutions, trained from scratch or fine-tuned from a relative.

32, 64 and 128 channels with BatchNorm, ReLU and max pooling, a pooled 4×4 map, a linear head: 100,000 to 200,000
parameters. AdamW with a cosine, batches of 32, the augmentation of our own searches, and as much processor time as they
take. Its best epoch is chosen on the validation split, as ours are. A warm start copies the convolutions of a network
trained on the relative and computes the head from class prototypes, as ours do.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search.data import Augmentation, Batches, Data, TensorSplit, make_generator
from search.prototypes import prototype_head
from search.recipe import Recipe

__all__ = ["FixedNetwork", "FixedResult", "train_fixed"]

LEARNING_RATE = 2e-3
WEIGHT_DECAY = 1e-2
BATCH_SIZE = 32
COLD_EPOCHS, WARM_EPOCHS = 14, 5
"""Fewest epochs; more where the time allows."""
MOST_EPOCHS = 100
CHANNELS = (32, 64, 128)


class FixedNetwork(nn.Module):
    """Images (B, 3, H, W), normalised, to logits (B, K)."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((3, *CHANNELS), CHANNELS, strict=False):
            layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            layers.append(nn.MaxPool2d(2))
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten())
        self.head = nn.Linear(CHANNELS[-1] * 16, n_classes)

    def forward(self, images: Tensor) -> Tensor:
        return cast("Tensor", self.head(self.body(images)))


@dataclass(frozen=True)
class FixedResult:
    """A trained network and its figures."""

    network: FixedNetwork
    val_accuracy: float
    test_accuracy: float
    parameters: int
    epochs: int
    cpu_seconds: float


def train_fixed(
    data: Data, recipe: Recipe, *, seed: int, cpu_seconds: float, source: FixedNetwork | None = None
) -> FixedResult:
    """Train for about `cpu_seconds` of this thread's processor time, from scratch or from `source`."""
    began = time.process_time()
    torch.manual_seed(seed)  # PyTorch's own initialisation, as the user has it
    network = FixedNetwork(data.n_classes).to(data.device, memory_format=torch.channels_last)
    generator = make_generator(seed, "fixed")
    if source is not None:
        network.body.load_state_dict(copy.deepcopy(source.body.state_dict()))
        _fit_head(network, data)
    epochs = _affordable_epochs(network, data, recipe, generator, cpu_seconds, warm=source is not None)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    batches = Batches(len(data.train), BATCH_SIZE, generator)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(batches))
    best, state = _accuracy(network, data, data.val), copy.deepcopy(network.state_dict())
    for _ in range(epochs):
        for _ in range(len(batches)):
            _step(network, data, recipe, optimizer, batches.draw(), generator)
            schedule.step()
        score = _accuracy(network, data, data.val)
        if score >= best:
            best, state = score, copy.deepcopy(network.state_dict())
    network.load_state_dict(state)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    test = _accuracy(network, data, data.test)
    return FixedResult(network, best, test, parameters, epochs, time.process_time() - began)


def _affordable_epochs(
    network: FixedNetwork, data: Data, recipe: Recipe, generator: torch.Generator, cpu_seconds: float, *, warm: bool
) -> int:
    """Epochs that the time allows, measured on a few steps of a copy."""
    trial = copy.deepcopy(network)
    optimizer = torch.optim.AdamW(trial.parameters(), lr=LEARNING_RATE)
    batches = Batches(len(data.train), BATCH_SIZE, generator)
    steps = 4
    began = time.process_time()
    for _ in range(steps):
        _step(trial, data, recipe, optimizer, batches.draw(), generator)
    step = (time.process_time() - began) / steps
    began = time.process_time()
    _accuracy(trial, data, data.val)
    epoch = step * len(batches) + time.process_time() - began
    return min(MOST_EPOCHS, max(WARM_EPOCHS if warm else COLD_EPOCHS, int(cpu_seconds / epoch)))


def _step(
    network: FixedNetwork,
    data: Data,
    recipe: Recipe,
    optimizer: torch.optim.Optimizer,
    indices: Tensor,
    generator: torch.Generator,
) -> None:
    network.train()
    images, labels = data.normalisation(data.train.images[indices]), data.train.labels[indices]
    loss = F.cross_entropy(network(Augmentation.of(recipe)(images, generator)), labels)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


@torch.no_grad()
def _accuracy(network: FixedNetwork, data: Data, split: TensorSplit) -> float:
    network.eval()
    hits = [
        (network(data.normalisation(images)).argmax(dim=1) == labels).float()
        for images, labels in zip(split.images.split(256), split.labels.split(256), strict=True)
    ]
    return torch.cat(hits).mean().item()


@torch.no_grad()
def _fit_head(network: FixedNetwork, data: Data) -> None:
    network.eval()
    features = torch.cat([network.body(data.normalisation(images)) for images in data.train.images.split(256)])
    head = prototype_head(features, data.train.labels, data.n_classes)
    network.head.weight.copy_(head.weight)
    network.head.bias.copy_(head.bias)
