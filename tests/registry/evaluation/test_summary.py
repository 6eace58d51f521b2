"""From runs to comparisons, policies and checks, by hand."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from supernet_registry.clients.wire.resources import JobState, TasteResult
from supernet_registry.registry.evaluation.checks import checks_of
from supernet_registry.registry.evaluation.learning import Point, race, search_curve, zero_step_accuracy
from supernet_registry.registry.evaluation.policies import Policy
from supernet_registry.registry.evaluation.records import Run, Summary
from supernet_registry.registry.evaluation.summary import summarise
from tests.registry.evaluation.made_up_runs import epochs, made_up_runs, row, run


@pytest.fixture
def summary() -> Summary:
    return summarise(made_up_runs(), resamples=50)


def test_a_curve_begins_where_the_taste_left_the_winner() -> None:
    warm = made_up_runs()[0].result.rows[2]
    assert search_curve(warm) == [Point(8, 0.6, 2.0), Point(18, 0.78, 3.0), Point(28, 0.82, 4.0)]
    assert zero_step_accuracy(warm) == 0.1
    cold = made_up_runs()[1].result.rows[2]
    assert search_curve(cold, before=0.1)[:2] == [Point(0, 0.1, 0.5), Point(10, 0.2, 1.5)]
    assert zero_step_accuracy(cold) is None


def test_the_race_of_the_third_task_by_hand(summary: Summary) -> None:
    """Scratch: 0.8 at best, so 0.76 is the target, reached after 40 steps and 4.5 s. Warm: after 18 steps and 3 s."""
    (third,) = [c for c in summary.comparisons if c.policy == "registry" and c.step == 2]
    assert third.target == pytest.approx(0.76)
    assert (third.scratch_steps, third.steps, third.observed_steps) == (40, 18, 28)
    assert (third.scratch_seconds, third.seconds) == (4.5, 3.0)
    assert third.cost_ratio == pytest.approx(18 / 40)
    assert not third.censored
    assert third.hit
    assert third.source_task == "task 0"
    assert third.gain == pytest.approx(0.1)
    assert third.stored == 2
    assert third.total_seconds == pytest.approx(0.5 + 2 + 1.5 + 2)


def test_who_never_arrives_is_censored(summary: Summary) -> None:
    (second,) = [c for c in summary.comparisons if c.policy == "registry" and c.step == 1]
    assert second.censored
    assert second.steps is second.seconds is None
    assert second.cost_ratio == 1.0  # at least: it ended after as many steps


def test_who_is_there_at_once_is_counted_with_one_pass() -> None:
    slow = row(0, 0.5, epochs([0.2, 0.8]))
    tasted = (TasteResult(version="x", steps=(0,), val_accuracies=(0.9,), chosen=True),)
    warm = row(0, 0.5, epochs([0.9]), tastes=tasted)
    compared = race(warm, slow, before=None, target_share=0.95)
    assert (compared.scratch_steps, compared.steps) == (20, 5)


def test_nothing_learnt_sets_no_target() -> None:
    guessing = row(0, 0.1, epochs([0.1, 0.15]))
    compared = race(guessing, guessing, before=None, target_share=0.95)
    assert compared.target is compared.cost_ratio is None
    assert compared.area_gain == 0.0


def test_policies_by_hand(summary: Summary) -> None:
    registry, scratch, fixed = summary.policies
    assert [p.policy for p in summary.policies] == ["registry", "scratch", "fixed-warm"]
    assert registry.average_accuracy == pytest.approx(0.8)
    assert registry.backward_transfer == registry.forgetting == 0
    assert registry.forward_transfer is not None
    assert registry.forward_transfer.value == pytest.approx((0.0 + 0.1) / 2)  # without the first task
    assert registry.related_gain is not None
    assert registry.related_gain.value == pytest.approx(0.1)
    assert (registry.reached, registry.compared) == (1, 2)
    assert registry.related_speed_up is not None
    assert registry.related_speed_up.value == pytest.approx(40 / 18)
    assert (registry.positive, registry.tied, registry.negative) == (0.5, 0.5, 0.0)
    assert (registry.hits, registry.expected) == (1, 1)
    assert registry.bytes_per_task == 100
    assert registry.supernets == 3
    assert scratch.forward_transfer is scratch.speed_up is scratch.worst is None
    assert fixed.speed_up is fixed.regret is None
    assert fixed.forward_transfer is not None
    assert fixed.forward_transfer.value == pytest.approx((0.1 + 0.1) / 2)


def test_seeds_are_paired_and_averaged() -> None:
    other = made_up_runs(seed=1)
    worse = other[0].result
    rows = (*worse.rows[:2], replace(worse.rows[2], test_accuracy=0.7))
    other[0] = run(Policy.REGISTRY, 1, *rows)
    summary = summarise([*made_up_runs(), *other], resamples=50)
    (third,) = [t for t in summary.tasks if t.policy == "registry" and t.step == 2]
    assert third.seeds == 2
    assert third.gain == pytest.approx((0.1 - 0.1) / 2)
    assert summary.policies[0].seeds == 2


def test_failed_and_missing_tasks_are_left_out() -> None:
    registry, scratch, _ = made_up_runs()
    broken = replace(registry.result.rows[1], state=JobState.FAILED, version="", error="boom")
    rows = (registry.result.rows[0], broken, registry.result.rows[2])
    summary = summarise([run(Policy.REGISTRY, 0, *rows), scratch], resamples=50)
    assert [c.step for c in summary.comparisons if c.policy == "registry"] == [0, 2]
    alone = summarise([registry], resamples=50)
    assert alone.comparisons == ()
    assert alone.policies[0].forward_transfer is None


def test_a_policy_that_takes_a_worse_source_regrets_it() -> None:
    registry, scratch, _ = made_up_runs()
    rows = list(registry.result.rows)
    rows[2] = replace(rows[2], test_accuracy=0.95, source="supernets/s1/versions/1")
    nearest = run(Policy.NEAREST_ONLY, 0, *rows)
    summary = summarise([registry, scratch, nearest], resamples=50)
    found = {p.policy: p for p in summary.policies}
    assert found["registry"].regret == pytest.approx((0 + 0.05) / 2)
    assert found["nearest-only"].regret == pytest.approx(0)
    assert (found["nearest-only"].hits, found["nearest-only"].expected) == (0, 1)


def test_accumulation_is_cost_by_thirds(summary: Summary) -> None:
    (mine,) = summary.accumulation
    assert mine.stored == (0, 1, 2)
    assert mine.cost_ratio == pytest.approx((1.0, 1.0, 18 / 40))
    assert mine.thirds == pytest.approx((1.0, 1.0, 18 / 40))


def test_checks_say_what_passed(summary: Summary) -> None:
    checks = {check.name: check for check in checks_of(summary)}
    assert checks["forgetting of stored versions"].passed
    assert checks["expected sources taken"].value == 100
    related = checks["mean gain over scratch, supernet, tasks with a near relative"]
    assert related.value == pytest.approx(10)
    assert related.passed
    worst = checks["worst child network against the fixed one, both warm-started"]
    assert worst.value == pytest.approx(-5)
    assert not worst.passed
    assert checks_of(summarise(made_up_runs()[1:], resamples=50)) == []


def test_a_summary_is_json(summary: Summary) -> None:
    assert json.loads(json.dumps(asdict(summary)))["policies"][0]["policy"] == "registry"


def test_the_order_of_runs_does_not_matter(summary: Summary) -> None:
    runs: list[Run] = made_up_runs()
    assert summarise(list(reversed(runs)), resamples=50) == summary


def test_the_fixed_network_is_compared_on_the_seeds_that_both_have() -> None:
    """A second seed in which everything is worse, and which the fixed network has not run, changes nothing."""
    other = made_up_runs(seed=1)[:2]
    worse = [run(Policy(r.policy), 1, *(replace(row, child_test_accuracy=0.1) for row in r.result.rows)) for r in other]
    name = "worst child network against the fixed one, both warm-started"
    found = [
        next(check.value for check in checks_of(summarise(runs, resamples=20)) if check.name == name)
        for runs in (made_up_runs(), [*made_up_runs(), *worse])
    ]
    assert found[0] == pytest.approx(found[1])
