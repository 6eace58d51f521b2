"""Which of a query's candidates a job tastes."""

from __future__ import annotations

from typing import Any

from supernet_registry.clients.wire.resources import NearestSources, SourceCandidate
from supernet_registry.clients.work.candidates import choose_candidates


def candidate(version: str, dataset: str = "", **values: Any) -> SourceCandidate:
    return SourceCandidate(
        version=version, dataset=dataset or f"datasets/{version}", **({"eligible": True, "compatible": True} | values)
    )


def chosen(limit: int, *candidates: SourceCandidate) -> list[str]:
    return [c.version for c in choose_candidates(NearestSources(candidates=candidates), limit)]


def test_candidates_are_the_nearest_of_each_dataset_the_own_dataset_first() -> None:
    """Ineligible and incompatible versions, and further versions on the same dataset, are not tasted."""
    found = (
        candidate("collapsed", "datasets/a", eligible=False),
        candidate("near", "datasets/b"),
        candidate("near, older", "datasets/b"),
        candidate("other space", "datasets/c", compatible=False),
        candidate("own", "datasets/own", same_dataset=True),
        candidate("far", "datasets/d"),
    )
    assert chosen(3, *found) == ["own", "near", "far"]
    assert chosen(1, *found) == ["own"]
    assert chosen(0, *found) == []


def test_the_generalist_comes_beside_the_others_and_takes_nobodys_place() -> None:
    """Its distance and predictions do not matter; where nothing is tasted, neither is it."""
    found = (candidate("near"), candidate("far"), candidate("generalist", origin="generalist", same_dataset=True))
    assert chosen(1, *found) == ["near", "generalist"]
    assert chosen(2, *found) == ["near", "far", "generalist"]
    assert chosen(0, *found) == []
    assert chosen(1, *found[:2], candidate("bad", origin="generalist", eligible=False)) == ["near"]
    assert chosen(1, found[2]) == ["generalist"]


def test_after_the_nearest_come_the_highest_predicted_gains() -> None:
    found = (
        candidate("nearest", predictions={"gain": 0.01}),
        candidate("useless", predictions={"gain": -0.1}),
        candidate("good", predictions={"gain": 0.2}),
        candidate("best", predictions={"gain": 0.3}),
    )
    assert chosen(3, *found) == ["nearest", "best", "good"]
    assert chosen(4, *found) == ["nearest", "best", "good", "useless"]


def test_the_nearest_is_tasted_whatever_is_predicted() -> None:
    """Otherwise finished jobs could no longer say whether predictions are better than distance."""
    assert chosen(
        1, candidate("nearest", predictions={"gain": -0.5}), candidate("best", predictions={"gain": 0.5})
    ) == ["nearest"]


def test_the_own_dataset_comes_before_any_prediction() -> None:
    found = (
        candidate("nearest", predictions={"gain": 0.1}),
        candidate("second", predictions={"gain": 0.2}),
        candidate("best", predictions={"gain": 0.9}),
        candidate("own", same_dataset=True, predictions={"gain": 0.0}),
    )
    assert chosen(3, *found) == ["own", "nearest", "best"]


def test_candidates_without_a_prediction_come_last_by_distance() -> None:
    """The registry predicts nothing for sources further away than any that was ever tasted."""
    found = (
        candidate("nearest", predictions={"gain": 0.1}),
        candidate("harmful", predictions={"gain": -0.2}),
        candidate("far"),
        candidate("farther"),
        candidate("good", predictions={"gain": 0.2}),
    )
    assert chosen(5, *found) == ["nearest", "good", "harmful", "far", "farther"]


def test_equal_predictions_keep_the_order_of_distance() -> None:
    found = [candidate(name, predictions={"gain": 0.1}) for name in ("first", "second", "third", "fourth")]
    assert chosen(4, *found) == ["first", "second", "third", "fourth"]


def test_an_ineligible_candidate_is_not_tasted_for_its_prediction() -> None:
    found = (candidate("nearest"), candidate("second"), candidate("low", eligible=False, predictions={"gain": 0.9}))
    assert chosen(3, *found) == ["nearest", "second"]
