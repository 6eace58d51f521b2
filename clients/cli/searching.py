"""`search`: an architecture for one dataset."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from supernet_registry.clients.cli import names, output
from supernet_registry.clients.cli.connection import connect
from supernet_registry.clients.cli.options import (
    PLACE,
    RECIPE,
    SEED,
    SOURCE,
    SPACE,
    AsJson,
    DatasetPath,
    Device,
    resolve_source,
    takes,
)
from supernet_registry.clients.cli.running import Interrupted
from supernet_registry.clients.cli.tastes import print_tastes
from supernet_registry.clients.wire.resources import (
    Cost,
    JobState,
    Metrics,
    SearchJob,
    SourceDecision,
    SupernetVersion,
)
from supernet_registry.search.errors import SearchCancelled, SearchFailed, SupernetRegistryError, error_types

if TYPE_CHECKING:
    from supernet_registry.clients.registry_client import RegistryClient
    from supernet_registry.search.tasks import ImageDataset

__all__ = ["failure", "load", "result_of", "search"]


def load(path: Path) -> ImageDataset:
    """The dataset at `path`; its warnings go to stderr. Raises InvalidDataset."""
    from supernet_registry.search.tasks import load_dataset

    dataset = load_dataset(path)
    for warning in dataset.warnings:
        output.say(f"warning: {warning}", style="yellow")
    return dataset


@takes(SPACE, SOURCE, RECIPE, SEED, PLACE)
def search(
    context: typer.Context,
    dataset: DatasetPath,
    *,
    name: Annotated[
        str, typer.Option("--name", "-n", help="Supernet that receives the result; created if there is none.")
    ],
    options: dict[str, Any],
    stream: Annotated[str, typer.Option(help="Task stream that the job belongs to (MLflow's experiment).")] = "",
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the result, or return at once.")] = True,
    device: Device = "auto",
    request_id: Annotated[
        str | None,
        typer.Option(help="UUID of this request: sent again, it finds the same job instead of queueing a second one."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Search an architecture for DATASET, warm-started from the nearest stored supernet.

    The dataset is sketched here; its images are uploaded only if a worker of the registry runs the search, and deleted
    afterwards unless --retain-images. A short taste on your data decides between the nearest sources and scratch.

    Examples:

        supernet-registry search digits.npz --name digits

        supernet-registry search photos/ --name birds --source flowers/2 --epochs 20 --set horizontal_flip=true

        supernet-registry search scans.npz --name scans --here

        supernet-registry search digits.npz -n digits-pc --variant pc-darts --partial-channels 4

        supernet-registry search digits.npz -n digits --json | jq .version
    """
    data = load(dataset)
    supernet = names.supernet_name(name)
    here = options["here"]
    if here:
        from supernet_registry.clients.work.job_runner import require_torch

        require_torch()
    with connect(context) as client:
        from supernet_registry.clients.cli.progress import transfer

        with transfer("uploading images") as progress:
            options["source"] = resolve_source(client, options["source"])
            job = client.submit_search(
                data, name=supernet, request_id=request_id, progress=progress, stream=stream, **options
            )
        output.say(job.name)
        if here:
            job = _run_here(client, job, data, device)
        elif wait:
            job = wait_for(client, job.name)
        else:
            _print_submitted(job, as_json=as_json)
            return
        version = client.get_version(finished(job).version)
    print_result(job, version, as_json=as_json, warnings=data.warnings)


def _run_here(client: RegistryClient, job: SearchJob, data: ImageDataset, device: str) -> SearchJob:
    from supernet_registry.clients.cli.progress import JobProgress
    from supernet_registry.clients.work.here import run_job_here

    with JobProgress() as progress:
        return run_job_here(client, job, data, device=device, on_event=progress.on_event)


def wait_for(client: RegistryClient, name: str, *, title: str = "") -> SearchJob:
    """Wait for a job and show its progress. Ctrl-C ends the waiting and not the job, and says so."""
    from supernet_registry.clients.cli.progress import JobProgress

    try:
        with JobProgress(title=title) as progress:
            return client.wait_search_job(name, on_event=progress.on_event)
    except KeyboardInterrupt as error:
        raise left_behind(name) from error


def left_behind(name: str) -> Interrupted:
    """What Ctrl-C means while one waits for a job."""
    identity = output.short(name)
    return Interrupted(
        name, f"Follow it: supernet-registry watch {identity}", f"Stop it: supernet-registry cancel {identity}"
    )


def finished(job: SearchJob) -> SearchJob:
    """The job, if it succeeded. Raises the error that is recorded on it, or SearchCancelled."""
    if job.state is not JobState.SUCCEEDED:
        raise failure(job)
    return job


def failure(job: SearchJob) -> SupernetRegistryError:
    """The error of a job that ended without a result."""
    metadata = {"job": job.name}
    if job.state is JobState.CANCELLED:
        return SearchCancelled(f"{job.name} was cancelled.", remedy="Submit it again.", metadata=metadata)
    if job.error is None:
        return SearchFailed(f"{job.name} is {job.state.value.lower()}.", remedy="Watch it.", metadata=metadata)
    kind = error_types().get(job.error.reason, SearchFailed)
    return kind(f"{job.name} failed: {job.error.message}", metadata=metadata)


def result_of(job: SearchJob, version: SupernetVersion) -> dict[str, Any]:
    """A finished search in one flat object. Steps and seconds are those of taste and search; the child's are apart."""
    decision = job.decision or SourceDecision()
    metrics, cost = version.metrics or Metrics(), version.cost or Cost()
    return {
        "version": version.name,
        "source": decision.source or "scratch",
        "steps": cost.search_steps + cost.taste_steps,
        "seconds": cost.search_seconds + cost.taste_seconds,
        "val_accuracy": metrics.val_accuracy,
        "test_accuracy": metrics.test_accuracy,
        "child_val_accuracy": metrics.child_val_accuracy,
        "child_test_accuracy": metrics.child_test_accuracy,
        "child_parameters": metrics.child_parameters,
        "child_macs": metrics.child_macs,
        "child_single_seconds": metrics.child_single_seconds,
        "child_batch_seconds": metrics.child_batch_seconds,
        "job": job.name,
        "supernet": job.supernet,
        "dataset": version.dataset,
        "dataset_display_name": version.dataset_display_name,
        "reason": decision.reason,
        "ot_distance": decision.ot_distance,
        "novel": decision.novel,
        "transfer_mode": version.transfer_mode.value,
        "tastes": output.plain(decision.tastes),
        "search_steps": cost.search_steps,
        "taste_steps": cost.taste_steps,
        "child_steps": cost.child_steps,
        "search_seconds": cost.search_seconds,
        "taste_seconds": cost.taste_seconds,
        "child_seconds": cost.child_seconds,
        "device": cost.device,
        "genotype": version.genotype,
        "alpha_entropy": metrics.alpha_entropy,
        "skip_count": metrics.skip_count,
        "head_moved": job.head_moved,
        "state": job.state.value,
    }


def print_result(job: SearchJob, version: SupernetVersion, *, as_json: bool, warnings: tuple[str, ...] = ()) -> None:
    """The end of a search, for people or for scripts."""
    result = result_of(job, version)
    if as_json:
        output.print_json({**result, "warnings": list(warnings)})
        return
    source = result["source"]
    if source != "scratch":
        source = f"{output.short(source)} (OT distance {output.number(result['ot_distance'])})"
    child = result["child_test_accuracy"]
    child_line = f"{output.percent(child)} test, {result['child_parameters']:,} parameters" if child is not None else ""
    output.print_fields(
        [
            ("version", output.short(version.name) + (" (a sibling: the head had moved)" if job.head_moved else "")),
            ("source", source),
            ("why", result["reason"]),
            ("steps", f"{result['steps']:,} ({result['taste_steps']:,} of them taste)"),
            ("seconds", f"{result['seconds']:.1f} on {result['device']}; child network {result['child_seconds']:.1f}"),
            (
                "supernet",
                f"{output.percent(result['test_accuracy'])} test, {output.percent(result['val_accuracy'])} val",
            ),
            ("child network", child_line or "none"),
            ("genotype", result["genotype"]),
        ]
    )
    print_tastes(job.decision)


def _print_submitted(job: SearchJob, *, as_json: bool) -> None:
    if as_json:
        output.print_json({"job": job.name, "state": job.state.value, "supernet": job.supernet, "dataset": job.dataset})
    else:
        output.say(f"Follow it: supernet-registry watch {output.short(job.name)}")
