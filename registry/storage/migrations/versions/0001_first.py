"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "blobs",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("keep_until", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("sha256", name="pk_blobs"),
    )
    op.create_index("ix_blobs_keep_until", "blobs", ["keep_until"], unique=False)
    op.create_table(
        "counters",
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_counters"),
    )
    op.create_table(
        "dataset_tombstones",
        sa.Column("index_sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("dataset_row", sa.BigInteger(), nullable=False),
        sa.Column("dataset_id", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("index_sequence", name="pk_dataset_tombstones"),
    )
    op.create_table(
        "distances",
        sa.Column("digest_a", sa.String(length=64), nullable=False),
        sa.Column("digest_b", sa.String(length=64), nullable=False),
        sa.Column("transport", sa.String(length=32), nullable=False),
        sa.Column("distance", sa.Double(), nullable=False),
        sa.Column("converged", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("digest_a", "digest_b", "transport", name="pk_distances"),
    )
    op.create_index("ix_distances_digest_b", "distances", ["digest_b"], unique=False)
    op.create_table(
        "mlflow_runs",
        sa.Column("job", sa.String(length=64), nullable=False),
        sa.Column("experiment_id", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("published_sequence", sa.BigInteger(), nullable=False),
        sa.Column("finished", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("job", name="pk_mlflow_runs"),
    )
    op.create_table(
        "mlflow_versions",
        sa.Column("version", sa.String(length=128), nullable=False),
        sa.Column("model_name", sa.Text(), nullable=False),
        sa.Column("model_version", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("version", name="pk_mlflow_versions"),
    )
    op.create_table(
        "outbox",
        sa.Column("row_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("topic", sa.String(length=16), nullable=False),
        sa.Column("resource", sa.Text(), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=False),
        sa.Column("dead_reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("row_id", name="pk_outbox"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_outbox_dead_reason", "outbox", ["dead_reason"], unique=False)
    op.create_index("ix_outbox_not_before", "outbox", ["not_before"], unique=False)
    op.create_table(
        "registry_identity",
        sa.Column("row_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.PrimaryKeyConstraint("row_id", name="pk_registry_identity"),
    )
    op.create_table(
        "requests",
        sa.Column("method", sa.String(length=32), nullable=False),
        sa.Column("request_id", sa.String(length=36), nullable=False),
        sa.Column("body_sha256", sa.String(length=64), nullable=False),
        sa.Column("resource", sa.Text(), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("method", "request_id", name="pk_requests"),
    )
    op.create_table(
        "supernets",
        sa.Column("row_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("id", sa.String(length=63), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("space_id", sa.String(length=200), nullable=False),
        sa.Column("space", sa.JSON(), nullable=False),
        sa.Column("head_number", sa.BigInteger(), nullable=True),
        sa.Column("version_count", sa.BigInteger(), nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("update_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("row_id", name="pk_supernets"),
        sa.UniqueConstraint("id", name="uq_supernets_id"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "uploads",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("persisted_bytes", sa.BigInteger(), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("update_time", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_uploads"),
        sa.UniqueConstraint("sha256", "size_bytes", name="uq_uploads_sha256_size_bytes"),
    )
    op.create_table(
        "datasets",
        sa.Column("row_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("display_name", sa.Text(), nullable=False),
        sa.Column("encoder_id", sa.String(length=200), nullable=False),
        sa.Column("sketch_sha256", sa.String(length=64), nullable=False),
        sa.Column("embedding", sa.LargeBinary(), nullable=False),
        sa.Column("embedding_id", sa.String(length=200), nullable=False),
        sa.Column("index_sequence", sa.BigInteger(), nullable=False),
        sa.Column("class_count", sa.Integer(), nullable=False),
        sa.Column("class_names", sa.JSON(), nullable=False),
        sa.Column("train_count", sa.BigInteger(), nullable=False),
        sa.Column("val_count", sa.BigInteger(), nullable=False),
        sa.Column("test_count", sa.BigInteger(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("channels", sa.Integer(), nullable=False),
        sa.Column("images_sha256", sa.String(length=64), nullable=True),
        sa.Column("images_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("retain_images", sa.Boolean(), nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["images_sha256"], ["blobs.sha256"], name="fk_datasets_images_sha256_blobs"),
        sa.ForeignKeyConstraint(["sketch_sha256"], ["blobs.sha256"], name="fk_datasets_sketch_sha256_blobs"),
        sa.PrimaryKeyConstraint("row_id", name="pk_datasets"),
        sa.UniqueConstraint("digest", name="uq_datasets_digest"),
        sa.UniqueConstraint("id", name="uq_datasets_id"),
        sa.UniqueConstraint("index_sequence", name="uq_datasets_index_sequence"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_datasets_images_sha256", "datasets", ["images_sha256"], unique=False)
    op.create_index("ix_datasets_sketch_sha256", "datasets", ["sketch_sha256"], unique=False)
    op.create_table(
        "jobs",
        sa.Column("row_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("supernet_id", sa.String(length=63), nullable=False),
        sa.Column("dataset_row", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("executor", sa.String(length=16), nullable=False),
        sa.Column("stream", sa.String(length=200), nullable=False),
        sa.Column("stream_step", sa.Integer(), nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("base_number", sa.BigInteger(), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("lost_leases", sa.Integer(), nullable=False),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("checkpoint_sha256", sa.String(length=64), nullable=True),
        sa.Column("previous_checkpoint_sha256", sa.String(length=64), nullable=True),
        sa.Column("source_version", sa.Text(), nullable=False),
        sa.Column("decision", sa.JSON(), nullable=True),
        sa.Column("progress", sa.JSON(), nullable=True),
        sa.Column("version_name", sa.Text(), nullable=False),
        sa.Column("head_moved", sa.Boolean(), nullable=False),
        sa.Column("error_reason", sa.Text(), nullable=False),
        sa.Column("error_message", sa.Text(), nullable=False),
        sa.Column("last_sequence", sa.BigInteger(), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("start_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("end_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["checkpoint_sha256"], ["blobs.sha256"], name="fk_jobs_checkpoint_sha256_blobs"),
        sa.ForeignKeyConstraint(["dataset_row"], ["datasets.row_id"], name="fk_jobs_dataset_row_datasets"),
        sa.ForeignKeyConstraint(
            ["previous_checkpoint_sha256"], ["blobs.sha256"], name="fk_jobs_previous_checkpoint_sha256_blobs"
        ),
        sa.PrimaryKeyConstraint("row_id", name="pk_jobs"),
        sa.UniqueConstraint("id", name="uq_jobs_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_jobs_checkpoint_sha256", "jobs", ["checkpoint_sha256"], unique=False)
    op.create_index("ix_jobs_dataset_row", "jobs", ["dataset_row"], unique=False)
    op.create_index("ix_jobs_lease_until", "jobs", ["lease_until"], unique=False)
    op.create_index("ix_jobs_previous_checkpoint_sha256", "jobs", ["previous_checkpoint_sha256"], unique=False)
    op.create_index("ix_jobs_state", "jobs", ["state"], unique=False)
    op.create_index("ix_jobs_stream", "jobs", ["stream"], unique=False)
    op.create_index("ix_jobs_supernet_id", "jobs", ["supernet_id"], unique=False)
    op.create_table(
        "job_events",
        sa.Column("job_row", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("phase", sa.String(length=16), nullable=True),
        sa.Column("epoch", sa.Integer(), nullable=True),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["job_row"], ["jobs.row_id"], name="fk_job_events_job_row_jobs"),
        sa.PrimaryKeyConstraint("job_row", "sequence", name="pk_job_events"),
        sa.UniqueConstraint("job_row", "phase", "epoch", name="uq_job_events_job_row_phase_epoch"),
    )
    op.create_table(
        "versions",
        sa.Column("row_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("supernet_row", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("weights_sha256", sa.String(length=64), nullable=False),
        sa.Column("child_sha256", sa.String(length=64), nullable=True),
        sa.Column("genotype", sa.Text(), nullable=False),
        sa.Column("dataset_row", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("job_row", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("transfer_mode", sa.String(length=32), nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("cost", sa.JSON(), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["child_sha256"], ["blobs.sha256"], name="fk_versions_child_sha256_blobs"),
        sa.ForeignKeyConstraint(["dataset_row"], ["datasets.row_id"], name="fk_versions_dataset_row_datasets"),
        sa.ForeignKeyConstraint(["job_row"], ["jobs.row_id"], name="fk_versions_job_row_jobs"),
        sa.ForeignKeyConstraint(["supernet_row"], ["supernets.row_id"], name="fk_versions_supernet_row_supernets"),
        sa.ForeignKeyConstraint(["weights_sha256"], ["blobs.sha256"], name="fk_versions_weights_sha256_blobs"),
        sa.PrimaryKeyConstraint("row_id", name="pk_versions"),
        sa.UniqueConstraint("job_row", name="uq_versions_job_row"),
        sa.UniqueConstraint("supernet_row", "number", name="uq_versions_supernet_row_number"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_versions_child_sha256", "versions", ["child_sha256"], unique=False)
    op.create_index("ix_versions_dataset_row", "versions", ["dataset_row"], unique=False)
    op.create_index("ix_versions_weights_sha256", "versions", ["weights_sha256"], unique=False)
    op.create_table(
        "parents",
        sa.Column("child_row", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("parent_row", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.ForeignKeyConstraint(
            ["child_row"], ["versions.row_id"], name="fk_parents_child_row_versions", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["parent_row"], ["versions.row_id"], name="fk_parents_parent_row_versions"),
        sa.PrimaryKeyConstraint("child_row", "parent_row", "role", name="pk_parents"),
    )
    op.create_index("ix_parents_parent_row", "parents", ["parent_row"], unique=False)
    counters = sa.table("counters", sa.column("name", sa.String), sa.column("value", sa.BigInteger))
    op.bulk_insert(counters, [{"name": "index", "value": 0}])
