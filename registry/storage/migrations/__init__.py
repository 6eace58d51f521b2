"""Alembic migrations of the catalog, packaged with the code: `supernet-registry db upgrade` runs them."""
