"""What is known of a source and a target before the source is tried, as numbers for
`registry.sources.signals.gain_model`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["FEATURES", "SourceFacts", "TargetFacts", "features", "skill"]

FEATURES = (
    "distance",
    "relative distance",
    "skill",
    "log source images",
    "log target images",
    "log source classes",
    "log target classes",
    "same dataset",
    "distance x skill",
)
"""Columns of `features`. Distance in units of the registry's median would be no new column: features are standardised,
and a common factor drops out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetFacts:
    """A dataset that a search is to be made on."""

    class_count: int
    train_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFacts:
    """A version that the search could start from, and how far its dataset lies from the target."""

    ot_distance: float
    skill: float
    class_count: int
    train_count: int
    same_dataset: bool = False


def skill(val_accuracy: float, class_count: int) -> float:
    """Accuracy as a share of the way from chance (0) to perfect (1), with chance as if all classes had one size."""
    chance = 1.0 / max(class_count, 1)
    return min(1.0, max(0.0, (val_accuracy - chance) / (1.0 - chance))) if chance < 1.0 else 0.0


def features(target: TargetFacts, sources: Sequence[SourceFacts]) -> NDArray[np.float64]:
    """Features of one target's candidates, shape (n, len(FEATURES)), columns as named there.

    The relative distance of a source at d is d / (d + d_nearest), with d_nearest of the nearest source of another
    dataset: ½ for that one, towards 1 for those far beyond it, 0 for a source of the target's own dataset.
    """
    nearest = min((source.ot_distance for source in sources if not source.same_dataset), default=math.inf)
    rows = [
        (
            source.ot_distance,
            _relative(source.ot_distance, nearest),
            source.skill,
            math.log(max(source.train_count, 1)),
            math.log(max(target.train_count, 1)),
            math.log(max(source.class_count, 1)),
            math.log(max(target.class_count, 1)),
            float(source.same_dataset),
            source.ot_distance * source.skill,
        )
        for source in sources
    ]
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(FEATURES))


def _relative(distance: float, nearest: float) -> float:
    if math.isinf(nearest):
        return 0.0  # nothing but the target's own dataset
    return distance / (distance + nearest) if distance + nearest > 0.0 else 0.5
