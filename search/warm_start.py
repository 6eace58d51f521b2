"""Starting a search from a stored supernet: what is transferred, what is fresh, and how the head begins.

Everything but the head fits tensor by tensor, because the spaces are the same (`check_compatible`); a tensor that is
missing, surplus or of another shape is an error, never a silent partial load. The head is new, since the classes are:
it is computed in closed form from the features of the target's training images, so that the very first step already
descends from a useful classifier instead of destroying the backbone with a random head's gradients.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from search.data import Data
from search.errors import InvalidArgument, UnsafeWeights
from search.evaluation import calibrate, collect_features
from search.recipe import Recipe
from search.supernet import Network, alpha_entropy

__all__ = ["MODES", "TransferReport", "carries_alphas", "carries_weights", "fit_head", "temper", "transfer"]

MODES = ("WEIGHTS_AND_ALPHAS", "ALPHAS_ONLY", "WEIGHTS_ONLY", "SCRATCH")

_HEAD = "head."
_ALPHAS = "alphas."
_TEMPERATURES = np.geomspace(0.01, 100.0, 41)


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
    return carries_alphas(mode) if name.startswith(_ALPHAS) else carries_weights(mode)


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
    while entropy(high) < entropy_floor:
        low, high = high, 2.0 * high
    for _ in range(30):
        middle = (low + high) / 2.0
        low, high = (middle, high) if entropy(middle) < entropy_floor else (low, middle)
    for alpha in network.alphas.values():
        alpha.div_(high)
    return high


def fit_head(network: Network, data: Data, recipe: Recipe) -> None:
    """Initialise the head from class prototypes: the linear form of a Gaussian classifier on the features.

    With class means μ_c and the shrunk pooled covariance Σ, w_c = Σ⁻¹ μ_c and b_c = -μ_c·Σ⁻¹ μ_c / 2 (linear
    discriminant analysis with equal priors). Both are divided by a temperature, chosen so that the *leave-one-out*
    cross-entropy on the training images is least: the prototypes hold those very images, and judged by themselves
    they would be far too sure. Leaves the network in `train` mode.
    """
    calibrate(network, data, recipe)
    features, labels = collect_features(network, data, data.train, recipe)
    network.set_norm_mode("train")
    weight, bias = _discriminant(features.double(), labels, data.n_classes, recipe.head_shrinkage)
    with torch.no_grad():
        network.head.weight.copy_(weight)
        network.head.bias.copy_(bias)


def _discriminant(x: Tensor, labels: Tensor, n_classes: int, shrinkage: float) -> tuple[Tensor, Tensor]:
    """Weights (K, D) and biases (K,) from features (N, D) and labels (N,)."""
    one_hot = F.one_hot(labels, n_classes).to(x.dtype)  # (N, K)
    counts = one_hot.sum(dim=0).clamp(min=1.0)  # (K,)
    centre = x.mean(dim=0)
    x = x - centre
    means = (one_hot.T @ x) / counts[:, None]  # (K, D)
    residuals = x - means[labels]
    covariance = residuals.T @ residuals / max(1, len(x) - n_classes)  # (D, D)
    scale = covariance.diagonal().mean().clamp(min=1e-12)
    covariance.mul_(1.0 - shrinkage).diagonal().add_(shrinkage * scale)
    weight = torch.linalg.solve(covariance, means.T).T  # (K, D)
    temperature = _choose_temperature(x, labels, means, counts, covariance)
    weight = weight / temperature
    bias = -0.5 * (weight * means).sum(dim=1) - weight @ centre
    return weight, bias


def _choose_temperature(x: Tensor, labels: Tensor, means: Tensor, counts: Tensor, covariance: Tensor) -> float:
    """Temperature with the least leave-one-out cross-entropy on the training features."""
    factor = torch.linalg.cholesky(covariance)
    z = torch.linalg.solve_triangular(factor, x.T, upper=False).T  # whitened, (N, D)
    m = torch.linalg.solve_triangular(factor, means.T, upper=False).T  # (K, D)
    distances = torch.cdist(z, m).square()  # (N, K)
    # Without image i its class mean moves away from it: |z - m'|² = |z - m|² · (n / (n - 1))²
    n = counts[labels].clamp(min=2.0)
    rows = torch.arange(len(x), device=x.device)
    distances[rows, labels] *= (n / (n - 1.0)).square()
    losses = [F.cross_entropy(-0.5 * distances / t, labels).item() for t in _TEMPERATURES]
    return float(_TEMPERATURES[int(np.argmin(losses))])
