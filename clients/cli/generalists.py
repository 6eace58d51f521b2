"""`generalist`: one supernet over several of the registry's datasets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from supernet_registry.clients.cli import names, output
from supernet_registry.clients.cli.connection import connect
from supernet_registry.clients.cli.options import RECIPE, SEED, SPACE, AsJson, takes
from supernet_registry.clients.cli.searching import finished, result_of, wait_for
from supernet_registry.clients.wire.resources import Dataset, JobEvent, Metrics, SearchJob, SupernetVersion
from supernet_registry.search.errors import InvalidArgument

if TYPE_CHECKING:
    from supernet_registry.clients.registry_client import RegistryClient

__all__ = ["generalist"]


@takes(SPACE, RECIPE, SEED)
def generalist(
    context: typer.Context,
    *,
    datasets: Annotated[
        list[str] | None,
        typer.Option(
            "--datasets",
            "-d",
            metavar="DATASET",
            help="A dataset to learn, by its display name or as datasets/ID; repeat it.",
            show_default=False,
        ),
    ] = None,
    all_retained: Annotated[
        bool, typer.Option("--all-retained", help="Learn every dataset whose images the registry retains.")
    ] = False,
    name: Annotated[
        str, typer.Option("--name", "-n", help="Supernet that receives the result; created if there is none.")
    ] = "generalist",
    base: Annotated[
        str,
        typer.Option(
            metavar="VERSION",
            help="Go on from this version; a generalist's own datasets are learnt along.",
            show_default=False,
        ),
    ] = "",
    replay: Annotated[
        bool,
        typer.Option(
            "--replay/--no-replay", help="Train the base's datasets along, or only score them before and after."
        ),
    ] = True,
    options: dict[str, Any],
    stream: Annotated[str, typer.Option(help="Task stream that the job belongs to (MLflow's experiment).")] = "",
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the result, or return at once.")] = True,
    request_id: Annotated[
        str | None,
        typer.Option(help="UUID of this request: sent again, it finds the same job instead of queueing a second one."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Pretrain a generalist: one supernet over several datasets, with a head for each.

    A worker of the registry does it, from the images that the registry retains (search --retain-images). Later searches
    in the same space always taste the newest generalist beside their nearest sources.

    Examples:

        supernet-registry generalist --all-retained

        supernet-registry generalist -d digits -d letters --epochs 20

        supernet-registry generalist -d fashion --base generalist
    """
    with connect(context) as client:
        job = client.pretrain_generalist(
            _resolve(client, datasets or [], all_retained=all_retained),
            name=names.supernet_name(name),
            base=names.version_name(base, field="base") if base else "",
            replay=replay,
            request_id=request_id,
            stream=stream,
            **options,
        )
        output.say(job.name)
        if not wait:
            _print_submitted(job, as_json=as_json)
            return
        job = wait_for(client, job.name)
        version = client.get_version(finished(job).version)
        remarks = [event.message for event in _events(client, job) if event.message]
    _print_result(job, version, remarks, as_json=as_json)


def _resolve(client: RegistryClient, wanted: Sequence[str], *, all_retained: bool) -> list[str]:
    """Full names of datasets that are named in any way. Raises InvalidArgument for a name of none or of several."""
    stored: list[Dataset] = []
    if all_retained or any(not text.startswith("datasets/") for text in wanted):
        stored = list(client.list_datasets())
    found = [text if text.startswith("datasets/") else _named(text, stored) for text in wanted]
    if all_retained:
        # Oldest first, so that the order of the heads is that of the registry's history.
        found += [dataset.name for dataset in reversed(stored) if dataset.retain_images and dataset.images_blob]
    return list(dict.fromkeys(found))


def _named(text: str, stored: Sequence[Dataset]) -> str:
    matches = [dataset.name for dataset in stored if dataset.display_name == text]
    if len(matches) != 1:
        raise InvalidArgument(
            f"{len(matches) or 'No'} datasets of the registry are called {text!r}.",
            remedy="Name it as datasets/ID; see `supernet-registry list datasets`.",
            field="datasets",
        )
    return matches[0]


def _events(client: RegistryClient, job: SearchJob) -> list[JobEvent]:
    return list(client.watch_search_job(job.name))


def _print_result(job: SearchJob, version: SupernetVersion, remarks: Sequence[str], *, as_json: bool) -> None:
    if as_json:
        output.print_json({**result_of(job, version), "datasets": list(version.datasets), "remarks": list(remarks)})
        return
    metrics = version.metrics or Metrics()
    result = result_of(job, version)
    output.print_fields(
        [
            ("version", output.short(version.name) + (" (a sibling: the head had moved)" if job.head_moved else "")),
            ("datasets", str(len(version.datasets))),
            ("base", "" if result["source"] == "scratch" else output.short(result["source"])),
            ("steps", f"{result['steps']:,}"),
            ("seconds", f"{result['seconds']:.1f} on {result['device']}"),
            (
                "mean accuracy",
                f"{output.percent(metrics.test_accuracy)} test, {output.percent(metrics.val_accuracy)} val",
            ),
            ("genotype", version.genotype),
            *(("" if i else "remarks", remark) for i, remark in enumerate(remarks)),
        ]
    )


def _print_submitted(job: SearchJob, *, as_json: bool) -> None:
    if as_json:
        datasets = list(job.spec.datasets) if job.spec else []
        output.print_json({"job": job.name, "state": job.state.value, "supernet": job.supernet, "datasets": datasets})
    else:
        output.say(f"Follow it: supernet-registry watch {output.short(job.name)}")
