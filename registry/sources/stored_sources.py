"""Datasets with their versions, as a nearest-source query needs them; what was read before is not read again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from supernet_registry.clients.wire.resources import Dataset, SupernetVersion
from supernet_registry.registry.catalog import Catalog
from supernet_registry.registry.catalog.sources import SourceStamp
from supernet_registry.registry.lru import LruCache

__all__ = ["StoredSource", "StoredSources"]

_MOST_DATASETS = 20_000
_MOST_VERSIONS = 20_000


@dataclass(frozen=True, slots=True)
class StoredSource:
    """A dataset that was searched on."""

    dataset: Dataset
    versions: Sequence[SupernetVersion]
    """Newest first, as they were when they were written: `head` and `dataset_display_name` may have moved on."""


class StoredSources:
    """Reads sources by their stamps: a version never changes, a dataset only with its revision. Thread-safe."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._datasets: LruCache[tuple[int, int, str], Dataset] = LruCache(_MOST_DATASETS)
        self._versions: LruCache[int, SupernetVersion] = LruCache(_MOST_VERSIONS)

    def read(self, stamps: Mapping[str, SourceStamp]) -> dict[str, StoredSource]:
        """Sources by the names of their datasets, without those that were deleted since the stamps were read."""
        datasets = self._read_datasets(stamps)
        versions = self._read_versions([row for stamp in stamps.values() for row in stamp.version_rows])
        return {
            name: StoredSource(datasets[name], [versions[row] for row in stamp.version_rows if row in versions])
            for name, stamp in stamps.items()
            if name in datasets
        }

    def _read_datasets(self, stamps: Mapping[str, SourceStamp]) -> dict[str, Dataset]:
        keys = {name: (stamp.row_id, stamp.revision, stamp.sketch_digest) for name, stamp in stamps.items()}
        kept = {name: self._datasets.get(key) for name, key in keys.items()}
        missing = [name for name, dataset in kept.items() if dataset is None]
        read = self._catalog.datasets.get_many(missing) if missing else {}
        for name, dataset in read.items():
            if dataset.sketch_digest == keys[name][2]:
                self._datasets.put(keys[name], dataset)
        return read | {name: dataset for name, dataset in kept.items() if dataset is not None}

    def _read_versions(self, rows: Sequence[int]) -> dict[int, SupernetVersion]:
        kept = {row: self._versions.get(row) for row in rows}
        missing = [row for row, version in kept.items() if version is None]
        read = self._catalog.sources.versions_by_row(missing) if missing else {}
        for row, version in read.items():
            self._versions.put(row, version)
        return read | {row: version for row, version in kept.items() if version is not None}
