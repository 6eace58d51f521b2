"""The catalog: the registry's one truth, a database and a blob store behind synchronous calls.

    with Catalog.open(settings) as catalog:      # any process: server, publisher, tools, tests
        catalog.datasets, .supernets, .jobs      # what users ask for
        catalog.distances, .embeddings, .sources # what a nearest-source query reads
        catalog.dataset_points, .tastes          # what the map and the gain model need
        catalog.leases, .write_back              # what workers need
        catalog.blobs, .uploads                  # bytes
        catalog.outbox, .mlflow_links            # what the publisher needs
        catalog.sweeper                          # housekeeping

All methods may be called from any thread, take and return `clients.wire.resources`, and raise `search.errors`.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

import sqlalchemy as sa

from supernet_registry.registry.catalog.blobs import Blobs
from supernet_registry.registry.catalog.dataset_points import DatasetPoints
from supernet_registry.registry.catalog.datasets import Datasets
from supernet_registry.registry.catalog.distances import DistanceCache
from supernet_registry.registry.catalog.embeddings import StoredEmbeddings
from supernet_registry.registry.catalog.jobs import Jobs
from supernet_registry.registry.catalog.leases import Leases
from supernet_registry.registry.catalog.outbox import MlflowLinks, Outbox
from supernet_registry.registry.catalog.sources import SourceStamps
from supernet_registry.registry.catalog.supernets import Supernets
from supernet_registry.registry.catalog.sweep import Sweeper
from supernet_registry.registry.catalog.tastes import Tastes
from supernet_registry.registry.catalog.uploads import Uploads
from supernet_registry.registry.catalog.write_back import WriteBack
from supernet_registry.registry.clock import Clock, utc_now
from supernet_registry.registry.settings import Settings
from supernet_registry.registry.storage.blobs import open_store
from supernet_registry.registry.storage.blobs.store import BlobStore
from supernet_registry.registry.storage.database import open_database

__all__ = ["Catalog"]


class Catalog:
    """Everything stored, opened from settings."""

    def __init__(self, engine: sa.Engine, store: BlobStore, settings: Settings, clock: Clock = utc_now) -> None:
        self._engine = engine
        self.blobs = Blobs(engine, store, clock, grace_seconds=settings.blob_grace_seconds)
        self.uploads = Uploads(engine, self.blobs, settings, clock)
        self.datasets = Datasets(engine, self.blobs, clock)
        self.distances = DistanceCache(engine)
        self.embeddings = StoredEmbeddings(engine)
        self.sources = SourceStamps(engine)
        self.dataset_points = DatasetPoints(engine)
        self.tastes = Tastes(engine)
        self.supernets = Supernets(engine, clock)
        self.jobs = Jobs(engine, clock)
        self.leases = Leases(engine, self.blobs, settings, clock)
        self.write_back = WriteBack(engine, self.blobs, settings, clock)
        self.outbox = Outbox(engine, clock)
        self.mlflow_links = MlflowLinks(engine)
        self.sweeper = Sweeper(engine, self.blobs, self.uploads, settings, clock)

    @classmethod
    def open(cls, settings: Settings, *, clock: Clock = utc_now) -> Catalog:
        """Open the database (creating it where there is none) and the blob store that the settings name.

        Raises:
            SchemaMismatch: the database is of another release.
            InvalidArgument: `database_url`.
            DiskFull.
        """
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        engine = open_database(settings.resolved_database_url)
        return cls(engine, open_store(settings), settings, clock)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
