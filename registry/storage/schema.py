"""The tables of the catalog (SQLAlchemy Core), valid for SQLite and PostgreSQL.

Conventions:

- `row_id` is an internal key that is never reused (the vector index and page tokens rely on it) and never leaves the
  server; resources are named by their `id` or `number`.
- A blob is referred to by its sha256 through a FOREIGN KEY to `blobs`, always. So the database itself refuses to
  forget a referenced blob, and the sweep finds every reference by walking these keys: a new column cannot be missed.
- Messages that are only ever read whole (spec, decision, metrics, ...) are JSON in protobuf's own mapping, so that
  their evolution follows protobuf's rules and needs no migration.
- `revision` counts visible changes of a row; etags are derived from it.

Changing a table here needs a new file in `registry/storage/migrations/versions`; a test compares the two.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

__all__ = [
    "UtcDateTime",
    "blobs",
    "counters",
    "dataset_tombstones",
    "datasets",
    "distances",
    "job_datasets",
    "job_events",
    "jobs",
    "metadata",
    "mlflow_runs",
    "mlflow_versions",
    "outbox",
    "parents",
    "registry_identity",
    "requests",
    "supernets",
    "uploads",
    "versions",
]

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class UtcDateTime(TypeDecorator[datetime]):
    """Aware UTC datetimes; SQLite stores them without zone in a text that sorts by time."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise TypeError("the catalog takes aware datetimes only")
        in_utc = value.astimezone(UTC)
        return in_utc.replace(tzinfo=None) if dialect.name == "sqlite" else in_utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if dialect.name == "sqlite" else value.astimezone(UTC)


# SQLite numbers rows automatically only in a column of type INTEGER.
RowId = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
Sha256 = sa.String(64)


def _row_id() -> sa.Column[int]:
    return sa.Column("row_id", RowId, primary_key=True, autoincrement=True)


def _blob(name: str, *, required: bool = False) -> sa.Column[Any]:
    return sa.Column(name, Sha256, sa.ForeignKey("blobs.sha256"), nullable=not required, index=True)


def _revision() -> sa.Column[int]:
    return sa.Column("revision", sa.BigInteger, nullable=False, default=1)


blobs = sa.Table(
    "blobs",
    metadata,
    sa.Column("sha256", Sha256, primary_key=True),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("create_time", UtcDateTime, nullable=False),
    # Until then the sweep leaves the blob alone, referenced or not.
    sa.Column("keep_until", UtcDateTime, nullable=False, index=True),
)

uploads = sa.Table(
    "uploads",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("sha256", Sha256, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    # Bytes that are fsynced; the file may be longer after a crash, the rest is cut off then.
    sa.Column("persisted_bytes", sa.BigInteger, nullable=False),
    sa.Column("create_time", UtcDateTime, nullable=False),
    sa.Column("update_time", UtcDateTime, nullable=False),
    sa.UniqueConstraint("sha256", "size_bytes"),
)

counters = sa.Table(
    "counters",
    metadata,
    # A counter is raised by UPDATE, whose row lock lasts to the commit: numbers become visible in their order.
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
)

datasets = sa.Table(
    "datasets",
    metadata,
    _row_id(),
    sa.Column("id", sa.String(32), nullable=False, unique=True),
    sa.Column("digest", Sha256, nullable=False, unique=True),
    sa.Column("display_name", sa.Text, nullable=False),
    sa.Column("encoder_id", sa.String(200), nullable=False),
    _blob("sketch_sha256", required=True),
    sa.Column("embedding", sa.LargeBinary, nullable=False),  # little-endian float32
    sa.Column("embedding_id", sa.String(200), nullable=False),
    sa.Column("index_sequence", sa.BigInteger, nullable=False, unique=True),
    sa.Column("class_count", sa.Integer, nullable=False),
    sa.Column("class_names", sa.JSON, nullable=False),
    sa.Column("train_count", sa.BigInteger, nullable=False),
    sa.Column("val_count", sa.BigInteger, nullable=False),
    sa.Column("test_count", sa.BigInteger, nullable=False),
    sa.Column("height", sa.Integer, nullable=False),
    sa.Column("width", sa.Integer, nullable=False),
    sa.Column("channels", sa.Integer, nullable=False),
    _blob("images_sha256"),
    sa.Column("images_time", UtcDateTime),  # when the images were attached last
    sa.Column("retain_images", sa.Boolean, nullable=False),
    sa.Column("labels", sa.JSON, nullable=False),
    sa.Column("create_time", UtcDateTime, nullable=False),
    _revision(),
    sqlite_autoincrement=True,
)

dataset_tombstones = sa.Table(
    "dataset_tombstones",
    metadata,
    sa.Column("index_sequence", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("dataset_row", sa.BigInteger, nullable=False),
    sa.Column("dataset_id", sa.String(32), nullable=False),
)

distances = sa.Table(
    "distances",
    metadata,
    # Unordered pairs, stored with digest_a <= digest_b.
    sa.Column("digest_a", Sha256, primary_key=True),
    sa.Column("digest_b", Sha256, primary_key=True, index=True),
    sa.Column("transport", sa.String(32), primary_key=True),
    sa.Column("distance", sa.Double, nullable=False),
    sa.Column("converged", sa.Boolean, nullable=False),
    # Of the transaction that wrote the row, so that whoever keeps an extract in memory reads only what is new.
    sa.Column("sequence", sa.BigInteger, nullable=False, index=True, server_default="0"),
)

supernets = sa.Table(
    "supernets",
    metadata,
    _row_id(),
    sa.Column("id", sa.String(63), nullable=False, unique=True),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("space_id", sa.String(200), nullable=False),
    sa.Column("space", sa.JSON, nullable=False),
    sa.Column("head_number", sa.BigInteger),
    sa.Column("version_count", sa.BigInteger, nullable=False),
    sa.Column("labels", sa.JSON, nullable=False),
    sa.Column("create_time", UtcDateTime, nullable=False),
    sa.Column("update_time", UtcDateTime, nullable=False),
    _revision(),
    sqlite_autoincrement=True,
)

jobs = sa.Table(
    "jobs",
    metadata,
    _row_id(),
    sa.Column("id", sa.String(32), nullable=False, unique=True),
    # By name, not by key: the history of jobs outlives a deleted supernet.
    sa.Column("supernet_id", sa.String(63), nullable=False, index=True),
    sa.Column("dataset_row", RowId, sa.ForeignKey("datasets.row_id"), nullable=False, index=True),
    sa.Column("spec", sa.JSON, nullable=False),
    sa.Column("executor", sa.String(16), nullable=False),
    sa.Column("stream", sa.String(200), nullable=False, index=True),
    sa.Column("stream_step", sa.Integer, nullable=False),
    sa.Column("labels", sa.JSON, nullable=False),
    sa.Column("base_number", sa.BigInteger),  # head of the supernet at creation
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("lost_leases", sa.Integer, nullable=False),  # attempts whose worker died
    sa.Column("fence", sa.BigInteger, nullable=False),
    sa.Column("worker", sa.Text, nullable=False),
    sa.Column("device", sa.Text, nullable=False),
    sa.Column("lease_until", UtcDateTime, index=True),
    _blob("checkpoint_sha256"),
    _blob("previous_checkpoint_sha256"),
    sa.Column("source_version", sa.Text, nullable=False),  # named by spec or decision; keeps that version alive
    sa.Column("decision", sa.JSON),
    sa.Column("progress", sa.JSON),
    sa.Column("version_name", sa.Text, nullable=False),
    sa.Column("head_moved", sa.Boolean, nullable=False),
    sa.Column("error_reason", sa.Text, nullable=False),
    sa.Column("error_message", sa.Text, nullable=False),
    sa.Column("last_sequence", sa.BigInteger, nullable=False),
    sa.Column("create_time", UtcDateTime, nullable=False),
    sa.Column("start_time", UtcDateTime),
    sa.Column("end_time", UtcDateTime),
    _revision(),
    sqlite_autoincrement=True,
)

job_datasets = sa.Table(
    "job_datasets",
    metadata,
    # All datasets of a generalist's job; the first is also the job's `dataset_row`. Other jobs have no row here.
    sa.Column("job_row", RowId, sa.ForeignKey("jobs.row_id"), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("dataset_row", RowId, sa.ForeignKey("datasets.row_id"), nullable=False, index=True),
)

job_events = sa.Table(
    "job_events",
    metadata,
    sa.Column("job_row", RowId, sa.ForeignKey("jobs.row_id"), primary_key=True),
    sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
    # Set for epochs only: a job has each epoch of each phase once.
    sa.Column("phase", sa.String(16)),
    sa.Column("epoch", sa.Integer),
    sa.Column("body", sa.JSON, nullable=False),
    sa.UniqueConstraint("job_row", "phase", "epoch"),
)

versions = sa.Table(
    "versions",
    metadata,
    _row_id(),
    sa.Column("supernet_row", RowId, sa.ForeignKey("supernets.row_id"), nullable=False),
    sa.Column("number", sa.BigInteger, nullable=False),
    _blob("weights_sha256", required=True),
    _blob("child_sha256"),
    sa.Column("genotype", sa.Text, nullable=False),
    sa.Column("dataset_row", RowId, sa.ForeignKey("datasets.row_id"), nullable=False, index=True),
    sa.Column("job_row", RowId, sa.ForeignKey("jobs.row_id"), nullable=False, unique=True),
    sa.Column("transfer_mode", sa.String(32), nullable=False),
    sa.Column("metrics", sa.JSON, nullable=False),
    sa.Column("cost", sa.JSON, nullable=False),
    sa.Column("create_time", UtcDateTime, nullable=False),
    sa.UniqueConstraint("supernet_row", "number"),
    sqlite_autoincrement=True,
)

parents = sa.Table(
    "parents",
    metadata,
    sa.Column("child_row", RowId, sa.ForeignKey("versions.row_id", ondelete="CASCADE"), primary_key=True),
    sa.Column("parent_row", RowId, sa.ForeignKey("versions.row_id"), primary_key=True, index=True),
    sa.Column("role", sa.String(16), primary_key=True),
)

requests = sa.Table(
    "requests",
    metadata,
    sa.Column("method", sa.String(32), primary_key=True),
    sa.Column("request_id", sa.String(36), primary_key=True),
    sa.Column("body_sha256", Sha256, nullable=False),
    sa.Column("resource", sa.Text, nullable=False),
    sa.Column("create_time", UtcDateTime, nullable=False),
)

outbox = sa.Table(
    "outbox",
    metadata,
    _row_id(),
    sa.Column("topic", sa.String(16), nullable=False),
    sa.Column("resource", sa.Text, nullable=False),
    sa.Column("create_time", UtcDateTime, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("not_before", UtcDateTime, nullable=False, index=True),
    # Why MLflow refused the entry for good. Such an entry is kept to be read, and no longer tried; NULL: it waits.
    sa.Column("dead_reason", sa.Text, index=True),
    sqlite_autoincrement=True,
)

mlflow_runs = sa.Table(
    "mlflow_runs",
    metadata,
    sa.Column("job", sa.String(64), primary_key=True),
    sa.Column("experiment_id", sa.Text, nullable=False),
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("published_sequence", sa.BigInteger, nullable=False),
    sa.Column("finished", sa.Boolean, nullable=False),
)

mlflow_versions = sa.Table(
    "mlflow_versions",
    metadata,
    sa.Column("version", sa.String(128), primary_key=True),
    sa.Column("model_name", sa.Text, nullable=False),
    sa.Column("model_version", sa.Text, nullable=False),
)

registry_identity = sa.Table(
    "registry_identity",
    metadata,
    # One row, made when it is first needed. Several registries may feed one tracking server under the same names.
    sa.Column("row_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("id", sa.String(36), nullable=False),
)
