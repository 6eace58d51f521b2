"""A linear head in closed form, from class prototypes.

With class means μ_c and the pooled within-class covariance Σ, equal priors and Gaussian classes give logits that are
linear in a feature x (linear discriminant analysis, Fisher 1936):

    logit_c(x) = ( μ_c' Σ⁻¹ x  -  μ_c' Σ⁻¹ μ_c / 2 ) / T ,     Σ = (1 - s) Σ̂ + s · tr(Σ̂)/D · I

There are usually more features than images, so Σ̂ is singular and must be shrunk (s), and the classifier is far too
sure of the images that it was made from. Both s and T are therefore chosen by cross-validation on the training images:
s = 1 is the plain nearest-prototype classifier, small s trusts the covariance. That no held-out image was classified
wrongly does not mean that none ever will be: by Laplace's rule of succession one more would be, so labels count as
1 - 1/(N + 1) sure. Without that, features that separate the training images make T as small as it can be, and logits in
the thousands, whose first gradients destroy the features.

Legend: N images, D features, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["PrototypeHead", "prototype_head"]

_FOLDS = 4
_SHRINKAGES = (0.02, 0.1, 0.3, 0.6, 1.0)
_TEMPERATURES = tuple(10.0 ** (step / 5) for step in range(-5, 26))  # 0.1 .. 1e5
_MAX_IMAGES = 4096  # more hardly change means and covariance, and the solver's cost grows with their cube


@dataclass(frozen=True)
class PrototypeHead:
    """A linear classifier, and how well such a one does on images that it has not seen."""

    weight: Tensor  # (K, D) float32
    bias: Tensor  # (K,) float32
    held_out_logits: Tensor  # (M, K) float32, of the images that it was made from, each by a classifier without it
    held_out_labels: Tensor  # (M,), M = N but for very large splits


def prototype_head(features: Tensor, labels: Tensor, n_classes: int) -> PrototypeHead:
    """The classifier from features (N, D) and labels (N,)."""
    if len(features) > _MAX_IMAGES:
        chosen = torch.linspace(0, len(features) - 1, _MAX_IMAGES).round().long()
        features, labels = features[chosen], labels[chosen]
    features = features.double()
    centre = features.mean(dim=0)
    x, basis = _compress(features - centre)
    shrinkage, temperature, held_out = _cross_validate(x, labels, n_classes)
    weight, bias = _Gaussian.fit(x, labels, n_classes).linear(shrinkage)
    weight, bias = weight @ basis / temperature, bias / temperature
    return PrototypeHead(weight.float(), (bias - weight @ centre).float(), held_out.float(), labels)


def _compress(x: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates (N, R) in an orthonormal basis (R, D) of the row space, R ≤ min(N, D)."""
    n, d = x.shape
    if d <= n:
        return x, torch.eye(d, dtype=x.dtype)
    values, vectors = torch.linalg.eigh(x @ x.T)  # (N,), (N, N)
    kept = values > 1e-10 * values[-1].clamp(min=1e-30)
    basis = (vectors[:, kept] / values[kept].sqrt()).T @ x  # (R, D)
    return x @ basis.T, basis


@dataclass(frozen=True)
class _Gaussian:
    """Class means (K, R), and the within-class covariance as eigenvalues (R,) and eigenvectors (R, R)."""

    means: Tensor
    values: Tensor
    vectors: Tensor

    @classmethod
    def fit(cls, x: Tensor, labels: Tensor, n_classes: int) -> _Gaussian:
        one_hot = F.one_hot(labels, n_classes).to(x.dtype)  # (N, K)
        means = one_hot.T @ x / one_hot.sum(dim=0).clamp(min=1.0)[:, None]
        residuals = x - means[labels]
        covariance = residuals.T @ residuals / max(1, len(x) - n_classes)
        values, vectors = torch.linalg.eigh(covariance)
        return cls(means, values.clamp(min=0.0), vectors)

    def linear(self, shrinkage: float) -> tuple[Tensor, Tensor]:
        """Weight (K, R) and bias (K,) at temperature 1."""
        shrunk = (1.0 - shrinkage) * self.values + shrinkage * self.values.mean().clamp(min=1e-12)
        rotated = self.means @ self.vectors  # (K, R)
        weight = (rotated / shrunk) @ self.vectors.T
        return weight, -0.5 * (weight * self.means).sum(dim=1)


def _cross_validate(x: Tensor, labels: Tensor, n_classes: int) -> tuple[float, float, Tensor]:
    """Shrinkage and temperature with the least cross-entropy on held-out training images, and the logits there."""
    fold = _folds(labels, n_classes)
    held_out = {shrinkage: torch.zeros(len(x), n_classes, dtype=x.dtype) for shrinkage in _SHRINKAGES}
    for number in range(_FOLDS):
        inside, outside = fold != number, fold == number
        if not inside.any() or not outside.any():
            continue
        gaussian = _Gaussian.fit(x[inside], labels[inside], n_classes)
        for shrinkage, logits in held_out.items():
            weight, bias = gaussian.linear(shrinkage)
            logits[outside] = x[outside] @ weight.T + bias
    doubt = 1.0 / (len(labels) + 1)
    choices = [
        (F.cross_entropy(logits / temperature, labels, label_smoothing=doubt).item(), shrinkage, temperature)
        for shrinkage, logits in held_out.items()
        for temperature in _TEMPERATURES
    ]
    _, shrinkage, temperature = min(choices)
    return shrinkage, temperature, held_out[shrinkage] / temperature


def _folds(labels: Tensor, n_classes: int) -> Tensor:
    """Fold number (N,) of every image: every class is spread evenly over all folds."""
    fold = torch.zeros_like(labels)
    for label in range(n_classes):
        of_class = (labels == label).nonzero().flatten()
        fold[of_class] = (torch.arange(len(of_class)) + label) % _FOLDS
    return fold
