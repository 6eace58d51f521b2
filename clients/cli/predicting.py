"""`predict`: what a child network says about images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from supernet_registry.clients.cli import names, output
from supernet_registry.clients.cli.connection import connect
from supernet_registry.clients.cli.options import AsJson, VersionName

if TYPE_CHECKING:
    from supernet_registry.search.children.predictions import Predictions

__all__ = ["predict"]


def predict(
    context: typer.Context,
    version: VersionName,
    images: Annotated[
        list[Path],
        typer.Argument(metavar="IMAGES...", help="Image files, folders of them, .npz files.", show_default=False),
    ],
    *,
    top: Annotated[int, typer.Option("--top", min=1, help="Most probable classes to show of each image.")] = 3,
    array: Annotated[
        str, typer.Option(help="Array of a .npz file that holds the images.", show_default="images, x or x_test")
    ] = "",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "cpu",
    as_json: AsJson = False,
) -> None:
    """Classify images with the child network of a version.

    Images are resized to the size of the task that the network was trained on. Needs torch (the extra `worker`).

    Examples:

        supernet-registry predict digits scan.png

        supernet-registry predict digits/2 scans/ --top 1

        supernet-registry predict digits test.npz --array x_test --json
    """
    from supernet_registry.clients.cli.progress import transfer
    from supernet_registry.clients.work.threads import limit_threads

    limit_threads()
    with connect(context) as client, transfer("downloading child network") as progress:
        found = client.predict(names.version_name(version), images, array=array, device=device, progress=progress)
    if as_json:
        output.print_json(_result(found, top))
        return
    ranked = found.top(top)
    output.print_table(
        ["~image", *(f"~{_ordinal(rank)}" for rank in range(1, len(ranked[0]) + 1))],
        [
            (name, *(f"{output.percent(probability)} {class_name}" for class_name, probability in row))
            for name, row in zip(found.names, ranked, strict=True)
        ],
        title=f"{output.short(found.version)} on {len(found.names)} image{'s' * (len(found.names) != 1)}",
    )


def _ordinal(rank: int) -> str:
    return {1: "most probable", 2: "2nd", 3: "3rd"}.get(rank, f"{rank}th")


def _result(found: Predictions, top: int) -> dict[str, object]:
    return {
        "version": found.version,
        "classes": list(found.class_names),
        "predictions": [
            {
                "image": name,
                "class": row[0][0],
                "probability": row[0][1],
                "top": [{"class": class_name, "probability": probability} for class_name, probability in row],
                "probabilities": probabilities.tolist(),
            }
            for name, row, probabilities in zip(found.names, found.top(top), found.probabilities, strict=True)
        ],
    }
