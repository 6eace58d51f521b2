"""Datasets: content-addressed, with an index sequence and a cache of distances."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from supernet_registry.clients.wire.resources import Executor
from supernet_registry.search.errors import (
    DigestMismatch,
    ETagMismatch,
    InvalidArgument,
    InvalidDataset,
    InvalidSketch,
    NotFinite,
    NotFound,
    RequestIdReused,
    StillReferenced,
    SupernetRegistryError,
)
from tests.registry.catalog.catalog_world import EMBEDDING_ID, World, images, new_id, sketch


def test_a_dataset_is_named_by_its_digest_and_counted_by_its_sketch(world: World) -> None:
    forged = replace(world.draft(), class_count=99, train_count=99, encoder_id="forged", index_sequence=99)
    dataset = world.register(forged)
    assert dataset.name == f"datasets/{images(0).digest[:32]}"
    assert (dataset.class_count, dataset.train_count, dataset.encoder_id) == (2, 8, "e")
    assert dataset.sketch_digest == sketch(0, "e").digest
    assert dataset.index_sequence == world.catalog.embeddings.latest_sequence() == 1
    assert world.catalog.datasets.get(dataset.name) == dataset
    assert world.catalog.datasets.sketch_bytes(dataset.name) == sketch(0, "e").to_bytes()


def test_registering_the_same_dataset_again_returns_the_stored_one(world: World) -> None:
    first = world.register(world.draft())
    again = world.register(replace(world.draft(), display_name="other name", labels={"a": "b"}))
    assert again == first
    assert len(world.catalog.datasets.list()[0]) == 1


def test_registering_again_attaches_images_and_raises_their_retention(world: World) -> None:
    first = world.register(world.draft(with_images=False))
    assert first.images_blob == ""
    second = world.register(replace(world.draft(), retain_images=True))
    assert second.images_blob
    assert second.retain_images
    assert second.etag != first.etag
    third = world.register(world.draft(with_images=False))
    assert third == second


def test_a_new_encoder_replaces_the_sketch_and_shows_in_the_index(world: World) -> None:
    first = world.register(world.draft())
    second = world.register(world.draft(), encoder_id="e2")
    assert second.encoder_id == "e2"
    assert second.index_sequence > first.index_sequence
    (row,) = world.catalog.embeddings.index_rows()
    assert row.sequence == second.index_sequence


def test_concurrent_registrations_of_one_dataset_make_one(world: World) -> None:
    draft = world.draft()
    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(lambda _: world.register(draft), range(16)))
    assert len({dataset.etag for dataset in made}) == 1
    assert world.catalog.embeddings.latest_sequence() == 1


def test_request_ids_of_datasets(world: World) -> None:
    draft, request_id = world.draft(), new_id()
    first = world.register(draft, request_id=request_id)
    assert world.register(draft, request_id=request_id) == first
    with pytest.raises(RequestIdReused):
        world.register(replace(draft, display_name="other"), request_id=request_id)
    world.catalog.datasets.delete(first.name)
    again = world.register(draft, request_id=request_id)  # content can always be registered again
    assert again.name == first.name
    assert again.etag != first.etag


BAD_DATASETS: list[tuple[str, type[SupernetRegistryError], dict[str, object]]] = [
    ("dataset.digest", InvalidArgument, {"digest": "ABC"}),
    ("dataset.name", InvalidArgument, {"name": f"datasets/{'0' * 32}"}),
    ("dataset.val_count", InvalidArgument, {"val_count": -1}),
    ("dataset.height", InvalidArgument, {"height": 0}),
    ("dataset.channels", InvalidArgument, {"channels": 2}),
    ("dataset.class_names", InvalidArgument, {"class_names": ("one",)}),
    ("dataset.class_names[1]", InvalidArgument, {"class_names": ("one", "t\0wo")}),
    ("dataset.display_name", InvalidArgument, {"display_name": "\0"}),
    ("dataset.labels", InvalidArgument, {"labels": {"ä": "x"}}),
    ("dataset.images_blob", InvalidArgument, {"images_blob": "blobs/x"}),
    ("dataset.images_blob", NotFound, {"images_blob": f"blobs/{'0' * 64}"}),
]


@pytest.mark.parametrize(("field", "error", "changes"), BAD_DATASETS)
def test_a_bad_dataset_is_refused_with_the_field(
    world: World, field: str, error: type[SupernetRegistryError], changes: dict[str, object]
) -> None:
    with pytest.raises(error) as caught:
        world.register(replace(world.draft(), **changes))  # type: ignore[arg-type]
    assert caught.value.field == field
    assert world.catalog.datasets.list() == ([], "")
    assert world.catalog.embeddings.latest_sequence() == 0


def test_images_of_another_dataset_are_refused(world: World) -> None:
    """A wrong images blob would silently train on other data."""
    draft = world.draft(0)
    with pytest.raises(DigestMismatch):
        world.register(replace(draft, images_blob=world.draft(1).images_blob))
    with pytest.raises(InvalidDataset):
        world.register(replace(draft, images_blob=world.catalog.blobs.put(b"no images at all")))
    dataset = world.register(draft)
    with pytest.raises(DigestMismatch):
        world.catalog.datasets.update(dataset.name, images_blob=world.draft(1).images_blob)


def test_sketches_and_embeddings_are_checked(world: World) -> None:
    draft = world.draft()
    vector = np.zeros(4, dtype=np.float32)
    create = world.catalog.datasets.create
    with pytest.raises(InvalidSketch):
        create(draft, sketch=b"nonsense", embedding=vector, embedding_id=EMBEDDING_ID)
    with pytest.raises(NotFinite):
        create(draft, sketch=sketch(0).to_bytes(), embedding=vector * np.nan, embedding_id=EMBEDDING_ID)


def test_updates_check_the_etag_and_change_only_what_is_given(world: World) -> None:
    first = world.dataset()
    second = world.catalog.datasets.update(first.name, etag=first.etag, display_name="new")
    assert (second.display_name, second.images_blob) == ("new", first.images_blob)
    with pytest.raises(ETagMismatch):
        world.catalog.datasets.update(first.name, etag=first.etag, retain_images=True)
    third = world.catalog.datasets.update(first.name, retain_images=True, images_blob="")
    assert (third.retain_images, third.images_blob) == (True, "")
    assert world.catalog.datasets.update(first.name).etag == third.etag


def test_images_that_a_job_needs_are_not_detached(world: World) -> None:
    job = world.job()
    with pytest.raises(StillReferenced):
        world.catalog.datasets.update(job.dataset, images_blob="")
    world.catalog.jobs.cancel(job.name)
    assert world.catalog.datasets.update(job.dataset, images_blob="").images_blob == ""


def test_a_dataset_with_history_stays(world: World) -> None:
    job = world.job(executor=Executor.CALLER)
    with pytest.raises(StillReferenced):
        world.catalog.datasets.delete(job.dataset)
    free = world.dataset(1)
    with pytest.raises(ETagMismatch):
        world.catalog.datasets.delete(free.name, etag="stale")
    world.catalog.datasets.delete(free.name, etag=free.etag)
    with pytest.raises(NotFound):
        world.catalog.datasets.get(free.name)


def test_the_index_follows_creations_and_deletions_by_sequence(world: World) -> None:
    first, second = world.dataset(0), world.dataset(1)
    rows = world.catalog.embeddings.index_rows()
    assert [(row.name, row.sequence) for row in rows] == [(first.name, 1), (second.name, 2)]
    assert rows[1].embedding is not None
    np.testing.assert_array_equal(rows[1].embedding, np.arange(4, dtype=np.float32) + 1)
    assert rows[1].embedding_id == EMBEDDING_ID
    world.catalog.datasets.delete(first.name)
    (gone,) = world.catalog.embeddings.index_rows(after_sequence=2)
    assert (gone.sequence, gone.row_id, gone.name, gone.embedding) == (3, rows[0].row_id, first.name, None)
    world.dataset(0)
    (again,) = world.catalog.embeddings.index_rows(after_sequence=3)
    assert again.row_id not in {row.row_id for row in rows}  # ids in the index are never reused
    assert world.catalog.embeddings.latest_sequence() == again.sequence == 4


def test_pages_of_datasets(world: World) -> None:
    names = [world.dataset(seed).name for seed in range(3)]
    page, token = world.catalog.datasets.list(page_size=2)
    rest, end = world.catalog.datasets.list(page_size=2, page_token=token)
    assert [dataset.name for dataset in page + rest] == names[::-1]
    assert end == ""
