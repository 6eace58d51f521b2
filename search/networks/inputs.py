"""Images as a network takes them: any grey or colour task fits any supernet.

Grey becomes three equal channels; images larger than the space's resolution are shrunk to it by area averaging, and
those below 16 pixels enlarged to that; anything between stays as it is, for the cells are convolutional.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Normalisation", "fit_size", "prepare_images"]

_MIN_SIDE = 16  # two halvings leave a 4×4 map, the smallest that still has places


@dataclass(frozen=True, slots=True)
class Normalisation:
    """Mean and standard deviation of every colour channel, of pixels in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 -> float32, channels_last."""
        place, kind = images.device, torch.get_default_dtype()
        mean, std = _channels(self.mean, place, kind), _channels(self.std, place, kind)
        return ((images.float() / 255.0 - mean) / std).contiguous(memory_format=torch.channels_last)


@lru_cache(maxsize=64)
def _channels(values: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """(1, 3, 1, 1). Made once: a copy to a GPU in every step would wait for the step before."""
    return torch.tensor(values, device=device, dtype=dtype).view(1, 3, 1, 1)


def fit_size(height: int, width: int, resolution: int) -> tuple[int, int]:
    """Sides that a supernet sees of images of height × width pixels."""
    scale = min(1.0, resolution / max(height, width))
    return max(_MIN_SIDE, round(height * scale)), max(_MIN_SIDE, round(width * scale))


def prepare_images(images: NDArray[np.uint8], size: tuple[int, int]) -> Tensor:
    """(N, h, w, 1 or 3) uint8 -> (N, 3, *size) uint8."""
    x = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)  # (N, c, h, w)
    if x.shape[2:] != size:
        shrink = x.shape[2] >= size[0] and x.shape[3] >= size[1]
        mode = {"mode": "area"} if shrink else {"mode": "bilinear", "align_corners": False}
        x = F.interpolate(x.float(), size=size, **mode).round().clamp(0, 255).to(torch.uint8)
    return x.expand(-1, 3, -1, -1).contiguous()
