"""Judging a network: BatchNorm statistics collected afresh, then loss and accuracy on a split.

Stored BatchNorm statistics are never trusted: weights, α and (after a transfer) even the data have moved since. Every
evaluation is preceded by `calibrate`, a plain average over clean training batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from supernet_registry.search.networks.supernet import Network
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.training.data import Data, TensorSplit

__all__ = [
    "UNJUDGED",
    "Score",
    "autocast",
    "calibrate",
    "calibrate_over",
    "calibrated_features",
    "collect_features",
    "collect_logits",
    "evaluate",
    "score_logits",
]


@dataclass(frozen=True, slots=True)
class Score:
    """Mean cross-entropy in nats, and the share of images whose most probable class is right."""

    loss: float
    accuracy: float

    def beats(self, other: Score | None) -> bool:
        """Better accuracy, or the same with a lower loss."""
        return other is None or (self.accuracy, -self.loss) > (other.accuracy, -other.loss)


UNJUDGED = Score(0.0, 0.0)
"""Of a network for which no image was held out; no judged one has a loss of exactly 0."""


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """bfloat16 on CUDA. Not on CPUs, where it is slower and its gradients are off by a tenth."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")


def calibrate(network: Network, data: Data, recipe: Recipe) -> None:
    """Collect BatchNorm statistics over clean training images; leaves the network in `eval` mode."""
    calibrate_over(network, [data], recipe)


@torch.no_grad()
def calibrate_over(network: Network, datasets: Sequence[Data], recipe: Recipe) -> None:
    """Collect BatchNorm statistics over clean training images of several datasets, the plain average over all batches;
    leaves the network in `eval` mode."""
    network.set_norm_mode("calibrate")
    mixture = network.current_mixture()
    for data in datasets:
        for images, _ in _batches(data, data.train, recipe.eval_batch_size, limit=recipe.calibration_images):
            with autocast(data.device):
                network.features(images, mixture)
    network.set_norm_mode("eval")


def calibrated_features(network: Network, data: Data, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Calibrate, and return features (N, D) and labels (N,) of the training split; leaves the network in `eval` mode.

    A split that fits one batch is passed through once: the batch's statistics are those of the split.
    """
    if len(data.train) > recipe.eval_batch_size:
        calibrate(network, data, recipe)
        return collect_features(network, data, data.train, recipe)
    network.set_norm_mode("calibrate")
    collected = collect_features(network, data, data.train, recipe)
    network.set_norm_mode("eval")
    return collected


@torch.no_grad()
def collect_features(network: Network, data: Data, split: TensorSplit, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Features (N, D) float32 and labels (N,) of a split; the network must be calibrated."""
    mixture = network.current_mixture()
    features: list[Tensor] = []
    all_labels: list[Tensor] = []
    for images, labels in _batches(data, split, recipe.eval_batch_size):
        with autocast(data.device):
            features.append(network.features(images, mixture).float())
        all_labels.append(labels)
    return torch.cat(features), torch.cat(all_labels)


@torch.no_grad()
def collect_logits(network: Network, data: Data, split: TensorSplit, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Logits (N, K) float32 and labels (N,) of a split; the network must be calibrated."""
    features, labels = collect_features(network, data, split, recipe)
    return network.head(features), labels


def score_logits(logits: Tensor, labels: Tensor) -> Score:
    """Score of logits (N, K)."""
    loss = F.cross_entropy(logits, labels).item()
    return Score(loss, (logits.argmax(dim=1) == labels).float().mean().item())


def evaluate(network: Network, data: Data, split: TensorSplit, recipe: Recipe) -> Score:
    """Calibrate, score the split, and leave the network in `train` mode."""
    calibrate(network, data, recipe)
    score = score_logits(*collect_logits(network, data, split, recipe))
    network.set_norm_mode("train")
    return score


def _batches(
    data: Data, split: TensorSplit, batch_size: int, *, limit: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Clean batches. Each takes every n-th image: splits are often sorted by class, and a batch's statistics are not
    those of the data when it holds one class only."""
    count = len(split)
    chosen = torch.arange(count, device=data.device)
    if limit is not None and limit < count:
        chosen = torch.linspace(0, count - 1, limit, device=data.device).round().long()
    n_batches = -(-len(chosen) // batch_size)
    for start in range(n_batches):
        indices = chosen[start::n_batches]
        yield data.normalisation(split.images[indices]), split.labels[indices]
