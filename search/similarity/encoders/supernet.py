"""Features of a supernet that this project searched, from its local safetensors file.

torch is imported when an encoder is built, never when this module is: the server describes such an encoder without it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from supernet_registry.search.errors import InvalidArgument, OptionalDependency, UnsafeWeights
from supernet_registry.search.similarity.encoders.base import MAX_DIMENSION, check_images

if TYPE_CHECKING:
    import torch

    from supernet_registry.search.networks.inputs import Normalisation
    from supernet_registry.search.networks.supernet import Network
    from supernet_registry.search.storage.weights import WeightsInfo

__all__ = ["SupernetEncoder"]

_VERSION = 1
_BATCH = 128


class SupernetEncoder:
    """A frozen supernet without its head, in eval mode, mixing its operations by softmax(α).

    Images are brought to the size and the normalisation that the supernet was trained with. Features are the pooled
    maps before the head (D = C·head_pool²), divided by √D. The id hashes the weights file, so distances never mix two
    supernets.

    Raises:
        InvalidArgument: no weights file, or a supernet with more features than a sketch holds.
        UnsafeWeights, NotFinite, WeightsTooLarge: not the weights of a supernet.
        OptionalDependency: torch is not installed.
    """

    name = "supernet"

    def __init__(self, *, weights: Path | None, device: str = "cpu") -> None:
        if weights is None or not weights.is_file():
            raise InvalidArgument(
                f"Encoder supernet needs its weights; {str(weights)!r} is no file.",
                remedy="Give a local safetensors file of a stored supernet.",
                field="weights",
            )
        data = weights.read_bytes()
        self._device = device
        self._network, self._normalisation, self._size = _load_network(data, device)
        digest = hashlib.sha256(f"{_VERSION}\n".encode())
        digest.update(data)
        self.id = f"supernet-v{_VERSION}-{digest.hexdigest()[:16]}"
        self.dimension = int(self._network.head.in_features)
        if self.dimension > MAX_DIMENSION:
            raise InvalidArgument(
                f"The supernet has {self.dimension} features, at most {MAX_DIMENSION} fit a sketch.",
                remedy="Choose a supernet of a space with fewer channels or a smaller head_pool.",
                field="weights",
            )

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        import torch

        check_images(images)
        with torch.inference_mode():
            parts = [self._features(images[i : i + _BATCH]).cpu().numpy() for i in range(0, len(images), _BATCH)]
        return np.concatenate(parts) if parts else np.empty((0, self.dimension), np.float32)

    def _features(self, images: NDArray[np.uint8]) -> torch.Tensor:
        """(n, h, w, c) uint8 to (n, d) float32."""
        from supernet_registry.search.networks.inputs import prepare_images

        pixels = self._normalisation(prepare_images(images, self._size).to(self._device))
        return self._network.features(pixels).float() / float(np.sqrt(self.dimension))


def _load_network(data: bytes, device: str) -> tuple[Network, Normalisation, tuple[int, int]]:
    try:
        import torch

        from supernet_registry.search.networks.inputs import Normalisation
        from supernet_registry.search.networks.stored import load_weights
        from supernet_registry.search.networks.supernet import Network
    except ImportError as error:
        raise OptionalDependency(
            f"Encoder supernet needs torch: {error}.", remedy="Install supernet-registry[worker].", field="encoder"
        ) from error
    info, tensors = load_weights(data, "supernet")
    mean, std, size = _preprocessing(info)
    # On the meta device first: metadata may describe a network far larger than the tensors that came with them.
    with torch.device("meta"):
        network = Network(info.space, info.n_classes, generator=None)
    try:
        network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}, assign=True)
    except RuntimeError as error:
        raise UnsafeWeights(
            "The tensors are not those of the supernet that the metadata describe.",
            remedy="Download the supernet again.",
            field="weights",
        ) from error
    network.to(device).to(memory_format=torch.channels_last)
    network.set_norm_mode("eval")
    return network.requires_grad_(requires_grad=False), Normalisation(mean, std), size


def _preprocessing(info: WeightsInfo) -> tuple[tuple[float, ...], tuple[float, ...], tuple[int, int]]:
    """Mean and deviation of each channel, and the images' size, as the metadata tell them."""
    try:
        mean, std = (tuple(float(v) for v in info.metadata[key]) for key in ("mean", "std"))
        height, width = (int(v) for v in info.metadata["size"])
        plausible = len(mean) == len(std) == 3 and min(std) > 0 and min(height, width) > 0
        plausible = plausible and max(height, width) <= info.space.resolution and bool(np.isfinite(mean + std).all())
    except (KeyError, TypeError, ValueError):
        plausible = False
    if not plausible:
        raise UnsafeWeights(
            "The supernet's metadata do not say how its images are prepared.",
            remedy="Use weights that a search of this release stored.",
            field="weights",
        )
    return mean, std, (height, width)
