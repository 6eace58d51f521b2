"""The nearest-source query in process: agreement with the definition, memory, deadlines, damaged sources."""

from __future__ import annotations

import threading
import time

import pytest
from server_tools import SPACE, make_dataset

from clients.resources import SpaceDescriptor
from registry.nearest import LARGEST_SHORTLIST, MOST_CANDIDATES, NearestQuery
from search import errors
from search.similarity import load_encoder, make_sketch, otdd

BLENDS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def sketch_of(data):
    return make_sketch(data, load_encoder("pixels"))


@pytest.fixture
def finder(registry_server):
    return registry_server.registry.finder


@pytest.fixture
def sources(finish):
    """Versions on datasets that lie ever farther from the first kind of pattern: (data, version)."""
    made = [make_dataset(seed, other=blend) for seed, blend in enumerate(BLENDS)]
    return [(data, finish(data, f"s{i}")) for i, data in enumerate(made)]


def test_the_ranking_is_that_of_exact_distances_to_every_source(finder, sources):
    target = sketch_of(make_dataset(99, other=0.3))
    answer = finder.find(NearestQuery(sketch=target, top_k=100))
    exact = sorted((otdd(target, sketch_of(data)).distance, version.name) for data, version in sources)
    assert [c.version for c in answer.candidates] == [name for _, name in exact]
    assert [c.ot_distance for c in answer.candidates] == pytest.approx([distance for distance, _ in exact], rel=1e-9)


def test_a_shortlist_of_one_is_the_nearest_by_embedding_alone(finder, sources):
    target = sketch_of(make_dataset(99))
    answer = finder.find(NearestQuery(sketch=target, top_k=1, shortlist_size=1))
    assert [c.version for c in answer.candidates] == ["supernets/s0/versions/1"]


def test_a_source_with_a_damaged_sketch_is_left_out_and_does_not_fail_the_query(
    registry_server, finder, sources, client, caplog
):
    _, damaged = sources[0]
    digest = client.get_dataset(damaged.dataset).sketch_digest
    (path,) = registry_server.settings.blobs_dir.rglob(digest)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    answer = finder.find(NearestQuery(sketch=sketch_of(make_dataset(99)), top_k=100))
    assert damaged.name not in {c.version for c in answer.candidates}
    assert len(answer.candidates) == len(sources) - 1
    assert damaged.dataset in caplog.text


def test_when_time_is_up_the_answer_is_partial_and_claims_nothing(finder, sources):
    target = sketch_of(make_dataset(99))
    answer = finder.find(NearestQuery(sketch=target, deadline=time.monotonic() - 1.0))
    assert answer.partial
    if not answer.candidates:  # unless a fast machine was through with one before it looked at the clock
        assert not answer.novel
    assert not finder.find(NearestQuery(sketch=target, deadline=time.monotonic() + 600.0)).partial


def test_a_deleted_source_is_not_offered_any_more(finder, client, sources):
    _, version = sources[0]
    supernet = client.get_supernet("supernets/s0")
    client.delete_supernet(supernet.name, etag=supernet.etag)
    answer = finder.find(NearestQuery(sketch=sketch_of(make_dataset(99)), top_k=100))
    assert version.name not in {c.version for c in answer.candidates}


def test_queries_at_the_same_time_give_the_same_answers(finder, sources):
    """And none waits for another's place in the transport pool for ever."""
    queries = [NearestQuery(sketch=sketch_of(make_dataset(200 + i, other=0.1 * i)), top_k=6) for i in range(8)]
    together = [None] * len(queries)

    def ask(i: int) -> None:
        together[i] = finder.find(queries[i]).candidates

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(queries))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == [finder.find(query).candidates for query in queries]


def test_versions_of_another_space_are_marked(client, sources):
    descriptor = SpaceDescriptor(**SPACE.to_json() | {"operations": SPACE.operations, "channels": 8})
    answer = client.nearest(make_dataset(99), search_space=descriptor)
    assert answer.candidates
    assert not any(c.compatible or c.eligible for c in answer.candidates)
    assert answer.novel


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("top_k", -1),
        ("top_k", MOST_CANDIDATES + 1),
        ("shortlist_size", -1),
        ("shortlist_size", LARGEST_SHORTLIST + 1),
        ("min_index_sequence", -1),
    ],
)
def test_numbers_out_of_range_are_refused(finder, field, value):
    with pytest.raises(errors.InvalidArgument) as caught:
        finder.find(NearestQuery(sketch=sketch_of(make_dataset(1)), **{field: value}))
    assert caught.value.field == field
