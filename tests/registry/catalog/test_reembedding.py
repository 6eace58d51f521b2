"""Embeddings of another release are computed again from the stored sketches, batch by batch, and harm nobody."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from supernet_registry.registry.catalog import Catalog
from supernet_registry.registry.catalog.embeddings import Renewal
from supernet_registry.registry.index.embedding_index import EmbeddingIndex
from supernet_registry.registry.index.reembedding import CurrentEmbeddings
from supernet_registry.registry.storage.schema import datasets
from supernet_registry.search.errors import NotFinite, NotFound
from supernet_registry.search.similarity import EMBEDDING_DIMENSION, embed, embedding_id
from tests.registry.catalog.catalog_world import EMBEDDING_ID, World, sketch

ROOT = Path(__file__).parents[3]
ENCODER = "e"
CURRENT = embedding_id(ENCODER, 3)


def opened(catalog: Catalog) -> tuple[CurrentEmbeddings, EmbeddingIndex]:
    """What a starting server makes: an index of the current embeddings, and what renews the others."""
    embeddings = CurrentEmbeddings(catalog, encoder_id=ENCODER, embedding_id=CURRENT)
    index = EmbeddingIndex(EMBEDDING_DIMENSION, embeddings.changes)
    index.catch_up()
    return embeddings, index


def renew_all(embeddings: CurrentEmbeddings, *, size: int = 64) -> int:
    """Batches until nothing is pending; returns how many embeddings were stored."""
    stored = 0
    while embeddings.pending:
        stored += embeddings.renew_batch(size=size)
    return stored


def test_outdated_embeddings_are_computed_again_and_enter_the_index(world: World) -> None:
    registered = [world.dataset(seed, with_images=False) for seed in range(5)]
    embeddings, index = opened(world.catalog)
    assert len(index) == 0
    assert embeddings.pending
    assert renew_all(embeddings) == 5
    index.catch_up()
    assert len(index) == 5
    for seed, dataset in enumerate(registered):
        stored_id, vector = world.catalog.embeddings.embedding(dataset.name)
        assert stored_id == CURRENT
        np.testing.assert_array_equal(vector, embed(sketch(seed, ENCODER)))
        assert index.search(vector, 1)[0].name == dataset.name


def test_queries_see_what_is_done_from_batch_to_batch(world: World) -> None:
    for seed in range(5):
        world.dataset(seed, with_images=False)
    embeddings, index = opened(world.catalog)
    seen = []
    while embeddings.pending:
        embeddings.renew_batch(size=2)
        index.catch_up()
        seen.append(len(index))
    assert seen == [2, 4, 5]
    assert index.sequence == world.catalog.embeddings.latest_sequence()


def test_a_renewed_embedding_changes_neither_revision_nor_sketch(world: World) -> None:
    """A client that has read the dataset can still update it with the etag that it has."""
    before = world.dataset(with_images=False)
    embeddings, _ = opened(world.catalog)
    renew_all(embeddings)
    after = world.catalog.datasets.get(before.name)
    assert after == replace(before, index_sequence=after.index_sequence)
    assert after.index_sequence > before.index_sequence
    world.catalog.datasets.update(before.name, etag=before.etag, display_name="renamed")


def test_datasets_of_another_encoder_stay_out_and_the_log_says_what_to_do(world: World, caplog) -> None:
    for seed in range(3):
        world.register(world.draft(seed, with_images=False), seed=seed, encoder_id="other" if seed else ENCODER)
    embeddings, index = opened(world.catalog)
    assert renew_all(embeddings, size=1) == 1
    index.catch_up()
    assert len(index) == 1
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "2 datasets were sketched with encoder other" in warning
    assert "register them again" in warning


@pytest.mark.parametrize("damage", ["changed", "lost"])
def test_a_damaged_sketch_is_reported_once_and_skipped(world: World, tmp_path: Path, caplog, damage) -> None:
    registered = [world.dataset(seed, with_images=False) for seed in range(3)]
    digest = registered[1].sketch_digest
    path = tmp_path / "data" / "blobs" / digest[:2] / digest
    data = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1])) if damage == "changed" else path.unlink()
    embeddings, index = opened(world.catalog)
    assert renew_all(embeddings) == 2
    index.catch_up()
    assert len(index) == 2
    assert not embeddings.pending
    assert embeddings.renew_batch() == 0
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert registered[1].name in warning


def test_nothing_is_read_while_nothing_is_pending(world: World) -> None:
    world.dataset(with_images=False)
    embeddings, index = opened(world.catalog)
    renew_all(embeddings)
    index.catch_up()
    statements: list[str] = []
    sa.event.listen(world.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    assert not embeddings.pending
    assert embeddings.renew_batch() == 0
    assert not statements


def test_an_interrupted_batch_keeps_what_is_done_and_goes_on_there(world: World) -> None:
    for seed in range(4):
        world.dataset(seed, with_images=False)
    embeddings, _ = opened(world.catalog)
    answers = iter([False, False, True])
    assert embeddings.renew_batch(lambda: next(answers)) == 2
    assert embeddings.pending
    assert renew_all(embeddings) == 2


def test_two_servers_at_once_renew_every_dataset_once(world: World) -> None:
    """Compare-and-set: who finds the embedding changed since it was read leaves it."""
    for seed in range(4):
        world.dataset(seed, with_images=False)
    first, second = opened(world.catalog)[0], opened(world.catalog)[0]
    stored = 0
    while first.pending or second.pending:
        stored += first.renew_batch(size=1) + second.renew_batch(size=2)
    assert stored == 4
    assert world.catalog.embeddings.latest_sequence() == 4 + 4


def test_a_dataset_that_changed_since_it_was_read_is_left_alone(world: World) -> None:
    kept, deleted, registered = (world.dataset(seed, with_images=False) for seed in range(3))
    outdated = world.catalog.embeddings.outdated_embeddings(CURRENT, after_row=0, limit=10)
    assert [item.name for item in outdated] == [kept.name, deleted.name, registered.name]
    world.catalog.datasets.delete(deleted.name)
    world.register(world.draft(2, with_images=False), seed=77, encoder_id="other")
    vector = np.ones(EMBEDDING_DIMENSION, dtype=np.float32)
    assert world.catalog.embeddings.renew_embeddings([Renewal(item, vector) for item in outdated], CURRENT) == 1
    assert world.catalog.embeddings.embedding(kept.name)[0] == CURRENT
    assert world.catalog.embeddings.embedding(registered.name)[0] == EMBEDDING_ID
    with pytest.raises(NotFound):
        world.catalog.embeddings.embedding(deleted.name)


def test_an_embedding_that_is_not_finite_is_refused_and_nothing_of_its_batch_is_stored(world: World) -> None:
    for seed in range(2):
        world.dataset(seed, with_images=False)
    outdated = world.catalog.embeddings.outdated_embeddings(CURRENT, after_row=0, limit=10)
    vectors = np.array([[1.0, 2.0], [np.nan, 0.0]], dtype=np.float32)
    with pytest.raises(NotFinite):
        world.catalog.embeddings.renew_embeddings(
            [Renewal(item, vector) for item, vector in zip(outdated, vectors, strict=True)], CURRENT
        )
    assert len(world.catalog.embeddings.outdated_embeddings(CURRENT, after_row=0, limit=10)) == 2


def test_servers_of_two_releases_do_not_overwrite_each_other_for_ever(world: World, caplog) -> None:
    """Each visits a row once; a row that comes back with another id is left out, and the log says why."""
    dataset = world.dataset(with_images=False)
    embeddings, index = opened(world.catalog)
    renew_all(embeddings)
    index.catch_up()
    assert len(index) == 1
    with world.engine.begin() as connection:
        connection.execute(datasets.update().values(embedding_id="of another release", index_sequence=100))
    index.catch_up()
    assert len(index) == 0
    assert not embeddings.pending
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert dataset.name in warning
    assert "servers of one release" in warning


RENEW_ONE_BY_ONE = """
import sys
from pathlib import Path
from supernet_registry.registry.catalog import Catalog
from supernet_registry.registry.index.reembedding import CurrentEmbeddings
from supernet_registry.registry.settings import Settings
from supernet_registry.search.similarity import embedding_id

catalog = Catalog.open(Settings(data_dir=Path(sys.argv[1]), database_url=sys.argv[2]))
embeddings = CurrentEmbeddings(catalog, encoder_id="e", embedding_id=embedding_id("e", 3))
embeddings.changes(0, 1000)
while embeddings.pending:
    print(embeddings.renew_batch(size=2), flush=True)
"""


def test_sigkill_in_the_middle_is_harmless(world: World, database_url: str, tmp_path: Path) -> None:
    """Every dataset has its old embedding or the new one, with the id that belongs to it; the next server goes on."""
    names = [world.dataset(seed, with_images=False).name for seed in range(12)]
    old = {name: world.catalog.embeddings.embedding(name)[1] for name in names}
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    program = [sys.executable, "-c", RENEW_ONE_BY_ONE, str(tmp_path / "data"), database_url]
    with subprocess.Popen(program, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "2\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
    left = 0
    for seed, name in enumerate(names):
        stored_id, vector = world.catalog.embeddings.embedding(name)
        expected = embed(sketch(seed, ENCODER)) if stored_id == CURRENT else old[name]
        np.testing.assert_array_equal(vector, expected)
        left += stored_id != CURRENT
    embeddings, index = opened(world.catalog)
    assert len(index) == 12 - left
    assert renew_all(embeddings) == left
    index.catch_up()
    assert len(index) == 12
