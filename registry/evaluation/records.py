"""What an evaluation is made of: runs, and what they add up to. Plain data, no computation.

Accuracies, gains and rates are fractions in [0, 1] (or differences of such), durations seconds, steps weight updates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from supernet_registry.clients.streams.results import StreamResult

__all__ = ["Accumulation", "Comparison", "Interval", "PolicySummary", "Race", "Run", "Summary", "TaskSummary"]


class Interval(NamedTuple):
    """An estimate with its 95 % confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One policy on one stream with one seed.

    A fixed network has no supernet: its rows carry its accuracy as that of supernet and child network alike, its
    training as `child_steps`, `child_seconds` and epochs of phase CHILD.
    """

    stream: str
    policy: str
    seed: int
    result: StreamResult
    stored_bytes: tuple[int, ...] = ()
    """Bytes of all versions, supernets and child networks, after each step; empty where there is no registry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Race:
    """A search against one from scratch, on the way to scratch's target."""

    target: float | None = None
    """Validation accuracy to reach; None where scratch has learnt nothing, and for fixed networks."""
    scratch_steps: int | None = None
    steps: int | None = None
    """Until the target, taste included; None if it was never reached."""
    observed_steps: int = 0
    """After which the policy's search ended."""
    observed_seconds: float = 0.0
    scratch_seconds: float | None = None
    seconds: float | None = None
    """Until the target: preparation, taste and epochs."""
    cost_ratio: float | None = None
    """Steps over scratch's steps; where `censored`, a lower bound: `observed_steps` over scratch's."""
    censored: bool = False
    area_gain: float | None = None
    """Mean height of the learning curve over scratch's steps after the first epoch, minus that of scratch's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison(Race):
    """One task of one run against independent training: the scratch run of the same task, draw and seed."""

    stream: str
    step: int
    task: str
    seed: int
    policy: str
    stored: int
    """Versions in the registry when the task came."""
    related: bool
    """Whether the stream expects a source, that is a near relative came before."""
    source: str = ""
    source_task: str = ""
    reason: str = ""
    hit: bool | None = None
    """Whether the expected source was taken; None where none is expected."""
    gain: float = 0.0
    """Final test accuracy of the supernet minus scratch's."""
    child_gain: float = 0.0
    total_seconds: float = 0.0
    """Preparation, taste, search and child network."""
    scratch_total_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSummary:
    """One task of a stream under one policy, mean over seeds."""

    stream: str
    step: int
    task: str
    policy: str
    related: bool
    seeds: int
    speed_up: float | None
    test_accuracy: float
    child_test_accuracy: float
    gain: float
    child_gain: float
    sources: tuple[str, ...]
    """Task of the source, or "scratch", for each seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySummary:
    """A policy over all streams and seeds. Against scratch, only tasks that find something stored are counted."""

    policy: str
    tasks: int
    seeds: int
    average_accuracy: float
    """ACC: mean of the matrix' last row, over streams and seeds, of the supernets."""
    child_average_accuracy: float
    learning_accuracy: float
    """LA: mean of the matrix' diagonal."""
    backward_transfer: float | None
    """BWT: mean of R[T][j] − R[j][j]."""
    forgetting: float | None
    """Mean of max_i R[i][j] − R[T][j]; 0 where stored versions do not change."""
    forward_transfer: Interval | None = None
    """Mean of R[j][j] − the accuracy of independent training."""
    child_forward_transfer: Interval | None = None
    area_gain: Interval | None = None
    speed_up: Interval | None = None
    """Median of scratch's steps over the policy's: one over the Kaplan–Meier median of the cost ratios. 0 where so many
    never reach the target that there is no median."""
    related_speed_up: Interval | None = None
    """The same over tasks with a near relative before them."""
    seconds_speed_up: Interval | None = None
    related_gain: Interval | None = None
    """Forward transfer over tasks with a near relative before them, supernet."""
    related_child_gain: Interval | None = None
    reached: int = 0
    """Comparisons that reached the target."""
    compared: int = 0
    positive: float | None = None
    """Share of tasks (means over seeds) that gain more than the tie band, supernet."""
    tied: float | None = None
    negative: float | None = None
    child_negative: float | None = None
    worst: TaskSummary | None = None
    """Task with the least gain of its supernet."""
    child_worst: TaskSummary | None = None
    hits: int = 0
    expected: int = 0
    regret: float | None = None
    """Mean of the best policy's test accuracy on a task minus this one's, over the policies compared."""
    bytes_per_task: float | None = None
    supernets: float | None = None
    """Supernets in the registry at a stream's end, mean."""
    steps: int = 0
    seconds: float = 0.0
    """Of all steps of all runs: preparation, taste, search, child network."""
    child_parameters: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Accumulation:
    """How the cost of a new task falls with what is stored: one policy on one stream, mean over seeds."""

    stream: str
    policy: str
    stored: tuple[float, ...]
    """Versions stored before each step."""
    cost_ratio: tuple[float | None, ...]
    """Median over seeds of steps to the target over scratch's, for each step; None where there is no target."""
    thirds: tuple[float | None, float | None, float | None]
    """Steps to the target over scratch's, summed, for each third of the stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """All that an evaluation has found."""

    policies: tuple[PolicySummary, ...]
    tasks: tuple[TaskSummary, ...]
    comparisons: tuple[Comparison, ...]
    accumulation: tuple[Accumulation, ...]
    target_share: float
    """The target is this share of scratch's best validation accuracy."""
    tie_band: float
    """Gains within this of zero are ties."""
