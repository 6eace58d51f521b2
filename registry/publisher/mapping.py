"""What the registry's resources look like in MLflow: parameters, tags and metrics, as pure functions.

Tags of the registry carry the prefix `supernet_registry.`, so that they can be told from those that people add in
MLflow's UI. Three of them are identities, by which the publisher finds again what it has created:
`supernet_registry.job` (run), `supernet_registry.supernet` (registered model), `supernet_registry.version` (model
version).

Metrics carry the registry's own times, so sending one twice stores it once. The step of an epoch is the number of
weight updates since the start of its phase: that is what a warm start saves, so curves of runs compare directly.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from datetime import datetime
from typing import Any

from mlflow.entities import Dataset as MlflowDataset
from mlflow.entities import DatasetInput, InputTag, Metric, Param

from supernet_registry.clients.wire.resources import (
    Dataset,
    EpochMetrics,
    JobEvent,
    JobState,
    Phase,
    SearchJob,
    SearchSpec,
    SourceDecision,
    SpaceDescriptor,
    SupernetVersion,
)

__all__ = [
    "LABEL_TAG",
    "RUN_STATUS",
    "TAG",
    "dataset_input",
    "event_metrics",
    "job_params",
    "job_tags",
    "label_tags",
    "milliseconds",
    "run_name",
    "version_description",
    "version_metrics",
    "version_tags",
]

TAG = "supernet_registry."
LABEL_TAG = TAG + "label."
TAG_LENGTH = 5000
"""Characters that every MLflow release since 2.0 takes as the value of a run's tag."""
PARAM_LENGTH = 500
MAX_LABELS = 50
DIGEST_LENGTH = 36
"""MLflow refuses longer digests of datasets; the whole sha256 is in the input's source."""

RUN_STATUS: Mapping[JobState, str] = {
    JobState.QUEUED: "SCHEDULED",
    JobState.RUNNING: "RUNNING",
    JobState.CANCELLING: "RUNNING",
    JobState.SUCCEEDED: "FINISHED",
    JobState.FAILED: "FAILED",
    JobState.CANCELLED: "KILLED",
}

_EPOCH_FIELDS = tuple(f.name for f in fields(EpochMetrics) if f.name not in ("phase", "epochs", "steps"))
# A child network has no architecture parameters left.
_CHILD_FIELDS = tuple(name for name in _EPOCH_FIELDS if name not in ("alpha_entropy", "skip_count"))


def milliseconds(time: datetime | None) -> int:
    """Milliseconds since 1970, as MLflow counts; 0 for no time."""
    return 0 if time is None else round(time.timestamp() * 1000)


def run_name(job: SearchJob) -> str:
    """What the runs table shows first: the task, numbered within its stream."""
    task = job.dataset_display_name or job.dataset
    return f"{job.stream_step:02d} {task}" if job.stream else task


def job_params(job: SearchJob) -> list[Param]:
    """The spec of a job. It never changes, as MLflow demands of parameters."""
    assert job.spec is not None
    spec = job.spec
    values: dict[str, Any] = {
        "kind": spec.kind,
        "dataset": job.dataset,
        "executor": spec.executor.value,
        "seed": spec.seed,
        **_work_params(spec),
        **{f"recipe.{name}": text for name, text in spec.recipe.items()},
        **_space_params(spec.search_space),
    }
    return [Param(key, str(value)[:PARAM_LENGTH]) for key, value in values.items() if value != ""]


def _work_params(spec: SearchSpec) -> dict[str, Any]:
    """Fields of the work by their own names; what is not set is left out."""
    work = getattr(spec, spec.kind) if spec.kind else None
    given = {} if work is None else {field.name: getattr(work, field.name) for field in fields(work)}
    values = {name: ",".join(value) if isinstance(value, tuple) else value for name, value in given.items()}
    return {name: value for name, value in values.items() if value}


def _space_params(space: SpaceDescriptor | None) -> dict[str, Any]:
    if space is None:
        return {}
    values = {f"space.{f.name}": getattr(space, f.name) for f in fields(space)}
    return values | {"space.operations": ",".join(space.operations)}


def job_tags(job: SearchJob) -> dict[str, str]:
    """Identity and present state of a job. Every key is always there, so that a later state overwrites it."""
    decision = job.decision
    source = "" if decision is None else decision.source
    values: dict[str, Any] = {
        "job": job.name,
        "supernet": job.supernet,
        "dataset": job.dataset,
        "dataset_display_name": job.dataset_display_name,
        "stream": job.stream,
        "stream_step": job.stream_step,
        "state": job.state.value,
        "attempt": job.attempt,
        "worker": job.worker,
        "base_version": job.base_version,
        "source": "" if decision is None else (source.split("/versions/")[0] or "scratch"),
        "source_version": source,
        "transfer_mode": "" if decision is None else decision.transfer_mode.value,
        "decision": "" if decision is None else decision.reason,
        "novel": "" if decision is None else decision.novel,
        "version": job.version,
        "head_moved": job.head_moved,
        "error_reason": "" if job.error is None else job.error.reason,
        "error_message": "" if job.error is None else job.error.message,
    }
    tags = {TAG + key: _tag_value(value) for key, value in values.items()}
    tags["mlflow.note.content"] = _note(job)
    return tags | label_tags(job.labels)


def _note(job: SearchJob) -> str:
    """Markdown that MLflow shows as the description of a run."""
    lines = [f"Search on **{job.dataset_display_name or job.dataset}** for `{job.supernet}`."]
    if job.decision is not None:
        lines.append(f"Source: {job.decision.source or 'scratch'}. {job.decision.reason}")
    if job.version:
        lines.append(f"Result: `{job.version}`.")
    if job.error is not None and job.error.reason:
        lines.append(f"Failed with {job.error.reason}: {job.error.message}")
    return "\n\n".join(lines)[:TAG_LENGTH]


def label_tags(labels: Mapping[str, str]) -> dict[str, str]:
    """Labels of the owner. MLflow takes fewer characters in a key than the registry does."""
    chosen = sorted(labels.items())[:MAX_LABELS]
    return {_label_key(key): _tag_value(value) for key, value in chosen}


def _label_key(key: str) -> str:
    return (LABEL_TAG + re.sub(r"[^\w. /:-]", "_", key))[:250]


def _tag_value(value: Any) -> str:
    return (str(value).lower() if isinstance(value, bool) else str(value))[:TAG_LENGTH]


def event_metrics(event: JobEvent) -> Iterator[Metric]:
    """Metrics of an epoch (`search/val_accuracy`, ...) or of a decision (`ot_distance`, `taste/<source>/...`)."""
    at = milliseconds(event.time)
    if event.epoch is not None:
        phase = event.epoch.phase
        for name in _CHILD_FIELDS if phase is Phase.CHILD else _EPOCH_FIELDS:
            value = getattr(event.epoch, name)
            if value is not None:
                yield Metric(f"{phase.value.lower()}/{name}", float(value), at, event.epoch.steps)
    elif event.decision is not None:
        yield from _decision_metrics(event.decision, at)


def _decision_metrics(decision: SourceDecision, at: int) -> Iterator[Metric]:
    if decision.ot_distance is not None:
        yield Metric("ot_distance", decision.ot_distance, at, 0)
    for taste in decision.tastes:
        prefix = f"taste/{_short(taste.version)}"
        if taste.ot_distance is not None:
            yield Metric(f"{prefix}/ot_distance", taste.ot_distance, at, 0)
        for name, values in (("val_accuracy", taste.val_accuracies), ("val_loss", taste.val_losses)):
            for step, value in zip(taste.steps, values, strict=False):
                yield Metric(f"{prefix}/{name}", value, at, step)


def _short(version: str) -> str:
    """`supernets/letters/versions/3` → `letters.3`; scratch for none."""
    return version.removeprefix("supernets/").replace("/versions/", ".") or "scratch"


def version_metrics(version: SupernetVersion) -> dict[str, float]:
    """Figures and cost of a finished search, by name; those that there are."""
    values: dict[str, float] = {}
    if version.metrics is not None:
        figures = {f.name: getattr(version.metrics, f.name) for f in fields(version.metrics)}
        values |= {name: float(value) for name, value in figures.items() if value is not None}
    if version.cost is not None:
        costs = (f.name for f in fields(version.cost) if f.name != "device")
        values |= {f"cost/{name}": float(getattr(version.cost, name)) for name in costs}
    return values


def version_tags(version: SupernetVersion) -> dict[str, str]:
    """Lineage, blobs, genotype and figures of a version."""
    sources = [parent.version for parent in version.parents if parent.role.value == "SOURCE"]
    previous = [parent.version for parent in version.parents if parent.role.value == "PREVIOUS_HEAD"]
    values: dict[str, Any] = {
        "version": version.name,
        "job": version.job,
        "dataset": version.dataset,
        "dataset_display_name": version.dataset_display_name,
        "datasets": ",".join(version.datasets),
        "parents": ",".join(dict.fromkeys(sources + previous)),
        "source_version": ",".join(sources) or "scratch",
        "previous_head": ",".join(previous),
        "transfer_mode": version.transfer_mode.value,
        "weights_sha256": version.weights_blob.removeprefix("blobs/"),
        "weights_size_bytes": version.weights_size_bytes,
        "child_sha256": version.child_blob.removeprefix("blobs/"),
        "genotype": version.genotype,
        "space": "" if version.search_space is None else version.search_space.id,
        "device": "" if version.cost is None else version.cost.device,
        **{f"metric.{name.replace('/', '.')}": f"{value:.6g}" for name, value in version_metrics(version).items()},
    }
    return {TAG + key: _tag_value(value) for key, value in values.items() if value != ""}


def version_description(version: SupernetVersion) -> str:
    """One sentence for the list of model versions."""
    source = next((parent.version for parent in version.parents if parent.role.value == "SOURCE"), "scratch")
    accuracy = "" if version.metrics is None else f", test accuracy {version.metrics.test_accuracy:.1%}"
    return f"Searched on {version.dataset_display_name or version.dataset} from {source}{accuracy}."


def dataset_input(dataset: Dataset) -> DatasetInput:
    """The dataset of a job, as MLflow's own kind of input."""
    source = {"name": dataset.name, "digest": dataset.digest, "sketch_digest": dataset.sketch_digest}
    schema = {
        "image_shape": [dataset.height, dataset.width, dataset.channels],
        "class_count": dataset.class_count,
        "encoder_id": dataset.encoder_id,
    }
    profile = {name: getattr(dataset, name) for name in ("train_count", "val_count", "test_count")}
    return DatasetInput(
        MlflowDataset(
            name=(dataset.display_name or dataset.name)[:500],
            digest=dataset.digest[:DIGEST_LENGTH],
            source_type="supernet_registry",
            source=json.dumps(source),
            schema=json.dumps(schema),
            profile=json.dumps(profile),
        ),
        [InputTag("mlflow.data.context", "search")],
    )
