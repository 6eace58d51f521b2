"""A client, and the shortest way from a dataset to a finished version."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from supernet_registry.clients.registry_client import RegistryClient
from supernet_registry.clients.wire.resources import Metrics, SupernetVersion
from supernet_registry.search.tasks import ImageDataset
from tests.registry.server.server_tools import GENOTYPE, job_for, weights_blob


@pytest.fixture
def client(registry_server) -> Iterator[RegistryClient]:
    """A client of `registry_server`."""
    with RegistryClient(registry_server.address) as opened:
        yield opened


@pytest.fixture
def finish(client) -> Callable[..., SupernetVersion]:
    """`finish(dataset)` registers a dataset and takes a job on it through to a version, as a worker would."""

    def run(data: ImageDataset, supernet: str = "tiny", *, val_accuracy: float = 0.9) -> SupernetVersion:
        dataset = client.register_dataset(data)
        job = client.create_search_job(job_for(dataset, supernet))
        leased = client.lease_search_job("test-worker", device="cpu", job=job.name)
        assert leased is not None
        blob = client.upload_blob(weights_blob(classes=data.n_classes, seed=len(supernet)))
        metrics = Metrics(val_accuracy=val_accuracy, test_accuracy=val_accuracy)
        draft = SupernetVersion(weights_blob=blob, genotype=GENOTYPE, metrics=metrics)
        version, _ = client.complete_search_job(leased[0], draft)
        return version

    return run
