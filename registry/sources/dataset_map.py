"""The map of datasets: their embeddings on a plane, so that distances there resemble those of the embeddings.

Classical multidimensional scaling (Torgerson 1952) of Euclidean distances, which is the same as the first two principal
components of the centred embeddings (Gower 1966): no plane keeps more of the variance. Unlike t-SNE or UMAP it has no
random start and no setting, and its distances can be read: none is longer than that of the embeddings. How much of the
variance the plane shows is said beside it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from supernet_registry.clients.wire.resources import DatasetMap, DatasetPoint
from supernet_registry.registry.catalog.dataset_points import DatasetPoints, StoredPoint
from supernet_registry.registry.index.embedding_index import EmbeddingIndex
from supernet_registry.search.errors import InvalidArgument
from supernet_registry.search.similarity import Sketch, embed

__all__ = ["DEFAULT_DATASETS", "MOST_DATASETS", "DatasetMapper", "MapTarget", "on_a_plane"]

DEFAULT_DATASETS = 500
MOST_DATASETS = 2000
"""A decomposition of so many embeddings takes a fraction of a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MapTarget:
    """The dataset to be placed among the others."""

    sketch: Sketch
    name: str = ""
    """`datasets/{id}` if it is registered."""


class DatasetMapper:
    """Draws maps of the stored datasets. Thread-safe.

    Args:
        points: the catalog's datasets.
        index: embeddings of all datasets.
        embedding_id: what the embeddings of the index are comparable with; others are not on the map.
    """

    def __init__(self, points: DatasetPoints, index: EmbeddingIndex, embedding_id: str) -> None:
        self._points = points
        self._index = index
        self._embedding_id = embedding_id

    def draw(self, target: MapTarget | None = None, *, max_datasets: int = 0) -> DatasetMap:
        """Place stored datasets on a plane: those nearest to the target, without one the newest.

        Args:
            target: comes first among the points, on top of `max_datasets` others. A sketch that a stored dataset has
                as well is taken for that dataset.
            max_datasets: 0 means DEFAULT_DATASETS; at most MOST_DATASETS.

        Raises:
            InvalidArgument: `max_datasets` is out of range.
        """
        if not 0 <= max_datasets <= MOST_DATASETS:
            raise InvalidArgument(
                f"{max_datasets} is not between 0 and {MOST_DATASETS}.",
                field="max_datasets",
                remedy=f"Leave it out for {DEFAULT_DATASETS}.",
            )
        count = max_datasets or DEFAULT_DATASETS
        sequence = self._index.catch_up()
        if target is None:
            stored = self._points.newest(count, embedding_id=self._embedding_id)
            vectors, shown = [point.embedding for point in stored], [_point(point) for point in stored]
        else:
            vectors, shown = self._around(target, count)
        places, share = on_a_plane(np.array(vectors, dtype=np.float64))
        points = tuple(
            DatasetPoint(
                dataset=point.dataset,
                display_name=point.display_name,
                x=float(x),
                y=float(y),
                target=point.target,
                version=point.version,
            )
            for point, (x, y) in zip(shown, places, strict=True)
        )
        return DatasetMap(points=points, explained_share=share, index_sequence=sequence)

    def _around(self, target: MapTarget, count: int) -> tuple[list[NDArray[np.float32]], list[DatasetPoint]]:
        """The target and its `count` nearest: embeddings, and points without their places."""
        vector, digest = embed(target.sketch), target.sketch.digest
        near = [hit.name for hit in self._index.search(vector, count + 1)]
        wanted = [target.name, *(name for name in near if name != target.name)] if target.name else near
        stored = self._points.among(wanted, embedding_id=self._embedding_id)
        itself = next((p for p in stored if p.name == target.name or p.sketch_digest == digest), None)
        others = [point for point in stored if point is not itself][:count]
        first = DatasetPoint(dataset=target.name, target=True) if itself is None else _point(itself, target=True)
        return [vector, *(point.embedding for point in others)], [first, *map(_point, others)]


def on_a_plane(vectors: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Classical scaling to two dimensions.

    The direction of an axis is that of its largest loading, so that a map does not flip when a dataset is added.

    Args:
        vectors: shape (n, d), finite; none at all will do.

    Returns:
        Places, shape (n, 2), centred, in units of the vectors' distance; and the share of the variance that they
        show, in [0, 1] (1 where all vectors are equal).
    """
    places = np.zeros((len(vectors), 2))
    if len(vectors) < 2:
        return places, 1.0
    left, scales, axes = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
    shown = min(2, len(scales))
    largest = np.abs(axes[:shown]).argmax(axis=1)
    signs = np.where(axes[np.arange(shown), largest] < 0, -1.0, 1.0)
    places[:, :shown] = left[:, :shown] * scales[:shown] * signs
    variance = np.square(scales)
    total = float(variance.sum())
    return places, min(1.0, float(variance[:2].sum()) / total) if total > 0 else 1.0


def _point(stored: StoredPoint, *, target: bool = False) -> DatasetPoint:
    return DatasetPoint(dataset=stored.name, display_name=stored.display_name, target=target, version=stored.version)
