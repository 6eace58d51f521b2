"""`list` and `show`: looking around."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from supernet_registry.clients.cli import names, output
from supernet_registry.clients.cli.connection import connect
from supernet_registry.clients.cli.lineages import ot_distances, source_of
from supernet_registry.clients.cli.options import AsJson, plot_option
from supernet_registry.clients.cli.tastes import print_tastes
from supernet_registry.clients.wire.resources import (
    Cost,
    Dataset,
    Metrics,
    ParentRole,
    SearchJob,
    SourceDecision,
    Supernet,
    SupernetVersion,
)
from supernet_registry.search.errors import InvalidArgument, NotFound

if TYPE_CHECKING:
    from supernet_registry.clients.registry_client import RegistryClient

__all__ = ["dataset_called", "list_resources", "show"]


class Kind(StrEnum):
    """What `list` lists."""

    SUPERNETS = "supernets"
    VERSIONS = "versions"
    DATASETS = "datasets"


def list_resources(
    context: typer.Context,
    kind: Annotated[Kind, typer.Argument(help="What to list.")] = Kind.SUPERNETS,
    *,
    as_json: AsJson = False,
) -> None:
    """List supernets, versions or datasets, newest first.

    Examples:

        supernet-registry list

        supernet-registry list versions --json
    """
    with connect(context) as client:
        if kind is Kind.DATASETS:
            _list_datasets(list(client.list_datasets()), as_json=as_json)
            return
        versions = list(client.list_versions())
        if kind is Kind.VERSIONS:
            _list_versions(versions, as_json=as_json)
            return
        _list_supernets(list(client.list_supernets()), versions, as_json=as_json)


def _list_supernets(supernets: list[Supernet], versions: Iterable[SupernetVersion], *, as_json: bool) -> None:
    heads = {version.name: version for version in versions if version.head}
    if as_json:
        described = [{**output.plain(s), "head_version": output.plain(heads.get(s.head))} for s in supernets]
        output.print_json({"supernets": described})
        return
    rows = []
    for supernet in supernets:
        head = heads.get(supernet.head)
        metrics = (head.metrics if head else None) or Metrics()
        rows.append(
            (
                output.short(supernet.name),
                str(supernet.version_count),
                head.dataset_display_name if head else "",
                output.percent(metrics.test_accuracy) if head else "",
                output.percent(metrics.child_test_accuracy) if head and head.child_blob else "",
                output.when(supernet.update_time)[5:],
            )
        )
    output.print_table(
        ["!supernet", ">versions", "~head's dataset", ">test", ">child test", ">changed"],
        rows,
        empty="No supernets yet. `supernet-registry search DATASET --name NAME` makes one.",
    )


def _list_versions(versions: list[SupernetVersion], *, as_json: bool) -> None:
    if as_json:
        output.print_json({"versions": versions})
        return
    output.print_table(
        ["!version", "~dataset", "~source", ">test", ">child test", ">steps"],
        [_version_row(version) for version in versions],
        empty="No versions yet.",
    )


def _version_row(version: SupernetVersion) -> tuple[str, ...]:
    metrics, cost = version.metrics or Metrics(), version.cost or Cost()
    return (
        output.short(version.name) + (" *" if version.head else ""),
        version.dataset_display_name,
        output.short(source_of(version)) or "scratch",
        output.percent(metrics.test_accuracy),
        output.percent(metrics.child_test_accuracy) if version.child_blob else "",
        str(cost.search_steps + cost.taste_steps),
    )


def _list_datasets(datasets: list[Dataset], *, as_json: bool) -> None:
    if as_json:
        output.print_json({"datasets": datasets})
        return
    output.print_table(
        ["!dataset", "~name", ">classes", ">train/val/test", ">size", "~images"],
        [
            (
                output.short(d.name)[:12],
                d.display_name,
                str(d.class_count),
                f"{d.train_count}/{d.val_count}/{d.test_count}",
                f"{d.height}×{d.width}×{d.channels}",
                ("kept" if d.retain_images else "for jobs") if d.images_blob else "",
            )
            for d in datasets
        ],
        empty="No datasets yet.",
    )


def show(
    context: typer.Context,
    resource: Annotated[
        str,
        typer.Argument(metavar="RESOURCE", help="`x`, `x/3`, `searchJobs/ID` or `datasets/ID`.", show_default=False),
    ],
    *,
    plot: Annotated[
        Path | None, plot_option("Of a job: also draw the curves of its taste into this .png or .svg file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show one supernet, version, job or dataset with all that is known about it.

    Examples:

        supernet-registry show digits

        supernet-registry show digits/2

        supernet-registry show searchJobs/1f0c9a3e --plot taste.png

        supernet-registry show searchJobs/1f0c9a3e --json
    """
    kind, name = names.parse(resource)
    with connect(context) as client:
        found = _find(client, kind, name, explicit="/" in resource)
        distances = {}
        if isinstance(found, SupernetVersion) and not as_json:
            distances = ot_distances(client, [found])
    drawn = _draw_tastes(found, plot) if plot is not None else None
    if as_json:
        output.print_json({**output.plain(found), "plot": str(drawn)} if drawn else found)
    elif isinstance(found, SupernetVersion):
        output.print_fields(_version_fields(found, distances), title=found.name)
    else:
        output.print_fields(_fields(found), title=found.name)
        if isinstance(found, SearchJob):
            print_tastes(found.decision)


def _draw_tastes(found: Any, path: Path) -> Path:
    from supernet_registry.clients.plots import taste_curves

    if not isinstance(found, SearchJob):
        raise InvalidArgument(f"{found.name} is no job.", remedy="Only jobs have a taste to draw.", field="plot")
    decision = found.decision or SourceDecision()
    title = f"Taste of {output.short(found.name)} on {found.dataset_display_name}"
    drawn = taste_curves(decision, path, title=title)
    output.say(f"Drawn into {drawn}.")
    return drawn


def dataset_called(client: RegistryClient, text: str) -> Dataset:
    """The dataset that `datasets/ID` names; the beginning of the id will do. Raises NotFound, InvalidArgument."""
    kind, name = names.parse(text, field="dataset")
    if kind != "dataset":
        raise InvalidArgument(f"{text!r} is not a dataset.", remedy="Give `datasets/ID`.", field="dataset")
    found: Dataset = _find(client, kind, name, explicit=True)
    return found


def _find(client: RegistryClient, kind: str, name: str, *, explicit: bool) -> Any:
    get = {
        "supernet": client.get_supernet,
        "version": client.get_version,
        "job": client.get_search_job,
        "dataset": client.get_dataset,
    }
    try:
        return get[kind](name)
    except (NotFound, InvalidArgument) as error:
        identity = name.rpartition("/")[2]
        # A bare word may also be the id of a job, and of a dataset tables print only the beginning.
        if kind == "supernet" and not explicit:
            with suppress(NotFound, InvalidArgument):
                return client.get_search_job(f"searchJobs/{identity}")
        if (kind == "dataset" or not explicit) and re.fullmatch("[0-9a-f]{6,32}", identity):
            matches = [d for d in client.list_datasets() if d.name.startswith(f"datasets/{identity}")]
            if len(matches) == 1:
                return matches[0]
        raise error from None


def _fields(resource: Supernet | SearchJob | Dataset) -> list[tuple[str, str]]:
    """Every field that says something, nested ones with their path; not the taste, which has a table of its own."""
    fields: list[tuple[str, str]] = []

    def walk(prefix: str, value: Any) -> None:
        if prefix == "decision.tastes":
            return
        if isinstance(value, Mapping):
            for key, item in value.items():
                walk(f"{prefix}.{key}" if prefix else str(key), item)
        elif isinstance(value, list):
            fields.append((prefix, ", ".join(str(item) for item in value)))
        elif value not in (None, "", 0, False, "UNSPECIFIED"):
            fields.append((prefix, f"{value:.4g}" if isinstance(value, float) else str(value)))

    walk("", {key: value for key, value in output.plain(resource).items() if key != "name"})
    return fields


def _child_cost(metrics: Metrics) -> str:
    """`1.24 M multiply-accumulates, 0.81 ms for an image, 9.3 ms for 64`; "" for versions of older releases."""
    if metrics.child_macs is None or metrics.child_single_seconds is None or metrics.child_batch_seconds is None:
        return ""
    single, batch = (output.number(1e3 * s) for s in (metrics.child_single_seconds, metrics.child_batch_seconds))
    return f"{metrics.child_macs / 1e6:,.3g} M multiply-accumulates, {single} ms for an image, {batch} ms for 64"


def _version_fields(version: SupernetVersion, distances: Mapping[str, float]) -> list[tuple[str, str]]:
    metrics, cost = version.metrics or Metrics(), version.cost or Cost()
    source = output.short(source_of(version)) or "scratch"
    if version.name in distances:
        source += f" (OT distance {output.number(distances[version.name])})"
    previous = next((p.version for p in version.parents if p.role is ParentRole.PREVIOUS_HEAD), "")
    return [
        ("head", "yes" if version.head else "no"),
        ("dataset", f"{version.dataset_display_name} ({version.dataset})"),
        ("source", source),
        ("transfer", version.transfer_mode.value.lower()),
        ("previous head", output.short(previous)),
        ("supernet", f"{output.percent(metrics.test_accuracy)} test, {output.percent(metrics.val_accuracy)} val"),
        (
            "child network",
            f"{output.percent(metrics.child_test_accuracy)} test, {metrics.child_parameters:,} parameters"
            if version.child_blob
            else "none",
        ),
        ("child's cost", _child_cost(metrics)),
        ("steps", f"{cost.search_steps:,} search, {cost.taste_steps:,} taste, {cost.child_steps:,} child network"),
        (
            "seconds",
            f"{cost.search_seconds:.1f} search, {cost.taste_seconds:.1f} taste, {cost.child_seconds:.1f} child network",
        ),
        ("device", cost.device),
        ("α-entropy", f"{metrics.alpha_entropy:.3f} nats, {metrics.skip_count} skip connections"),
        ("search space", version.search_space.id if version.search_space else ""),
        ("genotype", version.genotype),
        ("weights", f"{version.weights_blob} ({version.weights_size_bytes:,} bytes)"),
        ("child weights", version.child_blob),
        ("job", version.job),
        ("created", output.when(version.create_time)),
    ]
