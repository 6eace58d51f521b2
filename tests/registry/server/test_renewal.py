"""A server that starts on another release's embeddings computes them anew while it serves."""

from __future__ import annotations

import time
from pathlib import Path

import sqlalchemy as sa

from supernet_registry.clients.registry_client import RegistryClient
from supernet_registry.registry.server.thread import ServerThread
from supernet_registry.registry.settings import Settings
from supernet_registry.registry.storage.database import open_database
from supernet_registry.registry.storage.schema import datasets
from tests.registry.server.server_tools import make_dataset


def test_datasets_come_back_into_the_index_after_an_upgrade_of_the_embedding(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "registry", address="127.0.0.1:0", drain_seconds=1.0)
    with ServerThread(settings) as server, RegistryClient(server.address) as client:
        registered = [client.register_dataset(make_dataset(seed)) for seed in range(3)]
        embeddings = [server.registry.catalog.embeddings.embedding(dataset.name) for dataset in registered]
    engine = open_database(settings.resolved_database_url)
    with engine.begin() as connection:
        connection.execute(datasets.update().values(embedding_id="of the release before", embedding=b"\0" * 16))
    engine.dispose()

    with ServerThread(settings) as server, RegistryClient(server.address) as client:
        while len(server.registry.index) < 3:
            time.sleep(0.01)
        latest = server.registry.catalog.embeddings.latest_sequence()
        found = client.query_nearest_sources(registered[0].name, min_index_sequence=latest)
        assert found.dataset_count == 3
        for dataset, (stored_id, vector) in zip(registered, embeddings, strict=True):
            renewed_id, renewed = server.registry.catalog.embeddings.embedding(dataset.name)
            assert renewed_id == stored_id == server.registry.embedding_id
            assert renewed.tobytes() == vector.tobytes()
            assert client.get_dataset(dataset.name).etag == dataset.etag


def test_a_server_stops_at_once_in_the_middle_of_renewing(tmp_path: Path) -> None:
    """What is done is stored; the next start goes on with the rest."""
    settings = Settings(data_dir=tmp_path / "registry", address="127.0.0.1:0", drain_seconds=1.0)
    with ServerThread(settings) as server, RegistryClient(server.address) as client:
        for seed in range(8):
            client.register_dataset(make_dataset(seed))
        current = server.registry.embedding_id
    engine = open_database(settings.resolved_database_url)
    with engine.begin() as connection:
        connection.execute(datasets.update().values(embedding_id="of the release before"))
    with ServerThread(settings):
        pass
    with engine.begin() as connection:
        stored = connection.execute(sa.select(datasets.c.embedding_id)).scalars().all()
    engine.dispose()
    assert set(stored) <= {current, "of the release before"}
    with ServerThread(settings) as server:
        while len(server.registry.index) < 8:
            time.sleep(0.01)
