"""Starting a search from a stored supernet: what is transferred, what is fresh, and how the head begins.

Everything but the head fits tensor by tensor, because the spaces are the same or the source was mapped to this one's
size (`search.mapping`); a tensor that is missing, surplus or of another shape is an error, never a silent partial load.
The head is new, since the classes are: it is computed in closed form from the features of the target's training images,
so that the very first step already descends from a useful classifier instead of destroying the backbone with a random
head's gradients. The other ways to begin it are here to be compared (`benchmarks/transfer_choices.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from search.data import Data
from search.errors import InvalidArgument, UnsafeWeights
from search.evaluation import calibrated_features
from search.prototypes import PrototypeHead, prototype_head
from search.recipe import Recipe
from search.supernet import Network, alpha_entropy

__all__ = [
    "MODES",
    "TransferReport",
    "carries_alphas",
    "carries_weights",
    "couple_head",
    "fit_head",
    "perturb",
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
def perturb(network: Network, fresh: Network, kept: float) -> None:
    """Shrink and perturb (Ash & Adams 2020, arXiv:1910.08475): every weight w becomes kept · w + (1 - kept) · w₀.

    w₀ is a fresh initialisation, whose scale is every layer's own. A network that was trained to the end learns a new
    task worse than a fresh one, though it begins better; halfway back it still begins better, and can learn. α, β, the
    head and BatchNorm's statistics, which are measured anew, are left alone.

    Args:
        network: has its source's weights.
        fresh: a network of the same space.
        kept: share of the source, from 0 to 1.
    """
    theirs = dict(fresh.named_parameters())
    for name, weight in network.named_parameters():
        if not name.startswith((_HEAD, *_ARCHITECTURE)):
            weight.copy_(torch.lerp(theirs[name], weight, kept))


@torch.no_grad()
def couple_head(network: Network, source: Mapping[str, Tensor], coupling: Tensor) -> None:
    """Begin the head with the source's, through the class coupling of the datasets' transport plan.

    A class begins with the rows of the source's classes, weighed by the share of its mass that comes from each.

    Args:
        network: K classes.
        source: tensors of a supernet with L classes.
        coupling: (K, L) masses; no row may be empty.

    Raises:
        InvalidArgument: the coupling is of other classes, or a class has no mass.
    """
    weight, bias = source[f"{_HEAD}weight"], source[f"{_HEAD}bias"]
    mass = coupling.to(weight)
    if mass.shape != (network.n_classes, len(weight)) or not bool((mass.sum(dim=1) > 0.0).all()):
        raise InvalidArgument(
            f"A class coupling of shape {tuple(mass.shape)} does not lead from {len(weight)} classes of the source to "
            f"{network.n_classes} of the target.",
            remedy="Give the coupling of these two datasets, the target's classes in rows.",
            field="class_coupling",
        )
    shares = mass / mass.sum(dim=1, keepdim=True)
    network.head.weight.copy_(shares @ weight)
    network.head.bias.copy_(shares @ bias)


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

    See `search.prototypes`. Leaves the network calibrated, in `eval` mode.
    """
    features, labels = calibrated_features(network, data, recipe)
    head = prototype_head(features.cpu(), labels.cpu(), data.n_classes)
    with torch.no_grad():
        network.head.weight.copy_(head.weight)
        network.head.bias.copy_(head.bias)
    return head
