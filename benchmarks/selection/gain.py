"""Gain model: would it pick better sources than distance, and does its gate open?

    python -m benchmarks gain-model --rows results/selection.json

Reads what `python -m benchmarks selection --json FILE` has measured: what each source gained on each target, before
any step and at the end of the search. The registry's own model (`registry.sources.signals.gain_model`) learns from the
gains before any step and
is judged on targets that it has not seen, all seeds of a target held out together, by the regret of its first pick: the
best gain among the candidates less that of the pick, before any step, and at the end of the search in test accuracy.

Three choices of candidates: `tasted`, the three nearest that pass the quality gate, is what a registry's jobs would
have seen; `eligible` is all that pass the gate; `all` has the traps among them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness.places import RESULTS
from benchmarks.harness.report import Check, Options, Section, print_table
from supernet_registry.registry.sources.signals.gain_features import SourceFacts, TargetFacts
from supernet_registry.registry.sources.signals.gain_model import Experience, fit_gain_model, held_out_gains, judge

LEAST_SKILL = 0.25
"""The quality gate's share of the way from chance to perfect (`registry.sources.candidates`)."""
TASTED = 3
"""Candidates that a job tastes by default (`search.recipe`)."""
CANDIDATES = ("tasted", "eligible", "all")
FEWEST_TARGETS = 2

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Regret:
    """Of the first pick, mean over jobs, in points of accuracy."""

    zero_step: float
    final: float


@dataclass(frozen=True)
class Figures:
    """What was measured with one choice of candidates."""

    candidates: str
    jobs: int
    """(target, seed) with at least two candidates."""
    targets: int
    distance: Regret
    gain_model: Regret
    random: Regret
    p_value: float
    usable: bool
    reason: str
    """What the registry would say."""


def evaluate(rows: Sequence[Row]) -> Section:
    """Held-out regret of distance, gain model and a random source.

    Args:
        rows: {target, source, seed, ot_distance, source_skill, source_images, target_images, source_classes,
            target_classes, zero_step_gain, gain} of each pair; gains are differences of accuracy to scratch.
    """
    measured = [figures for name in CANDIDATES if (figures := _measure(rows, name)) is not None]
    print_table(
        "gain model on held-out targets: regret of the first pick before any step / at the end, in points",
        ["candidates", "jobs (targets)", "distance", "gain model", "random", "p", "used"],
        [
            [
                figures.candidates,
                f"{figures.jobs} ({figures.targets})",
                *(_cell(regret) for regret in (figures.distance, figures.gain_model, figures.random)),
                f"{figures.p_value:.3f}",
                "yes" if figures.usable else "no",
            ]
            for figures in measured
        ],
    )
    for figures in measured:
        print(f"{figures.candidates}: {figures.reason}")
    return Section([asdict(figures) for figures in measured], [_check(figures) for figures in measured])


def _measure(rows: Sequence[Row], candidates: str) -> Figures | None:
    """None where there is nothing to compare."""
    jobs = [job for job in (_choose(job, candidates) for job in _jobs(rows)) if len(job) > 1]
    experiences = [_experience(job) for job in jobs]
    if len({experience.target_name for experience in experiences}) < FEWEST_TARGETS:
        return None
    predicted = held_out_gains(experiences)
    judgement = judge(experiences, predicted)
    model = fit_gain_model(experiences)
    by_distance = [int(np.argmin(experience.distances)) for experience in experiences]
    return Figures(
        candidates=candidates,
        jobs=judgement.jobs,
        targets=judgement.targets,
        distance=_regret(jobs, [_one(len(job), pick) for job, pick in zip(jobs, by_distance, strict=True)]),
        gain_model=_regret(jobs, [_one(len(gains), int(np.argmax(gains))) for gains in predicted]),
        random=_regret(jobs, [np.full(len(job), 1.0 / len(job)) for job in jobs]),
        p_value=judgement.p_value,
        usable=model.usable,
        reason=model.reason,
    )


def _jobs(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows of each target and seed, the nearest source first."""
    jobs: dict[tuple[str, int], list[Row]] = {}
    for row in sorted(rows, key=lambda row: row["ot_distance"]):
        jobs.setdefault((row["target"], row["seed"]), []).append(row)
    return [jobs[key] for key in sorted(jobs)]


def _choose(job: Sequence[Row], candidates: str) -> list[Row]:
    if candidates == "all":
        return list(job)
    eligible = [row for row in job if row["source_skill"] >= LEAST_SKILL]
    return eligible[:TASTED] if candidates == "tasted" else eligible


def _experience(job: Sequence[Row]) -> Experience:
    """What the registry would know of it."""
    return Experience(
        target_name=job[0]["target"],
        target=TargetFacts(class_count=job[0]["target_classes"], train_count=job[0]["target_images"]),
        sources=[
            SourceFacts(
                ot_distance=row["ot_distance"],
                skill=min(1.0, max(0.0, row["source_skill"])),
                class_count=row["source_classes"],
                train_count=row["source_images"],
            )
            for row in job
        ],
        gains=[row["zero_step_gain"] for row in job],
    )


def _one(count: int, pick: int) -> np.ndarray:
    """All weight on one candidate."""
    return np.eye(count)[pick]


def _regret(jobs: Sequence[Sequence[Row]], weights: Sequence[np.ndarray]) -> Regret:
    """Of picking each candidate with a probability."""

    def mean(gain: str) -> float:
        losses = [
            max(row[gain] for row in job) - float(np.dot([row[gain] for row in job], weight))
            for job, weight in zip(jobs, weights, strict=True)
        ]
        return 100 * float(np.mean(losses))

    return Regret(zero_step=mean("zero_step_gain"), final=mean("gain"))


def _cell(regret: Regret) -> str:
    return f"{regret.zero_step:.1f} / {regret.final:.1f}"


def _check(figures: Figures) -> Check:
    """The gate's promise: used only where it beats distance on held-out jobs."""
    advantage = figures.distance.zero_step - figures.gain_model.zero_step
    return Check(
        f"gain model, {figures.candidates}: held-out regret saved against distance ({figures.reason.split(':')[0]})",
        advantage,
        "> 0 where used",
        "points",
        advantage > 0 or not figures.usable,
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the figures of selection lie."""
    parser.add_argument(
        "--rows", type=Path, default=RESULTS / "selection.json", help="JSON of selection, or a list of rows"
    )


def run(options: Options) -> Section:
    """Judged on stored figures; nothing is searched."""
    path: Path = options.own.rows
    if not path.is_file():
        raise SystemExit(f"There is no {path}: run `python -m benchmarks selection --json {path}` first.")
    stored = json.loads(path.read_text())
    rows = stored if isinstance(stored, list) else stored["figures"]["matrix"]
    section = evaluate(rows)
    return replace(section, arguments={"rows": path.name}, seeds=sorted({row["seed"] for row in rows}))
