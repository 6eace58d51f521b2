"""Starting a search from a stored supernet: what is transferred, what is fresh, and how the head begins.

Everything but the head fits tensor by tensor, because the spaces are the same or the source was mapped to this one's
size (`search.networks.mapping`); a tensor that is missing, surplus or of another shape is an error, never a silent
partial load. The head is new, since the classes are: it is computed in closed form from the features of the target's
training images,
so that the very first step already descends from a useful classifier instead of destroying the backbone with a random
head's gradients.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from supernet_registry.search.errors import InvalidArgument, UnsafeWeights
from supernet_registry.search.networks.supernet import Network, alpha_entropy
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.starts.prototypes import PrototypeHead, prototype_head
from supernet_registry.search.training.data import Data
from supernet_registry.search.training.evaluation import calibrated_features

__all__ = [
    "MODES",
    "TransferReport",
    "carries_alphas",
    "carries_weights",
    "fit_head",
    "soften_head",
    "temper",
    "transfer",
]

MODES = ("WEIGHTS_AND_ALPHAS", "ALPHAS_ONLY", "WEIGHTS_ONLY", "SCRATCH")

_HEAD = "head."
_MOST_TEMPERATURE = 1e6  # α is uniform by then
_ARCHITECTURE = ("alphas.", "betas.")


@dataclass(frozen=True, slots=True)
class TransferReport:
    """Names of the tensors that were taken over, and of those that stayed as initialised."""

    copied: tuple[str, ...]
    fresh: tuple[str, ...]


def carries_weights(mode: str) -> bool:
    """Whether a transfer mode takes over the shared weights."""
    return mode in ("WEIGHTS_AND_ALPHAS", "WEIGHTS_ONLY")


def carries_alphas(mode: str) -> bool:
    """Whether a transfer mode takes over the architecture parameters."""
    return mode in ("WEIGHTS_AND_ALPHAS", "ALPHAS_ONLY")


def transfer(network: Network, source: Mapping[str, Tensor], mode: str) -> TransferReport:
    """Copy what `mode` names from a source's tensors into a fresh supernet; the head is never copied.

    Raises:
        InvalidArgument: unknown mode.
        UnsafeWeights: the source does not hold exactly the tensors of such a supernet.
    """
    if mode not in MODES:
        raise InvalidArgument(
            f"Unknown transfer mode {mode!r}.", remedy=f"Use one of {', '.join(MODES)}.", field="mode"
        )
    own = network.state_dict()
    _check_tensors(own, source)
    copied = [name for name in own if _is_wanted(name, mode)]
    with torch.no_grad():
        for name in copied:
            own[name].copy_(source[name])
    return TransferReport(tuple(copied), tuple(name for name in own if name not in set(copied)))


def _is_wanted(name: str, mode: str) -> bool:
    if name.startswith(_HEAD):
        return False
    return carries_alphas(mode) if name.startswith(_ARCHITECTURE) else carries_weights(mode)


def _check_tensors(own: Mapping[str, Tensor], source: Mapping[str, Tensor]) -> None:
    """The head may differ in its number of classes; nothing else may differ at all."""
    wrong = set(own) ^ set(source)
    wrong |= {
        name for name in set(own) & set(source) if not name.startswith(_HEAD) and own[name].shape != source[name].shape
    }
    if wrong:
        raise UnsafeWeights(
            f"The source's tensors do not fit this supernet: {', '.join(sorted(wrong)[:5])}.",
            remedy="Choose a source of the same search space.",
            field="weights",
            metadata={"tensors": str(len(wrong))},
        )


@torch.no_grad()
def temper(network: Network, entropy_floor: float) -> float:
    """Flatten peaked α: divide by the smallest T ≥ 1 that lifts its mean entropy to `entropy_floor`; returns T.

    A peaked softmax passes almost no gradient, so a decided α could never change its mind on the new task.
    """
    original = network.alpha_arrays()

    def entropy(temperature: float) -> float:
        return alpha_entropy({kind: alpha / temperature for kind, alpha in original.items()})

    if entropy(1.0) >= entropy_floor:
        return 1.0
    low, high = 1.0, 2.0
    while entropy(high) < entropy_floor and high < _MOST_TEMPERATURE:
        low, high = high, 2.0 * high
    for _ in range(30):
        middle = (low + high) / 2.0
        low, high = (middle, high) if entropy(middle) < entropy_floor else (low, middle)
    for alpha in network.alphas.values():
        alpha.div_(high)
    return high


def fit_head(network: Network, data: Data, recipe: Recipe) -> PrototypeHead:
    """Initialise the head from class prototypes: the linear form of a Gaussian classifier on the features.

    See `search.starts.prototypes`. Leaves the network calibrated, in `eval` mode.
    """
    features, labels = calibrated_features(network, data, recipe)
    head = prototype_head(features.cpu(), labels.cpu(), data.n_classes)
    with torch.no_grad():
        network.head.weight.copy_(head.weight)
        network.head.bias.copy_(head.bias)
    return head


@torch.no_grad()
def soften_head(network: Network, scale: float) -> None:
    """Multiply the head by `scale`: the same classes, less sure.

    A prototype head knows every training image from the start, and leaves the layers below little to learn.
    """
    for parameter in network.head.parameters():
        parameter.mul_(scale)
