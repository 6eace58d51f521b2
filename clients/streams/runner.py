"""Runs a task stream through a registry: each task is submitted, waited for, and scored.

Every job gets a request id that follows from the stream's name, the step, the dataset's digest and the search's spec.
Running the same stream again therefore *continues* it: finished steps answer with the job they had, and only what is
missing is searched. An earlier attempt that failed or was cancelled is followed by a new one.

A task lands in the supernet whose data it shares: the oldest one with a version searched on this very dataset, else the
one in which this stream put the same task before, else the one named after the task. So a task that returns adds a
version to its lineage instead of growing a twin.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Unpack, cast
from uuid import UUID, uuid5

from google.protobuf.json_format import MessageToDict

from supernet_registry.clients import prepare as _prepare
from supernet_registry.clients.registry_client import RegistryClient
from supernet_registry.clients.streams.results import StreamResult, StreamRow
from supernet_registry.clients.streams.scores import Scores
from supernet_registry.clients.streams.stream import Experience, TaskStream
from supernet_registry.clients.wire.convert import to_proto
from supernet_registry.clients.wire.errors import ImagesMissing, NotFound, SearchFailed
from supernet_registry.clients.wire.options import SourceOptions, StreamOptions, check_options
from supernet_registry.clients.wire.resources import (
    Cost,
    EpochMetrics,
    JobEvent,
    JobState,
    Metrics,
    Phase,
    SearchJob,
    SearchSpec,
    SourceDecision,
    SupernetVersion,
)
from supernet_registry.clients.work.here import run_job_here
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.recipe.settings import apply_settings
from supernet_registry.search.spaces import space_from_fields
from supernet_registry.v1.searches_pb2 import SearchSpec as SpecMessage

if TYPE_CHECKING:
    from supernet_registry.search.tasks import ImageDataset

__all__ = ["ChooseSource", "StreamListener", "StreamOptions", "request_id", "run_stream", "slug"]

_NAMESPACE = UUID("2f1f7c56-9a63-4f0e-9d6e-8a3c1c4b7e21")
_MAX_ATTEMPTS = 100


ChooseSource = Callable[[Experience, Sequence[StreamRow]], str]
"""From a task and the rows before it to where its search starts: "auto", "scratch", or a version's name."""


class StreamListener:
    """Told what happens while a stream runs. Override what you need."""

    def on_task(self, experience: Experience, total: int) -> None:
        """A task begins; its dataset is read, sketched and registered next."""

    def on_upload(self, sent_bytes: int, total_bytes: int) -> None:
        """Images are travelling."""

    def on_job(self, job: SearchJob, *, resumed: bool) -> None:
        """The task's job is known; `resumed` if an earlier run has already ended it."""

    def on_event(self, event: JobEvent) -> None:
        """Something happened to the job."""

    def on_row(self, row: StreamRow) -> None:
        """The task is done."""

    def on_message(self, text: str) -> None:
        """Something worth telling."""


def slug(name: str) -> str:
    """A supernet id made of a task's name: lower case, `[a-z0-9_.-]`, at most 63 characters."""
    text = re.sub(r"[^a-z0-9_.-]+", "-", name.lower()).strip("_.-")[:63].strip("_.-")
    return text or "task"


def request_id(stream_name: str, step: int, digest: str, spec: SearchSpec, *, attempt: int = 0) -> str:
    """The UUID of a step's job: the same step of the same stream on the same data always has the same one.

    Of the spec only what is set counts, so that a release with more fields goes on with the streams of an older one.
    """
    given = MessageToDict(to_proto(spec, SpecMessage), preserving_proto_field_name=True)
    content = {"stream": stream_name, "step": step, "dataset": digest, "spec": given, "attempt": attempt}
    return str(uuid5(_NAMESPACE, json.dumps(content, sort_keys=True)))


def run_stream(
    client: RegistryClient,
    stream: TaskStream,
    *,
    stream_name: str = "",
    supernet_name: Callable[[Experience], str] | None = None,
    choose_source: ChooseSource | None = None,
    listener: StreamListener | None = None,
    **options: Unpack[StreamOptions],
) -> StreamResult:
    """Run a stream, or continue it.

    Args:
        client: the registry.
        stream: the tasks, in order.
        stream_name: name that the jobs carry (and MLflow's experiment); by default the stream's own.
        supernet_name: names the supernet of a task that is new to the registry; by default the task's name. The
            result is made a valid id.
        choose_source: chooses where the search of each task starts, instead of the option `source`; its time counts as
            the task's preparation. To continue a stream it must choose again what it chose before.
        listener: told of progress.
        options: how every task is searched; see `StreamOptions`.

    Returns:
        One row a task, and the accuracy matrix. With the option `evaluate` and torch at hand, its entries are measured
        here: each stored version is downloaded and tested on the task's test split (once for each distinct blob and
        dataset). Otherwise they are the metrics that the registry holds.

    Raises:
        SearchFailed: a job failed or was cancelled, unless `keep_going`.
        SupernetRegistryError: whatever the registry or a dataset raises.
    """
    check_options(options, StreamOptions)
    run = _Run(client, stream, stream_name or stream.name, supernet_name, options, choose_source, listener)
    for experience in stream:
        run.step(experience)
    return run.result()


class _Run:
    """One pass over a stream."""

    def __init__(
        self,
        client: RegistryClient,
        stream: TaskStream,
        stream_name: str,
        supernet_name: Callable[[Experience], str] | None,
        options: StreamOptions,
        choose_source: ChooseSource | None,
        listener: StreamListener | None,
    ) -> None:
        self._client = client
        self._total = len(stream)
        self._stream_name = stream_name
        self._options = options
        self._here = options.get("here", False)
        self._device = options.get("device", "auto")
        self._retain_images = options.get("retain_images", False)
        self._spec = _prepare.search_spec(options)
        self._choose_source = choose_source
        self._listener = listener or StreamListener()
        self._supernets = _Supernets(client, supernet_name or (lambda experience: experience.task_name))
        self._scores = Scores(client, device=self._device, measure=options.get("evaluate", False))
        self._rows: list[StreamRow] = []
        if options.get("evaluate") and not self._scores.measured:
            self._listener.on_message("PyTorch is not installed: accuracies are those that the registry recorded.")

    def step(self, experience: Experience) -> None:
        """Search one task, and score every task so far."""
        self._listener.on_task(experience, self._total)
        dataset = experience.dataset
        for warning in dataset.warnings:
            self._listener.on_message(f"{experience.name}: {warning}")
        began = time.monotonic()
        job, identity = self._submit(experience, dataset)
        prepare_seconds = time.monotonic() - began
        resumed = job.state.ended
        self._listener.on_job(job, resumed=resumed)
        if self._here and not resumed:
            run_job_here(self._client, job, dataset, device=self._device, on_event=self._listener.on_event)
            job, curve = self._follow(job.name, lambda _: None)
        else:
            job, curve = self._follow(job.name, self._listener.on_event)
        version = self._client.get_version(job.version) if job.version else None
        row = _row(experience, dataset, job, version, curve, identity, resumed=resumed)
        row = replace(row, prepare_seconds=prepare_seconds)
        self._rows.append(row)
        if version is not None:
            self._supernets.add(version)
        self._scores.after_step(experience, version)
        self._listener.on_row(row)
        if version is None and not self._options.get("keep_going"):
            raise SearchFailed(
                f"Step {row.step} ({row.task}) ended {job.state.value.lower()}: {row.error or 'no reason given'}",
                remedy="Run the stream again to retry the step; finished steps are not repeated.",
                field="stream",
                metadata={"job": job.name},
            )

    def _follow(self, name: str, on_event: Callable[[JobEvent], None]) -> tuple[SearchJob, tuple[EpochMetrics, ...]]:
        """Wait for a job; its epochs, each once: a resumed attempt may repeat what its predecessor had reported."""
        epochs: dict[tuple[Phase, int], EpochMetrics] = {}

        def collect(event: JobEvent) -> None:
            if event.epoch is not None:
                epochs[event.epoch.phase, event.epoch.epoch] = event.epoch
            on_event(event)

        job = self._client.wait_search_job(name, on_event=collect)
        return job, tuple(epochs.values())

    def result(self) -> StreamResult:
        """What the steps so far have given."""
        return StreamResult(
            stream=self._stream_name,
            rows=tuple(self._rows),
            accuracies=self._scores.supernets,
            child_accuracies=self._scores.children,
            evaluated=self._scores.measured,
        )

    def _submit(self, experience: Experience, dataset: ImageDataset) -> tuple[SearchJob, str]:
        """The step's job and its request id. Retries with the next id where an earlier run has failed."""
        spec = self._spec
        if self._choose_source is not None:
            source = self._choose_source(experience, tuple(self._rows))
            spec = _prepare.search_spec(cast("SourceOptions", {**self._options, "source": source}))
        draft = SearchJob(
            supernet=self._supernets.choose(experience, dataset, spec),
            dataset=f"datasets/{dataset.digest[:32]}",
            spec=spec,
            stream=self._stream_name,
            stream_step=experience.current_experience,
        )
        for attempt in range(_MAX_ATTEMPTS):
            identity = request_id(
                self._stream_name, experience.current_experience, dataset.digest, spec, attempt=attempt
            )
            job = self._create(draft, dataset, identity)
            if job.state not in (JobState.FAILED, JobState.CANCELLED):
                break
        return job, identity

    def _create(self, draft: SearchJob, dataset: ImageDataset, identity: str) -> SearchJob:
        """Ask first and upload only if needed: a step that is already done needs its images no more."""
        if not self._retain_images:
            try:
                return self._client.create_search_job(draft, request_id=identity)
            except (NotFound, ImagesMissing):
                pass
        self._client.register_dataset(
            dataset,
            upload_images=not self._here,
            retain_images=self._retain_images,
            moments_only=self._options.get("moments_only", False),
            progress=self._listener.on_upload,
        )
        return self._client.create_search_job(draft, request_id=identity)


class _Supernets:
    """Chooses the supernet of a task; deterministic, so that a repeated run asks for the same."""

    def __init__(self, client: RegistryClient, name: Callable[[Experience], str]) -> None:
        self._name = name
        self._spaces = {
            supernet.name: supernet.search_space.id if supernet.search_space else ""
            for supernet in client.list_supernets()
        }
        self._by_dataset: dict[str, str] = {}
        self._by_name: dict[str, str] = {}
        for version in reversed(list(client.list_versions())):  # oldest first
            self.add(version)

    def add(self, version: SupernetVersion) -> None:
        """Remember a version; for each dataset and space the oldest one counts."""
        supernet = version.name.partition("/versions/")[0]
        space = version.search_space.id if version.search_space else ""
        self._spaces.setdefault(supernet, space)
        if version.datasets:
            return  # a generalist is not where the searches on its first dataset go
        for key in (version.dataset, f"{version.dataset} {space}"):
            self._by_dataset.setdefault(key, supernet)

    def choose(self, experience: Experience, dataset: ImageDataset, spec: SearchSpec) -> str:
        """`supernets/{id}`: by the dataset, else where this stream put the same name before, else by the name."""
        record = f"datasets/{dataset.digest[:32]}"
        space = spec.search_space.id if spec.search_space else ""
        name = f"supernets/{slug(self._name(experience))}"
        known = self._by_dataset.get(f"{record} {space}" if space else record)
        chosen = known or self._by_name.get(name) or self._in_space(name, space)
        self._by_name.setdefault(name, chosen)
        return chosen

    def _in_space(self, name: str, space: str) -> str:
        """The supernet called `name`, or a sibling of it where that is of another search space."""
        if not space or self._spaces.get(name, space) in ("", space):
            return name
        family, _, digest = space.partition(":")
        return f"{name[: 73 - 8 - len(family)]}-{family}-{digest[:6]}"


def _pass_steps(dataset: ImageDataset, spec: SearchSpec) -> int:
    """Steps in which a search sees every training image once."""
    recipe = apply_settings(Recipe.for_space(space_from_fields(spec.search_space)), spec.recipe)
    return max(1, round(len(dataset.train.labels) / recipe.batch_size))


def _row(
    experience: Experience,
    dataset: ImageDataset,
    job: SearchJob,
    version: SupernetVersion | None,
    curve: tuple[EpochMetrics, ...],
    identity: str,
    *,
    resumed: bool,
) -> StreamRow:
    decision = job.decision or SourceDecision()
    metrics = (version.metrics if version else None) or Metrics()
    cost = (version.cost if version else None) or Cost()
    return StreamRow(
        step=experience.current_experience,
        task=experience.name,
        task_name=experience.task_name,
        task_label=experience.task_label,
        classes=dataset.n_classes,
        dataset=job.dataset,
        supernet=job.supernet,
        job=job.name,
        request_id=identity,
        resumed=resumed,
        state=job.state,
        error=job.error.message if job.error else "",
        version=job.version,
        source=decision.source,
        transfer_mode=decision.transfer_mode.value,
        reason=decision.reason,
        ot_distance=decision.ot_distance,
        novel=decision.novel,
        tastes=decision.tastes,
        expect=experience.expect,
        search_steps=cost.search_steps,
        taste_steps=cost.taste_steps,
        child_steps=cost.child_steps,
        pass_steps=_pass_steps(dataset, job.spec or SearchSpec()),
        search_seconds=cost.search_seconds,
        taste_seconds=cost.taste_seconds,
        child_seconds=cost.child_seconds,
        val_accuracy=metrics.val_accuracy,
        test_accuracy=metrics.test_accuracy,
        child_val_accuracy=metrics.child_val_accuracy,
        child_test_accuracy=metrics.child_test_accuracy,
        child_parameters=metrics.child_parameters,
        genotype=version.genotype if version else "",
        device=cost.device,
        curve=curve,
        warnings=dataset.warnings,
    )
