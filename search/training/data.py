"""A dataset as tensors on the device, batches of it, and their augmentation.

Images have the shape in which supernets take them (`search.networks.inputs`). Pixels stay uint8 until a batch needs
them, and are standardised by the training split's own mean and deviation, so that ink and ground may swap brightness
between two related tasks.

Legend: B batch, N images, H and W sides, K classes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from supernet_registry.search.networks.inputs import Normalisation, fit_size, prepare_images
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.spaces import SearchSpace
from supernet_registry.search.tasks import ImageDataset, Split
from supernet_registry.search.training.devices import send

__all__ = ["Augmentation", "Batches", "Data", "TensorSplit", "load_data", "make_generator"]

_MIN_STD = 1e-3


@dataclass(frozen=True, slots=True)
class TensorSplit:
    """Images (N, 3, H, W) uint8 and labels (N,) int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class Data:
    """A dataset on the device."""

    train: TensorSplit
    val: TensorSplit
    test: TensorSplit
    n_classes: int
    normalisation: Normalisation
    device: torch.device

    def joined(self) -> Data:
        """The same, with the validation images in the training split as well: nothing is left to choose by them."""
        images, labels = zip(*((split.images, split.labels) for split in (self.train, self.val)), strict=True)
        together = torch.cat(images).contiguous(memory_format=torch.channels_last)
        return replace(self, train=TensorSplit(together, torch.cat(labels)))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.train.images.shape[2], self.train.images.shape[3]


def load_data(dataset: ImageDataset, space: SearchSpace, device: torch.device) -> Data:
    """Bring a dataset to the device, in the shape that supernets of `space` take."""
    _, height, width, _ = dataset.train.images.shape
    size = fit_size(height, width, space.resolution)
    train, val, test = (_load_split(split, size, device) for split in (dataset.train, dataset.val, dataset.test))
    return Data(train, val, test, dataset.n_classes, _measure(train.images), device)


def _load_split(split: Split, size: tuple[int, int], device: torch.device) -> TensorSplit:
    images = prepare_images(split.images, size).to(device, memory_format=torch.channels_last)
    return TensorSplit(images, torch.from_numpy(split.labels.astype(np.int64)).to(device))


def _measure(images: Tensor) -> Normalisation:
    """Mean and deviation per channel; in float64 from counts, so that the order of summation does not matter."""
    pixels = images.double() / 255.0
    mean, std = pixels.mean(dim=(0, 2, 3)), pixels.std(dim=(0, 2, 3), correction=0).clamp(min=_MIN_STD)
    return Normalisation(tuple(mean.tolist()), tuple(std.tolist()))


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Light random changes that keep the label: shift, rotation, zoom, and mirroring where the recipe allows it.

    Randomness is drawn on the CPU from an explicit generator (a few numbers an image), the work is done on the device.
    """

    shift: int  # pixels
    rotation_degrees: float
    zoom: float
    flip: bool

    @classmethod
    def of(cls, recipe: Recipe) -> Augmentation:
        """The recipe's augmentation."""
        return cls(recipe.crop_padding, recipe.max_rotation_degrees, recipe.max_zoom, recipe.horizontal_flip)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """(B, 3, H, W) float -> the same shape, augmented, channels_last."""
        count = images.shape[0]
        # Always the same number of draws, so that a recipe's switches do not shift the random stream of the batches.
        draws = 2.0 * torch.rand(5, count, generator=generator) - 1.0  # in [-1, 1): dy, dx, angle, zoom, mirror
        if self.rotation_degrees or self.zoom:
            images = self._warp(images, draws)
        elif self.shift:
            images = self._shift(images, draws)
        if self.flip:
            mirrored = send(draws[4] < 0, images.device).view(-1, 1, 1, 1)
            images = torch.where(mirrored, images.flip(3), images)
        return images.contiguous(memory_format=torch.channels_last)

    def _shift(self, images: Tensor, draws: Tensor) -> Tensor:
        """Whole pixels; what moves in repeats the edge, as padding by a constant would draw a frame on wild grounds."""
        count, _, height, width = images.shape
        offsets = (draws[:2] * (self.shift + 0.5)).round().clamp(-self.shift, self.shift).long()
        offsets = send(offsets, images.device)
        rows = (torch.arange(height, device=images.device) + offsets[0, :, None]).clamp(0, height - 1)  # (B, H)
        columns = (torch.arange(width, device=images.device) + offsets[1, :, None]).clamp(0, width - 1)  # (B, W)
        batch = torch.arange(count, device=images.device)[:, None, None]
        picked = images.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]]  # (B, H, W, 3)
        return picked.permute(0, 3, 1, 2)

    def _warp(self, images: Tensor, draws: Tensor) -> Tensor:
        """Shift, rotation and zoom as one bilinear sampling."""
        _, _, height, width = images.shape
        angle = torch.deg2rad(draws[2] * self.rotation_degrees)
        scale = 1.0 + draws[3] * self.zoom
        cos, sin = angle.cos() * scale, angle.sin() * scale
        dx, dy = draws[1] * 2 * self.shift / width, draws[0] * 2 * self.shift / height
        affine = torch.stack([torch.stack([cos, -sin, dx], 1), torch.stack([sin, cos, dy], 1)], 1)  # (B, 2, 3)
        grid = F.affine_grid(send(affine, images.device), list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


class Batches:
    """Endless shuffled batches of indices: every image once, then a new order. Its state can be stored."""

    def __init__(self, count: int, batch_size: int, generator: torch.Generator) -> None:
        self._count = count
        self._batches = self._number(count, batch_size)
        self._generator = generator
        self._order = torch.empty(0, dtype=torch.long)
        self._next = self._batches

    @staticmethod
    def _number(count: int, batch_size: int) -> int:
        """Batches an epoch: nearly equal ones, for a last batch of 1 would ruin BatchNorm."""
        return max(1, round(count / batch_size))

    @classmethod
    def largest(cls, count: int, batch_size: int) -> int:
        """Images of the largest batch, which may be more than `batch_size`."""
        return -(-count // cls._number(count, batch_size))

    def __len__(self) -> int:
        """Batches in which every image comes once."""
        return self._batches

    def draw(self) -> Tensor:
        """Indices (B,) of the next batch."""
        if self._next == self._batches:
            self._order = torch.randperm(self._count, generator=self._generator)
            self._next = 0
        batch = self._order.tensor_split(self._batches)[self._next]
        self._next += 1
        return batch

    def state(self) -> dict[str, object]:
        """What `load_state` needs to go on; the generator is stored by its owner."""
        return {"order": self._order.clone(), "next": self._next}

    def load_state(self, state: dict[str, object]) -> None:
        """Go on where `state` was taken."""
        order, position = state["order"], state["next"]
        assert isinstance(order, Tensor)
        assert isinstance(position, int)
        self._order, self._next = order, position


def make_generator(seed: int, purpose: str) -> torch.Generator:
    """A CPU generator of its own for every purpose, so that one part's draws never shift another's."""
    digest = hashlib.sha256(f"{seed}:{purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
