"""What users do without an architecture search: a network written once, trained on every task or fine-tuned from a
relative's.

`FixedNetwork` is what one writes in five minutes: 32, 64 and 128 channels of 3×3 convolutions with BatchNorm, ReLU and
max pooling, a pooled 4×4 map, a linear head: 100,000 to 200,000 parameters, as our child networks have. AdamW with a
cosine and label smoothing, the augmentation of our own searches, and as much processor time as they take; the last
epoch is the result and the validation split is trained on as well, as it is with our child networks. (Smoothing and
last epoch were worth 3.0 ± 1.3 points on 14 tasks: the competitor is to be as good as its user could make it.) A warm
start copies the convolutions of a network trained on
the relative and computes the head from class prototypes, as ours do. `pretrained` fine-tunes torchvision's resnet18
instead, from weights that somebody else learnt from a million photographs.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supernet_registry.search.errors import UnsafeWeights
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.results import Epoch
from supernet_registry.search.starts.prototypes import prototype_head
from supernet_registry.search.training.data import Augmentation, Batches, Data, TensorSplit, make_generator
from supernet_registry.search.training.evaluation import Score
from supernet_registry.search.training.optimizers import AdamW

__all__ = ["FixedNetwork", "FixedRecipe", "FixedResult", "train_fixed"]

CHANNELS = (32, 64, 128)
PRETRAINED_SIDE = 96
"""Pixels to which images are enlarged for the pretrained network, whose first layers reduce them to a thirty-second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedRecipe:
    """How it is trained."""

    learning_rate: float = 2e-3
    pretrained_learning_rate: float = 3e-4
    weight_decay: float = 2.5  # tuned as that of child networks was
    most_decay: float = 10.0  # Σ rate · decay over the whole training; longer ones decay less
    pretrained_weight_decay: float = 1e-2
    label_smoothing: float = 0.1
    batch_size: int = 32
    cold_epochs: int = 14  # fewest from nothing; more where the time allows
    warm_epochs: int = 5  # fewest from a source
    most_epochs: int = 400
    holds_out: bool = False  # whether the validation split stays out of training, as child networks may do it


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


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedResult:
    """A trained network and its figures. Accuracies are fractions in [0, 1]; on validation None unless held out."""

    network: FixedNetwork
    val_accuracy: float | None
    test_accuracy: float
    parameters: int
    epochs: int
    steps: int
    cpu_seconds: float

    @property
    def weights(self) -> bytes:
        """The network as safetensors."""
        from safetensors.torch import save

        return bytes(save({name: tensor.contiguous() for name, tensor in self.network.state_dict().items()}))


def train_fixed(
    data: Data,
    recipe: Recipe,
    *,
    seed: int,
    cpu_seconds: float,
    source: bytes | None = None,
    pretrained: Path | None = None,
    fixed: FixedRecipe | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> FixedResult:
    """Train for about `cpu_seconds` of this thread's processor time.

    Args:
        data: the task.
        recipe: of the searches that it is compared with; gives the augmentation.
        seed: of every random choice.
        cpu_seconds: what it may take, within the fewest and most epochs of `fixed`.
        source: `FixedResult.weights` of a related task, to be fine-tuned; None to begin with nothing.
        pretrained: safetensors file of torchvision's resnet18 to fine-tune instead.
        fixed: how it is trained.
        on_epoch: told of every epoch, as of one of a child network.

    Raises:
        UnsafeWeights: the source or the file does not hold such a network.
        InvalidArgument, OptionalDependency: there is no such file, or no torchvision.
    """
    began = time.process_time()
    fixed = fixed or FixedRecipe()
    data = data if fixed.holds_out else data.joined()
    torch.manual_seed(seed)  # PyTorch's own initialisation, as the user has it
    warm = source is not None or pretrained is not None
    network = _resnet(pretrained, data.n_classes) if pretrained is not None else FixedNetwork(data.n_classes)
    if source is not None:
        _copy_body(source, network)
    network = network.to(data.device).to(memory_format=torch.channels_last)
    if warm:
        _fit_head(network, data)
    if pretrained is not None:
        rate, decay = fixed.pretrained_learning_rate, fixed.pretrained_weight_decay
        fixed = replace(fixed, learning_rate=rate, weight_decay=decay)
    training = _Training(network, data, recipe, fixed, seed)
    training.run(training.affordable_epochs(cpu_seconds, warm=warm), on_epoch)
    return FixedResult(
        network=network,
        val_accuracy=_score(network, data, data.val).accuracy if fixed.holds_out else None,
        test_accuracy=_score(network, data, data.test).accuracy,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        epochs=training.epoch,
        steps=training.epoch * len(training.batches),
        cpu_seconds=time.process_time() - began,
    )


class _Training:
    """The loop, and what it carries from epoch to epoch."""

    def __init__(self, network: FixedNetwork, data: Data, recipe: Recipe, fixed: FixedRecipe, seed: int) -> None:
        self.network, self.data, self.fixed = network, data, fixed
        self.augment = Augmentation.of(recipe)
        self.generator = make_generator(seed, "fixed")
        self.batches = Batches(len(data.train), fixed.batch_size, self.generator)
        self.epoch = 0

    def affordable_epochs(self, cpu_seconds: float, *, warm: bool) -> int:
        """Epochs that the time allows, measured on a few steps of a copy."""
        trial = _Trial(self.network, self)
        steps = 4
        began = time.process_time()
        for _ in range(steps):
            trial.step()
        step = (time.process_time() - began) / steps
        began = time.process_time()
        if self.fixed.holds_out:
            _score(trial.network, self.data, self.data.val)
        epoch = step * len(self.batches) + time.process_time() - began
        least = self.fixed.warm_epochs if warm else self.fixed.cold_epochs
        return min(self.fixed.most_epochs, max(least, int(cpu_seconds / epoch)))

    def run(self, epochs: int, on_epoch: Callable[[Epoch], None] | None) -> None:
        """Train; the last epoch is the result."""
        steps = epochs * len(self.batches)
        optimizer = self.optimizer(self.network, steps)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for self.epoch in range(1, epochs + 1):
            began = time.monotonic()
            rate = optimizer.param_groups[0]["lr"]
            train = torch.zeros(3)
            for _ in range(len(self.batches)):
                train += self.step(self.network, optimizer)
                schedule.step()
            score = _score(self.network, self.data, self.data.val) if self.fixed.holds_out else None
            if on_epoch is not None:
                on_epoch(self._report(epochs, train, score, rate, time.monotonic() - began))

    def optimizer(self, network: FixedNetwork, steps: int) -> torch.optim.Optimizer:
        """For so many steps, at half of the first rate in the mean."""
        rate = self.fixed.learning_rate
        decay = min(self.fixed.weight_decay, self.fixed.most_decay / max(0.5 * rate * steps, 1e-9))
        return AdamW(network.parameters(), lr=rate, weight_decay=decay)

    def step(self, network: FixedNetwork, optimizer: torch.optim.Optimizer) -> Tensor:
        """One step on the next batch; summed loss, hits and number of its images."""
        network.train()
        indices = self.batches.draw()
        images, labels = self.data.normalisation(self.data.train.images[indices]), self.data.train.labels[indices]
        logits = network(self.augment(images, self.generator))
        loss = F.cross_entropy(logits, labels, label_smoothing=self.fixed.label_smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        hits = (logits.detach().argmax(dim=1) == labels).sum()
        return torch.tensor([loss.item() * len(labels), hits.item(), len(labels)])

    def _report(self, epochs: int, train: Tensor, score: Score | None, rate: float, seconds: float) -> Epoch:
        loss, hits, images = train.tolist()
        return Epoch(
            phase="CHILD",
            epoch=self.epoch,
            epochs=epochs,
            steps=self.epoch * len(self.batches),
            train_loss=loss / images,
            train_accuracy=hits / images,
            val_loss=None if score is None else score.loss,
            val_accuracy=None if score is None else score.accuracy,
            alpha_entropy=0.0,
            skip_count=0,
            learning_rate=rate,
            seconds=seconds,
        )


class _Trial:
    """Steps of a copy, to see how long they take."""

    def __init__(self, network: FixedNetwork, training: _Training) -> None:
        self.network = copy.deepcopy(network)
        self._training = training
        self._optimizer = training.optimizer(self.network, steps=1)

    def step(self) -> None:
        self._training.step(self.network, self._optimizer)


@torch.no_grad()
def _score(network: FixedNetwork, data: Data, split: TensorSplit) -> Score:
    network.eval()
    loss = hits = 0.0
    for images, labels in zip(torch.split(split.images, 256), torch.split(split.labels, 256), strict=True):
        logits = network(data.normalisation(images))
        loss += F.cross_entropy(logits, labels, reduction="sum").item()
        hits += (logits.argmax(dim=1) == labels).sum().item()
    return Score(loss / len(split.labels), hits / len(split.labels))


@torch.no_grad()
def _fit_head(network: FixedNetwork, data: Data) -> None:
    network.eval()
    features = torch.cat([network.body(data.normalisation(images)) for images in torch.split(data.train.images, 256)])
    head = prototype_head(features, data.train.labels, data.n_classes)
    network.head.weight.copy_(head.weight)
    network.head.bias.copy_(head.bias)


def _copy_body(source: bytes, network: FixedNetwork) -> None:
    """All but the head of a stored network. Raises UnsafeWeights."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(source)
        body = {name.removeprefix("body."): value for name, value in tensors.items() if name.startswith("body.")}
        network.body.load_state_dict(body)
    except (SafetensorError, RuntimeError) as error:
        raise UnsafeWeights(
            f"The source holds no fixed network: {str(error).splitlines()[0]}.",
            remedy="Give the weights that an earlier training has left.",
            field="source",
        ) from error


def _resnet(weights: Path, n_classes: int) -> FixedNetwork:
    """torchvision's resnet18 behind an enlargement of the images, in the place of the convolutions."""
    from supernet_registry.search.similarity.encoders.torchvision import load_torchvision

    network = FixedNetwork(n_classes)
    backbone = load_torchvision("resnet18", weights).requires_grad_(requires_grad=True)
    enlarge = nn.Upsample(size=(PRETRAINED_SIDE, PRETRAINED_SIDE), mode="bilinear", align_corners=False)
    network.body = nn.Sequential(enlarge, backbone, nn.Flatten())
    network.head = nn.Linear(512, n_classes)
    return network
