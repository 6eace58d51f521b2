"""Encoders by name."""

from __future__ import annotations

from pathlib import Path

from supernet_registry.search.errors import InvalidArgument
from supernet_registry.search.similarity.encoders.base import Encoder
from supernet_registry.search.strategies import ENCODERS

__all__ = ["load_encoder"]


def load_encoder(name: str = "pixels", *, weights: Path | None = None, device: str = "cpu") -> Encoder:
    """The encoder of that name; `search.strategies.ENCODERS` lists them.

    Args:
        name: such as `pixels`, `torchvision:resnet18` or `supernet`.
        weights: a local safetensors file, for encoders that have weights (see `TorchvisionEncoder` and
            `SupernetEncoder`).
        device: for those, where they run.

    Raises:
        InvalidArgument: unknown name, or weights missing or given where none are used.
        UnsafeWeights: the file is not safetensors, or not of that model.
        OptionalDependency: torch or torchvision is not installed.
    """
    strategy = ENCODERS.check(name)
    if weights is not None and "weights" not in strategy.options:
        raise InvalidArgument(f"The {name} encoder has no weights.", remedy="Leave them out.", field="weights")
    parameters = [name.partition(":")[2]] if strategy.parameter else []
    given = {"weights": weights, "device": device}
    encoder: Encoder = strategy.load()(*parameters, **{option: given[option] for option in strategy.options})
    return encoder
