"""Gates, ranking, ties and novelty: rules on numbers, without any transport."""

from __future__ import annotations

import math

import numpy as np
import pytest

from supernet_registry.clients.wire.resources import Dataset, Metrics, SourceCandidate, SpaceDescriptor, SupernetVersion
from supernet_registry.registry.sources.candidates import (
    Cutoff,
    LearntDataset,
    Measured,
    candidates_of,
    generalist_candidate,
    judge_novelty,
    place,
    quality_floor,
    skip_share,
)
from supernet_registry.search.spaces import SearchSpace, make_space

SPACE = make_space("nas-bench-201")
OTHER_SPACE = make_space("nas-bench-201", head_pool=2)
OTHER_SIZE = make_space("nas-bench-201", channels=32)

CONVOLUTIONS = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"
SKIPS = "|skip_connect~0|+|skip_connect~0|skip_connect~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"


def version(
    name: str, *, accuracy: float = 0.9, genotype: str = CONVOLUTIONS, space: SearchSpace = SPACE
) -> SupernetVersion:
    fields = {field: getattr(space, field) for field in SpaceDescriptor.__dataclass_fields__}
    return SupernetVersion(
        name=f"supernets/{name}/versions/1",
        genotype=genotype,
        metrics=Metrics(val_accuracy=accuracy),
        search_space=SpaceDescriptor(**fields),
    )


def measured(
    name: str, distance: float, *versions: SupernetVersion, chance: float = 0.1, val_count: int = 1000, same=False
) -> Measured:
    return Measured(
        dataset=Dataset(name=f"datasets/{name}", display_name=name, val_count=val_count),
        same_dataset=same,
        embedding_distance=distance,
        ot_distance=distance,
        ot_converged=True,
        chance=chance,
        versions=versions or (version(name),),
    )


def rank(items: list[Measured], *, space: SearchSpace | None, tie_band: float) -> tuple[SourceCandidate, ...]:
    return place([candidate for item in items for candidate in candidates_of(item, space)], tie_band=tie_band)


def codes(candidate) -> list[str]:
    return [reason.code for reason in candidate.reasons]


def test_candidates_are_ranked_by_distance_and_say_why():
    near, tied, far = rank([measured("c", 20.0), measured("a", 10.0), measured("b", 10.3)], space=SPACE, tie_band=0.04)
    assert [c.dataset for c in (near, tied, far)] == ["datasets/a", "datasets/b", "datasets/c"]
    assert (codes(near), codes(tied), codes(far)) == (["NEAREST", "TIED"], ["TIED"], ["FAR"])
    assert (near.tied, tied.tied, far.tied) == (True, True, False)
    assert "2.00 times the nearest's 10" in far.reasons[0].message
    assert "next one lies at 10.3, within 4%" in near.reasons[1].message


def test_a_lonely_nearest_is_not_tied():
    near, far = rank([measured("a", 10.0), measured("b", 10.5)], space=SPACE, tie_band=0.04)
    assert not near.tied
    assert not far.tied


def test_a_source_of_shuffled_labels_fails_the_quality_gate_but_keeps_its_place():
    """It lies nearest, because transport cannot see that its labels mean nothing."""
    shuffled = version("shuffled", accuracy=0.13)
    first, second = rank([measured("shuffled", 9.9, shuffled), measured("honest", 10.0)], space=SPACE, tie_band=0.04)
    assert first.version == shuffled.name
    assert not first.eligible
    assert codes(first) == ["LOW_QUALITY", "TIED"]
    assert "0.130" in first.reasons[0].message
    assert codes(second) == ["NEAREST"]


@pytest.mark.parametrize(
    ("chance", "val_count", "floor"),
    [
        (0.1, 10_000, 0.325),
        (0.5, 10_000, 0.625),
        (0.5, 40, 0.5 + 3 * (0.25 / 40) ** 0.5),  # few images: luck reaches further than a quarter of the way
        (0.5, 4, 0.95),
        (0.5, 0, 0.625),
        (1.0, 100, 0.95),  # one class would always be guessed
    ],
)
def test_the_quality_floor_lies_well_above_guessing(chance, val_count, floor):
    assert quality_floor(chance, val_count) == pytest.approx(floor)


def test_not_a_number_is_no_quality():
    (candidate,) = rank([measured("a", 1.0, version("a", accuracy=float("nan")))], space=SPACE, tie_band=0.04)
    assert not candidate.eligible


def test_a_genotype_of_skip_connections_is_called_collapsed_and_left_to_the_taste():
    assert skip_share(version("x", genotype=SKIPS)) == pytest.approx(4 / 6)
    assert skip_share(version("x", genotype="nonsense")) == 0.0
    (candidate,) = rank([measured("a", 1.0, version("a", genotype=SKIPS))], space=SPACE, tie_band=0.04)
    assert codes(candidate) == ["NEAREST", "COLLAPSED"]
    assert candidate.eligible


def test_the_prior_architecture_of_a_space_is_not_collapsed():
    """The compact space begins with two skip connections on three edges."""
    compact = make_space("compact")
    for genotype, found in (
        ("|nor_conv_3x3~0|+|skip_connect~0|skip_connect~1|", ["NEAREST"]),
        ("|skip_connect~0|+|skip_connect~0|skip_connect~1|", ["NEAREST", "COLLAPSED"]),
    ):
        item = measured("a", 1.0, version("a", genotype=genotype, space=compact))
        (candidate,) = rank([item], space=compact, tie_band=0.04)
        assert codes(candidate) == found


def test_of_each_dataset_the_best_version_of_the_queried_space_is_offered():
    versions = [version("bad", accuracy=0.6), version("good", accuracy=0.8), version("other", space=OTHER_SPACE)]
    (candidate,) = rank([measured("a", 1.0, *versions)], space=SPACE, tie_band=0.04)
    assert candidate.version == "supernets/good/versions/1"


def test_a_dataset_without_a_version_in_the_queried_space_is_marked_incompatible():
    (candidate,) = rank([measured("a", 1.0, version("other", space=OTHER_SPACE))], space=SPACE, tie_band=0.04)
    assert not candidate.compatible
    assert not candidate.eligible
    assert codes(candidate) == ["INCOMPATIBLE_SPACE"]
    assert "head_pool" in candidate.reasons[0].message


def test_a_version_of_another_size_is_offered_only_where_there_is_none_of_the_queried_space():
    other = version("other", space=OTHER_SIZE, accuracy=0.9)
    (candidate,) = rank([measured("a", 1.0, other)], space=SPACE, tie_band=0.04)
    assert (candidate.compatible, candidate.eligible) == (True, True)
    assert codes(candidate) == ["NEAREST", "OTHER_SIZE"]
    (candidate,) = rank([measured("a", 1.0, other, version("exact", accuracy=0.8))], space=SPACE, tie_band=0.04)
    assert candidate.version == "supernets/exact/versions/1"
    assert codes(candidate) == ["NEAREST"]
    (candidate,) = rank([measured("a", 1.0, other, version("poor", accuracy=0.1))], space=SPACE, tie_band=0.04)
    assert candidate.version == "supernets/other/versions/1", "one that learnt nothing is no better for its size"


def test_without_a_queried_space_the_best_version_of_every_space_is_offered():
    versions = [version("a1", accuracy=0.6), version("a2", accuracy=0.8), version("b", space=OTHER_SPACE)]
    candidates = rank([measured("a", 1.0, *versions)], space=None, tie_band=0.04)
    assert {c.version for c in candidates} == {"supernets/a2/versions/1", "supernets/b/versions/1"}
    assert all(c.compatible for c in candidates)


def test_the_cutoff_is_infinite_until_all_candidates_and_an_eligible_one_are_known():
    cutoff = Cutoff(top_k=2, tie_band=0.04)
    poor = version("poor", accuracy=0.1)
    for item in (measured("a", 10.0, poor), measured("b", 11.0, poor), measured("c", 12.0, poor)):
        assert math.isinf(cutoff.distance)
        cutoff.add(candidates_of(item, SPACE))
    assert math.isinf(cutoff.distance)
    cutoff.add(candidates_of(measured("d", 13.0), SPACE))
    assert cutoff.distance == pytest.approx(13.0 * 1.04)  # a rival may come yet


def test_the_cutoff_lies_at_the_last_candidate_or_where_it_is_settled_who_ties():
    cutoff = Cutoff(top_k=1, tie_band=0.04)
    cutoff.add(candidates_of(measured("a", 10.0), SPACE))
    assert cutoff.distance == pytest.approx(10.4)
    cutoff.add(candidates_of(measured("b", 10.1), SPACE))  # it ties, and no other is named
    assert cutoff.distance == pytest.approx(10.1)
    cutoff = Cutoff(top_k=3, tie_band=0.04)
    cutoff.add([c for name in "abc" for c in candidates_of(measured(name, 20.0), SPACE)])
    assert cutoff.distance == 20.0
    cutoff.add(candidates_of(measured("d", 5.0), SPACE))
    assert cutoff.distance == 20.0


def test_the_cutoff_excludes_only_what_is_above_it_beyond_rounding():
    cutoff = Cutoff(top_k=1, tie_band=0.0)
    assert not cutoff.excludes(1e9)
    cutoff.add(candidates_of(measured("a", 10.0), SPACE))
    assert not cutoff.excludes(10.0)
    assert not cutoff.excludes(10.0005)
    assert cutoff.excludes(10.01)


def test_an_empty_registry_makes_everything_novel():
    novel, reason = judge_novelty((), [])
    assert novel
    assert "no version" in reason


def test_novel_means_farther_than_stored_datasets_usually_are_from_each_other():
    neighbours = [10.0, 11.0, 12.0, 13.0, 14.0]  # quartiles 11 and 13, fence 16
    (near,) = rank([measured("a", 15.9)], space=SPACE, tie_band=0.04)
    (far,) = rank([measured("a", 16.1)], space=SPACE, tie_band=0.04)
    assert judge_novelty((near,), neighbours)[0] is False
    novel, reason = judge_novelty((far,), neighbours)
    assert novel
    assert "above the fence of 16" in reason


def test_with_few_known_distances_nothing_is_called_novel():
    (far,) = rank([measured("a", 1000.0)], space=SPACE, tie_band=0.04)
    novel, reason = judge_novelty((far,), [1.0, 1.0])
    assert not novel
    assert "no telling" in reason


def test_a_target_whose_candidates_all_fail_the_gates_is_novel():
    candidates = rank([measured("a", 1.0, version("a", accuracy=0.1))], space=SPACE, tie_band=0.04)
    assert judge_novelty(candidates, [1.0] * 9)[0]


def test_the_dataset_itself_is_never_novel():
    candidates = rank([measured("a", 0.0, same=True), measured("b", 3.0)], space=SPACE, tie_band=0.04)
    assert codes(candidates[0]) == ["NEAREST", "SAME_DATASET"]
    assert codes(candidates[1]) == ["FAR"]
    assert not judge_novelty(candidates, [])[0]


def learnt(
    name: str, *, distance: float | None = None, chance: float = 0.1, val_count: int = 100, same=False
) -> LearntDataset:
    return LearntDataset(
        dataset=Dataset(name=f"datasets/{name}", display_name=name, val_count=val_count),
        same_dataset=same,
        chance=chance,
        moments_only=False,
        embedding_distance=None if distance is None else 2 * distance,
        ot_distance=distance,
        ot_converged=True,
    )


def test_a_generalist_has_the_least_known_distance_and_says_what_it_is():
    of_three = generalist_candidate(
        version("g"), [learnt("a"), learnt("b", distance=3.0), learnt("c", distance=2.0)], SPACE
    )
    assert (of_three.origin, of_three.eligible, of_three.dataset) == ("generalist", True, "")
    assert (of_three.ot_distance, of_three.embedding_distance, of_three.ot_converged) == (2.0, 4.0, True)
    assert codes(of_three) == ["GENERALIST"]
    assert "nearest known of them is c" in of_three.reasons[0].message
    unmeasured = generalist_candidate(version("g"), [learnt("a"), learnt("b")], SPACE)
    assert (unmeasured.ot_distance, unmeasured.ot_converged, unmeasured.eligible) == (0.0, False, True)
    assert "not known" in unmeasured.reasons[0].message
    assert codes(generalist_candidate(version("g"), [learnt("a"), learnt("b", same=True)], SPACE)) == [
        "GENERALIST",
        "SAME_DATASET",
    ]


def test_a_generalists_gate_is_that_of_a_mean_accuracy():
    """Three standard errors of the mean of guesses on every dataset, as a simulation finds them."""
    tasks = [learnt("a", chance=0.5, val_count=10), learnt("b", chance=0.5, val_count=40)]
    candidate = generalist_candidate(version("g", accuracy=0.7), tasks, SPACE)
    draws = np.random.default_rng(0)
    means = (draws.binomial(10, 0.5, 200_000) / 10 + draws.binomial(40, 0.5, 200_000) / 40) / 2
    assert candidate.quality_floor == pytest.approx(0.5 + 3 * means.std(), rel=0.01)
    assert not candidate.eligible
    assert codes(candidate)[0] == "LOW_QUALITY"
    assert generalist_candidate(version("g", accuracy=0.8), tasks, SPACE).eligible
    assert not generalist_candidate(version("g", space=OTHER_SPACE), tasks, SPACE).compatible
