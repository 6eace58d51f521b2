"""Content-addressed stores of bytes: one file a store. Which one a registry has is decided here, and nowhere else."""

from __future__ import annotations

from supernet_registry.registry.settings import Settings
from supernet_registry.registry.storage.blobs.local import LocalBlobStore
from supernet_registry.registry.storage.blobs.store import BlobStore

__all__ = ["open_store"]


def open_store(settings: Settings) -> BlobStore:
    """The store that the settings name: files in the data folder. Another kind is another line here."""
    return LocalBlobStore(settings.blobs_dir)
