"""`stream`: one task after another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from supernet_registry.clients.cli import output
from supernet_registry.clients.cli.connection import connect
from supernet_registry.clients.cli.options import (
    PLACE,
    RECIPE,
    SEED,
    SOURCE,
    SPACE,
    AsJson,
    Device,
    resolve_source,
    takes,
)

if TYPE_CHECKING:
    from supernet_registry.clients.registry_client import RegistryClient
    from supernet_registry.clients.streams.results import StreamResult
    from supernet_registry.clients.streams.stream import TaskStream

__all__ = ["draw_stream", "open_stream", "stream"]


@takes(SPACE, SOURCE, RECIPE, SEED, PLACE)
def stream(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="STREAM", help="Name of the stream.", show_default=False)],
    *,
    tasks: Annotated[Path, typer.Option(help="Folder of the tasks: .npz files or image folders.")],
    streams: Annotated[
        Path | None,
        typer.Option(help="JSON file that defines streams.", show_default="streams.json in the tasks' folder, if any"),
    ] = None,
    first: Annotated[int, typer.Option(min=0, help="Only so many tasks; 0 for all.")] = 0,
    options: dict[str, Any],
    device: Device = "auto",
    evaluate: Annotated[
        bool, typer.Option("--evaluate", help="Measure the accuracy matrix here on downloaded weights (needs torch).")
    ] = False,
    keep_going: Annotated[bool, typer.Option("--keep-going", help="Go on when a task fails.")] = False,
    plots: Annotated[Path | None, typer.Option(help="Folder for pictures: summary, curves, matrix, lineage.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run a stream of tasks, or continue it: each task is searched in turn and scored.

    STREAM is defined in a JSON file (a list of steps under its name). Where there is none, every task of the folder is
    a step, in the order of their names, and STREAM is what the jobs will carry.

    Run again, it continues: the same steps on the same data find their jobs again, and only what is missing is done.

    Examples:

        supernet-registry stream s_pairs --tasks tasks/

        supernet-registry stream mine --tasks my_tasks/ --plots pictures/
    """
    from supernet_registry.clients.streams.runner import run_stream

    tasks_of_stream = open_stream(name, tasks, streams)
    if first:
        tasks_of_stream = tasks_of_stream[:first]
    with connect(context) as client:
        options["source"] = resolve_source(client, options["source"])
        from supernet_registry.clients.cli.stream_view import StreamView

        with StreamView() as view:
            result = run_stream(
                client,
                tasks_of_stream,
                stream_name=name,
                listener=view,
                device=device,
                evaluate=evaluate,
                keep_going=keep_going,
                **options,
            )
        drawn = draw_stream(client, result, plots) if plots is not None else []
    if as_json:
        output.print_json({**result.to_json(), "plots": [str(path) for path in drawn]})
        return
    _print(result)
    for path in drawn:
        output.say(f"Drawn: {path}")


def open_stream(name: str, tasks: Path, streams: Path | None) -> TaskStream:
    """The stream `name`: from the JSON file given, from `streams.json` beside the tasks, or the folder's tasks.

    Raises NotFound, InvalidArgument.
    """
    from supernet_registry.clients.streams.stream import TaskStream

    file = streams or tasks / "streams.json"
    if streams is not None or file.is_file():
        return TaskStream.from_json(file, name, tasks=tasks)
    return TaskStream.from_folder(tasks, name=name)


def draw_stream(client: RegistryClient, result: StreamResult, folder: Path) -> list[Path]:
    """Draw summary, learning curves, accuracy matrix, lineage and each task's cell into `folder`; the files' paths."""
    from supernet_registry.clients import plots
    from supernet_registry.clients.cli.lineages import ot_distances
    from supernet_registry.clients.wire.resources import Lineage
    from supernet_registry.search.children.drawing import draw_cells

    done = [row for row in result.rows if row.version]
    if not done:
        return []
    drawn = [
        plots.stream_summary(result, folder / "summary.png"),
        plots.stream_curves(result, folder / "learning_curves.png"),
        plots.accuracy_matrix(result, folder / "accuracy_matrix.png"),
    ]
    versions: dict[str, Any] = {}
    edges: dict[tuple[str, Any], Any] = {}
    for supernet in dict.fromkeys(row.supernet for row in done):
        part = client.query_lineage(supernet)
        versions.update((version.name, version) for version in part.versions)
        edges.update(((edge.child, edge.parent), edge) for edge in part.edges)
    by_age = sorted(versions.values(), key=lambda version: (version.create_time, version.name))
    whole = Lineage(versions=tuple(by_age), edges=tuple(edges.values()))
    title = f"Lineage of stream {result.stream}"
    distances = ot_distances(client, by_age)
    drawn.append(plots.lineage_picture(whole, folder / "lineage.png", distances=distances, title=title))
    for row in done:
        _, supernet, _, number = row.version.split("/")
        path = folder / "cells" / f"{supernet}-v{number}.png"
        drawn.append(draw_cells(row.genotype, path, title=f"{output.short(row.version)} on {row.task}"))
    return drawn


def _print(result: StreamResult) -> None:
    output.print_table(
        [">#", "task", "~source", ">OT", ">steps", ">sec", ">supernet", ">child"],
        [
            (
                str(row.step),
                row.task,
                (output.short(row.source) or "scratch") if row.version else row.state.value.lower(),
                output.number(row.ot_distance) if row.ot_distance is not None else "",
                str(row.steps),
                f"{row.seconds:.0f}",
                output.percent(row.test_accuracy) if row.version else "",
                output.percent(row.child_test_accuracy) if row.child_test_accuracy is not None else "",
            )
            for row in result.rows
        ],
    )
    if result.average_accuracy is not None:
        how = "measured" if result.evaluated else "as recorded"
        transfer = result.backward_transfer
        forgetting = f", backward transfer {100 * transfer:+.1f} points" if transfer is not None else ""
        output.say(f"Average accuracy {result.average_accuracy:.1%} ({how}){forgetting}.")
