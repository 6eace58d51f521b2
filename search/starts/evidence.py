"""What images that no head has seen tell of a contender, paired image by image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Evidence"]


@dataclass(frozen=True)
class Evidence:
    """Losses and hits, image by image, on images that a head has not seen.

    No loss counts for more than twice that of a uniform guess, 2 log K: a head made from forty images can be sure and
    wrong by a thousand nats on one of them, and that one would decide the whole comparison.
    """

    losses: Tensor  # (M,) nats
    hits: Tensor  # (M,) 1.0 where the most probable class is right

    @classmethod
    def of(cls, *parts: tuple[Tensor, Tensor]) -> Evidence:
        """From pairs of logits (M_i, K) and labels (M_i,), one after another."""
        losses = [
            F.cross_entropy(logits, labels, reduction="none").clamp(max=2.0 * math.log(max(2, logits.shape[1])))
            for logits, labels in parts
        ]
        hits = [(logits.argmax(dim=1) == labels).float() for logits, labels in parts]
        return cls(torch.cat(losses).cpu(), torch.cat(hits).cpu())

    @property
    def accuracy(self) -> float:
        """Share of hits."""
        return self.hits.mean().item()

    def gain_over(self, other: Evidence) -> tuple[float, float]:
        """Mean loss in nats that is saved against `other`, paired image by image, and its standard error.

        Evidence from different rounds is compared on the images of both: the validation split, which comes last.
        """
        count = min(len(self.losses), len(other.losses))
        saved = (other.losses[-count:] - self.losses[-count:]).double()
        return saved.mean().item(), saved.std(correction=0).item() / math.sqrt(count)

    def lead_over(self, other: Evidence) -> float:
        """The gain in standard errors; 0 between equals."""
        gain, error = self.gain_over(other)
        return gain / error if error > 0.0 else 0.0
