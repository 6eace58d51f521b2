"""`nearest` and `map`: where a dataset lies among those that the registry knows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from supernet_registry.clients.cli import output
from supernet_registry.clients.cli.connection import connect
from supernet_registry.clients.cli.lineages import source_of
from supernet_registry.clients.cli.options import AsJson, DatasetPath, Family, MomentsOnly, plot_option
from supernet_registry.clients.cli.reading import dataset_called
from supernet_registry.clients.cli.searching import load
from supernet_registry.clients.wire.resources import (
    GAIN,
    DatasetMap,
    DatasetPoint,
    NearestSources,
    ShortlistEntry,
    ShortlistOutcome,
)
from supernet_registry.search.results import NEAREST

if TYPE_CHECKING:
    from supernet_registry.clients.registry_client import RegistryClient
    from supernet_registry.search.tasks import ImageDataset

__all__ = ["map_datasets", "nearest"]

_PANELS = 3
"""Sources of which a coupling is drawn side by side."""
_ROWS = 30
"""Datasets that the table of a map shows."""
_OUTCOMES = {
    ShortlistOutcome.CACHED: "known already",
    ShortlistOutcome.COMPUTED: "computed",
    ShortlistOutcome.PRUNED: "pruned: its lower bound is too high",
    ShortlistOutcome.LATE: "late: the deadline came first",
    ShortlistOutcome.UNUSABLE: "unusable: deleted, or its sketch is damaged",
}


def nearest(
    context: typer.Context,
    dataset: DatasetPath,
    *,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=0, max=100, help="Candidates; 0: the server's 5.")] = 0,
    shortlist: Annotated[int, typer.Option(min=0, max=256, help="Datasets to re-rank; 0: the server's choice.")] = 0,
    space: Family = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Also show what became of every shortlisted dataset, and all reasons.")
    ] = False,
    plot: Annotated[
        Path | None,
        plot_option("Also draw which classes of the nearest sources yours map to, into this .png or .svg file."),
    ] = None,
    moments_only: MomentsOnly = False,
    as_json: AsJson = False,
) -> None:
    """Rank the stored supernets as sources for DATASET by optimal-transport distance.

    Only a sketch of the dataset travels, and nothing is stored. With --space, versions of other search spaces are
    marked as incompatible.

    Examples:

        supernet-registry nearest digits.npz

        supernet-registry nearest digits.npz --explain --plot classes.png

        supernet-registry nearest photos/ --json | jq '.candidates[0].supernet'
    """
    data = load(dataset)
    with connect(context) as client:
        found = client.nearest(
            data,
            top_k=top_k,
            shortlist_size=shortlist,
            search_space=space,
            include_class_coupling=plot is not None,
            explain=explain,
            moments_only=moments_only,
        )
        drawn = _draw_couplings(client, found, data, plot) if plot is not None else None
    if as_json:
        candidates = [
            {"supernet": c.version.partition("/versions/")[0].removeprefix("supernets/"), **output.plain(c)}
            for c in found.candidates
        ]
        described = {**output.plain(found), "candidates": candidates, "target": data.name}
        output.print_json({**described, "plot": str(drawn) if drawn else None})
        return
    _print_candidates(found)
    if explain:
        _print_explanation(found)
    if found.novelty_reason:
        output.say(("Novel: " if found.novel else "Not novel: ") + found.novelty_reason)
    if found.partial:
        output.say("The deadline cut the ranking short; raise --timeout for the whole of it.", style="yellow")


def _draw_couplings(client: RegistryClient, found: NearestSources, data: ImageDataset, path: Path) -> Path | None:
    from supernet_registry.clients.plots import CouplingPanel, class_couplings

    panels: dict[str, CouplingPanel] = {}
    for candidate in found.candidates:  # versions of one dataset share its coupling
        if candidate.class_coupling is not None and candidate.dataset not in panels and len(panels) < _PANELS:
            source = client.get_dataset(candidate.dataset)
            title = (
                f"{candidate.dataset_display_name}\n{output.short(candidate.version)}, OT {candidate.ot_distance:.3g}"
            )
            panels[candidate.dataset] = CouplingPanel(title, candidate.class_coupling, source.class_names)
    if not panels:
        output.say("Nothing to draw: no candidate has a class coupling.", style="yellow")
        return None
    drawn = class_couplings(
        list(panels.values()),
        path,
        target_classes=data.class_names,
        target=data.name,
        title=f"Which classes {data.name} maps to",
    )
    output.say(f"Drawn into {drawn}.")
    return drawn


def _print_candidates(found: NearestSources) -> None:
    signals = sorted({signal for candidate in found.candidates for signal in candidate.predictions})
    rows = []
    for c in found.candidates:
        predicted = (_prediction(signal, c.predictions.get(signal)) for signal in signals)
        verdict = ("" if c.eligible else "not eligible: ") + (c.reasons[0].message if c.reasons else "usable")
        distances = tuple(
            output.number(distance) if distance or c.origin == NEAREST else ""  # that of an offer may be unknown
            for distance in (c.ot_distance, c.embedding_distance)
        )
        name = (output.short(c.version), c.dataset_display_name)
        rows.append((*name, *distances, output.percent(c.quality), *predicted, verdict))
    output.print_table(
        ["!version", "~dataset", ">OT", ">embedding", ">quality", *(f">{signal}" for signal in signals), "verdict"],
        rows,
        empty="The registry holds no supernets yet.",
    )


def _prediction(signal: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{100 * value:+.1f} points" if signal == GAIN else output.number(value)


def _print_explanation(found: NearestSources) -> None:
    output.print_table(
        ["~dataset", ">embedding", ">OT at least", ">OT", "outcome"],
        [_shortlist_row(entry) for entry in found.shortlist],
        title=(
            f"Shortlist: {len(found.shortlist)} of {found.dataset_count:,} datasets in "
            f"{1000 * found.shortlist_seconds:.0f} ms, re-ranked in {1000 * found.rerank_seconds:.0f} ms"
        ),
        empty="The shortlist is empty.",
    )
    output.print_table(
        ["!version", "!code", "reason"],
        [
            (output.short(candidate.version) if place == 0 else "", reason.code, reason.message)
            for candidate in found.candidates
            for place, reason in enumerate(candidate.reasons)
        ],
        title="Reasons",
        empty="No reasons.",
    )
    for signal, reason in sorted(found.signal_reasons.items()):
        output.say(f"Predicted {signal}: {reason}")


def _shortlist_row(entry: ShortlistEntry) -> tuple[str, ...]:
    return (
        entry.dataset_display_name or output.short(entry.dataset)[:12],
        output.number(entry.embedding_distance),
        output.number(entry.lower_bound) if entry.lower_bound > 0 else "",
        output.number(entry.ot_distance),
        _OUTCOMES.get(entry.outcome, ""),
    )


def map_datasets(
    context: typer.Context,
    dataset: Annotated[
        str | None,
        typer.Argument(
            metavar="DATASET", help="A .npz file, a folder of images, or `datasets/ID`.", show_default=False
        ),
    ] = None,
    *,
    most: Annotated[int, typer.Option("--max", min=0, max=2000, help="Most stored datasets; 0: the server's 500.")] = 0,
    plot: Annotated[Path | None, plot_option("Also draw the map into this .png or .svg file.")] = None,
    moments_only: MomentsOnly = False,
    as_json: AsJson = False,
) -> None:
    """Map the stored datasets on a plane: near there is near for the registry.

    With DATASET, the map is of its nearest datasets; only a sketch of it travels, and nothing is stored. The picture
    shows which datasets hold a version, and the warm starts that have led from one to another.

    Examples:

        supernet-registry map --plot map.png

        supernet-registry map digits.npz --max 50 --plot map.png

        supernet-registry map --json | jq '.points[] | [.display_name, .x, .y]'
    """
    with connect(context) as client:
        target, name = _map_target(client, dataset)
        found = client.dataset_map(target, max_datasets=most, moments_only=moments_only)
        drawn = _draw_map(client, found, name, plot) if plot is not None else None
    if as_json:
        output.print_json({**output.plain(found), "target": name, "plot": str(drawn) if drawn else None})
        return
    _print_map(found, name)


def _map_target(client: RegistryClient, text: str | None) -> tuple[ImageDataset | str | None, str]:
    """What to place on the map, and its name for people."""
    if text is None:
        return None, ""
    if text.startswith("datasets/") and not Path(text).exists():
        registered = dataset_called(client, text)
        return registered.name, registered.display_name
    data = load(Path(text))
    return data, data.name


def _draw_map(client: RegistryClient, found: DatasetMap, target: str, path: Path) -> Path | None:
    from supernet_registry.clients.plots import dataset_map_picture

    if not found.points:
        output.say("Nothing to draw: the map is empty.", style="yellow")
        return None
    title = f"{target} among the stored datasets" if target else "The stored datasets"
    drawn = dataset_map_picture(found, path, target=target, warm_starts=_warm_starts(client), title=title)
    output.say(f"Drawn into {drawn}.")
    return drawn


def _warm_starts(client: RegistryClient) -> set[tuple[str, str]]:
    """(dataset of the source, dataset that was searched) of every version that had a source; a generalist has no place
    on the map."""
    versions = {version.name: version for version in client.list_versions() if not version.datasets}
    return {
        (versions[source].dataset, version.dataset)
        for version in versions.values()
        if (source := source_of(version)) in versions
    }


def _print_map(found: DatasetMap, target: str) -> None:
    around = next((point for point in found.points if point.target), None)
    listed = list(found.points)
    if around is not None:
        listed.sort(key=lambda point: (not point.target, _between(point, around)))
    output.print_table(
        ["!dataset", "~name", ">x", ">y", ">from target" if around else "~nearest here", "~best version"],
        [
            (
                output.short(point.dataset)[:12],
                point.display_name or (target if point.target else ""),
                f"{point.x:.3g}",
                f"{point.y:.3g}",
                _relation(point, around, found.points),
                output.short(point.version),
            )
            for point in listed[:_ROWS]
        ],
        empty="No datasets yet.",
    )
    if len(listed) > _ROWS:
        output.say(f"{len(listed) - _ROWS} more datasets: see --plot or --json.")
    if listed:
        output.say(f"The plane shows {found.explained_share:.0%} of the variance between the datasets' embeddings.")


def _relation(point: DatasetPoint, around: DatasetPoint | None, points: Sequence[DatasetPoint]) -> str:
    """How far from the target, or where there is none the nearest other dataset, both on the plane."""
    if around is not None:
        return "" if point is around else output.number(_between(point, around))
    others = [other for other in points if other is not point]
    if not others:
        return ""
    near = min(others, key=lambda other: _between(point, other))
    return f"{near.display_name or output.short(near.dataset)[:12]} ({output.number(_between(point, near))})"


def _between(a: DatasetPoint, b: DatasetPoint) -> float:
    return math.dist((a.x, a.y), (b.x, b.y))
