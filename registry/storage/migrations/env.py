"""Run by Alembic; the connection (and its transaction) is given by `registry.storage.database`."""

from __future__ import annotations

from alembic import context

from supernet_registry.registry.storage.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite cannot alter columns in place
)
context.run_migrations()
