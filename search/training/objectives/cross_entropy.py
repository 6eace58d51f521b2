"""Cross-entropy with the labels: weights under label smoothing, α without."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from supernet_registry.search.networks.supernet import Mixture
from supernet_registry.search.training.objectives.objective import Forward, Objective

__all__ = ["CrossEntropy"]


class CrossEntropy(Objective):
    """The loss of DARTS and of most classifiers."""

    def weight_loss(
        self, forward: Forward, images: Tensor, labels: Tensor, mixture: Mixture | None
    ) -> tuple[Tensor, Tensor]:
        logits = forward(images, mixture)
        return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing), logits

    def alpha_loss(self, forward: Forward, images: Tensor, labels: Tensor, mixture: Mixture | None) -> Tensor:
        return F.cross_entropy(forward(images, mixture), labels)
