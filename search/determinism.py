"""Seeded randomness that is the same on every platform and for every release of numpy.

Digests, sketches and encoder ids are hashes over arrays; numpy promises no stable streams across releases (NEP 19),
so everything that ends up in a hash is drawn from an extendable-output hash function (SHAKE-256) of its seed instead.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

__all__ = ["random_order", "random_signs", "random_uint16", "random_unit"]


def random_order(n: int, *key: object) -> NDArray[np.int64]:
    """A permutation of 0..n-1, shape (n,), that depends on `key` only."""
    draws = np.frombuffer(_stream(8 * n, *key), dtype="<u8")
    return np.argsort(draws, kind="stable").astype(np.int64)


def random_signs(n: int, *key: object) -> NDArray[np.float64]:
    """`n` independent values of -1 or +1, shape (n,)."""
    bits = np.unpackbits(np.frombuffer(_stream((n + 7) // 8, *key), dtype=np.uint8))[:n]
    return bits.astype(np.float64) * 2.0 - 1.0


def random_uint16(n: int, *key: object) -> NDArray[np.int64]:
    """`n` integers, uniform over 0..65535, shape (n,)."""
    return np.frombuffer(_stream(2 * n, *key), dtype="<u2").astype(np.int64)


def random_unit(n: int, *key: object) -> NDArray[np.float64]:
    """`n` numbers, uniform over [0, 1), shape (n,), each a multiple of 2^-53."""
    draws = np.frombuffer(_stream(8 * n, *key), dtype="<u8")
    return (draws >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _stream(n_bytes: int, *key: object) -> bytes:
    """`n_bytes` of SHAKE-256 over the key; repr keeps ("a", 1) apart from ("a1",)."""
    return hashlib.shake_256(repr(key).encode()).digest(n_bytes)
