"""Both clients against the real server: the same calls, the same answers, the same errors."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from supernet_registry import (
    AsyncRegistryClient,
    JobState,
    RegistryClient,
    SearchSpec,
    SearchWork,
    SourcePolicy,
    Supernet,
)
from supernet_registry.clients.channel.calls import SKETCH_INLINE_BYTES
from supernet_registry.clients.prepare import local_encoder, space_descriptor
from supernet_registry.clients.wire.resources import Encoder, SearchJob
from supernet_registry.errors import (
    EncoderMismatch,
    ETagMismatch,
    InvalidArgument,
    JobFinished,
    NotFound,
    RequestIdReused,
)
from supernet_registry.search.similarity import Sketch, load_encoder
from supernet_registry.search.tasks import pack_images
from tests.tiny_search import QUICK, tiny_dataset, tiny_space


@pytest.fixture
def client(registry_server: Any) -> Iterator[RegistryClient]:
    with RegistryClient(registry_server.address) as connected:
        yield connected


def test_a_dataset_is_sketched_here_and_known_ever_after(client: RegistryClient) -> None:
    """Registering twice gives the same resource; what it says agrees with the data."""
    dataset = tiny_dataset()
    first = client.register_dataset(dataset, retain_images=True)
    assert first == client.get_dataset(first.name) == client.register_dataset(dataset)
    assert (first.digest, first.display_name, first.retain_images) == (dataset.digest, dataset.name, True)
    assert (first.class_count, first.train_count, first.val_count, first.test_count) == (2, 32, 16, 16)
    assert (first.height, first.width, first.channels) == (16, 16, 1)
    assert client.download_blob(first.images_blob) == pack_images(dataset)
    assert list(client.list_datasets()) == [first]


def test_the_sketch_that_travels_is_the_encoders(client: RegistryClient) -> None:
    """The registry's encoder is loaded by name here, and its id must agree."""
    encoder = client.get_encoder()
    assert load_encoder(encoder.encoder).id == encoder.encoder_id
    with pytest.raises(EncoderMismatch) as caught:
        local_encoder(Encoder(encoder="pixels", encoder_id="pixels-v0:other"), None)
    assert caught.value.metadata["server_encoder_id"] == "pixels-v0:other"


def test_nearest_asks_by_sketch_and_stores_nothing(client: RegistryClient) -> None:
    """A question leaves no dataset behind."""
    answer = client.nearest(tiny_dataset(), top_k=3, search_space=tiny_space())
    assert answer.candidates == ()
    assert answer.novel
    assert list(client.list_datasets()) == []


def test_a_sketch_of_moments_only_is_what_the_registry_stores(client: RegistryClient) -> None:
    """And whoever registers the dataset again, with or without, leaves it as it is."""
    stored = client.register_dataset(tiny_dataset(), upload_images=False, moments_only=True)
    assert Sketch.from_bytes(client.download_blob(f"blobs/{stored.sketch_digest}")).moments_only
    assert client.register_dataset(tiny_dataset(), upload_images=False) == stored
    assert not client.find_missing_blobs([f"blobs/{stored.sketch_digest}"])


def test_a_sketch_too_large_for_a_message_goes_as_a_blob(client: RegistryClient) -> None:
    """Above 3 MiB the same methods upload it first."""
    n, d, k, rank = 4096, load_encoder("pixels").dimension, 100, 64
    rng = np.random.default_rng(0)
    large = Sketch(
        features=rng.standard_normal((n, d), dtype=np.float32),
        labels=np.arange(n) % k,
        class_means=rng.standard_normal((k, d), dtype=np.float32),
        class_factors=rng.standard_normal((k, rank, d), dtype=np.float32),
        class_counts=np.full(k, n // k + 1),
        encoder_id=client.get_encoder().encoder_id,
    ).to_bytes()
    assert len(large) > SKETCH_INLINE_BYTES
    assert client.query_nearest_sources(large).candidates == ()
    assert client.find_missing_blobs([f"blobs/{hashlib.sha256(large).hexdigest()}"]) == []


def test_lists_run_through_all_pages_newest_first(client: RegistryClient) -> None:
    """More than one page of 50, without the caller noticing."""
    space = space_descriptor(tiny_space())
    for number in range(60):
        client.create_supernet(f"net-{number:02}", Supernet(search_space=space))
    names = [supernet.name for supernet in client.list_supernets()]
    assert names == [f"supernets/net-{number:02}" for number in reversed(range(60))]


def test_supernets_are_guarded_by_etags(client: RegistryClient) -> None:
    """Nobody overwrites or deletes what they have not seen."""
    created = client.create_supernet("a", Supernet(search_space=space_descriptor(tiny_space())))
    updated = client.update_supernet("supernets/a", etag=created.etag, description="digits", labels={"team": "x"})
    assert (updated.description, dict(updated.labels)) == ("digits", {"team": "x"})
    with pytest.raises(ETagMismatch):
        client.update_supernet("supernets/a", etag=created.etag, description="other")
    with pytest.raises(ETagMismatch):
        client.delete_supernet("supernets/a", etag=created.etag)
    client.delete_supernet("supernets/a", etag=updated.etag)
    with pytest.raises(NotFound):
        client.get_supernet("supernets/a")


def test_jobs_are_validated_listed_and_cancelled(client: RegistryClient) -> None:
    """A dry run writes nothing; filters work; what has ended cannot be cancelled again unless it was."""
    registered = client.register_dataset(tiny_dataset())
    spec = SearchSpec(search=SearchWork())
    draft = SearchJob(supernet="supernets/a", dataset=registered.name, spec=spec, stream="digits", stream_step=3)
    checked = client.create_search_job(draft, validate_only=True)
    assert checked.spec is not None
    assert checked.spec.search is not None
    assert checked.spec.search.source_policy is SourcePolicy.AUTO
    assert list(client.list_search_jobs()) == []

    job = client.create_search_job(draft)
    assert [found.name for found in client.list_search_jobs(JobState.QUEUED, stream="digits")] == [job.name]
    assert list(client.list_search_jobs(stream="other")) == []
    assert client.cancel_search_job(job.name).state is JobState.CANCELLED
    assert client.wait_search_job(job.name).state is JobState.CANCELLED
    with pytest.raises(JobFinished):
        client.lease_search_job("worker", device="cpu", job=job.name)


def test_a_request_id_belongs_to_one_request(client: RegistryClient) -> None:
    """Another search under the same id is refused; a malformed id too."""
    request_id = "5f0c2f0e-6f0f-4b0e-9c5d-000000000002"
    client.submit_search(tiny_dataset(), name="a", space=tiny_space(), request_id=request_id, **QUICK)
    with pytest.raises(RequestIdReused):
        client.submit_search(tiny_dataset(), name="b", space=tiny_space(), request_id=request_id, **QUICK)
    with pytest.raises(InvalidArgument) as caught:
        client.submit_search(tiny_dataset(), name="a", request_id="mine")
    assert "request_id" in caught.value.field


def test_the_asynchronous_client_does_the_same(client: RegistryClient) -> None:
    """One pass through every kind of call, compared with the synchronous answers."""

    async def run() -> None:
        async with AsyncRegistryClient(client.address) as later:
            registered = await later.register_dataset(tiny_dataset())
            assert registered == client.get_dataset(registered.name)
            job = await later.submit_search(tiny_dataset(), name="a", space=tiny_space(), **QUICK)
            assert job == client.get_search_job(job.name)
            assert [found async for found in later.list_search_jobs()] == list(client.list_search_jobs())
            assert (await later.nearest(tiny_dataset(1))).candidates == ()
            assert await later.dataset_map(tiny_dataset(1)) == client.dataset_map(tiny_dataset(1))
            assert await later.dataset_map(registered.name) == client.map_datasets(registered.name)
            with pytest.raises(NotFound):
                await later.get_version("supernets/a/versions/1")
            waiting = asyncio.create_task(later.wait_search_job(job.name))
            await later.cancel_search_job(job.name)
            assert (await waiting).state is JobState.CANCELLED
            events = [event async for event in later.watch_search_job(job.name)]
            assert events == list(client.watch_search_job(job.name))

    asyncio.run(run())
