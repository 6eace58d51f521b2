"""Encoders by name."""

from __future__ import annotations

from pathlib import Path

from supernet_registry.search.errors import InvalidArgument
from supernet_registry.search.similarity.encoders.base import Encoder
from supernet_registry.search.similarity.encoders.pixels import PixelEncoder

__all__ = ["load_encoder"]


def load_encoder(name: str = "pixels", *, weights: Path | None = None, device: str = "cpu") -> Encoder:
    """The encoder of that name.

    Args:
        name: `pixels`, `torchvision:<model>` such as `torchvision:resnet18`, or `supernet`.
        weights: for `torchvision:` and `supernet` a local safetensors file (see `TorchvisionEncoder` and
            `SupernetEncoder`).
        device: for those two, where they run.

    Raises:
        InvalidArgument: unknown name, or weights missing or given where none are used.
        UnsafeWeights: the file is not safetensors, or not of that model.
        OptionalDependency: torch or torchvision is not installed.
    """
    if name == PixelEncoder.name:
        if weights is not None:
            raise InvalidArgument("The pixels encoder has no weights.", remedy="Leave them out.", field="weights")
        return PixelEncoder()
    family, _, model = name.partition(":")
    if family == "torchvision" and model:
        from supernet_registry.search.similarity.encoders.torchvision import TorchvisionEncoder

        return TorchvisionEncoder(model, weights=weights, device=device)
    if name == "supernet":
        from supernet_registry.search.similarity.encoders.supernet import SupernetEncoder

        return SupernetEncoder(weights=weights, device=device)
    raise InvalidArgument(
        f"Unknown encoder {name!r}.", remedy="Choose 'pixels', 'torchvision:<model>' or 'supernet'.", field="encoder"
    )
