"""An evaluation in MLflow: a parent run with summary, checks and report, and a child run for each policy's stream."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag, ViewType

from supernet_registry.clients.streams.results import StreamRow
from supernet_registry.registry.evaluation.checks import Check
from supernet_registry.registry.evaluation.records import Interval, PolicySummary, Run, Summary
from supernet_registry.registry.publisher.store import TrackingStore, connect

__all__ = ["EXPERIMENT", "log_evaluation"]

EXPERIMENT = "supernet-registry evaluations"
_TAG = "supernet_registry.evaluation"
_UNIT = "supernet_registry.unit"
_BATCH_METRICS = 1000
"""Most metrics that MLflow takes in one call."""


def log_evaluation(
    store: TrackingStore,
    evaluation: str,
    runs: Sequence[Run],
    summary: Summary,
    checks: Sequence[Check],
    *,
    configuration: Mapping[str, str],
    artifacts: Sequence[Path],
) -> str:
    """Log an evaluation, or bring what was logged of it up to date.

    Args:
        store: where to.
        evaluation: its id; logged again under the same one, it gets no second run.
        runs: child runs are made of them; those that are there already are left alone.
        summary, checks: the parent's metrics.
        configuration: the parent's parameters; what has changed since is left as it was first logged.
        artifacts: files of the report.

    Returns:
        The id of the parent run.

    Raises:
        MlflowException: MLflow does not answer, or refuses.
    """
    client = connect(store)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    experiment_id = (
        experiment.experiment_id
        if experiment is not None
        else client.create_experiment(EXPERIMENT, artifact_location=store.artifact_location(EXPERIMENT))
    )
    found = client.search_runs([experiment_id], f"tags.`{_TAG}` = '{evaluation}'", run_view_type=ViewType.ACTIVE_ONLY)
    known = {run.data.tags.get(_UNIT, ""): run for run in found}
    parent = known.get("")
    if parent is None:
        parent = client.create_run(experiment_id, tags={_TAG: evaluation}, run_name=f"evaluation {evaluation[:8]}")
    present = parent.data.params
    client.log_batch(
        parent.info.run_id,
        params=[Param(key, value[:500]) for key, value in configuration.items() if key not in present],
    )
    _log(client, parent.info.run_id, [_metric(name, value) for name, value in _summary_metrics(summary, checks)])
    for path in artifacts:
        client.log_artifact(parent.info.run_id, str(path))
    client.set_terminated(parent.info.run_id)
    for run in runs:
        unit = f"{run.stream}/{run.policy}/{run.seed}"
        if unit not in known:
            _log_run(client, experiment_id, parent.info.run_id, {_TAG: evaluation, _UNIT: unit}, run)
    return str(parent.info.run_id)


def _log_run(client: MlflowClient, experiment: str, parent: str, tags: Mapping[str, str], run: Run) -> None:
    name = f"{run.stream} {run.policy} seed {run.seed}"
    child = client.create_run(experiment, tags={**tags, "mlflow.parentRunId": parent}, run_name=name).info.run_id
    params = {"stream": run.stream, "policy": run.policy, "seed": str(run.seed), "tasks": str(len(run.result.rows))}
    client.log_batch(child, params=[Param(key, value) for key, value in params.items()])
    metrics = [_metric(name, value, row.step) for row in run.result.rows for name, value in _row_metrics(row)]
    metrics += [_metric("stored_bytes", size, step) for step, size in enumerate(run.stored_bytes)]
    if run.result.average_accuracy is not None:
        metrics.append(_metric("average_accuracy", run.result.average_accuracy))
    if run.result.backward_transfer is not None:
        metrics.append(_metric("backward_transfer", run.result.backward_transfer))
    _log(client, child, metrics)
    client.log_batch(
        child, tags=[RunTag(f"source.{row.step}", (row.source or "scratch")[:500]) for row in run.result.rows]
    )
    client.set_terminated(child, "FINISHED" if not run.result.failed else "FAILED")


def _row_metrics(row: StreamRow) -> Iterator[tuple[str, float]]:
    if row.val_accuracy:  # a fixed network has none: it is trained on the validation split
        yield "val_accuracy", row.val_accuracy
    yield "test_accuracy", row.test_accuracy
    if row.child_test_accuracy is not None:
        yield "child_test_accuracy", row.child_test_accuracy
    yield "steps", row.steps
    yield "seconds", row.prepare_seconds + row.seconds + row.child_seconds


def _summary_metrics(summary: Summary, checks: Sequence[Check]) -> Iterator[tuple[str, float]]:
    """Every number of every policy; of an interval its ends, too."""
    for policy in summary.policies:
        for field in fields(PolicySummary):
            value = getattr(policy, field.name)
            name = f"{policy.policy}/{field.name}"
            if isinstance(value, Interval):
                yield name, value.value
                yield f"{name}.low", value.low
                yield f"{name}.high", value.high
            elif isinstance(value, (int, float)):
                yield name, value
    for check in checks:
        yield f"passed/{''.join(c if c.isalnum() or c in ' _-./' else '_' for c in check.name)}", float(check.passed)


def _metric(name: str, value: float, step: int = 0) -> Metric:
    return Metric(name, float(value), int(1000 * time.time()), step)


def _log(client: MlflowClient, run: str, metrics: Sequence[Metric]) -> None:
    for start in range(0, len(metrics), _BATCH_METRICS):
        client.log_batch(run, metrics=metrics[start : start + _BATCH_METRICS])
