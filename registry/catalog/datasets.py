"""Datasets. (Signatures first; bodies follow.)"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clients.resources import Dataset, SupernetVersion


@dataclass(frozen=True, slots=True, eq=False)
class IndexRow:
    """One change for the vector index; a later row of the same `row_id` replaces an earlier one."""

    sequence: int
    row_id: int
    name: str
    embedding: NDArray[np.float32] | None  # None: deleted
    embedding_id: str


class Datasets:
    """Registered datasets, their sketches, embeddings and distances."""

    def create(
        self,
        dataset: Dataset,
        *,
        sketch: bytes,
        embedding: NDArray[np.float32],
        embedding_id: str,
        request_id: str = "",
    ) -> Dataset:
        """Register; content-addressed and idempotent. Output-only fields of `dataset` are ignored.

        A dataset that exists already is returned as stored, with `images_blob` attached if it has none and
        `retain_images` raised to true if asked for; its sketch is replaced only if the encoder changed.
        """
        raise NotImplementedError

    def get(self, name: str) -> Dataset:
        raise NotImplementedError

    def list(self, *, page_size: int = 0, page_token: str = "") -> tuple[list[Dataset], str]:
        raise NotImplementedError

    def update(
        self,
        name: str,
        *,
        etag: str = "",
        display_name: str | None = None,
        images_blob: str | None = None,
        retain_images: bool | None = None,
    ) -> Dataset:
        raise NotImplementedError

    def delete(self, name: str, *, etag: str = "") -> None:
        raise NotImplementedError

    def sketch_bytes(self, name: str) -> bytes:
        """The serialised sketch."""
        raise NotImplementedError

    def index_rows(self, after_sequence: int = 0) -> "list[IndexRow]":
        """Changes after a sequence, ascending."""
        raise NotImplementedError

    def latest_sequence(self) -> int:
        raise NotImplementedError

    def versions_on(self, names: Iterable[str]) -> dict[str, "list[SupernetVersion]"]:
        """Versions searched on each dataset, newest first; datasets without any have an empty list."""
        raise NotImplementedError

    def cached_distance(self, digest_a: str, digest_b: str) -> tuple[float, bool] | None:
        """(distance, converged) of two sketches by their digests, either order."""
        raise NotImplementedError

    def store_distance(self, digest_a: str, digest_b: str, distance: float, *, converged: bool) -> None:
        raise NotImplementedError

    def all_nearest_distances(self) -> "list[float]":
        """For each registered dataset the smallest cached distance to another registered one: the novelty yardstick."""
        raise NotImplementedError
