"""Jobs may be about several datasets: those of a generalist."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_ROW = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "job_datasets",
        sa.Column("job_row", _ROW, nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("dataset_row", _ROW, nullable=False),
        sa.ForeignKeyConstraint(
            ["dataset_row"], ["datasets.row_id"], name=op.f("fk_job_datasets_dataset_row_datasets")
        ),
        sa.ForeignKeyConstraint(["job_row"], ["jobs.row_id"], name=op.f("fk_job_datasets_job_row_jobs")),
        sa.PrimaryKeyConstraint("job_row", "position", name=op.f("pk_job_datasets")),
    )
    op.create_index(op.f("ix_job_datasets_dataset_row"), "job_datasets", ["dataset_row"], unique=False)
