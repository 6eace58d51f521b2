"""`lineage`: what descends from what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from supernet_registry.clients.cli import names, output
from supernet_registry.clients.cli.connection import connect
from supernet_registry.clients.cli.options import AsJson, plot_option
from supernet_registry.clients.wire.resources import Lineage, Metrics, ParentRole, SupernetVersion
from supernet_registry.search.errors import NotFound

if TYPE_CHECKING:
    from supernet_registry.clients.registry_client import RegistryClient

__all__ = ["lineage", "ot_distances", "source_of"]


def source_of(version: SupernetVersion) -> str:
    """The version that a version was warm-started from, "" if it began from scratch."""
    return next((parent.version for parent in version.parents if parent.role is ParentRole.SOURCE), "")


def lineage(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A supernet `x` or a version `x/3`.", show_default=False)],
    *,
    depth: Annotated[int, typer.Option(min=0, max=100, help="Generations each way; 0: the server's 20.")] = 0,
    plot: Annotated[Path | None, plot_option("Also draw the lineage into this .png or .svg file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a supernet descends from and what descends from it.

    Examples:

        supernet-registry lineage digits

        supernet-registry lineage digits --plot lineage.svg
    """
    kind, full = names.parse(name, field="name")
    if kind == "version" and full.endswith("/head"):
        full = full.removesuffix("/versions/head")
    with connect(context) as client:
        found = client.query_lineage(full, depth=depth)
        distances = ot_distances(client, found.versions)
    if plot is not None:
        from supernet_registry.clients.plots import lineage_picture

        lineage_picture(found, plot, distances=distances, title=f"Lineage of {output.short(full)}")
        output.say(f"Drawn into {plot}.")
    if as_json:
        output.print_json({**output.plain(found), "ot_distances": distances, "plot": str(plot) if plot else None})
    elif found.versions:
        output.console().print(_tree(found, distances))
    else:
        output.say(f"{full} has no versions yet.")


def ot_distances(client: RegistryClient, versions: Iterable[SupernetVersion]) -> dict[str, float]:
    """OT distance between a version's dataset and its source's, for the versions that have a source."""
    distances = {}
    for version in versions:
        if source_of(version) and version.job:
            try:
                decision = client.get_search_job(version.job).decision
            except NotFound:  # pruned: the version outlives its job
                continue
            if decision is not None and decision.ot_distance is not None:
                distances[version.name] = decision.ot_distance
    return distances


def _tree(lineage: Lineage, distances: Mapping[str, float]) -> Any:
    """The lineage as a tree by sources (else by previous heads), oldest first."""
    from rich.text import Text
    from rich.tree import Tree

    known = {version.name for version in lineage.versions}
    main: dict[str, str] = {}
    for role in (ParentRole.PREVIOUS_HEAD, ParentRole.SOURCE):
        for edge in lineage.edges:
            if edge.parent is not None and edge.parent.role is role and edge.parent.version in known:
                main[edge.child] = edge.parent.version
    root = Tree("", hide_root=True)
    branches: dict[str, Tree] = {}
    waiting = list(lineage.versions)
    while waiting:
        ready = [v for v in waiting if v.name not in main or main[v.name] in branches]
        for version in ready or waiting:  # `or`: a cycle cannot occur, but must not hang us
            metrics = version.metrics or Metrics()
            text = Text(output.short(version.name), style="bold" if version.head else "")
            text.append(f"  {version.dataset_display_name}, supernet {output.percent(metrics.test_accuracy)}", style="")
            if version.child_blob:
                text.append(f", child {output.percent(metrics.child_test_accuracy)}")
            if version.name in distances:
                text.append(f"  (OT {output.number(distances[version.name])})", style="cyan")
            branches[version.name] = branches.get(main.get(version.name, ""), root).add(text)
        waiting = [v for v in waiting if v.name not in branches]
    return root
