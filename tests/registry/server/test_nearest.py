"""The nearest-source query in process: agreement with the definition, memory, deadlines, damaged sources."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import threading
import time
from concurrent.futures import Future
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save

from supernet_registry.clients.wire.resources import Metrics, SpaceDescriptor, SupernetVersion
from supernet_registry.clients.wire.resources import ShortlistOutcome as Outcome
from supernet_registry.registry.sources.finder import LARGEST_SHORTLIST, MOST_CANDIDATES, NearestQuery, SourceFinder
from supernet_registry.registry.sources.stored_sketches import StoredSketches
from supernet_registry.registry.transport.pool import TransportPool
from supernet_registry.registry.transport.solver import solve
from supernet_registry.search import errors
from supernet_registry.search.similarity import load_encoder, make_sketch, otdd
from tests.registry.server.server_tools import GENOTYPE, SPACE, make_dataset

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


def test_a_distance_that_comes_too_late_warms_the_cache(registry_server, sources, client):
    target = sketch_of(make_dataset(99))
    digests = [dataset.sketch_digest for dataset in client.list_datasets()]
    cache = registry_server.registry.catalog.distances
    pool = HeldPool()
    with contextlib.closing(finder_of(registry_server.registry, pool=pool)) as finder:
        answer = finder.find(NearestQuery(sketch=target, top_k=100, deadline=time.monotonic() - 1.0))
        assert answer.partial
        assert not cache.cached_distances([target.digest, *digests])
        pool.finish()
    assert len(cache.cached_distances([target.digest, *digests])) == pool.size


class HeldPool(TransportPool):
    """Transports begin at once and end when the test says so."""

    def __init__(self):
        super().__init__(0)
        self._held = []

    def solve(self, target, source):
        future = Future()
        future.set_running_or_notify_cancel()
        self._held.append((future, target, source))
        return future

    def finish(self):
        for future, target, source in self._held:
            future.set_result(solve(target, source))


def test_what_is_pruned_was_not_among_the_candidates_of_everything_measured(finder, sources):
    """The same answer as without pruning, and from a cache that knows only what was not pruned."""
    target = sketch_of(make_dataset(99, other=0.3))
    few = [finder.find(NearestQuery(sketch=target, top_k=2, explain=True)) for _ in range(2)]
    everything = finder.find(NearestQuery(sketch=target, top_k=100))
    for answer in few:
        assert answer.candidates == everything.candidates[:2]
        assert (answer.novel, answer.novelty_reason) == (everything.novel, everything.novelty_reason)
    outcomes = [[entry.outcome for entry in answer.shortlist] for answer in few]
    assert Outcome.PRUNED in outcomes[0]
    assert [Outcome.CACHED if outcome is Outcome.COMPUTED else outcome for outcome in outcomes[0]] == outcomes[1]


def test_an_explained_answer_says_what_became_of_every_shortlisted_dataset(client, sources):
    answer = client.query_nearest_sources(sketch_of(make_dataset(99)).to_bytes(), top_k=2, explain=True)
    assert {entry.dataset for entry in answer.shortlist} == {version.dataset for _, version in sources}
    distances = [entry.embedding_distance for entry in answer.shortlist]
    assert distances == sorted(distances)
    measured = {entry.dataset: entry.ot_distance for entry in answer.shortlist if entry.ot_distance is not None}
    for candidate in answer.candidates:
        assert measured[candidate.dataset] == candidate.ot_distance
    for entry in answer.shortlist:
        assert entry.dataset_display_name.startswith("set-")
        assert (entry.ot_distance is None) == (entry.outcome is Outcome.PRUNED)
        assert entry.lower_bound <= (entry.ot_distance or math.inf)
    assert client.query_nearest_sources(sketch_of(make_dataset(99)).to_bytes()).shortlist == ()


def test_a_registered_target_is_answered_as_its_sketch_is(client, sources):
    data = make_dataset(99, other=0.5)
    dataset = client.register_dataset(data)
    by_name = [client.query_nearest_sources(dataset.name) for _ in range(2)]
    blob = client.upload_blob(sketch_of(data).to_bytes())
    by_sketch = [client.query_nearest_sources(target) for target in (sketch_of(data).to_bytes(), blob, blob)]
    for answer in by_name + by_sketch:
        assert answer.candidates == by_name[0].candidates


def test_processes_give_the_answers_that_the_server_itself_gives(registry_server, sources):
    target = sketch_of(make_dataset(99, other=0.3))
    expected = registry_server.registry.finder.find(NearestQuery(sketch=target, top_k=6))
    registry = registry_server.registry
    pool = TransportPool(2)
    pool.warm_up()
    while len(pool.process_ids) < 2:
        time.sleep(0.05)
        pool.bound(target, target).result()
    with contextlib.closing(finder_of(registry, pool=pool, catalog=forgetful(registry.catalog))) as finder:
        answer = finder.find(NearestQuery(sketch=target, top_k=6, include_class_coupling=True, explain=True))
    assert {entry.outcome for entry in answer.shortlist} == {Outcome.COMPUTED}
    for candidate, other in zip(answer.candidates, expected.candidates, strict=True):
        assert candidate.ot_distance == pytest.approx(other.ot_distance, rel=1e-9)
        assert candidate.version == other.version
        assert sum(candidate.class_coupling.mass) == pytest.approx(1.0)


def test_predicted_gains_are_said_but_do_not_rank(registry_server, sources):
    class Guide:
        reason = "Learnt from 12 jobs."

        def refresh(self, interrupted=lambda: False):
            return False

        def predict(self, candidates, target, datasets):
            assert {candidate.dataset for candidate in candidates} <= set(datasets)
            return {candidate.version: 0.01 * i for i, candidate in enumerate(candidates) if i != 1}

    target = sketch_of(make_dataset(99))
    plain = registry_server.registry.finder.find(NearestQuery(sketch=target, top_k=3))
    with contextlib.closing(
        finder_of(registry_server.registry, pool=TransportPool(0), signals={"gain": Guide()})
    ) as finder:
        answer = finder.find(NearestQuery(sketch=target, top_k=3))
    assert [candidate.predictions for candidate in answer.candidates] == [{"gain": 0.0}, {}, {"gain": 0.02}]
    assert answer.signal_reasons == {"gain": "Learnt from 12 jobs."}
    assert [replace(candidate, predictions={}) for candidate in answer.candidates] == list(plain.candidates)


def test_a_closed_finder_says_that_the_server_is_draining(registry_server, sources):
    finder = finder_of(registry_server.registry, pool=TransportPool(0))
    finder.close()
    with pytest.raises(errors.Draining):
        finder.find(NearestQuery(sketch=sketch_of(make_dataset(99))))


def finder_of(registry, **changes):
    """Another finder on the same registry."""
    values = {"catalog": registry.catalog, "shortlist_size": 16, "tie_band": 0.04, **changes}
    return SourceFinder(sketches=StoredSketches(registry.catalog.blobs.store), index=registry.index, **values)


def forgetful(catalog):
    """The same catalog, but that it remembers no distance."""
    other = copy.copy(catalog)
    other.distances = copy.copy(catalog.distances)
    other.distances.cached_distances = lambda digests: {}
    return other


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
    descriptor = SpaceDescriptor(**SPACE.to_json() | {"operations": SPACE.operations, "head_pool": 3})
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


def finish_generalist(client, supernet, accuracy, *data):
    """A generalist as a worker would hand it in."""
    datasets = [client.register_dataset(item, retain_images=True).name for item in data]
    job = client.pretrain_generalist(datasets, name=supernet, space=SPACE)
    lease, _, _ = client.lease_search_job("test-worker", device="cpu", job=job.name)
    heads, start = [], 0
    for item in data:
        heads.append({"dataset": item.digest, "rows": [start, start + item.n_classes]})
        start += item.n_classes
    described = {"space": SPACE.to_json(), "n_classes": start, "genotype": GENOTYPE, "heads": heads}
    tensors = {"w": np.full((2, 2), accuracy, np.float32)}
    blob = client.upload_blob(save(tensors, metadata={"supernet": json.dumps(described)}))
    metrics = Metrics(val_accuracy=accuracy, test_accuracy=accuracy)
    draft = SupernetVersion(weights_blob=blob, genotype=GENOTYPE, metrics=metrics)
    return client.complete_search_job(lease, draft)[0].name


def test_the_newest_eligible_generalist_is_offered_after_the_ranking_and_changes_nothing_in_it(finder, sources, client):
    target = sketch_of(make_dataset(99, other=0.3))
    query = NearestQuery(sketch=target, top_k=3, space=SPACE)
    before = finder.find(query)
    members = [data for data, _ in sources[:2]]
    bad = finish_generalist(client, "bad", 0.2, *members)
    assert [(c.version, c.eligible) for c in finder.find(query).candidates[3:]] == [(bad, False)]
    good = finish_generalist(client, "good", 0.9, *members)
    finish_generalist(client, "worse", 0.3, *members)
    after = finder.find(query)
    assert after.candidates[:3] == before.candidates
    assert (after.novel, after.novelty_reason) == (before.novel, before.novelty_reason)
    (offered,) = after.candidates[3:]
    assert (offered.version, offered.eligible, offered.origin) == (good, True, "generalist")
    known = [distance for data in members if (distance := otdd(target, sketch_of(data)).distance)]
    assert offered.ot_distance == pytest.approx(min(known))
    assert finder.find(NearestQuery(sketch=sketch_of(members[1]), space=SPACE)).candidates[-1].same_dataset
