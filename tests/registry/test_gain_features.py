"""What the gain model is told of a pair of datasets."""

from __future__ import annotations

import numpy as np
import pytest

from supernet_registry.registry.sources.signals.gain_features import FEATURES, SourceFacts, TargetFacts, features, skill

TARGET = TargetFacts(class_count=10, train_count=1000)


def source(ot_distance: float, *, same_dataset: bool = False) -> SourceFacts:
    return SourceFacts(ot_distance=ot_distance, skill=0.5, class_count=2, train_count=100, same_dataset=same_dataset)


def column(name: str, *sources: SourceFacts) -> list[float]:
    table: list[float] = features(TARGET, sources)[:, FEATURES.index(name)].tolist()
    return table


@pytest.mark.parametrize(
    ("accuracy", "classes", "expected"),
    [(0.1, 10, 0.0), (1.0, 10, 1.0), (0.55, 10, 0.5), (0.05, 10, 0.0), (1.0, 1, 0.0)],
)
def test_skill_is_the_share_of_the_way_from_chance_to_perfect(accuracy: float, classes: int, expected: float) -> None:
    assert skill(accuracy, classes) == pytest.approx(expected)


def test_relative_distance_is_a_half_for_the_nearest_and_grows_towards_one() -> None:
    assert column("relative distance", source(30.0), source(10.0)) == pytest.approx([0.75, 0.5])


def test_the_own_dataset_is_no_yardstick_for_the_others() -> None:
    own = source(0.0, same_dataset=True)
    assert column("relative distance", own, source(10.0), source(30.0)) == pytest.approx([0.0, 0.5, 0.75])
    assert column("same dataset", own, source(10.0)) == [1.0, 0.0]


def test_distances_of_zero_are_no_special_case_for_the_caller() -> None:
    """A twin of the target lies at 0; and there may be nothing but the own dataset."""
    assert column("relative distance", source(0.0), source(0.0)) == [0.5, 0.5]
    assert column("relative distance", source(0.0), source(1.0)) == [0.5, 1.0]
    assert column("relative distance", source(0.0, same_dataset=True)) == [0.0]


def test_counts_are_taken_as_logarithms_and_nothing_is_missing() -> None:
    (row,) = features(TARGET, [source(10.0)])
    named = dict(zip(FEATURES, row, strict=True))
    assert named["log source images"] == pytest.approx(np.log(100))
    assert named["log target images"] == pytest.approx(np.log(1000))
    assert named["log source classes"] == pytest.approx(np.log(2))
    assert named["log target classes"] == pytest.approx(np.log(10))
    assert named["distance x skill"] == pytest.approx(5.0)
    assert features(TARGET, []).shape == (0, len(FEATURES))
