"""What a child network says about images: probabilities with the names that they belong to. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Predictions"]


@dataclass(frozen=True, eq=False)
class Predictions:
    """Class probabilities of N images over K classes."""

    version: str  # of the network, `supernets/{id}/versions/{n}`
    names: tuple[str, ...]  # (N,) of the images: files, or `0`, `1`, …
    class_names: tuple[str, ...]  # (K,)
    probabilities: NDArray[np.float32]  # (N, K)

    @property
    def labels(self) -> NDArray[np.int64]:
        """The most probable class of every image, (N,)."""
        return np.asarray(self.probabilities.argmax(axis=1), np.int64)

    def top(self, count: int) -> tuple[tuple[tuple[str, float], ...], ...]:
        """The `count` most probable classes of every image as (class name, probability), the best first."""
        ranked = np.argsort(-self.probabilities, axis=1, kind="stable")[:, :count]
        return tuple(
            tuple((self.class_names[label], float(row[label])) for label in labels)
            for row, labels in zip(self.probabilities, ranked, strict=True)
        )
