"""Distances are numbered as they are written, so that an extract in memory is kept up to date by what is new."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    # The default is for distances that are there already: all of them come before the first number.
    op.add_column("distances", sa.Column("sequence", sa.BigInteger(), nullable=False, server_default="0"))
    op.create_index("ix_distances_sequence", "distances", ["sequence"], unique=False)
    counters = sa.table("counters", sa.column("name", sa.String), sa.column("value", sa.BigInteger))
    op.bulk_insert(counters, [{"name": "distance", "value": 0}])
