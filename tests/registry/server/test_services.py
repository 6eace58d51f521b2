"""The five services over a real channel: what goes in comes out, and who waits is woken."""

from __future__ import annotations

import hashlib
import itertools
import threading

import grpc
import numpy as np
import pytest

from supernet_registry.clients.prepare import dataset_record
from supernet_registry.clients.registry_client import RegistryClient
from supernet_registry.clients.wire.convert import to_proto
from supernet_registry.clients.wire.protocol import HEADER
from supernet_registry.clients.wire.resources import (
    AbandonOutcome,
    EpochMetrics,
    JobEvent,
    JobState,
    Metrics,
    Phase,
    Supernet,
    SupernetVersion,
)
from supernet_registry.registry.server.thread import ServerThread
from supernet_registry.registry.settings import Settings
from supernet_registry.search import errors
from supernet_registry.search.similarity import load_encoder, make_sketch
from supernet_registry.v1 import datasets_pb2 as pb
from supernet_registry.v1.datasets_pb2 import CreateDatasetRequest
from supernet_registry.v1.datasets_pb2_grpc import DatasetServiceStub
from tests.registry.server.server_tools import GENOTYPE, job_for, make_dataset, weights_blob

MIB = 2**20


def test_the_encoder_is_the_one_that_clients_load_by_its_name(client):
    encoder = client.get_encoder()
    loaded = load_encoder(encoder.encoder)
    assert (encoder.encoder_id, encoder.dimension) == (loaded.id, loaded.dimension)


def test_a_dataset_is_found_again_by_its_content(client):
    data = make_dataset(1)
    created = client.register_dataset(data)
    assert created == client.register_dataset(data)
    assert created.digest == data.digest
    assert [item.name for item in client.list_datasets()] == [created.name]
    client.delete_dataset(created.name)
    with pytest.raises(errors.NotFound):
        client.get_dataset(created.name)


def test_a_sketch_of_another_encoder_is_refused_and_the_right_one_is_named(client):
    class Other:
        id, name, dimension = "other:1", "other", 3

        def encode(self, images):
            return images.reshape(len(images), -1)[:, :3].astype(np.float32)

    sketch = make_sketch(make_dataset(1), Other())
    with pytest.raises(errors.EncoderMismatch) as caught:
        client.query_nearest_sources(sketch.to_bytes())
    assert caught.value.metadata["encoder_id"] == client.get_encoder().encoder_id
    assert caught.value.field == "sketch"


def test_a_sketch_too_large_for_one_message_travels_as_a_blob(client):
    data = make_dataset(1)
    sketch = make_sketch(data, load_encoder("pixels")).to_bytes()
    blob = client.upload_blob(sketch)
    request = CreateDatasetRequest(dataset=to_proto(dataset_record(data, retain_images=False), pb.Dataset))
    request.sketch_blob = blob
    with grpc.insecure_channel(client.address) as channel:
        created = DatasetServiceStub(channel).CreateDataset(request, timeout=30, metadata=(HEADER,))
    assert created.sketch_digest == hashlib.sha256(sketch).hexdigest()
    assert client.query_nearest_sources(blob).dataset_count == 1
    with pytest.raises(errors.NotFound):
        client.query_nearest_sources("blobs/" + "0" * 64)


def test_the_nearest_source_is_the_nearest_dataset_with_a_version(client, finish):
    far = finish(make_dataset(1, other=0.9), "far")
    near = finish(make_dataset(2, other=0.1), "near")
    client.register_dataset(make_dataset(3))  # nearer still, but nobody has searched on it
    answer = client.nearest(make_dataset(4))
    assert [candidate.version for candidate in answer.candidates] == [near.name, far.name]
    assert answer.candidates[0].ot_distance < answer.candidates[1].ot_distance
    assert [candidate.reasons[0].code for candidate in answer.candidates] == ["NEAREST", "FAR"]
    assert answer.dataset_count == 3
    assert not answer.partial


def test_distances_are_remembered(client, finish, registry_server):
    finish(make_dataset(1))
    target = client.register_dataset(make_dataset(2))
    first = client.query_nearest_sources(target.name)
    (stored,) = [item for item in client.list_datasets() if item.name != target.name]
    cached = registry_server.registry.catalog.distances.cached_distance(target.sketch_digest, stored.sketch_digest)
    assert cached == (first.candidates[0].ot_distance, True)
    assert client.query_nearest_sources(target.name).candidates == first.candidates


def test_the_class_coupling_matches_classes_with_their_likes(client, finish):
    finish(make_dataset(1))
    answer = client.nearest(make_dataset(2), include_class_coupling=True)
    coupling = answer.candidates[0].class_coupling
    mass = np.array(coupling.mass).reshape(coupling.rows, coupling.columns)
    np.testing.assert_allclose(mass, np.eye(3) / 3, atol=1e-6)


def test_a_query_sees_the_write_that_it_names(client, finish):
    finish(make_dataset(1))
    latest = client.register_dataset(make_dataset(2))
    answer = client.query_nearest_sources(latest.name, min_index_sequence=latest.index_sequence)
    assert answer.index_sequence >= latest.index_sequence
    with pytest.raises(errors.InvalidArgument) as caught:
        client.query_nearest_sources(latest.name, min_index_sequence=latest.index_sequence + 1000)
    assert caught.value.field == "min_index_sequence"


def test_the_index_is_rebuilt_from_the_catalog(tmp_path):
    settings = Settings(data_dir=tmp_path / "restarted", address="127.0.0.1:0")
    with ServerThread(settings) as server, RegistryClient(server.address) as client:
        datasets = [client.register_dataset(make_dataset(seed)) for seed in range(3)]
        client.delete_dataset(datasets[0].name)
    with ServerThread(settings) as server, RegistryClient(server.address) as client:
        latest = datasets[2].index_sequence
        assert client.query_nearest_sources(datasets[1].name, min_index_sequence=latest).dataset_count == 2


def test_an_empty_registry_answers_that_everything_is_novel(client):
    answer = client.nearest(make_dataset(1))
    assert answer.candidates == ()
    assert answer.novel


def test_a_job_runs_from_queue_to_version_and_every_step_is_watched(client):
    dataset = client.register_dataset(make_dataset(1))
    job = client.create_search_job(job_for(dataset))
    seen: list[JobEvent] = []
    with RegistryClient(client.address) as other:
        watcher = threading.Thread(target=lambda: seen.extend(other.watch_search_job(job.name)))
        watcher.start()
        lease, leased, checkpoint = client.lease_search_job("w", device="cpu")
        assert (leased.name, checkpoint) == (job.name, "")
        epoch = EpochMetrics(phase=Phase.SEARCH, epoch=1, epochs=1, steps=5, val_accuracy=0.5)
        client.report_progress(lease, [JobEvent(epoch=epoch), JobEvent(message="half way")])
        renewed, cancel = client.renew_lease(lease)
        assert renewed.fence == lease.fence
        assert not cancel
        blob = client.upload_blob(weights_blob())
        draft = SupernetVersion(weights_blob=blob, genotype=GENOTYPE, metrics=Metrics(val_accuracy=0.9))
        version, head_moved = client.complete_search_job(lease, draft)
        assert not head_moved
        watcher.join()
    states = [event.state for event in seen if event.state is not None]
    assert states == [JobState.QUEUED, JobState.RUNNING, JobState.SUCCEEDED]
    assert [event.sequence for event in seen] == list(range(1, len(seen) + 1))
    assert [event.message for event in seen if event.message is not None] == ["half way"]
    assert client.get_search_job(job.name).version == version.name
    assert client.get_supernet("supernets/tiny").head == version.name


def test_a_watch_resumes_exactly_and_ends_at_once_when_there_is_nothing_more(client):
    job = client.create_search_job(job_for(client.register_dataset(make_dataset(1))))
    client.cancel_search_job(job.name)
    everything = list(client.watch_search_job(job.name))
    assert everything[-1].state is JobState.CANCELLED
    for cut in range(len(everything) + 1):
        assert list(client.watch_search_job(job.name, after_sequence=cut)) == everything[cut:]


def test_an_idle_worker_is_woken_by_a_new_job(client):
    dataset = client.register_dataset(make_dataset(1))
    leased = []
    with RegistryClient(client.address) as worker:
        waiting = threading.Thread(
            target=lambda: leased.append(worker.lease_search_job("w", device="cpu", wait_seconds=30))
        )
        waiting.start()
        job = client.create_search_job(job_for(dataset))
        waiting.join()
    assert leased[0][1].name == job.name


def test_an_idle_worker_hears_that_there_is_nothing(client):
    assert client.lease_search_job("w", device="cpu", wait_seconds=0.05) is None


def test_a_job_given_back_is_taken_up_with_its_checkpoint(client):
    job = client.create_search_job(job_for(client.register_dataset(make_dataset(1))))
    lease, _, _ = client.lease_search_job("first", device="cpu")
    blob = client.upload_blob(b"state after epoch 3")
    client.save_checkpoint(lease, blob)
    client.abandon_search_job(lease, AbandonOutcome.REQUEUE)
    again, leased, checkpoint = client.lease_search_job("second", device="cpu")
    assert (leased.name, checkpoint) == (job.name, blob)
    assert again.fence > lease.fence
    with pytest.raises(errors.LeaseLost):
        client.renew_lease(lease)


def test_an_expired_lease_goes_to_another_worker_without_anybody_asking(make_registry_server):
    server = make_registry_server(lease_seconds=0.2)
    with RegistryClient(server.address) as client:
        job = client.create_search_job(job_for(client.register_dataset(make_dataset(1))))
        client.lease_search_job("dies", device="cpu")
        again = client.lease_search_job("lives", device="cpu", wait_seconds=30)
    assert again is not None
    assert again[1].name == job.name


@pytest.mark.parametrize("size", [1, 2 * MIB, 2 * MIB + 1, 5 * MIB])
def test_blobs_of_every_size_come_back_as_they_went(client, size):
    data = np.random.default_rng(size).bytes(size)
    name = client.upload_blob(data)
    assert name == f"blobs/{hashlib.sha256(data).hexdigest()}"
    assert client.download_blob(name) == data
    assert client.find_missing_blobs([name, "blobs/" + "0" * 64]) == ["blobs/" + "0" * 64]


def test_a_flipped_bit_is_found_before_the_blob_is_complete(client, registry_server):
    name = client.upload_blob(np.random.default_rng(0).bytes(3 * MIB))
    (path,) = registry_server.settings.blobs_dir.rglob(name.removeprefix("blobs/"))
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    with pytest.raises(errors.BlobCorrupt):
        client.download_blob(name)


def test_supernets_live_their_whole_life(client, finish):
    created = client.create_supernet("mine", Supernet(description="first"))
    assert client.get_supernet(created.name) == created
    updated = client.update_supernet(created.name, etag=created.etag, description="second", labels={"a": "b"})
    assert (updated.description, dict(updated.labels)) == ("second", {"a": "b"})
    with pytest.raises(errors.ETagMismatch):
        client.update_supernet(created.name, etag=created.etag, description="third")
    client.delete_supernet(created.name, etag=updated.etag)
    first = finish(make_dataset(1), "other")
    assert client.get_version("supernets/other/versions/head") == first
    assert [version.name for version in client.list_versions()] == [first.name]
    assert [version.name for version in client.query_lineage("supernets/other").versions] == [first.name]


def test_pages_follow_each_other_without_gap(client):
    names = [client.create_supernet(f"s{i:02}", Supernet()).name for i in range(7)]
    listed = [item.name for item in client.list_supernets()]
    assert listed == names[::-1]
    assert len(set(itertools.chain(listed))) == 7
