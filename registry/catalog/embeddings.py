"""Stored embeddings: what the vector index reads, and their replacement when a release embeds differently."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from supernet_registry.registry.catalog import names
from supernet_registry.registry.catalog.dataset_checks import check_embedding
from supernet_registry.registry.catalog.records import next_count
from supernet_registry.registry.storage.database import run_write, transaction
from supernet_registry.registry.storage.schema import counters, dataset_tombstones, datasets

__all__ = ["IndexRow", "OutdatedEmbedding", "Renewal", "StoredEmbeddings", "to_bytes"]

_LITTLE_ENDIAN = np.dtype("<f4")


@dataclass(frozen=True, slots=True, eq=False)
class IndexRow:
    """One change for the vector index; a later row of the same `row_id` replaces an earlier one."""

    sequence: int
    row_id: int
    name: str
    embedding: NDArray[np.float32] | None  # None: deleted
    embedding_id: str


IndexRows: TypeAlias = list[IndexRow]


@dataclass(frozen=True, slots=True)
class OutdatedEmbedding:
    """A dataset whose embedding is not comparable with those of an embedding id."""

    row_id: int
    name: str
    encoder_id: str
    embedding_id: str
    sketch_digest: str


@dataclass(frozen=True, slots=True, eq=False)
class Renewal:
    """The new embedding of a dataset, valid as long as the sketch and the old embedding are as they were read."""

    outdated: OutdatedEmbedding
    embedding: NDArray[np.float32]  # (d,)


class StoredEmbeddings:
    """Embeddings by dataset and in the order of their changes."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def index_rows(self, after_sequence: int = 0, limit: int | None = None) -> IndexRows:
        """What changed for the index after a sequence, ascending; the first `limit` changes."""
        live = sa.select(
            datasets.c.index_sequence,
            datasets.c.row_id,
            datasets.c.id,
            datasets.c.embedding,
            datasets.c.embedding_id,
        ).where(datasets.c.index_sequence > after_sequence)
        gone = sa.select(
            dataset_tombstones.c.index_sequence,
            dataset_tombstones.c.dataset_row,
            dataset_tombstones.c.dataset_id,
            sa.cast(sa.null(), sa.LargeBinary),
            sa.literal(""),
        ).where(dataset_tombstones.c.index_sequence > after_sequence)
        # One statement: of two, the second could see a commit whose other half the first has missed.
        statement = sa.union_all(live, gone).order_by("index_sequence").limit(limit)
        with transaction(self._engine, write=False) as connection:
            return [
                IndexRow(
                    row.index_sequence,
                    row.row_id,
                    names.dataset_name(row.id),
                    None if row.embedding is None else _from_bytes(row.embedding),
                    row.embedding_id,
                )
                for row in connection.execute(statement)
            ]

    def latest_sequence(self) -> int:
        """The index sequence that a complete index has now."""
        with transaction(self._engine, write=False) as connection:
            statement = sa.select(counters.c.value).where(counters.c.name == "index")
            return int(connection.execute(statement).scalar_one())

    def embedding(self, name: str) -> tuple[str, NDArray[np.float32]]:
        """(embedding id, embedding of shape (d,)) as stored. Raises NotFound, InvalidArgument."""
        statement = sa.select(datasets.c.embedding_id, datasets.c.embedding).where(
            datasets.c.id == names.dataset_id(name)
        )
        with transaction(self._engine, write=False) as connection:
            row = connection.execute(statement).one_or_none()
        if row is None:
            raise names.not_found(name, "name", "Register the dataset first.")
        return row.embedding_id, _from_bytes(row.embedding)

    def outdated_embeddings(self, embedding_id: str, *, after_row: int, limit: int) -> list[OutdatedEmbedding]:
        """The first `limit` datasets, by row id, whose embedding has another id than this one."""
        statement = (
            sa.select(
                datasets.c.row_id,
                datasets.c.id,
                datasets.c.encoder_id,
                datasets.c.embedding_id,
                datasets.c.sketch_sha256,
            )
            .where(datasets.c.row_id > after_row, datasets.c.embedding_id != embedding_id)
            .order_by(datasets.c.row_id)
            .limit(limit)
        )
        with transaction(self._engine, write=False) as connection:
            return [
                OutdatedEmbedding(
                    row.row_id, names.dataset_name(row.id), row.encoder_id, row.embedding_id, row.sketch_sha256
                )
                for row in connection.execute(statement)
            ]

    def renew_embeddings(self, renewals: Sequence[Renewal], embedding_id: str) -> int:
        """Replace embeddings in one transaction, each with a new index sequence; returns how many were.

        A dataset that was deleted, registered anew or renewed by another server meanwhile is left as it is. The
        revision stays: nothing that a client compares by etag has changed.

        Raises:
            DimensionMismatch, NotFinite: an embedding.
        """
        vectors = [check_embedding(renewal.embedding) for renewal in renewals]

        def renew(connection: sa.Connection) -> int:
            wanted = [renewal.outdated.row_id for renewal in renewals]
            # All rows are locked before the counter is, in one order: two servers at this cannot block each other.
            statement = (
                sa.select(datasets.c.row_id, datasets.c.embedding_id, datasets.c.sketch_sha256)
                .where(datasets.c.row_id.in_(wanted))
                .order_by(datasets.c.row_id)
                .with_for_update()
            )
            found = {row.row_id: (row.embedding_id, row.sketch_sha256) for row in connection.execute(statement)}
            renewed = 0
            for renewal, vector in zip(renewals, vectors, strict=True):
                old = renewal.outdated
                if found.get(old.row_id) != (old.embedding_id, old.sketch_digest):
                    continue
                update = datasets.update().where(datasets.c.row_id == old.row_id)
                connection.execute(
                    update.values(
                        embedding=to_bytes(vector),
                        embedding_id=embedding_id,
                        index_sequence=next_count(connection, "index"),
                    )
                )
                renewed += 1
            return renewed

        return run_write(self._engine, renew)


def to_bytes(vector: NDArray[np.float32]) -> bytes:
    """A vector as the column stores it."""
    return vector.astype(_LITTLE_ENDIAN).tobytes()


def _from_bytes(data: bytes) -> NDArray[np.float32]:
    return np.frombuffer(data, dtype=_LITTLE_ENDIAN).astype(np.float32)
