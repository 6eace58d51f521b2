"""The numbers that are asked for, as rows that pass or fail."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean

from supernet_registry.registry.evaluation.policies import Policy
from supernet_registry.registry.evaluation.records import Interval, PolicySummary, Summary

__all__ = ["Check", "checks_of"]


@dataclass(frozen=True, slots=True)
class Check:
    """One number that is asked for."""

    name: str
    value: float
    target: str
    unit: str
    passed: bool


def checks_of(summary: Summary) -> list[Check]:
    """All checks for which there are data, of the policy `registry`."""
    policies = {policy.policy: policy for policy in summary.policies}
    registry = policies.get(Policy.REGISTRY)
    if registry is None:
        return []
    return [
        *_speed_ups(registry),
        *_safety(registry),
        *_against_fixed(summary),
        *_gains(registry),
        *_keeping(registry),
        *_accumulating(summary),
    ]


def _at_least(name: str, value: float, target: float, unit: str) -> Check:
    return Check(name, value, f"≥ {target:g}", unit, value >= target)


def _speed_ups(registry: PolicySummary) -> Iterator[Check]:
    if registry.speed_up is not None:
        yield _at_least("median speed-up, all tasks, taste counted", registry.speed_up.value, 5, "×")
    if registry.related_speed_up is not None:
        yield _at_least("median speed-up, tasks with a near relative", registry.related_speed_up.value, 5, "×")


def _safety(registry: PolicySummary) -> Iterator[Check]:
    if registry.worst is not None:
        yield _at_least("worst task against scratch, supernet", 100 * registry.worst.gain, -1, "points")
    if registry.child_worst is not None:
        yield _at_least(
            "worst task against scratch, child network", 100 * registry.child_worst.child_gain, -1, "points"
        )


def _against_fixed(summary: Summary) -> Iterator[Check]:
    """Child networks against the fixed network in the same training seconds: by task, paired by seed."""
    for policy, mine in ((Policy.FIXED_COLD, Policy.SCRATCH), (Policy.FIXED_WARM, Policy.REGISTRY)):
        ours = {(c.stream, c.step, c.seed): c for c in summary.comparisons if c.policy == mine}
        leads: dict[tuple[str, int], list[float]] = {}
        for theirs in summary.comparisons:
            key = (theirs.stream, theirs.step, theirs.seed)
            if theirs.policy == policy and key in ours:
                leads.setdefault(key[:2], []).append(100 * (ours[key].child_gain - theirs.child_gain))
        if not leads:
            continue
        means = [fmean(found) for found in leads.values()]
        how = "from scratch" if mine == Policy.SCRATCH else "warm-started"
        yield _at_least(f"worst child network against the fixed one, both {how}", min(means), 0, "points")
        yield _at_least(f"mean child network over the fixed one, both {how}", fmean(means), 2, "points")
        level = 100 * sum(mean >= 0 for mean in means) / len(means)
        yield _at_least(f"tasks on which the child network is as good, both {how}", level, 90, "%")


def _gains(registry: PolicySummary) -> Iterator[Check]:
    rows: list[tuple[str, Interval | None]] = [
        ("mean gain over scratch, supernet", registry.forward_transfer),
        ("mean gain over scratch, child network", registry.child_forward_transfer),
        ("mean gain over scratch, supernet, tasks with a near relative", registry.related_gain),
        ("mean gain over scratch, child network, tasks with a near relative", registry.related_child_gain),
    ]
    for name, gain in rows:
        if gain is not None:
            yield _at_least(name, 100 * gain.value, 3, "points")


def _keeping(registry: PolicySummary) -> Iterator[Check]:
    if registry.forgetting is not None:
        yield Check("forgetting of stored versions", registry.forgetting, "= 0", "", registry.forgetting == 0)
    if registry.expected:
        yield _at_least("expected sources taken", 100 * registry.hits / registry.expected, 90, "%")


def _accumulating(summary: Summary) -> Iterator[Check]:
    for accumulation in summary.accumulation:
        last = accumulation.thirds[2]
        if accumulation.policy == Policy.REGISTRY and accumulation.stream == "s_long" and last is not None:
            yield Check("cost of the last third of s_long over scratch's", last, "≤ 0.5", "", last <= 0.5)
