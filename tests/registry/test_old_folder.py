"""A data folder of release 0.1.0, served by the code of today: what it knew it still says, what waited can be run.

How the folder was made is in `tests/data/README.md`.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from supernet_registry import JobState, RegistryClient
from supernet_registry.clients.wire.plain import plain
from supernet_registry.clients.work.job_runner import run_leased_job
from supernet_registry.registry.cli import app, run
from supernet_registry.registry.storage.database import newest_revision
from supernet_registry.search.errors import SchemaMismatch
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.recipe.settings import apply_settings
from supernet_registry.search.spaces import make_space
from supernet_registry.search.tasks import ImageDataset, Split
from tests.tiny_search import tiny_dataset

DATA = Path(__file__).parents[1] / "data"
THEN: dict[str, Any] = json.loads((DATA / "folder_0_1_0.json").read_text("utf-8"))
"""What release 0.1.0 answered."""
JOBS: dict[str, str] = {key: job["name"] for key, job in THEN["jobs"].items()}
SPACE = make_space(
    "nas-bench-201",
    operations=("none", "nor_conv_1x1", "avg_pool_3x3"),
    channels=4,
    cells=1,
    nodes=2,
    stem_stride=2,
    head_pool=2,
    resolution=16,
)
REVISION = "0003"
"""Of the folder's database."""


def coarse(seed: int) -> ImageDataset:
    """The stripes as the folder has them."""

    def rounded(split: Split) -> Split:
        return Split(images=split.images // 32 * 32, labels=split.labels)

    dataset = tiny_dataset(seed)
    splits = {name: rounded(split) for name, split in dataset.splits()}
    return replace(dataset, **splits)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the folder."""
    with tarfile.open(DATA / "folder_0_1_0.tar.xz") as archive:
        archive.extractall(tmp_path / "old", filter="data")
    return tmp_path / "old"


@pytest.fixture
def client(folder: Path, make_registry_server: Callable[..., Any]) -> Iterator[RegistryClient]:
    """Asks a server of today that serves it, after `db upgrade`."""
    assert run(app, ["db", "upgrade", "--data-dir", str(folder)]) == 0
    with RegistryClient(make_registry_server(data_dir=folder).address) as connected:
        yield connected


def says(now: Any, then: Any) -> bool:
    """Whether an answer still says what it said. What was 0 or empty may be absent; names may be new."""
    if isinstance(then, dict):
        return isinstance(now, dict) and all(says(now.get(name), value) for name, value in then.items())
    if isinstance(then, list) and then:
        return isinstance(now, list) and len(now) == len(then) and all(map(says, now, then))
    if isinstance(then, float) and then:
        return bool(now == pytest.approx(then, rel=1e-9))
    return bool(now == then or (not then and not now))


def test_a_server_serves_the_folder_or_says_what_to_do(folder: Path, make_registry_server: Callable[..., Any]) -> None:
    if newest_revision() == REVISION:
        make_registry_server(data_dir=folder)
    else:
        with pytest.raises(SchemaMismatch, match="supernet-registry db upgrade"):
            make_registry_server(data_dir=folder)


def test_what_the_folder_knew_it_still_says(client: RegistryClient) -> None:
    """Every name, label, digest, figure, time and event."""
    for kind, listed in (
        ("datasets", client.list_datasets()),
        ("supernets", client.list_supernets()),
        ("versions", client.list_versions()),
    ):
        now = {item.name: plain(item) for item in listed}
        assert len(now) == len(THEN[kind]) > 0
        for item in THEN[kind]:
            assert says(now[item["name"]], item), item
    for job in THEN["jobs"].values():
        told = {name: value for name, value in job.items() if name not in ("spec", "kind")}
        now_job = client.get_search_job(job["name"])
        assert says(plain(now_job), told), told
        assert now_job.spec is not None
        assert now_job.spec.kind == job["kind"].lower()
    for key, events in THEN["events"].items():
        now_events = [plain(event) for event in client.watch_search_job(JOBS[key])]
        assert len(now_events) == len(events)
        for now_event, event in zip(now_events, events, strict=True):
            assert says(now_event, event), event
    assert says(plain(client.query_lineage("supernets/three-stripes/versions/1")), THEN["lineage"])


def test_its_blobs_are_there(client: RegistryClient) -> None:
    for version in client.list_versions():
        assert len(client.download_blob(version.weights_blob)) == version.weights_size_bytes
        if version.child_blob:
            assert client.download_blob(version.child_blob)
    for dataset in client.list_datasets():
        assert client.download_blob(dataset.images_blob)
    child = client.load_child("supernets/three-stripes/versions/1")
    assert child.class_names == ("class 0", "class 1", "class 2")


def test_a_query_ranks_its_versions_as_it_did(client: RegistryClient) -> None:
    found = client.nearest(coarse(5), search_space=SPACE, explain=True).candidates
    then = THEN["nearest"]["candidates"]
    assert [candidate.version for candidate in found] == [candidate["version"] for candidate in then]
    for candidate, known in zip(found, then, strict=True):
        assert candidate.eligible == known["eligible"]
        assert [reason.code for reason in candidate.reasons] == [reason["code"] for reason in known["reasons"]]
        assert candidate.ot_distance == pytest.approx(known["ot_distance"], rel=1e-6)
        assert candidate.embedding_distance == pytest.approx(known["embedding_distance"], rel=1e-6)


def test_a_recipe_that_waited_is_the_recipe_that_was_asked_for(client: RegistryClient) -> None:
    space = Recipe.for_space(SPACE)
    tiny = {"child_epochs": 1, "batch_size": 16, "patience": 99}

    def made(*, epochs: int, **values: Any) -> Recipe:
        return replace(space, epochs=epochs, warm_epochs=min(epochs, space.warm_epochs), **values)

    wanted = {
        "cold": made(epochs=2, **tiny),
        "warm": made(epochs=2, taste_share=0.5, taste_candidates=1, **tiny),
        "generalist": made(epochs=2, batch_size=16, patience=99),
        "given_back": made(epochs=4, optimizer="sgd", **tiny),
        "queued": made(
            epochs=3,
            patience=5,
            batch_size=12,
            child_epochs=2,
            taste_share=0.25,
            taste_candidates=2,
            derivation="perturbation",
            derivation_steps=1,
            child_holds_out=True,
            variant="darts-2nd",
            drop_shares=(0.5,),
            horizontal_flip=True,
            optimizer="sgd",
            learning_rate=0.02,
        ),
        "queued_generalist": made(epochs=3, batch_size=12, horizontal_flip=True),
        "cancelled": made(epochs=2, **tiny),
    }
    specs = {key: client.get_search_job(name).spec for key, name in JOBS.items()}
    assert {key: apply_settings(space, spec.recipe) for key, spec in specs.items()} == wanted
    waiting, generalist = specs["queued"], specs["queued_generalist"]
    assert waiting.recipe == {
        "epochs": "3",
        "patience": "5",
        "batch_size": "12",
        "child_epochs": "2",
        "taste_share": "0.25",
        "taste_candidates": "2",
        "derivation": "perturbation",
        "derivation_steps": "1",
        "child_holds_out": "true",
        "variant": "darts-2nd",
        "drop_shares": "0.5",
        "horizontal_flip": "true",
        "optimizer": "sgd",
        "learning_rate": "0.02",
    }
    assert (waiting.seed, waiting.search.source_policy, waiting.search.transfer_mode) == (11, "AUTO", "ALPHAS_ONLY")
    asked = THEN["jobs"]["queued_generalist"]["spec"]
    assert generalist.generalist.datasets == tuple(asked["datasets"])
    assert generalist.generalist.base_version == asked["source_version"]
    assert generalist.generalist.without_replay


@pytest.mark.parametrize("key", ["given_back", "queued", "queued_generalist"])
def test_a_job_that_waited_is_run_by_a_worker_of_today(client: RegistryClient, key: str) -> None:
    """With its options; one goes on from the checkpoint that a worker of the old release wrote, no epoch twice."""
    leased = client.lease_search_job("today", device="cpu", job=JOBS[key])
    assert leased is not None
    lease, job, checkpoint = leased
    assert bool(checkpoint) == (key == "given_back")
    version = run_leased_job(client, lease, job, checkpoint, device="cpu")
    ended = client.get_search_job(job.name)
    assert version is not None, ended.error
    assert ended.state is JobState.SUCCEEDED
    events = list(client.watch_search_job(job.name))
    searched = [event.epoch.epoch for event in events if event.epoch is not None and event.epoch.phase == "SEARCH"]
    assert searched == list(range(1, {"given_back": 4, "queued": 3, "queued_generalist": 3}[key] + 1))
