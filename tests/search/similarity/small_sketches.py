"""Sketches made of noise, small enough for a reference that does everything the slow way."""

from __future__ import annotations

import numpy as np

from supernet_registry.search.similarity import Sketch

__all__ = ["random_sketch", "reordered"]


def random_sketch(seed: int, *, n: int = 24, d: int = 5, k: int = 3, rank: int = 3, scale: float = 1.0) -> Sketch:
    """Noise in which classes lie apart; every class occurs, with unequal counts."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(k), rng.integers(0, k, n - k)])
    means = rng.normal(size=(k, d)) * 2 * scale
    factors = rng.normal(size=(k, rank, d)) * scale / 2
    return Sketch(
        features=(means[labels] + rng.normal(size=(n, d)) * scale / 2).astype(np.float32),
        labels=labels,
        class_means=means.astype(np.float32),
        class_factors=factors.astype(np.float32),
        class_counts=np.bincount(labels, minlength=k) * rng.integers(1, 5, k),
        encoder_id="noise-v1",
    )


def reordered(sketch: Sketch, seed: int) -> Sketch:
    """The same sketch with points and classes in another order."""
    rng = np.random.default_rng(seed)
    rows, new_ids = rng.permutation(len(sketch.labels)), rng.permutation(sketch.n_classes)
    old_ids = np.argsort(new_ids)
    return Sketch(
        features=sketch.features[rows],
        labels=new_ids[sketch.labels][rows],
        class_means=sketch.class_means[old_ids],
        class_factors=sketch.class_factors[old_ids],
        class_counts=sketch.class_counts[old_ids],
        encoder_id=sketch.encoder_id,
    )
