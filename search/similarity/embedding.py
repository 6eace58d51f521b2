"""One vector a dataset, whose Euclidean distance tracks √OTDD: what the index searches.

OTDD's ground cost is a sum, and so is the vector. Both parts are made from the moments of the whole split alone: the
embedding is the same whichever images a sketch samples, and whether or not it is of moments only.

- Features: W₂² between the datasets' images, as if each were one Gaussian, ‖m - m'‖² + ‖Σ^½ - Σ'^½‖². The last term
  is W₂²'s own where the covariances commute, and between it and twice it otherwise (Bhatia, Jain & Lim 2019).
- Labels: linear optimal transport (Wang et al., IJCV 2013), as in the Wasserstein task embedding (Liu et al.,
  arXiv:2208.11726), of the classes. A class is a point z_c = (μ_c, Σ_c^½) of mass w_c, in which ‖z - z'‖² is OTDD's
  label distance with the same reservation. The classes are transported exactly to a fixed reference measure, and what
  arrives at each reference point, on average, is written down:

    T(r_i) = Σ_c P_ic z_c / Σ_c P_ic,      embedding = S · (m, vec Σ^½, vec √m_i T(r_i))

S projects to 512 dimensions at random. The textbook subtracts r_i from T(r_i); that shifts all embeddings alike, so it
is left out. The plan too depends on the reference only through inner products ⟨r_i, z_c⟩, so neither its position nor
its scale matters and one recipe serves every encoder. Nothing is fitted to any data.

Blind spot: datasets that agree in all these moments have one embedding, however their images are distributed beyond.
The exact distance, which ranks the shortlist, sees the difference.

Legend of shapes: k classes; r rank of the covariance factors; d feature dimension; e = min(d, 128); M reference points.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from supernet_registry.search.determinism import random_signs, random_uint16, random_unit
from supernet_registry.search.similarity.coupling import exact_plan
from supernet_registry.search.similarity.sketch import Sketch

__all__ = ["EMBEDDING_DIMENSION", "embed", "embedding_id"]

Floats = NDArray[np.float64]

EMBEDDING_DIMENSION = 512
REFERENCE_POINTS = 64

ROOT_DIMENSION = 128
"""Most dimensions of a covariance's root, whose cost grows with the cube: features of more are projected for it."""
CLASS_ROOT_DIMENSION = 96
"""Numbers that are kept of the root of a class's covariance."""

_VERSION = 2
_BLOCKS = 8
_VANISHING = 1e-12
"""Share of the largest variance below which a direction of a covariance factor is rounding."""


def embed(sketch: Sketch) -> NDArray[np.float32]:
    """The embedding, shape (512,). Fixed by the moments, up to rounding whatever the order of the classes."""
    means = sketch.class_means.astype(np.float64)  # (k, d)
    shares = sketch.class_counts / sketch.class_counts.sum()  # (k,)
    mean = shares @ means
    narrow = _narrowing(sketch.dimension)  # (d, e)
    factors = sketch.class_factors.astype(np.float64) @ narrow  # (k, r, e)
    between = np.sqrt(shares)[:, None] * ((means - mean) @ narrow)  # (k, e)
    within = (np.sqrt(shares)[:, None, None] * factors).reshape(-1, factors.shape[2])  # (k r, e)
    root = _upper(_square_root(within.T @ within + between.T @ between))  # of the covariance of all images
    classes = np.concatenate([means, _class_roots(factors)], axis=1)
    transported = _transported(classes, shares, _reference(sketch.encoder_id, sketch.dimension))
    return _project(np.concatenate([mean, root, transported.ravel()])).astype(np.float32)


def embedding_id(encoder_id: str, dimension: int) -> str:
    """Hash of all that `embed` adds to a sketch: embeddings of different ids must not share an index."""
    sha = hashlib.sha256(f"{_VERSION} {EMBEDDING_DIMENSION} {encoder_id} {dimension}\n".encode())
    sha.update(_reference(encoder_id, dimension).astype("<f8").tobytes())
    return f"linear-ot-v{_VERSION}-{sha.hexdigest()[:16]}"


def _transported(z: Floats, shares: Floats, reference: Floats) -> Floats:
    """√m T(r), (M, ·), of classes z (k, ·) of masses `shares` (k,)."""
    mass = np.full(len(reference), 1.0 / len(reference))
    cost = -(reference @ z.T)  # squared distance less what depends on one side only, halved
    plan, _ = exact_plan(mass, shares, cost - cost.min())
    result: Floats = (plan @ z) / np.sqrt(mass)[:, None]
    return result


def _class_roots(factors: Floats) -> Floats:
    """Σ_c^½ of every class from factors F (k, r, e), compressed to (k, 96).

    Σ^½ = Fᵀ (F Fᵀ)^-½ F = HᵀH with H = Λ^-¼ Vᵀ F, where F Fᵀ = V Λ Vᵀ is a matrix of the small size r. The rows of F
    need not be orthogonal: a stranger's sketch may hold any factor.
    """
    variances, vectors = np.linalg.eigh(factors @ factors.transpose(0, 2, 1))  # (k, r), (k, r, r)
    there = variances > _VANISHING * variances.max(initial=0.0)
    scale = np.where(there, np.where(there, variances, 1.0) ** -0.25, 0.0)
    quarters = scale[:, :, None] * (vectors.transpose(0, 2, 1) @ factors)  # H, (k, r, e)
    return _upper(quarters.transpose(0, 2, 1) @ quarters) @ _class_compression(factors.shape[2])


def _square_root(covariance: Floats) -> Floats:
    variances, vectors = np.linalg.eigh(covariance)
    result: Floats = (vectors * np.sqrt(variances.clip(min=0.0))) @ vectors.T
    return result


def _upper(matrices: Floats) -> Floats:
    """Symmetric (..., e, e) as vectors (..., e (e + 1) / 2) of the same Frobenius norm."""
    e = matrices.shape[-1]
    rows, columns = np.triu_indices(e)
    upper = np.take(matrices.reshape(*matrices.shape[:-2], e * e), rows * e + columns, axis=-1)
    result: Floats = upper * np.where(rows == columns, 1.0, np.sqrt(2.0))
    return result


@lru_cache(maxsize=4)
def _reference(encoder_id: str, dimension: int) -> Floats:
    """The reference points, (M, d + 96): uniform in the cube [-1, 1), drawn from the hash of the encoder id."""
    shape = (REFERENCE_POINTS, dimension + CLASS_ROOT_DIMENSION)
    values = random_unit(shape[0] * shape[1], "reference", _VERSION, encoder_id, dimension)
    return (2.0 * values - 1.0).reshape(shape)


@lru_cache(maxsize=4)
def _narrowing(dimension: int) -> Floats:
    """(d, e): the identity, or beyond 128 dimensions random signs that keep distances on average."""
    if dimension <= ROOT_DIMENSION:
        return np.eye(dimension)
    signs = random_signs(dimension * ROOT_DIMENSION, "narrowing", _VERSION, dimension)
    narrowing: Floats = signs.reshape(dimension, ROOT_DIMENSION) / np.sqrt(ROOT_DIMENSION)
    return narrowing


@lru_cache(maxsize=4)
def _class_compression(dimension: int) -> Floats:
    """(e (e + 1) / 2, 96), random signs."""
    length = dimension * (dimension + 1) // 2
    signs = random_signs(length * CLASS_ROOT_DIMENSION, "class", _VERSION, dimension)
    compression: Floats = signs.reshape(length, CLASS_ROOT_DIMENSION) / np.sqrt(CLASS_ROOT_DIMENSION)
    return compression


def _project(values: Floats) -> Floats:
    """(length,) to (512,): keeps distances on average, and each within about 3 %.

    A sparse Johnson-Lindenstrauss map (Kane & Nelson, J. ACM 2014): the output is 8 blocks of 64, and every input
    lands once in each, with a random sign. It equals a dense random matrix here, at a hundredth of its memory.
    """
    buckets, signs = _landings(len(values))
    blocks = [
        np.bincount(bucket, weights=sign * values, minlength=EMBEDDING_DIMENSION // _BLOCKS)
        for bucket, sign in zip(buckets, signs, strict=True)
    ]
    result: Floats = np.concatenate(blocks) / np.sqrt(_BLOCKS)
    return result


@lru_cache(maxsize=2)
def _landings(length: int) -> tuple[NDArray[np.int64], Floats]:
    """Bucket 0..63 and sign of every input in each block, both (8, length)."""
    buckets = random_uint16(_BLOCKS * length, "bucket", _VERSION, length) % (EMBEDDING_DIMENSION // _BLOCKS)
    signs = random_signs(_BLOCKS * length, "sign", _VERSION, length)
    return buckets.reshape(_BLOCKS, length), signs.reshape(_BLOCKS, length)
