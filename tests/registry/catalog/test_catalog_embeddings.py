"""Stored embeddings: read by name, and in pages in the order of their changes."""

from __future__ import annotations

import numpy as np
import pytest
import sqlalchemy as sa

from supernet_registry.registry.catalog import names
from supernet_registry.search.errors import InvalidArgument, NotFound
from tests.registry.catalog.catalog_world import EMBEDDING_ID, World


def test_an_embedding_is_read_back_as_it_was_registered(world: World) -> None:
    dataset = world.dataset(3, with_images=False)
    stored_id, vector = world.catalog.embeddings.embedding(dataset.name)
    assert stored_id == EMBEDDING_ID
    assert vector.dtype == np.float32
    np.testing.assert_array_equal(vector, np.arange(4) + 3)


def test_an_embedding_of_no_dataset_is_not_found(world: World) -> None:
    with pytest.raises(NotFound):
        world.catalog.embeddings.embedding(names.dataset_name("0" * 32))
    with pytest.raises(InvalidArgument):
        world.catalog.embeddings.embedding("supernets/a")


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_pages_of_changes_together_are_all_changes_in_their_order(world: World, limit: int) -> None:
    registered = [world.dataset(seed, with_images=False) for seed in range(5)]
    world.catalog.datasets.delete(registered[1].name)
    world.catalog.datasets.delete(registered[3].name)
    world.dataset(7, with_images=False)
    rows, after = [], 0
    while page := world.catalog.embeddings.index_rows(after, limit):
        assert len(page) <= limit
        rows += page
        after = page[-1].sequence
    assert [row.sequence for row in rows] == [1, 3, 5, 6, 7, 8]
    assert [row.embedding is None for row in rows] == [False, False, False, True, True, False]
    assert after == world.catalog.embeddings.latest_sequence()


def test_a_page_is_read_along_an_index_and_not_by_sorting_all_changes(world: World) -> None:
    """A catch-up of one row must not cost more in a large registry than in a small one."""
    if world.engine.dialect.name != "sqlite":
        pytest.skip("reads SQLite's query plan")
    statements: list[tuple[str, tuple[object, ...]]] = []
    sa.event.listen(world.engine, "before_cursor_execute", lambda *args: statements.append((args[2], args[3])))
    world.catalog.embeddings.index_rows(0, 10)
    (read,) = [statement for statement in statements if statement[0].startswith("SELECT")]
    with world.engine.connect() as connection:
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {read[0]}", read[1]).all()
    details = [str(step[-1]) for step in plan]
    assert sum("SEARCH" in detail for detail in details) == 2, details
    assert not any("SCAN" in detail or "TEMP B-TREE" in detail for detail in details), details
