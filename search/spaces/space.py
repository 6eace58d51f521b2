"""The typed, hashed description of a search space: which networks a supernet contains.

`SearchSpace` holds numbers and names only and imports no torch, so that the server and a light client can validate
and compare spaces. What the numbers mean is said by the space's `Family` (`search.spaces.family`).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from supernet_registry.search.errors import InvalidSearchSpace

__all__ = ["SearchSpace", "check_ranges"]

_RANGES: dict[str, tuple[int, int]] = {
    "channels": (4, 256),
    "cells": (1, 64),
    "nodes": (1, 8),
    "stem_stride": (1, 2),
    "head_pool": (1, 16),
    "resolution": (16, 256),
    "partial_channels": (1, 16),
}
"""Smallest and largest value of each size. The upper ends keep a hostile request from planning a network that no
machine can hold; the lower end of `channels` keeps every layer wide enough to be split in two (factorised reduction).
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSpace:
    """One search space. Build it with `make_space`, which fills in the family's defaults and validates.

    The fields are those of the wire message `SearchSpace`, where each is explained.
    """

    family: str
    channels: int  # channels of the first cell
    cells: int  # per stage (compact, nas-bench-201) or in all (darts)
    nodes: int  # intermediate nodes of a cell
    operations: tuple[str, ...]  # of every edge, in the order of the columns of α
    stem_stride: int
    head_pool: int  # side of the pooled feature map that the linear head sees; 1 is global average pooling
    resolution: int  # largest image side in pixels
    affine_batch_norm: bool  # whether the supernet's BatchNorm layers have a learnt scale and shift
    partial_channels: int = 1  # K of PC-DARTS: 1/K of the channels pass the mixture, the others go round it

    @property
    def id(self) -> str:
        """`family:` and the first 16 hexadecimal digits of the sha256 of the canonical JSON of all fields."""
        canonical = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return f"{self.family}:{hashlib.sha256(canonical.encode()).hexdigest()[:16]}"

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values; `search.spaces.space_from_json` is the inverse.

        `partial_channels` is left out when it is 1, so that spaces from before it existed keep their ids.
        """
        values = {**asdict(self), "operations": list(self.operations)}
        if self.partial_channels == 1:
            del values["partial_channels"]
        return values


def check_ranges(space: SearchSpace, *, field: str = "search_space") -> None:
    """Raise `InvalidSearchSpace` if a size lies outside of its range."""
    for name, (low, high) in _RANGES.items():
        value = getattr(space, name)
        if not low <= value <= high:
            raise InvalidSearchSpace(
                f"{name}={value} is not between {low} and {high}.",
                remedy="Choose a value in that range, or 0 for the family's default.",
                field=f"{field}.{name}",
            )
    if space.channels % space.partial_channels or space.channels < 2 * space.partial_channels:
        raise InvalidSearchSpace(
            f"{space.channels} channels cannot be divided into {space.partial_channels} parts of at least two.",
            remedy="Choose channels that are a multiple of partial_channels, and at least twice as many.",
            field=f"{field}.partial_channels",
        )
