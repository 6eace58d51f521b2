"""The benchmark of the gain model computes what it says, on rows made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.selection import gain as selection_gain


def rows(
    targets: int, *, seeds: int = 2, per_skill: float, sources: int = 5, trap: bool = False
) -> list[dict[str, Any]]:
    """Sources whose gain follows from their skill alone; the trap lies nearest, has learnt nothing, and harms."""
    random = np.random.default_rng(0)
    result = []
    for target in range(targets):
        for number in range(sources):
            skill = 0.0 if trap and number == 0 else random.uniform(0.3, 1.0)
            distance = 1.0 if trap and number == 0 else random.uniform(10.0, 20.0)
            for seed in range(seeds):
                gain = -0.3 if skill == 0.0 else per_skill * skill + random.normal(0.0, 0.01)
                result.append(
                    {
                        "target": f"target{target}",
                        "source": f"source{number}",
                        "seed": seed,
                        "ot_distance": distance,
                        "source_skill": skill,
                        "source_images": 500,
                        "target_images": 100,
                        "source_classes": 10,
                        "target_classes": 5,
                        "zero_step_gain": gain,
                        "gain": 0.5 * gain,
                    }
                )
    return result


def by_candidates(section: Any) -> dict[str, dict[str, Any]]:
    return {figures["candidates"]: figures for figures in section.figures}


def test_where_skill_decides_the_model_has_less_regret_than_distance_and_chance() -> None:
    section = selection_gain.evaluate(rows(20, per_skill=0.5))
    for figures in by_candidates(section).values():
        assert figures["usable"]
        assert (figures["jobs"], figures["targets"]) == (40, 20)
        for stage in ("zero_step", "final"):
            assert figures["gain_model"][stage] < 0.3 * figures["distance"][stage]
            assert figures["gain_model"][stage] < 0.3 * figures["random"][stage]
    assert all(check.passed for check in section.checks)


def test_a_trap_is_a_candidate_only_where_nothing_is_gated() -> None:
    figures = by_candidates(selection_gain.evaluate(rows(12, per_skill=0.0, trap=True)))
    assert figures["all"]["distance"]["zero_step"] > 25.0
    assert figures["eligible"]["distance"]["zero_step"] < 5.0
    assert figures["tasted"]["distance"]["zero_step"] < 5.0


def test_regret_of_distance_and_of_a_random_source_are_what_one_computes_by_hand() -> None:
    pair = rows(2, seeds=1, per_skill=0.0, sources=2)
    for row in pair:
        nearest = row["ot_distance"] == min(r["ot_distance"] for r in pair if r["target"] == row["target"])
        row["zero_step_gain"], row["gain"] = (0.1, 0.3) if nearest else (0.2, 0.1)
    (figures, *_) = by_candidates(selection_gain.evaluate(pair)).values()
    assert figures["distance"] == pytest.approx({"zero_step": 10.0, "final": 0.0})
    assert figures["random"] == pytest.approx({"zero_step": 5.0, "final": 10.0})


def test_without_two_targets_there_is_nothing_to_hold_out() -> None:
    section = selection_gain.evaluate(rows(1, per_skill=0.5))
    assert (section.figures, section.checks) == ([], [])
