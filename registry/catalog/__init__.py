"""The catalog: the registry's one truth, a database and a blob store behind synchronous calls.

    catalog = Catalog.open(settings)             # any process: server, publisher, tests
    catalog.datasets, .supernets, .jobs, .leases, .write_back, .blobs, .uploads, .outbox, .mlflow_links, .sweeper
    catalog.close()

All methods are thread-safe, take and return `clients.resources`, and raise `search.errors`.
"""

from __future__ import annotations

import sqlalchemy as sa

from registry.catalog.blobs import Blobs
from registry.catalog.datasets import Datasets
from registry.catalog.jobs import Jobs
from registry.catalog.leases import Leases
from registry.catalog.outbox import MlflowLinks, Outbox
from registry.catalog.supernets import Supernets
from registry.catalog.write_back import WriteBack
from registry.clock import Clock, utc_now
from registry.settings import Settings
from registry.sweep import Sweeper
from registry.uploads import Uploads


class Catalog:
    """Everything stored, opened from settings."""

    engine: sa.Engine
    blobs: Blobs
    uploads: Uploads
    datasets: Datasets
    supernets: Supernets
    jobs: Jobs
    leases: Leases
    write_back: WriteBack
    outbox: Outbox
    mlflow_links: MlflowLinks
    sweeper: Sweeper

    @classmethod
    def open(cls, settings: Settings, *, clock: Clock = utc_now) -> Catalog:
        """Open (creating an empty database where there is none). Raises SchemaMismatch, DiskFull."""
        raise NotImplementedError

    def close(self) -> None:
        """Close all connections."""
        raise NotImplementedError
