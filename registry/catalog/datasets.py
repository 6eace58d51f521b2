"""Datasets: content-addressed, with their sketches, embeddings, index sequence and distances."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from supernet_registry.clients.wire.resources import Dataset, JobState
from supernet_registry.registry.catalog import names
from supernet_registry.registry.catalog.blobs import Blobs, release
from supernet_registry.registry.catalog.checks import check_text
from supernet_registry.registry.catalog.dataset_checks import (
    check_dataset_draft,
    check_embedding,
    check_images,
    read_sketch,
)
from supernet_registry.registry.catalog.embeddings import to_bytes
from supernet_registry.registry.catalog.generalists import uses_dataset
from supernet_registry.registry.catalog.idempotency import body_digest, check_request_id, remembered
from supernet_registry.registry.catalog.paging import read_page
from supernet_registry.registry.catalog.records import check_etag, etag, next_count
from supernet_registry.registry.catalog.versions import batches
from supernet_registry.registry.clock import Clock
from supernet_registry.registry.storage.database import run_write, transaction
from supernet_registry.registry.storage.schema import dataset_tombstones, datasets, jobs, versions
from supernet_registry.search.errors import StillReferenced
from supernet_registry.v1.datasets_pb2 import Dataset as DatasetMessage

__all__ = ["Datasets"]

DatasetPage: TypeAlias = tuple[list[Dataset], str]

_BY_IDS = datasets.select().where(datasets.c.id.in_(sa.bindparam("ids", expanding=True)))


class Datasets:
    """DatasetService's calls."""

    def __init__(self, engine: sa.Engine, blobs: Blobs, clock: Clock) -> None:
        self._engine = engine
        self._blobs = blobs
        self._clock = clock

    def create(
        self,
        dataset: Dataset,
        *,
        sketch: bytes,
        embedding: NDArray[np.float32],
        embedding_id: str,
        request_id: str = "",
    ) -> Dataset:
        """Register a dataset; content-addressed and idempotent. Output-only fields of `dataset` are ignored.

        A dataset that exists already is returned as stored, with `images_blob` attached if it has none and
        `retain_images` raised to true if asked for; its sketch is replaced only where the encoder or the embedding is
        another one by now.

        Args:
            embedding: shape (d,), finite.
            embedding_id: what the embedding's distances are comparable with.

        Raises:
            InvalidArgument, InvalidSketch, NotFinite: with the path of the field.
            NotFound: `images_blob` is not stored.
            InvalidDataset, DigestMismatch: the images blob is no dataset, or another one.
            RequestIdReused: the request id came before with another body.
        """
        request_id = check_request_id(request_id)
        parsed = read_sketch(sketch)
        draft = check_dataset_draft(dataset, parsed)
        vector = check_embedding(embedding)
        if draft.images_blob and not self._has_these_images(draft):
            check_images(self._blobs, draft.images_blob, draft.digest, "dataset.images_blob")
        # Stored as we would write it, so that the blob's digest is the sketch's, by which distances are cached.
        sketch_sha256 = names.blob_sha256(self._blobs.put(parsed.to_bytes()))
        derived = {
            "encoder_id": parsed.encoder_id,
            "sketch_sha256": sketch_sha256,
            "embedding": to_bytes(vector),
            "embedding_id": embedding_id,
            "class_count": parsed.n_classes,
            "train_count": draft.train_count,
        }

        def create(connection: sa.Connection) -> Dataset:
            def upsert() -> str:
                row = _find(connection, draft.digest[:32], lock=True)
                if row is None:
                    self._insert(connection, draft, derived)
                else:
                    self._merge(connection, row, draft, derived)
                return names.dataset_name(draft.digest)

            name = remembered(
                connection,
                upsert,
                method="CreateDataset",
                request_id=request_id,
                body_sha256=body_digest(draft, DatasetMessage, sketch=sketch_sha256),
                clock=self._clock,
            )
            if _find(connection, draft.digest[:32]) is None:
                upsert()  # deleted since; registering content is idempotent by itself
            return _to_dataset(_existing(connection, name))

        return run_write(self._engine, create)

    def get(self, name: str) -> Dataset:
        """One dataset. Raises NotFound, InvalidArgument."""
        return _to_dataset(self._row(name))

    def get_many(self, dataset_names: Iterable[str]) -> dict[str, Dataset]:
        """Datasets by name, without those that do not exist. Raises InvalidArgument."""
        result: dict[str, Dataset] = {}
        with transaction(self._engine, write=False) as connection:
            for batch in batches(names.dataset_id(name) for name in dataset_names):
                for row in connection.execute(_BY_IDS, {"ids": batch}):
                    result[names.dataset_name(row.id)] = _to_dataset(row)
        return result

    def list(self, *, page_size: int = 0, page_token: str = "") -> DatasetPage:
        """One page of datasets, newest first, and the next page's token. Raises InvalidArgument, InvalidPageToken."""
        with transaction(self._engine, write=False) as connection:
            return read_page(
                connection,
                datasets.select(),
                datasets.c.row_id,
                lambda rows: [_to_dataset(row) for row in rows],
                query="datasets",
                page_size=page_size,
                page_token=page_token,
            )

    def update(
        self,
        name: str,
        *,
        etag: str = "",
        display_name: str | None = None,
        images_blob: str | None = None,
        retain_images: bool | None = None,
    ) -> Dataset:
        """Change what is given; an empty `images_blob` detaches the images.

        Raises:
            NotFound, InvalidArgument, ETagMismatch.
            InvalidDataset, DigestMismatch: the images blob is no dataset, or another one.
            StillReferenced: an unfinished job needs the images that would be detached.
        """
        if display_name is not None:
            check_text(display_name, "display_name", max_length=200)
        if images_blob:
            check_images(self._blobs, images_blob, self._row(name).digest, "images_blob")

        def update(connection: sa.Connection) -> Dataset:
            row = _existing(connection, name, lock=True)
            check_etag(etag, _etag(row), name)
            changes: dict[str, Any] = {}
            if display_name is not None:
                changes["display_name"] = display_name
            if retain_images is not None:
                changes["retain_images"] = retain_images
            if images_blob is not None:
                changes.update(self._replace_images(connection, row, images_blob))
            return _to_dataset(_update(connection, row, changes))

        return run_write(self._engine, update)

    def delete(self, name: str, *, etag: str = "") -> None:
        """Delete a dataset that nothing refers to. Raises NotFound, InvalidArgument, ETagMismatch, StillReferenced."""

        def delete(connection: sa.Connection) -> None:
            row = _existing(connection, name, lock=True)
            check_etag(etag, _etag(row), name)
            own_versions = versions.c.dataset_row == row.row_id
            for table, refers, what in (
                (versions, own_versions, "versions"),
                (jobs, uses_dataset(row.row_id), "search jobs"),
            ):
                users = sa.select(sa.func.count()).select_from(table).where(refers)
                if count := connection.execute(users).scalar_one():
                    raise StillReferenced(
                        f"{count} {what} refer to {name}.",
                        remedy="A dataset that was searched on stays, as part of the history.",
                        field="name",
                        metadata={"resource": name},
                    )
            connection.execute(datasets.delete().where(datasets.c.row_id == row.row_id))
            sequence = next_count(connection, "index")
            connection.execute(
                dataset_tombstones.insert().values(index_sequence=sequence, dataset_row=row.row_id, dataset_id=row.id)
            )
            release(connection, row.sketch_sha256, self._clock())
            release(connection, row.images_sha256, self._clock())

        run_write(self._engine, delete)

    def sketch_bytes(self, name: str) -> bytes:
        """The serialised sketch. Raises NotFound, InvalidArgument, BlobCorrupt."""
        return self._blobs.read(names.blob_name(self._row(name).sketch_sha256))

    def _row(self, name: str) -> sa.Row[Any]:
        with transaction(self._engine, write=False) as connection:
            return _existing(connection, name)

    def _has_these_images(self, draft: Dataset) -> bool:
        """Whether the very blob was checked and attached before: registering again is cheap then."""
        with transaction(self._engine, write=False) as connection:
            row = _find(connection, draft.digest[:32])
        return row is not None and row.images_sha256 == names.blob_sha256(draft.images_blob)

    def _insert(self, connection: sa.Connection, draft: Dataset, derived: dict[str, Any]) -> None:
        now = self._clock()
        images = self._blobs.refer(connection, draft.images_blob, "dataset.images_blob") if draft.images_blob else None
        connection.execute(
            datasets.insert().values(
                **derived,
                id=draft.digest[:32],
                digest=draft.digest,
                display_name=draft.display_name,
                index_sequence=next_count(connection, "index"),
                class_names=list(draft.class_names),
                val_count=draft.val_count,
                test_count=draft.test_count,
                height=draft.height,
                width=draft.width,
                channels=draft.channels,
                images_sha256=images,
                images_time=now if images else None,
                retain_images=draft.retain_images,
                labels=dict(draft.labels),
                create_time=now,
                revision=1,
            )
        )

    def _merge(self, connection: sa.Connection, row: sa.Row[Any], draft: Dataset, derived: dict[str, Any]) -> None:
        changes: dict[str, Any] = {}
        if draft.display_name and not row.display_name:
            changes["display_name"] = draft.display_name
        if draft.retain_images and not row.retain_images:
            changes["retain_images"] = True
        if draft.images_blob and row.images_sha256 is None:
            changes["images_sha256"] = self._blobs.refer(connection, draft.images_blob, "dataset.images_blob")
        if (row.encoder_id, row.embedding_id) != (derived["encoder_id"], derived["embedding_id"]):
            release(connection, row.sketch_sha256, self._clock())
            changes.update(derived, index_sequence=next_count(connection, "index"))
        if draft.images_blob:
            # Whoever registers with images is about to search on them: their grace period starts anew.
            statement = datasets.update().where(datasets.c.row_id == row.row_id)
            connection.execute(statement.values(images_time=self._clock()))
        _update(connection, row, changes)

    def _replace_images(self, connection: sa.Connection, row: sa.Row[Any], images_blob: str) -> dict[str, Any]:
        if images_blob:
            images = self._blobs.refer(connection, images_blob, "images_blob")
            return {"images_sha256": images, "images_time": self._clock()}
        waiting = sa.select(jobs.c.id).where(
            uses_dataset(row.row_id),
            jobs.c.executor == "POOL",
            jobs.c.state.not_in([state.value for state in JobState if state.ended]),
        )
        if unfinished := connection.execute(waiting.limit(5)).scalars().all():
            raise StillReferenced(
                f"Unfinished jobs need the images: {', '.join(unfinished)}.",
                remedy="Cancel them, or wait for them.",
                field="images_blob",
            )
        release(connection, row.images_sha256, self._clock())
        return {"images_sha256": None, "images_time": None}


def _find(connection: sa.Connection, dataset_id: str, *, lock: bool = False) -> sa.Row[Any] | None:
    statement = datasets.select().where(datasets.c.id == dataset_id)
    return connection.execute(statement.with_for_update() if lock else statement).one_or_none()


def _existing(connection: sa.Connection, name: str, *, lock: bool = False) -> sa.Row[Any]:
    row = _find(connection, names.dataset_id(name), lock=lock)
    if row is None:
        raise names.not_found(name, "name", "Register the dataset first.")
    return row


def _update(connection: sa.Connection, row: sa.Row[Any], changes: dict[str, Any]) -> sa.Row[Any]:
    changes = {key: value for key, value in changes.items() if getattr(row, key) != value}
    if not changes:
        return row
    statement = (
        datasets.update()
        .where(datasets.c.row_id == row.row_id)
        .values(**changes, revision=datasets.c.revision + 1)
        .returning(*datasets.c)
    )
    return connection.execute(statement).one()


def _etag(row: sa.Row[Any]) -> str:
    return etag(datasets, row.row_id, row.revision)


def _to_dataset(row: sa.Row[Any]) -> Dataset:
    return Dataset(
        name=names.dataset_name(row.id),
        display_name=row.display_name,
        digest=row.digest,
        encoder_id=row.encoder_id,
        sketch_digest=row.sketch_sha256,
        class_count=row.class_count,
        class_names=tuple(row.class_names),
        train_count=row.train_count,
        val_count=row.val_count,
        test_count=row.test_count,
        height=row.height,
        width=row.width,
        channels=row.channels,
        images_blob=names.blob_name(row.images_sha256) if row.images_sha256 else "",
        retain_images=row.retain_images,
        index_sequence=row.index_sequence,
        labels=row.labels,
        create_time=row.create_time,
        etag=_etag(row),
    )
