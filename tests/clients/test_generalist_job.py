"""The generalist as a job: from several retained datasets to a version, and from there into the taste of others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from supernet_registry import (
    JobEvent,
    JobState,
    ParentRole,
    RegistryClient,
    SearchJob,
    SearchSpec,
    SourceDecision,
    SupernetVersion,
)
from supernet_registry.clients.work.job_runner import run_leased_job
from supernet_registry.errors import (
    DimensionMismatch,
    ImagesMissing,
    InvalidArgument,
    NotFound,
    RequestIdReused,
    SpaceMismatch,
    StillReferenced,
)
from supernet_registry.search.tasks import ImageDataset
from tests.tiny_search import quick, tiny_dataset, tiny_space


def options(**settings: Any) -> dict[str, Any]:
    """Of a generalist of seconds, with some settings otherwise."""
    return {"space": tiny_space(), "recipe": {"epochs": 2, "batch_size": 16, "patience": 99, **settings}}


OPTIONS = options()
REQUEST = "5f0c2f0e-6f0f-4b0e-9c5d-000000000077"


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


def done(client: RegistryClient, job: SearchJob) -> SupernetVersion:
    version = run(client, job)
    assert version is not None, client.get_search_job(job.name).error
    return version


def retained(client: RegistryClient, *seeds: int) -> list[str]:
    """Datasets whose images the registry keeps; odd seeds have three classes."""
    return [
        client.register_dataset(tiny_dataset(seed, n_classes=2 + seed % 2), retain_images=True).name for seed in seeds
    ]


def arrays(dataset: ImageDataset) -> dict[str, Any]:
    splits = dict(dataset.splits())
    images = {f"x_{name}": split.images for name, split in splits.items()}
    return images | {f"y_{name}": split.labels for name, split in splits.items()}


def messages(client: RegistryClient, job: SearchJob) -> list[str]:
    return [event.message for event in client.watch_search_job(job.name) if event.message]


def test_a_generalist_is_a_job_and_its_version_a_candidate_of_every_later_search(client: RegistryClient) -> None:
    """The nearest keeps its place in a taste of one candidate; the generalist is tasted beside it."""
    names = retained(client, 0, 2)
    job = client.pretrain_generalist(names, **options(epochs=8))
    assert (job.spec.kind, job.supernet, job.dataset_display_name) == (
        "generalist",
        "supernets/generalist",
        "2 datasets",
    )
    version = done(client, job)
    ended = client.get_search_job(job.name)
    assert (ended.state, ended.version, ended.spec.kind) == (JobState.SUCCEEDED, version.name, "generalist")
    assert version.datasets == tuple(names)
    assert version.child_blob == ""
    assert version.parents == ()
    assert client.get_supernet("supernets/generalist").head == version.name
    assert [epoch.epoch.epoch for epoch in client.watch_search_job(job.name) if epoch.epoch] == [*range(1, 9)]

    tiny: dict[str, Any] = {**quick(epochs=1, child_epochs=0), "space": tiny_space()}
    near = done(client, client.submit_search(tiny_dataset(6), name="near", **tiny))
    assert client.get_version(near.name).datasets == ()
    found = client.nearest(tiny_dataset(4), search_space=tiny_space(), top_k=1)
    assert [(c.version, c.origin) for c in found.candidates] == [(near.name, "nearest"), (version.name, "generalist")]
    offered = found.candidates[-1]
    assert offered.eligible
    assert offered.reasons[0].code == "GENERALIST"
    assert (offered.dataset, offered.tied, offered.predictions) == ("", False, {})
    elsewhere = client.nearest(tiny_dataset(4), search_space=replace(tiny_space(), channels=6))
    assert not any(candidate.origin == "generalist" for candidate in elsewhere.candidates)

    target = client.submit_search(
        tiny_dataset(4), name="target", **quick(epochs=1, child_epochs=0, taste_candidates=1), space=tiny_space()
    )
    done(client, target)
    decision = client.get_search_job(target.name).decision
    assert isinstance(decision, SourceDecision)
    assert {taste.version for taste in decision.tastes} == {"", near.name, version.name}
    (tasted,) = [taste for taste in decision.tastes if taste.version == version.name]
    assert tasted.reason.startswith("the generalist, ")


def test_it_goes_on_from_a_base_and_tells_what_became_of_the_old_datasets(client: RegistryClient) -> None:
    """The base is the parent; its datasets come first and are learnt along. Interrupted, the result is the same."""
    old = retained(client, 0, 1)
    base = done(client, client.pretrain_generalist(old, **OPTIONS))
    (new,) = retained(client, 2)
    more: dict[str, Any] = {**OPTIONS, "space": None, "base": base.name}
    job = client.pretrain_generalist([new], **more)
    assert job.spec is not None
    assert job.spec.datasets == (*old, new)
    assert job.spec.search_space == base.search_space

    leave = threading.Event()

    def after_one_epoch(event: JobEvent) -> None:
        if event.epoch is not None:
            leave.set()

    assert run(client, job, on_event=after_one_epoch, should_leave=leave.is_set) is None
    assert client.get_search_job(job.name).state is JobState.QUEUED
    version = done(client, job)
    assert {(parent.version, parent.role) for parent in version.parents} == {
        (base.name, ParentRole.SOURCE),
        (base.name, ParentRole.PREVIOUS_HEAD),
    }
    assert version.datasets == (*old, new)
    told = messages(client, job)
    assert [sum(f"stripes {seed}: validation accuracy" in text for text in told) for seed in (0, 1, 2)] == [1, 1, 0]

    undisturbed = done(client, client.pretrain_generalist([new], name="whole", **more))
    assert undisturbed.weights_blob == version.weights_blob

    watched = client.pretrain_generalist([new], name="watched", **(more | options(epochs=1)), replay=False)
    assert done(client, watched).datasets == (*old, new)
    assert sum("without being trained along" in text for text in messages(client, watched)) == 2


def test_only_retained_images_will_do(client: RegistryClient) -> None:
    names = retained(client, 0)
    without = client.register_dataset(tiny_dataset(1), upload_images=False).name
    passing = client.register_dataset(tiny_dataset(2)).name
    for name in (without, passing):
        with pytest.raises(ImagesMissing, match="retain"):
            client.pretrain_generalist([*names, name], **OPTIONS)
    with pytest.raises(NotFound):
        client.pretrain_generalist([*names, f"datasets/{'0' * 32}"], **OPTIONS)


def test_what_an_unfinished_generalist_needs_is_neither_detached_nor_deleted(client: RegistryClient) -> None:
    """Of all its datasets, not only of the first; afterwards the second is still part of the history."""
    first, second = retained(client, 0, 1)
    job = client.pretrain_generalist([first, second], **options(epochs=1))
    with pytest.raises(StillReferenced, match=r"Unfinished jobs need the images"):
        client.update_dataset(second, images_blob="")
    done(client, job)
    client.update_dataset(second, images_blob="")
    with pytest.raises(StillReferenced):
        client.delete_dataset(second)


def test_a_request_is_checked_and_made_once(client: RegistryClient) -> None:
    names = retained(client, 0, 1)
    checked = client.pretrain_generalist(names, **OPTIONS, validate_only=True)
    assert (checked.name, checked.spec.kind, checked.dataset) == ("", "generalist", names[0])
    assert list(client.list_search_jobs()) == []
    job = client.pretrain_generalist(names, **OPTIONS, request_id=REQUEST)
    assert client.pretrain_generalist(names, **OPTIONS, request_id=REQUEST).name == job.name
    with pytest.raises(RequestIdReused):
        client.pretrain_generalist(names, **options(epochs=9), request_id=REQUEST)
    assert client.cancel_search_job(job.name).state is JobState.CANCELLED


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"datasets": []}, "spec.generalist.datasets"),
        ({"datasets": ["nonsense"]}, "spec.generalist.datasets[0]"),
        ({"replay": False}, "spec.generalist.without_replay"),
        ({"recipe": {"epochs": -1}}, "spec.recipe.epochs"),
        ({"base": "nonsense"}, "spec.generalist.base_version"),
        ({"name": "No Name"}, "supernet"),
    ],
)
def test_nonsense_is_refused_with_its_field(client: RegistryClient, change: dict[str, Any], field: str) -> None:
    values = {"datasets": retained(client, 0, 1), **OPTIONS, **change}
    with pytest.raises(InvalidArgument) as caught:
        client.pretrain_generalist(values.pop("datasets"), **values)
    assert caught.value.field == f"search_job.{field}"


def test_a_job_names_its_kind_of_work(client: RegistryClient) -> None:
    """A kind that this registry does not know looks like none; it is refused, not taken for a search."""
    (name,) = retained(client, 0)
    with pytest.raises(InvalidArgument, match="kind of work") as caught:
        client.create_search_job(SearchJob(supernet="supernets/a", dataset=name, spec=SearchSpec()))
    assert "search, generalist" in caught.value.remedy


def test_weights_of_another_space_or_with_other_heads_are_refused(client: RegistryClient) -> None:
    """As a base; and at write-back, where the same heads in another order would be taken for each other."""
    names = retained(client, 0, 1)
    there = done(client, client.pretrain_generalist(names, **options(epochs=1)))
    other = {**OPTIONS, "space": replace(tiny_space(), channels=6)}
    with pytest.raises(SpaceMismatch):
        client.pretrain_generalist([], **other, name="other", base=there.name)
    job = client.pretrain_generalist(names[::-1], **options(epochs=1), name="turned")
    leased = client.lease_search_job("test", device="cpu", job=job.name)
    assert leased is not None
    with pytest.raises(DimensionMismatch, match="heads"):
        client.complete_search_job(leased[0], there)


def test_the_command_resolves_names_waits_and_shows_the_result(
    client: RegistryClient, idle: Callable[..., SimpleNamespace], tmp_path: Path
) -> None:
    """By display name, by resource name, or all that is retained; a name of none is an error in one line."""
    names = retained(client, 0, 1)
    client.register_dataset(tiny_dataset(2))  # not retained
    words = ["generalist", "--channels", 4, "--cells", 1, "--stem-stride", 2, "--epochs", 1, "--patience", 1]
    queued = idle(*words, "--all-retained", "--no-wait", "--json")
    assert queued.json["datasets"] == names
    assert client.cancel_search_job(queued.json["job"]).state is JobState.CANCELLED
    wrong = idle(*words, "-d", "stripes 0", "-d", "no such", "--json")
    assert (wrong.code, wrong.json["error"]["field"]) == (2, "datasets")

    def work() -> None:
        with RegistryClient(client.address) as own:
            while (leased := own.lease_search_job("test", device="cpu", wait_seconds=5.0)) is None:
                pass
            run_leased_job(own, *leased, device="cpu")

    worker = threading.Thread(target=work)
    worker.start()
    shown = idle(*words, "-d", "stripes 0", "-d", names[1])
    worker.join()
    assert shown.code == 0, shown.err
    assert "search, epoch 1 of 1: validation" in shown.err
    assert "generalist/1" in shown.out
    assert "mean accuracy" in shown.out
    np.savez(tmp_path / "target.npz", **arrays(tiny_dataset(3)))
    near = idle("nearest", tmp_path / "target.npz", "--explain")
    assert near.code == 0, near.err
    assert "generalist/1" in near.out
    assert "GENERALIST" in near.out
