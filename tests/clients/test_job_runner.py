"""A job runs from lease to write-back in this process, against a real server, with the real search."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from supernet_registry import (
    Executor,
    JobEvent,
    JobState,
    Phase,
    RegistryClient,
    SearchJob,
    SearchSpec,
    SearchWork,
    SupernetVersion,
    TransferMode,
)
from supernet_registry.clients.work.job_runner import run_leased_job
from supernet_registry.errors import DigestMismatch, ImagesMissing
from supernet_registry.search.storage.weights import check_weights
from supernet_registry.search.tasks import pack_images
from tests.tiny_search import QUICK, quick, tiny_dataset, tiny_space


@pytest.fixture
def client(registry_server: Any) -> Iterator[RegistryClient]:
    with RegistryClient(registry_server.address) as connected:
        yield connected


def run(client: RegistryClient, job: SearchJob, **options: Any) -> SupernetVersion | None:
    """Lease a job and run it here, as a worker does."""
    leased = client.lease_search_job("test", device="cpu", job=job.name)
    assert leased is not None
    lease, leased_job, checkpoint = leased
    return run_leased_job(client, lease, leased_job, checkpoint, device="cpu", **options)


@dataclass
class AfterEpochs:
    """A callback that does something when so many epochs have been reported."""

    count: int
    action: Callable[[], object]
    epochs: list[int] = field(default_factory=list)

    def __call__(self, event: JobEvent) -> None:
        if event.epoch is not None:
            self.epochs.append(event.epoch.epoch)
            if len(self.epochs) == self.count:
                self.action()


def test_a_first_job_searches_from_scratch_and_the_next_is_offered_its_result(client: RegistryClient) -> None:
    """Images, decision, epochs, version, metrics and lineage: the whole way of a task, twice."""
    job = client.submit_search(tiny_dataset(), name="stripes", space=tiny_space(), **QUICK)
    version = run(client, job)
    assert version is not None

    events = list(client.watch_search_job(job.name))
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    epochs = [event.epoch for event in events if event.epoch is not None]
    assert [(epoch.phase, epoch.epoch) for epoch in epochs] == [(Phase.SEARCH, 1), (Phase.SEARCH, 2), (Phase.CHILD, 1)]
    ended = client.get_search_job(job.name)
    assert (ended.state, ended.version, ended.attempt) == (JobState.SUCCEEDED, version.name, 1)
    assert ended.decision is not None
    assert (ended.decision.source, ended.decision.transfer_mode) == ("", TransferMode.SCRATCH)
    assert version.metrics is not None
    assert version.metrics.child_parameters > 0
    assert version.metrics.child_macs > 0
    assert version.metrics.child_single_seconds > 0
    assert version.metrics.child_batch_seconds > 0
    assert version.cost is not None
    assert version.cost.search_steps == epochs[1].steps
    assert len(client.download_blob(version.weights_blob)) == version.weights_size_bytes
    assert client.download_blob(version.child_blob)

    relative = client.submit_search(tiny_dataset(1), name="stripes", **QUICK)
    second = run(client, relative)
    assert second is not None
    decision = client.get_search_job(relative.name).decision
    assert decision is not None
    assert {taste.version for taste in decision.tastes} == {"", version.name}
    assert next(taste for taste in decision.tastes if taste.version).ot_distance > 0
    assert client.get_supernet("supernets/stripes").head == second.name
    assert {edge.child for edge in client.query_lineage("supernets/stripes").edges} == {second.name}


def test_a_given_version_is_the_source_without_a_taste(client: RegistryClient) -> None:
    """Policy VERSION: no query decides, but the distance is told where it is known."""
    first = run(client, client.submit_search(tiny_dataset(), name="stripes", space=tiny_space(), **QUICK))
    assert first is not None
    job = client.submit_search(tiny_dataset(1), name="stripes", source=first.name, transfer_mode="ALPHAS_ONLY", **QUICK)
    assert run(client, job) is not None
    decision = client.get_search_job(job.name).decision
    assert decision is not None
    assert (decision.source, decision.transfer_mode) == (first.name, TransferMode.ALPHAS_ONLY)
    assert decision.ot_distance > 0
    assert decision.tastes == ()


def test_a_job_says_how_its_architecture_is_chosen(client: RegistryClient) -> None:
    """Perturbation decides by trial; its fine-tuning counts as work on the child network."""
    options: dict[str, Any] = {"space": tiny_space(), "source": "scratch"}
    first = run(client, client.submit_search(tiny_dataset(), name="stripes", **options, **quick(epochs=1)))
    settings = quick(epochs=1, derivation="perturbation", derivation_steps=2)
    job = client.submit_search(tiny_dataset(), name="stripes", **options, **settings)
    second = run(client, job)
    assert first is not None
    assert second is not None
    assert first.cost is not None
    assert second.cost is not None
    edges = second.genotype.count("~")
    assert second.cost.child_steps == first.cost.child_steps + 2 * edges


def test_a_job_says_whether_its_child_network_is_judged_by_the_validation_split(client: RegistryClient) -> None:
    """Only where that split stays out of its training are there validation figures, of epochs and of the version."""
    for name, holds_out in (("both", False), ("held-out", True)):
        options: dict[str, Any] = {"space": tiny_space(), "source": "scratch"}
        job = client.submit_search(tiny_dataset(), name=name, **options, **quick(epochs=1, child_holds_out=holds_out))
        version = run(client, job)
        assert version is not None
        assert version.metrics is not None
        epochs = [event.epoch for event in client.watch_search_job(job.name) if event.epoch is not None]
        assert [epoch.val_accuracy is not None for epoch in epochs] == [True, holds_out]
        assert (version.metrics.child_val_accuracy is not None) == holds_out
        assert version.metrics.child_test_accuracy is not None


def test_a_job_may_set_any_field_of_the_recipe(client: RegistryClient) -> None:
    """It is kept with the job, zeros as well, and is what the search does."""
    options: dict[str, Any] = {"space": tiny_space(), "source": "scratch"}
    settings = {"least_epoch_steps": 5, "learning_rate": 1e-3, "learning_rate_min": 1e-3}
    settings |= {"horizontal_flip": True, "crop_padding": 0}
    job = client.submit_search(tiny_dataset(), name="stripes", **options, **quick(epochs=1, **settings))
    assert job.spec is not None
    assert (job.spec.recipe["horizontal_flip"], job.spec.recipe["crop_padding"]) == ("true", "0")
    assert run(client, job) is not None
    epochs = [event.epoch for event in client.watch_search_job(job.name) if event.epoch is not None]
    assert [epoch.steps for epoch in epochs] == [5, 5]
    assert epochs[0].learning_rate == pytest.approx(1e-3)


def test_the_search_is_of_the_variant_and_the_space_that_the_job_asks_for(client: RegistryClient) -> None:
    """PC-DARTS with dropped operations, from submission to a stored version of its own kind."""
    space = replace(tiny_space(), channels=8, partial_channels=4)
    options: dict[str, Any] = {"space": space, **quick(variant="pc-darts", drop_shares=[0.5])}
    job = client.submit_search(tiny_dataset(), name="partial", **options)
    assert job.spec is not None
    assert (job.spec.recipe["variant"], job.spec.recipe["drop_shares"]) == ("pc-darts", "0.5")
    entropies: list[float] = []
    version = run(client, job, on_event=lambda event: event.epoch and entropies.append(event.epoch.alpha_entropy))
    assert entropies[0] > 0.99
    assert entropies[1] < 0.9  # after half of the search every edge has an operation fewer
    assert version is not None
    info = check_weights(client.download_blob(version.weights_blob))
    assert info.space == space
    assert "betas.cell" in {tensor.name for tensor in info.tensors}


def test_here_the_images_never_leave(client: RegistryClient) -> None:
    """`search --here`: the registry gets sketch and weights, and no images."""
    dataset = tiny_dataset()
    job = client.submit_search(dataset, name="private", space=tiny_space(), here=True, **QUICK)
    assert job.spec is not None
    assert job.spec.executor is Executor.CALLER
    assert client.lease_search_job("pool", device="cpu") is None
    assert run(client, job, dataset=dataset) is not None
    images = f"blobs/{hashlib.sha256(pack_images(dataset)).hexdigest()}"
    assert client.find_missing_blobs([images]) == [images]
    assert client.get_dataset(job.dataset).images_blob == ""


def test_here_refuses_another_dataset_than_the_jobs(client: RegistryClient) -> None:
    """A mixed-up folder must not become a version of the wrong task."""
    job = client.submit_search(tiny_dataset(), name="private", space=tiny_space(), here=True, **QUICK)
    assert run(client, job, dataset=tiny_dataset(1)) is None
    ended = client.get_search_job(job.name)
    assert ended.state is JobState.FAILED
    assert ended.error is not None
    assert ended.error.reason == DigestMismatch.reason


def test_the_same_request_id_is_the_same_job_and_uploads_nothing_again(client: RegistryClient) -> None:
    """Submitting twice is submitting once."""
    request_id = "5f0c2f0e-6f0f-4b0e-9c5d-000000000001"
    told: list[int] = []

    def submit() -> SearchJob:
        return client.submit_search(
            tiny_dataset(),
            name="a",
            space=tiny_space(),
            request_id=request_id,
            progress=lambda done, _: told.append(done),
            **QUICK,
        )

    first = submit()
    assert told
    told.clear()
    assert submit().name == first.name
    assert not told


def test_a_cancelled_job_stops_within_a_heartbeat(make_registry_server: Callable[..., Any]) -> None:
    """The worker confirms; nothing is written back."""
    server = make_registry_server(lease_seconds=1.5)
    with RegistryClient(server.address) as client:
        job = client.submit_search(tiny_dataset(), name="a", space=tiny_space(), **quick(epochs=5000))
        assert run(client, job, on_event=AfterEpochs(1, lambda: client.cancel_search_job(job.name))) is None
        assert client.get_search_job(job.name).state is JobState.CANCELLED
        assert client.get_supernet("supernets/a").version_count == 0


def events_so_far(client: RegistryClient, job: SearchJob) -> list[JobEvent]:
    """The events of a job that has not ended."""
    last = client.get_search_job(job.name).last_sequence
    return [event for _, event in zip(range(last), client.watch_search_job(job.name), strict=False)]


def test_a_worker_that_leaves_hands_the_job_back_and_the_next_goes_on_exactly_there(client: RegistryClient) -> None:
    """Leaving costs no result: the resumed search ends bit for bit where an uninterrupted one does."""
    options: dict[str, Any] = {**quick(epochs=4), "space": tiny_space()}
    whole = run(client, client.submit_search(tiny_dataset(), name="whole", source="scratch", **options))
    job = client.submit_search(tiny_dataset(), name="parts", source="scratch", **options)
    leave = threading.Event()
    assert run(client, job, on_event=AfterEpochs(2, leave.set), should_leave=leave.is_set) is None
    assert client.get_search_job(job.name).state is JobState.QUEUED

    after = AfterEpochs(0, lambda: None)
    parts = run(client, job, on_event=after)
    assert after.epochs == [3, 4, 1]
    assert parts is not None
    assert whole is not None
    assert parts.weights_blob == whole.weights_blob
    assert parts.child_blob == whole.child_blob
    epochs = [event.epoch.epoch for event in client.watch_search_job(job.name) if event.epoch is not None]
    assert epochs == [1, 2, 3, 4, 1]


def test_a_worker_that_is_leaving_begins_nothing(client: RegistryClient) -> None:
    """A lease that arrives too late is given back untouched."""
    job = client.submit_search(tiny_dataset(), name="a", space=tiny_space(), **QUICK)
    assert run(client, job, should_leave=lambda: True) is None
    assert client.get_search_job(job.name).state is JobState.QUEUED
    assert [event.state for event in events_so_far(client, job)] == ["QUEUED", "RUNNING", "QUEUED"]


def test_a_job_whose_images_have_gone_fails_with_that_reason(client: RegistryClient, registry_server: Any) -> None:
    """Typed errors of the worker are recorded on the job, with their reason."""
    job = client.submit_search(tiny_dataset(), name="a", space=tiny_space(), **QUICK)
    blob = client.get_dataset(job.dataset).images_blob.removeprefix("blobs/")
    damaged = next(registry_server.settings.blobs_dir.rglob(f"*{blob[4:]}"))
    damaged.chmod(0o644)
    damaged.write_bytes(bytes(damaged.stat().st_size))
    assert run(client, job) is None
    ended = client.get_search_job(job.name)
    assert ended.state is JobState.FAILED
    assert ended.error is not None
    assert ended.error.reason == "BLOB_CORRUPT"


def test_a_bug_is_recorded_on_the_job_and_raised(client: RegistryClient) -> None:
    """An exception that nobody foresaw: the job names it, the process gets it."""

    def broken(_: JobEvent) -> None:
        raise ZeroDivisionError("by accident")

    job = client.submit_search(tiny_dataset(), name="a", space=tiny_space(), **QUICK)
    with pytest.raises(ZeroDivisionError):
        run(client, job, on_event=broken)
    ended = client.get_search_job(job.name)
    assert ended.state is JobState.FAILED
    assert ended.error is not None
    assert (ended.error.reason, ended.error.message) == ("INTERNAL", "ZeroDivisionError: by accident")


def test_a_pool_job_without_images_is_refused_at_submission(client: RegistryClient) -> None:
    """The registry says so before anything is queued."""
    registered = client.register_dataset(tiny_dataset(), upload_images=False)
    with pytest.raises(ImagesMissing):
        client.create_search_job(
            SearchJob(supernet="supernets/a", dataset=registered.name, spec=SearchSpec(search=SearchWork()))
        )
