"""One vector a dataset, whose Euclidean distance tracks √OTDD: what the index searches.

Linear optimal transport (Wang et al., IJCV 2013), for labelled data as Wasserstein task embedding (Liu et al.,
arXiv:2208.11726): every dataset is transported exactly to one fixed reference measure; where each reference point's
mass comes from, on average, is written down. A labelled point stands at z = (x, μ_y, √diag Σ_y), in which ‖z - z'‖²
is OTDD's ground cost but for the off-diagonal part of the covariances. The rows, scaled by √mass, are projected to
256 dimensions.

    T(r_i) = Σ_j P_ij z_j / Σ_j P_ij,    embedding = S · vec(√m_i T(r_i)),    ‖e - e'‖² ≈ Σ_i m_i ‖T(r_i) - T'(r_i)‖²

The textbook subtracts r_i; that shifts all embeddings alike, so it is left out. The plan too depends on the reference
only through inner products ⟨r_i, z_j⟩, so neither its position nor its scale matters and one recipe serves every
encoder.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from search._determinism import random_signs, random_uint16, random_unit
from search.similarity.sketch import Sketch
from search.similarity.transport import exact_plan

__all__ = ["EMBEDDING_DIMENSION", "embed", "embedding_id"]

EMBEDDING_DIMENSION = 256
REFERENCE_POINTS = 128

_VERSION = 1
_BLOCKS = 8


def embed(sketch: Sketch) -> NDArray[np.float32]:
    """The embedding, shape (256,). Fixed by the sketch, up to rounding whatever the order of classes and points."""
    z = _joint_points(sketch)  # (n, 3d)
    reference = _reference(sketch.encoder_id, sketch.dimension)  # (M, 3d)
    mass = np.full(REFERENCE_POINTS, 1.0 / REFERENCE_POINTS)
    cost = -(reference @ z.T)  # squared distance less what depends on one side only, halved
    plan, _ = exact_plan(mass, sketch.weights, cost - cost.min())
    rows = (plan @ z) / np.sqrt(mass)[:, None]  # √m T(r), (M, 3d)
    return _project(rows.ravel()).astype(np.float32)


def embedding_id(encoder_id: str, dimension: int) -> str:
    """Hash of all that `embed` adds to a sketch: embeddings of different ids must not share an index."""
    sha = hashlib.sha256(f"{_VERSION} {EMBEDDING_DIMENSION} {encoder_id} {dimension}\n".encode())
    sha.update(_reference(encoder_id, dimension).astype("<f8").tobytes())
    return f"linear-ot-v{_VERSION}-{sha.hexdigest()[:16]}"


def _joint_points(sketch: Sketch) -> NDArray[np.float64]:
    """z = (x, μ_y, √diag Σ_y) of every sampled point, (n, 3d)."""
    spread = np.sqrt((sketch.class_factors.astype(np.float64) ** 2).sum(axis=1))  # (k, d)
    by_class = np.concatenate([sketch.class_means.astype(np.float64), spread], axis=1)  # (k, 2d)
    return np.concatenate([sketch.features.astype(np.float64), by_class[sketch.labels]], axis=1)


@lru_cache(maxsize=4)
def _reference(encoder_id: str, dimension: int) -> NDArray[np.float64]:
    """The reference points, (M, 3d): uniform in the cube [-1, 1), drawn from the hash of the encoder id."""
    values = random_unit(REFERENCE_POINTS * 3 * dimension, "reference", _VERSION, encoder_id, dimension)
    return (2.0 * values - 1.0).reshape(REFERENCE_POINTS, 3 * dimension)


def _project(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(length,) to (256,): keeps distances on average, and each within about 4 %.

    A sparse Johnson-Lindenstrauss map (Kane & Nelson, J. ACM 2014): the output is 8 blocks of 32, and every input
    lands once in each, with a random sign. It equals a dense random matrix here, at a hundredth of its memory.
    """
    buckets, signs = _landings(len(values))
    blocks = [
        np.bincount(bucket, weights=sign * values, minlength=EMBEDDING_DIMENSION // _BLOCKS)
        for bucket, sign in zip(buckets, signs, strict=True)
    ]
    result: NDArray[np.float64] = np.concatenate(blocks) / np.sqrt(_BLOCKS)
    return result


@lru_cache(maxsize=2)
def _landings(length: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Bucket 0..31 and sign of every input in each block, both (8, length)."""
    buckets = random_uint16(_BLOCKS * length, "bucket", _VERSION, length) % (EMBEDDING_DIMENSION // _BLOCKS)
    signs = random_signs(_BLOCKS * length, "sign", _VERSION, length)
    return buckets.reshape(_BLOCKS, length), signs.reshape(_BLOCKS, length)
