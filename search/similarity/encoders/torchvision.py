"""Features of a pretrained torchvision model, from a local weights file. Nothing here is ever downloaded.

torch is imported when an encoder is built, never when this module is: the server describes such an encoder without it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from supernet_registry.search.errors import InvalidArgument, OptionalDependency, UnsafeWeights
from supernet_registry.search.similarity.encoders.base import MAX_DIMENSION, check_images

if TYPE_CHECKING:
    import torch

__all__ = ["TorchvisionEncoder", "load_torchvision"]

_VERSION = 1
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
_BATCH = 64
_HEADS = ("fc", "classifier", "heads", "head")  # what torchvision's models call their last layers


class TorchvisionEncoder:
    """A frozen torchvision model without its classifier, in eval mode.

    Images are repeated to three channels, resized to 128x128 (224x224 for vision transformers, whose position
    embeddings fix it) and normalised as for ImageNet. The id hashes the weights file, so distances never mix two
    trainings.

    Weights are read from safetensors only; to convert a checkpoint that torchvision publishes, once:

        model = torchvision.models.get_model("resnet18", weights="DEFAULT")
        safetensors.torch.save_file(model.state_dict(), "resnet18.safetensors")

    Raises:
        InvalidArgument: unknown model, or no weights file.
        UnsafeWeights: not safetensors, not the weights of this model, or not finite.
        OptionalDependency: torch or torchvision is not installed.
    """

    def __init__(self, model: str, *, weights: Path | None, device: str = "cpu") -> None:
        if weights is None or not weights.is_file():
            raise InvalidArgument(
                f"Encoder torchvision:{model} needs its weights; {str(weights)!r} is no file.",
                remedy="Give a local safetensors file of the model's state dict.",
                field="weights",
            )
        self.name = f"torchvision:{model}"
        self._side = 224 if "vit" in model else 128
        self._device = device
        self._network = load_torchvision(model, weights).to(device)
        digest = hashlib.sha256(f"{_VERSION} {model} {self._side} {_IMAGENET_MEAN} {_IMAGENET_STD}\n".encode())
        digest.update(weights.read_bytes())
        self.id = f"torchvision-v{_VERSION}-{model}-{digest.hexdigest()[:16]}"
        self.dimension = int(self.encode(np.zeros((1, 8, 8, 1), np.uint8)).shape[1])
        if self.dimension > MAX_DIMENSION:
            raise InvalidArgument(
                f"{model} has {self.dimension} features, at most {MAX_DIMENSION} fit a sketch.",
                remedy="Choose a model that pools before its classifier, such as resnet18.",
                field="encoder",
            )

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        import torch

        check_images(images)
        with torch.inference_mode():
            parts = [
                self._features(self._prepare(images[i : i + _BATCH])).float().cpu().numpy()
                for i in range(0, len(images), _BATCH)
            ]
        return np.concatenate(parts) if parts else np.empty((0, self.dimension), np.float32)

    def _features(self, x: torch.Tensor) -> torch.Tensor:
        """(n, d); feature maps that the removed classifier would have pooled are averaged."""
        y: torch.Tensor = self._network(x)
        return y.mean(dim=(2, 3)) if y.ndim == 4 else y.flatten(1)

    def _prepare(self, images: NDArray[np.uint8]) -> torch.Tensor:
        """uint8 (n, h, w, c) to normalised float32 (n, 3, side, side)."""
        import torch
        from torch.nn.functional import interpolate

        x = torch.from_numpy(np.array(images)).to(self._device).permute(0, 3, 1, 2).float() / 255.0
        x = x.expand(-1, 3, -1, -1)
        x = interpolate(x, size=(self._side, self._side), mode="bilinear", antialias=True, align_corners=False)
        mean, std = (torch.tensor(v, device=self._device).view(1, 3, 1, 1) for v in (_IMAGENET_MEAN, _IMAGENET_STD))
        return (x - mean) / std


def load_torchvision(model: str, weights: Path) -> torch.nn.Module:
    """A frozen torchvision model without its classifier, in eval mode, with weights from a safetensors file.

    Raises:
        InvalidArgument: unknown model.
        UnsafeWeights: not safetensors, not the weights of this model, or not finite.
        OptionalDependency: torch or torchvision is not installed.
    """
    try:
        import torch
        import torchvision
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise OptionalDependency(
            f"Encoder torchvision:{model} needs torch and torchvision: {error}.",
            remedy="Install supernet-registry[worker].",
            field="encoder",
        ) from error
    try:
        network: torch.nn.Module = torchvision.models.get_model(model, weights=None)
    except ValueError as error:
        raise InvalidArgument(
            f"torchvision has no model {model!r}.", remedy="See torchvision.models.list_models().", field="encoder"
        ) from error
    try:
        state: dict[str, Any] = load_file(weights)
        network.load_state_dict(state)
    except (SafetensorError, RuntimeError, OSError) as error:
        raise UnsafeWeights(
            f"{weights.name!r} does not hold the weights of {model}: {str(error).splitlines()[0]}.",
            remedy="Save the state dict of that very model by safetensors.torch.save_file.",
            field="weights",
        ) from error
    if not all(bool(torch.isfinite(value).all()) for value in state.values()):
        raise UnsafeWeights(
            f"{weights.name!r} holds NaN or infinite values.", remedy="Convert the checkpoint again.", field="weights"
        )
    for head in _HEADS:
        if hasattr(network, head):
            setattr(network, head, torch.nn.Identity())
    return network.eval().requires_grad_(requires_grad=False)
