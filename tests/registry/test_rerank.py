"""The re-rank: the answer of measuring everything, at the price of measuring what it takes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supernet_registry.clients.wire.resources import (
    Dataset,
    Metrics,
    ShortlistOutcome,
    SourceCandidate,
    SpaceDescriptor,
    SupernetVersion,
)
from supernet_registry.registry.catalog.distances import Distance, Pair, pair
from supernet_registry.registry.index.embedding_index import Hit
from supernet_registry.registry.lru import LruCache
from supernet_registry.registry.sources.candidates import Cutoff, Measured, candidates_of, judge_novelty, place
from supernet_registry.registry.sources.rerank import Rerank, Shortlisted
from supernet_registry.registry.sources.stored_sketches import StoredSketches
from supernet_registry.registry.storage.blobs.memory import MemoryBlobStore
from supernet_registry.registry.transport.pool import TransportPool
from supernet_registry.search.similarity import Sketch, otdd
from supernet_registry.search.spaces import make_space

SPACE = make_space("nas-bench-201")
DESCRIPTOR = SpaceDescriptor(**{name: getattr(SPACE, name) for name in SpaceDescriptor.__dataclass_fields__})
TIE_BAND = 0.04
NOBODY = frozenset[int]()


def sketch(place: tuple[float, ...], seed: int, *, moments_only: bool = False) -> Sketch:
    """Two classes in three dimensions around a place."""
    random = np.random.default_rng(seed)
    centres = np.array(place) + random.normal(scale=0.3, size=(2, 3))
    labels = np.repeat([0, 1], 6)
    return Sketch(
        features=(centres[labels] + random.normal(scale=0.2, size=(12, 3))).astype(np.float32),
        labels=labels,
        class_means=centres.astype(np.float32),
        class_factors=random.normal(scale=0.2, size=(2, 2, 3)).astype(np.float32),
        class_counts=np.array([60, 40]),
        encoder_id="e",
        moments_only=moments_only,
    )


class Fixture:
    """A target and stored sources, nearest first by a stand-in for the embedding distance."""

    def __init__(self, target: Sketch, sources: list[Sketch], *, poor: frozenset[int] = NOBODY) -> None:
        self.target = target
        self.sources = sources
        self.sketches = self.sketches_of(*range(len(sources)))
        self.bounds = LruCache[Pair, float](100)
        self.poor = poor
        """Sources whose version fails the quality gate."""
        self.exact = [otdd(target, source).distance for source in sources]

    def sketches_of(self, *numbers: int) -> StoredSketches:
        """A store that holds the sketches of these sources alone."""
        store = MemoryBlobStore()
        for number in numbers:
            store.put(self.sources[number].to_bytes())
        return StoredSketches(store)

    def shortlist(self) -> list[Shortlisted]:
        order = sorted(range(len(self.sources)), key=lambda i: np.linalg.norm(self.sources[i].class_means[0]))
        return [
            Shortlisted(
                hit=Hit(i, f"datasets/{i}", float(rank)),
                dataset=self.dataset(i),
                versions=self.versions(i),
            )
            for rank, i in enumerate(order)
        ]

    def dataset(self, i: int) -> Dataset:
        digest = self.sources[i].digest
        return Dataset(name=f"datasets/{i}", display_name=f"set {i}", sketch_digest=digest, val_count=100)

    def versions(self, i: int) -> list[SupernetVersion]:
        metrics = Metrics(val_accuracy=0.1 if i in self.poor else 0.95)
        return [SupernetVersion(name=f"supernets/s{i}/versions/1", metrics=metrics, search_space=DESCRIPTOR)]

    def known(self, pairs: set[tuple[int, int]]) -> dict[Pair, Distance]:
        """The cache holds the distances of these pairs; -1 is the target."""
        everything = {-1: self.target, **dict(enumerate(self.sources))}
        return {
            pair(a.digest, b.digest): Distance(otdd(a, b).distance, True)
            for a, b in ((everything[i], everything[j]) for i, j in pairs)
        }

    def by_definition(self) -> tuple[SourceCandidate, ...]:
        """Every distance measured."""
        measured = [
            Measured(
                dataset=self.dataset(i),
                same_dataset=self.sources[i].digest == self.target.digest,
                embedding_distance=item.hit.distance,
                ot_distance=self.exact[i],
                ot_converged=True,
                chance=0.6,
                versions=item.versions,
            )
            for item in self.shortlist()
            for i in [item.hit.row_id]
        ]
        return place([c for item in measured for c in candidates_of(item, SPACE)], tie_band=TIE_BAND)

    def rerank(
        self,
        pool: TransportPool,
        *,
        top_k: int,
        known: Mapping[Pair, Distance] | None = None,
        deadline: float | None = None,
    ) -> Rerank:
        rerank = Rerank(
            self.target,
            self.shortlist(),
            known or {},
            self.bounds,
            cutoff=Cutoff(top_k=top_k, tie_band=TIE_BAND),
            space=SPACE,
            sketches=self.sketches,
            pool=pool,
            deadline=deadline,
            keep_late=lambda _: None,
        )
        rerank.run()
        return rerank


@pytest.fixture(scope="module")
def pool() -> Iterator[TransportPool]:
    with contextlib.closing(TransportPool(0)) as opened:
        yield opened


def on_a_line(*places: float) -> list[Sketch]:
    return [sketch((x, 0.0, 0.0), seed) for seed, x in enumerate(places, 1)]


def outcomes(rerank: Rerank) -> list[str]:
    """By number of the source."""
    return [item.outcome.value for item in sorted(rerank.shortlist, key=lambda item: item.hit.row_id)]


TARGET = sketch((0.0, 0.0, 0.0), 0)
places = st.tuples(*[st.floats(-3, 3)] * 3)


@settings(max_examples=150, deadline=None)
@given(
    data=st.data(),
    spots=st.lists(places, min_size=1, max_size=9),
    top_k=st.integers(1, 6),
    twins=st.booleans(),
)
def test_answers_are_those_of_measuring_everything(
    pool: TransportPool,
    data: st.DataObject,
    spots: list[tuple[float, ...]],
    top_k: int,
    twins: bool,
) -> None:
    """With any part of the distances in the cache, whoever fails the gates, ties and the target itself among them."""
    sources = [sketch(spot, seed) for seed, spot in enumerate(spots, 1)]
    sources += [TARGET, sketch(spots[0], 99)] if twins else []
    numbers = st.integers(-1, len(sources) - 1)
    poor = data.draw(st.frozensets(st.integers(0, len(sources) - 1)))
    known = data.draw(st.sets(st.tuples(numbers, numbers), max_size=20))
    fixture = Fixture(TARGET, sources, poor=poor)
    rerank = fixture.rerank(pool, top_k=top_k, known=fixture.known(known))
    found, expected = place(rerank.candidates, tie_band=TIE_BAND), fixture.by_definition()
    assert found[:top_k] == expected[:top_k]
    assert judge_novelty(found, [1.0, 2.0, 3.0, 4.0]) == judge_novelty(expected, [1.0, 2.0, 3.0, 4.0])
    assert rerank.complete
    for item in rerank.shortlist:
        exact = fixture.exact[item.hit.row_id]
        assert item.lower_bound <= exact * (1 + 1e-6) + 1e-9
        assert (item.distance is None) == (item.outcome is ShortlistOutcome.PRUNED)


def test_what_lies_beyond_the_candidates_asked_for_is_not_measured(pool: TransportPool) -> None:
    fixture = Fixture(TARGET, on_a_line(0.5, 1.0, 8.0, 9.0))
    rerank = fixture.rerank(pool, top_k=2)
    assert outcomes(rerank) == ["COMPUTED", "COMPUTED", "PRUNED", "PRUNED"]
    assert all(item.lower_bound > 5.0 for item in rerank.shortlist[2:])
    assert len(rerank.computed) == 2


def test_what_was_pruned_is_pruned_again_without_computing_anything(pool: TransportPool) -> None:
    fixture = Fixture(TARGET, on_a_line(0.5, 8.0))
    assert outcomes(fixture.rerank(pool, top_k=1)) == ["COMPUTED", "PRUNED"]
    fixture.sketches = fixture.sketches_of(0)  # reading another one would fail
    assert outcomes(fixture.rerank(pool, top_k=1, known=fixture.known({(-1, 0)}))) == ["CACHED", "PRUNED"]


def test_the_triangle_inequality_spares_even_reading_the_sketch(pool: TransportPool) -> None:
    fixture = Fixture(TARGET, on_a_line(0.5, 8.0))
    fixture.sketches = fixture.sketches_of(0)
    rerank = fixture.rerank(pool, top_k=1, known=fixture.known({(-1, 0), (0, 1)}))
    assert outcomes(rerank) == ["CACHED", "PRUNED"]


def test_where_nobody_can_be_skipped_no_bounds_are_computed(pool: TransportPool) -> None:
    rerank = Fixture(TARGET, on_a_line(0.5, 8.0)).rerank(pool, top_k=2)
    assert [item.lower_bound for item in rerank.shortlist] == [0.0, 0.0]


def test_distances_that_are_not_proven_prune_nothing(pool: TransportPool) -> None:
    """An upper bound says nothing about what lies at least so far away."""
    fixture = Fixture(TARGET, on_a_line(0.5, 1.0))
    digests = [source.digest for source in fixture.sources]
    known = {
        pair(TARGET.digest, digests[0]): Distance(fixture.exact[0], True),
        pair(digests[0], digests[1]): Distance(50.0, False),
    }
    assert outcomes(fixture.rerank(pool, top_k=1, known=known))[0] == "CACHED"
    rerank = fixture.rerank(pool, top_k=2, known=known)
    assert outcomes(rerank) == ["CACHED", "COMPUTED"]


def test_the_nearest_eligible_candidate_is_found_beyond_those_asked_for(pool: TransportPool) -> None:
    """Novelty needs it, and everybody is compared with it."""
    fixture = Fixture(TARGET, on_a_line(0.5, 1.0, 8.0, 20.0), poor=frozenset({0, 1}))
    assert outcomes(fixture.rerank(pool, top_k=1)) == ["COMPUTED", "COMPUTED", "COMPUTED", "PRUNED"]


def test_whether_the_nearest_is_tied_is_settled_beyond_those_asked_for(pool: TransportPool) -> None:
    sources = [sketch((5.0, 0.0, 0.0), 1), sketch((5.1, 0.0, 0.0), 1), sketch((9.0, 0.0, 0.0), 1)]
    rerank = Fixture(TARGET, sources).rerank(pool, top_k=1)
    assert outcomes(rerank) == ["COMPUTED", "COMPUTED", "PRUNED"]
    (nearest, *_) = place(rerank.candidates, tie_band=TIE_BAND)
    assert nearest.tied


def test_what_is_in_the_cache_is_not_computed(pool: TransportPool) -> None:
    fixture = Fixture(TARGET, on_a_line(0.5, 1.0))
    rerank = fixture.rerank(pool, top_k=2, known=fixture.known({(-1, 0)}))
    assert outcomes(rerank) == ["CACHED", "COMPUTED"]
    assert list(rerank.computed) == [pair(TARGET.digest, fixture.sources[1].digest)]


def test_after_the_deadline_what_is_known_is_all_there_is(pool: TransportPool) -> None:
    fixture = Fixture(TARGET, on_a_line(0.5, 1.0, 1.5))
    rerank = fixture.rerank(pool, top_k=3, known=fixture.known({(-1, 1)}), deadline=time.monotonic() - 1.0)
    assert not rerank.complete
    assert outcomes(rerank)[1:] == ["CACHED", "LATE"]
    assert "supernets/s1/versions/1" in {candidate.version for candidate in rerank.candidates}


@pytest.mark.parametrize("top_k", [1, 2])
def test_a_dataset_that_was_deleted_meanwhile_is_left_out(
    pool: TransportPool, caplog: pytest.LogCaptureFixture, top_k: int
) -> None:
    fixture = Fixture(TARGET, on_a_line(0.5, 1.0))
    fixture.sketches = fixture.sketches_of(1)
    rerank = fixture.rerank(pool, top_k=top_k)
    assert outcomes(rerank) == ["UNUSABLE", "COMPUTED"]
    assert rerank.complete
    assert [candidate.version for candidate in rerank.candidates] == ["supernets/s1/versions/1"]
    assert caplog.text == ""  # nothing is wrong


def test_distances_between_moments_are_marked(pool: TransportPool) -> None:
    sources = [*on_a_line(0.5), sketch((1.0, 0.0, 0.0), 2, moments_only=True)]
    rerank = Fixture(TARGET, sources).rerank(pool, top_k=2)
    reasons = {c.version: [reason.code for reason in c.reasons] for c in rerank.candidates}
    assert reasons == {"supernets/s0/versions/1": [], "supernets/s1/versions/1": ["MOMENTS_ONLY"]}
    target = sketch((0.0, 0.0, 0.0), 0, moments_only=True)
    rerank = Fixture(target, on_a_line(0.5)).rerank(pool, top_k=1)
    assert [reason.code for reason in rerank.candidates[0].reasons] == ["MOMENTS_ONLY"]


def test_class_couplings_are_filled_in_for_cached_and_computed_distances(pool: TransportPool) -> None:
    fixture = Fixture(TARGET, on_a_line(0.5, 1.0))
    rerank = fixture.rerank(pool, top_k=2, known=fixture.known({(-1, 0)}))
    rerank.couple({"datasets/0", "datasets/1"})
    for item in rerank.shortlist:
        expected = otdd(TARGET, fixture.sources[item.hit.row_id]).class_coupling
        np.testing.assert_allclose(item.class_coupling, expected)
