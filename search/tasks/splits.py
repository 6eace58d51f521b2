"""Splits that a user did not give, carved out of the training split."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from supernet_registry.search.determinism import random_order
from supernet_registry.search.errors import InvalidDataset
from supernet_registry.search.tasks.dataset import SPLITS, Split

__all__ = ["CARVED_SHARE", "carve_missing"]

CARVED_SHARE = 0.15
"""Share of each class that a missing split gets: 70/15/15 where both are missing."""


def carve_missing(splits: Mapping[str, Split], warnings: list[str]) -> dict[str, Split]:
    """All three splits: those missing take `CARVED_SHARE` of each class of train, at least one image."""
    missing = [name for name in SPLITS if name not in splits]
    if not missing:
        return dict(splits)
    wanted = " and ".join(missing)
    train = splits["train"]
    parts: dict[str, list[NDArray[np.int64]]] = {name: [] for name in ("train", *missing)}
    for label in np.unique(train.labels):
        members = np.flatnonzero(train.labels == label)
        if len(members) <= len(missing):
            raise InvalidDataset(
                f"Class {int(label)} has {len(members)} training images, too few to carve {wanted} from.",
                remedy=f"Give {wanted} splits of your own, or at least {len(missing) + 1} images a class.",
                field="train.labels",
            )
        order = members[random_order(len(members), "carve", int(label))]
        take = max(1, round(CARVED_SHARE * len(members)))
        for position, name in enumerate(missing):
            parts[name].append(order[position * take : (position + 1) * take])
        parts["train"].append(order[len(missing) * take :])
    warnings.append(
        f"No {' and no '.join(missing)} split: carved out of train, {CARVED_SHARE:.0%} of each class for each."
    )
    carved = {}
    for name, chosen in parts.items():
        indices = np.sort(np.concatenate(chosen)) if chosen else np.empty(0, np.int64)
        carved[name] = Split(train.images[indices], train.labels[indices])
    return {**splits, **carved}
