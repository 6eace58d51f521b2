"""Runs written down by hand, with what they add up to."""

from __future__ import annotations

from supernet_registry.clients.streams.results import StreamResult, StreamRow
from supernet_registry.clients.wire.resources import EpochMetrics, JobState, Phase, TasteResult
from supernet_registry.registry.evaluation.policies import Policy
from supernet_registry.registry.evaluation.records import Run

__all__ = ["epochs", "made_up_runs", "row", "run"]


def epochs(accuracies: list[float], *, phase: Phase = Phase.SEARCH, first: int = 0) -> tuple[EpochMetrics, ...]:
    """Ten steps and one second each; `first` steps were made in the taste."""
    return tuple(
        EpochMetrics(phase=phase, epoch=i, steps=first + 10 * i, val_accuracy=accuracy, seconds=1.0)
        for i, accuracy in enumerate(accuracies, start=1)
    )


def row(step: int, accuracy: float, curve: tuple[EpochMetrics, ...], **values: object) -> StreamRow:
    """A finished task of ten classes."""
    defaults: dict[str, object] = {
        "task": f"task {step}",
        "classes": 10,
        "state": JobState.SUCCEEDED,
        "version": f"supernets/s{step}/versions/1",
        "supernet": f"supernets/s{step}",
        "dataset": f"datasets/{step}",
        "test_accuracy": accuracy,
        "child_test_accuracy": accuracy + 0.05,
        "child_parameters": 1000,
        "pass_steps": 5,
        "search_steps": 10 * len(curve),
        "prepare_seconds": 0.5,
        "search_seconds": float(len(curve)),
        "child_seconds": 2.0,
        "curve": curve,
        "genotype": "|conv~0|",
    }
    return StreamRow(step=step, **{**defaults, **values})  # type: ignore[arg-type]


def run(policy: Policy, seed: int, *rows: StreamRow, stream: str = "s_test", stored: tuple[int, ...] = ()) -> Run:
    """A run whose versions do not change."""
    values = [r.test_accuracy if r.version else None for r in rows]
    matrix = tuple((*values[: i + 1], *[None] * (len(rows) - i - 1)) for i in range(len(rows)))
    result = StreamResult(stream=stream, rows=rows, accuracies=matrix, child_accuracies=matrix)
    return Run(stream=stream, policy=policy.value, seed=seed, result=result, stored_bytes=stored)


def made_up_runs(seed: int = 0) -> list[Run]:
    """Three tasks. The second has no relative and is not helped, the third expects the first."""
    slow = epochs([0.2, 0.4, 0.6, 0.8])  # target 0.76, after 40 steps
    taste = (
        TasteResult(version="supernets/s0/versions/1", steps=(0, 4), val_accuracies=(0.5, 0.6), chosen=True),
        TasteResult(version="", steps=(0, 4), val_accuracies=(0.1, 0.2), reason="beaten"),
    )
    third = row(
        2,
        0.9,
        epochs([0.78, 0.82], first=4),
        source="supernets/s0/versions/1",
        tastes=taste,
        taste_steps=8,
        taste_seconds=1.5,
        expect=0,
        reason="chosen: <b>it leads</b>",
        ot_distance=0.4,
        transfer_mode="WEIGHTS_AND_ALPHAS",
    )
    registry = [row(0, 0.8, slow), row(1, 0.7, epochs([0.2, 0.3, 0.4, 0.5])), third]
    scratch = [row(0, 0.8, slow), row(1, 0.7, slow), row(2, 0.8, slow, expect=0)]
    trained = epochs([0.5, 0.7], phase=Phase.CHILD)
    fixed = [
        row(i, a, trained, child_test_accuracy=a, version=f"fixed-warm/{i}", supernet="")
        for i, a in enumerate([0.8, 0.8, 0.9])
    ]
    return [
        run(Policy.REGISTRY, seed, *registry, stored=(100, 200, 300)),
        run(Policy.SCRATCH, seed, *scratch),
        run(Policy.FIXED_WARM, seed, *fixed),
    ]
