"""What the runs of an evaluation add up to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import asdict
from statistics import fmean, median
from typing import TypeVar

from supernet_registry.clients.streams.results import StreamRow
from supernet_registry.clients.wire.resources import JobState
from supernet_registry.registry.evaluation.learning import race, zero_step_accuracy
from supernet_registry.registry.evaluation.metrics import (
    average_accuracy,
    backward_transfer,
    bootstrap,
    forgetting,
    learning_accuracy,
    median_of_censored,
    origins,
)
from supernet_registry.registry.evaluation.plan import SHUFFLED
from supernet_registry.registry.evaluation.policies import Policy
from supernet_registry.registry.evaluation.records import (
    Accumulation,
    Comparison,
    Interval,
    PolicySummary,
    Run,
    Summary,
    TaskSummary,
)

__all__ = ["summarise"]

T = TypeVar("T")
_ORDER = [policy.value for policy in Policy]
_LEAST_ACCUMULATING = 3
"""Fewest tasks of a stream for which thirds make sense."""


def summarise(
    runs: Sequence[Run], *, target_share: float = 0.95, tie_band: float = 0.01, resamples: int = 1000, seed: int = 0
) -> Summary:
    """Compare every run with independent training: the run of the policy `scratch` on the same stream and seed.

    Args:
        runs: finished runs, in any order. Where independent training is missing, or a row failed, a comparison is
            left out.
        target_share: share of scratch's best validation accuracy that is the target of all speed-ups.
        tie_band: gains within it are ties.
        resamples: of every bootstrap.
        seed: of the bootstraps.
    """
    ordered = sorted(runs, key=lambda run: (_ORDER.index(run.policy), run.stream, run.seed))
    by_key = {(run.policy, run.stream, run.seed): run for run in ordered}
    comparisons = []
    for run in ordered:
        scratch = by_key.get((Policy.SCRATCH, run.stream, run.seed))
        if scratch is not None:
            tasted = by_key.get((Policy.REGISTRY, run.stream, run.seed))
            comparisons += _compare(run, scratch, tasted, target_share)
    tasks = _task_summaries(ordered, comparisons)
    summary = _PolicySummaries(ordered, comparisons, tasks, tie_band, resamples, seed)
    return Summary(
        policies=tuple(summary.of(policy) for policy in dict.fromkeys(run.policy for run in ordered)),
        tasks=tuple(tasks),
        comparisons=tuple(comparisons),
        accumulation=tuple(_accumulations(comparisons)),
        target_share=target_share,
        tie_band=tie_band,
    )


# ---------------------------------------------------------------------------------------------------- one task, one run


def _compare(run: Run, scratch: Run, tasted: Run | None, target_share: float) -> list[Comparison]:
    """Every finished task of a run against independent training."""
    independent = {row.step: row for row in scratch.result.rows if _done(row)}
    before = {row.step: zero_step_accuracy(row) for row in tasted.result.rows} if tasted is not None else {}
    rows = run.result.rows
    by_version = {row.version: row for row in rows if row.version}
    origin = origins([row.expect for row in rows])
    found = []
    stored = 0
    for row in rows:
        if _done(row) and row.step in independent:
            other = independent[row.step]
            source = by_version.get(row.source)
            compared = race(row, other, before=before.get(row.step), target_share=target_share)
            found.append(
                Comparison(
                    stream=run.stream,
                    step=row.step,
                    task=row.task,
                    seed=run.seed,
                    policy=run.policy,
                    stored=stored,
                    related=row.expect is not None,
                    source=row.source,
                    source_task=source.task if source is not None else row.source.partition("/versions/")[0],
                    reason=row.reason,
                    hit=_hit(row, source, origin),
                    gain=row.test_accuracy - other.test_accuracy,
                    child_gain=_child_accuracy(row) - _child_accuracy(other),
                    total_seconds=_total_seconds(row),
                    scratch_total_seconds=_total_seconds(other),
                    **asdict(compared),
                )
            )
        stored += bool(row.version)
    return found


def _done(row: StreamRow) -> bool:
    return row.state is JobState.SUCCEEDED


def _hit(row: StreamRow, source: StreamRow | None, origin: Sequence[int]) -> bool | None:
    if row.expect is None:
        return None
    return source is not None and origin[source.step] == origin[row.step]


def _total_seconds(row: StreamRow) -> float:
    return row.prepare_seconds + row.seconds + row.child_seconds


# -------------------------------------------------------------------------------------------------- one task, all seeds


def _task_key(stream: str, step: int, task: str) -> tuple[str, Hashable]:
    """The same task of different seeds: by its step, and where every seed has another order, by its name."""
    return (stream, task if stream.endswith(SHUFFLED) else step)


def _grouped(items: Iterable[T], key: Callable[[T], Hashable]) -> dict[Hashable, list[T]]:
    groups: dict[Hashable, list[T]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return groups


def _comparison_key(c: Comparison) -> Hashable:
    return (c.policy, *_task_key(c.stream, c.step, c.task))


def _task_summaries(runs: Sequence[Run], comparisons: Sequence[Comparison]) -> list[TaskSummary]:
    compared = _grouped(comparisons, _comparison_key)
    rows = _grouped(
        ((run, row) for run in runs for row in run.result.rows if _done(row)),
        lambda item: (item[0].policy, *_task_key(item[0].stream, item[1].step, item[1].task)),
    )
    tasks = []
    for key, members in rows.items():
        run, row = members[0]
        mine = compared.get(key, [])
        raced = [c for c in mine if c.cost_ratio is not None]
        names = {r.version: r.task for other, r in members for r in other.result.rows if r.version}
        tasks.append(
            TaskSummary(
                stream=run.stream,
                step=row.step,
                task=row.task,
                policy=run.policy,
                related=row.expect is not None,
                seeds=len(members),
                speed_up=_speed_up(raced) if raced else None,
                test_accuracy=fmean(r.test_accuracy for _, r in members),
                child_test_accuracy=fmean(_child_accuracy(r) for _, r in members),
                gain=fmean(c.gain for c in mine) if mine else 0.0,
                child_gain=fmean(c.child_gain for c in mine) if mine else 0.0,
                sources=tuple(names.get(r.source, r.source) or "scratch" for _, r in members),
            )
        )
    return tasks


def _speed_up(comparisons: Sequence[Comparison]) -> float:
    """One over the median cost ratio; 0 where the median is not reached."""
    ratios = [c.cost_ratio for c in comparisons if c.cost_ratio is not None]
    return 1 / median_of_censored(ratios, [c.censored for c in comparisons if c.cost_ratio is not None])


def _seconds_speed_up(comparisons: Sequence[Comparison]) -> float:
    ratios = [
        (c.observed_seconds if c.seconds is None else c.seconds) / c.scratch_seconds
        for c in comparisons
        if c.scratch_seconds
    ]
    return 1 / median_of_censored(ratios, [c.censored for c in comparisons if c.scratch_seconds])


# --------------------------------------------------------------------------------------------------- one policy, it all


class _PolicySummaries:
    def __init__(
        self,
        runs: Sequence[Run],
        comparisons: Sequence[Comparison],
        tasks: Sequence[TaskSummary],
        tie_band: float,
        resamples: int,
        seed: int,
    ) -> None:
        self._runs = runs
        self._comparisons = comparisons
        self._tasks = tasks
        self._tie_band = tie_band
        self._resamples = resamples
        self._seed = seed
        self._best = self._best_accuracies()

    def of(self, policy: str) -> PolicySummary:
        """The summary of one policy."""
        runs = [run for run in self._runs if run.policy == policy]
        rows = [row for run in runs for row in run.result.rows if _done(row)]
        mine = [c for c in self._comparisons if c.policy == policy and c.stored and policy != Policy.SCRATCH]
        related = [c for c in mine if c.related]
        raced = [c for c in mine if c.cost_ratio is not None]
        tasks = self._compared_tasks(policy)
        expected = [c.hit for c in mine if c.hit is not None] if not Policy(policy).fixed else []
        grown = [run for run in runs if run.stored_bytes]
        return PolicySummary(
            policy=policy,
            tasks=len(rows),
            seeds=len({run.seed for run in runs}),
            average_accuracy=_mean(average_accuracy(run.result.accuracies) for run in runs) or 0.0,
            child_average_accuracy=_mean(average_accuracy(run.result.child_accuracies) for run in runs) or 0.0,
            learning_accuracy=_mean(learning_accuracy(run.result.accuracies) for run in runs) or 0.0,
            backward_transfer=_mean(backward_transfer(run.result.accuracies) for run in runs),
            forgetting=_mean(forgetting(run.result.accuracies) for run in runs),
            forward_transfer=self._interval(mine, lambda cs: fmean(c.gain for c in cs)),
            child_forward_transfer=self._interval(mine, lambda cs: fmean(c.child_gain for c in cs)),
            area_gain=self._interval(
                [c for c in mine if c.area_gain is not None],
                lambda cs: fmean(c.area_gain for c in cs if c.area_gain is not None),
            ),
            speed_up=self._interval(raced, _speed_up),
            related_speed_up=self._interval([c for c in raced if c.related], _speed_up),
            seconds_speed_up=self._interval([c for c in raced if c.scratch_seconds], _seconds_speed_up),
            related_gain=self._interval(related, lambda cs: fmean(c.gain for c in cs)),
            related_child_gain=self._interval(related, lambda cs: fmean(c.child_gain for c in cs)),
            reached=sum(not c.censored for c in raced),
            compared=len(raced),
            positive=_share(tasks, lambda task: task.gain > self._tie_band),
            tied=_share(tasks, lambda task: abs(task.gain) <= self._tie_band),
            negative=_share(tasks, lambda task: task.gain < -self._tie_band),
            child_negative=_share(tasks, lambda task: task.child_gain < -self._tie_band),
            worst=min(tasks, key=lambda task: task.gain, default=None),
            child_worst=min(tasks, key=lambda task: task.child_gain, default=None),
            hits=sum(expected),
            expected=len(expected),
            regret=self._regret(mine, policy),
            bytes_per_task=_mean(run.stored_bytes[-1] / len(run.stored_bytes) for run in grown),
            supernets=_mean(float(len({row.supernet for row in run.result.rows})) for run in grown),
            steps=sum(row.steps for row in rows),
            seconds=sum(_total_seconds(row) for row in rows),
            child_parameters=_mean(float(row.child_parameters or 0) for row in rows) or 0.0,
        )

    def _compared_tasks(self, policy: str) -> list[TaskSummary]:
        """Tasks that found something stored."""
        keys = {_comparison_key(c) for c in self._comparisons if c.policy == policy and c.stored}
        if policy == Policy.SCRATCH:
            return []
        return [
            task
            for task in self._tasks
            if task.policy == policy and (policy, *_task_key(task.stream, task.step, task.task)) in keys
        ]

    def _interval(
        self, comparisons: Sequence[Comparison], statistic: Callable[[Sequence[Comparison]], float]
    ) -> Interval | None:
        groups = list(_grouped(comparisons, _comparison_key).values())
        return bootstrap(groups, statistic, resamples=self._resamples, seed=self._seed) if groups else None

    def _best_accuracies(self) -> dict[tuple[str, int, int], float]:
        """The gain of the best searching policy on every task that all of them have done."""
        policies = {run.policy for run in self._runs if not Policy(run.policy).fixed}
        found = _grouped(
            (c for c in self._comparisons if c.policy in policies and c.stored), lambda c: (c.stream, c.step, c.seed)
        )
        return {
            (mine[0].stream, mine[0].step, mine[0].seed): max(c.gain for c in mine)
            for mine in found.values()
            if len(mine) == len(policies) > 2
        }

    def _regret(self, comparisons: Sequence[Comparison], policy: str) -> float | None:
        if Policy(policy).fixed:
            return None
        return _mean(
            self._best[c.stream, c.step, c.seed] - c.gain
            for c in comparisons
            if (c.stream, c.step, c.seed) in self._best
        )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _share(tasks: Sequence[TaskSummary], which: Callable[[TaskSummary], bool]) -> float | None:
    return sum(map(which, tasks)) / len(tasks) if tasks else None


# --------------------------------------------------------------------------------------------------------- accumulation


def _accumulations(comparisons: Sequence[Comparison]) -> list[Accumulation]:
    searched = [c for c in comparisons if not Policy(c.policy).fixed and c.policy != Policy.SCRATCH]
    found = []
    for members in _grouped(searched, lambda c: (c.policy, c.stream)).values():
        steps = sorted({c.step for c in members})
        if len(steps) < _LEAST_ACCUMULATING:
            continue
        by_step = {step: [c for c in members if c.step == step] for step in steps}
        third = len(steps) // 3
        parts = [steps[:third], steps[third:-third], steps[-third:]]
        thirds = [_total_ratio([c for step in part for c in by_step[step]]) for part in parts]
        found.append(
            Accumulation(
                stream=members[0].stream,
                policy=members[0].policy,
                stored=tuple(fmean(c.stored for c in by_step[step]) for step in steps),
                cost_ratio=tuple(_median([c.cost_ratio for c in by_step[step]]) for step in steps),
                thirds=(thirds[0], thirds[1], thirds[2]),
            )
        )
    return found


def _total_ratio(comparisons: Sequence[Comparison]) -> float | None:
    """Steps to the targets over scratch's, summed; what never got there counts with all the steps it made."""
    raced = [c for c in comparisons if c.scratch_steps]
    theirs = sum(c.scratch_steps or 0 for c in raced)
    return sum(c.observed_steps if c.steps is None else c.steps for c in raced) / theirs if theirs else None


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _child_accuracy(row: StreamRow) -> float:
    """Test accuracy of a row's child network; a task that ended without one has nothing to show: 0."""
    return row.child_test_accuracy or 0.0
