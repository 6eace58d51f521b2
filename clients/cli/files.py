"""`download` and `export`: what the registry holds, as files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from clients.cli import names, output
from clients.cli.connection import connect
from clients.cli.options import AsJson
from clients.resources import SupernetVersion
from search.errors import InvalidArgument, NotPossibleNow, OptionalDependency

__all__ = ["download", "export"]

_Version = Annotated[
    str, typer.Argument(metavar="VERSION", help="`x/3`, or `x` for the head of supernet x.", show_default=False)
]


def download(
    context: typer.Context,
    version: _Version,
    *,
    output_path: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write.", show_default="NAME-vN.safetensors")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Download a supernet's weights and architecture parameters as safetensors.

    The file appears only when it is whole and its sha256 is right.

    Examples:

        supernet-registry download digits

        supernet-registry download digits/2 --output digits.safetensors
    """
    with connect(context) as client:
        found = client.get_version(names.version_name(version))
        target = output_path or Path(f"{_stem(found)}.safetensors")
        _fetch(client, found.weights_blob, target, "downloading weights")
    if as_json:
        result = {"version": found.name, "path": str(target), "size_bytes": target.stat().st_size}
        output.print_json({**result, "sha256": found.weights_blob.removeprefix("blobs/")})
    else:
        output.console().print(str(target), markup=False, soft_wrap=True)


def export(
    context: typer.Context,
    version: _Version,
    *,
    output_folder: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to write into.", show_default="NAME-vN")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Export the child network of a version: what one deploys.

    Writes child.safetensors (weights), child.json (genotype, classes, search space, metrics, cost, origin) and, where
    matplotlib is installed, cell.png and cell.svg.

    Examples:

        supernet-registry export digits

        supernet-registry export digits/2 --output deploy/
    """
    with connect(context) as client:
        found = client.get_version(names.version_name(version))
        if not found.child_blob:
            raise NotPossibleNow(
                f"{found.name} has no child network.",
                remedy="Search again without `--child-epochs -1`; `download` gives the supernet.",
                field="version",
            )
        folder = output_folder or Path(_stem(found))
        if folder.exists() and not folder.is_dir():
            raise InvalidArgument(f"{folder} is a file.", remedy="Name a folder.", field="output")
        folder.mkdir(parents=True, exist_ok=True)
        dataset = client.get_dataset(found.dataset)
        written = [folder / "child.safetensors"]
        _fetch(client, found.child_blob, written[0], "downloading child network")
    described = {
        "version": found.name,
        "genotype": found.genotype,
        "classes": list(dataset.class_names),
        "dataset": output.plain(dataset),
        "search_space": output.plain(found.search_space),
        "metrics": output.plain(found.metrics),
        "cost": output.plain(found.cost),
        "parents": output.plain(found.parents),
        "transfer_mode": found.transfer_mode.value,
        "weights": "child.safetensors",
        "sha256": found.child_blob.removeprefix("blobs/"),
    }
    written.append(folder / "child.json")
    written[-1].write_text(json.dumps(described, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    written += _draw(found, folder)
    if as_json:
        output.print_json({"version": found.name, "folder": str(folder), "files": [str(path) for path in written]})
    else:
        for path in written:
            output.console().print(str(path), markup=False, soft_wrap=True)


def _draw(version: SupernetVersion, folder: Path) -> list[Path]:
    from search.drawing import draw_cells

    title = f"{output.short(version.name)} on {version.dataset_display_name}"
    try:
        return [draw_cells(version.genotype, folder / name, title=title) for name in ("cell.png", "cell.svg")]
    except OptionalDependency as error:
        output.say(f"No drawing: {error.message} {error.remedy}", style="yellow")
    except InvalidArgument as error:  # a genotype of a newer release: the network itself is still worth having
        output.say(f"No drawing: {error.message}", style="yellow")
    return []


def _fetch(client: Any, blob: str, target: Path, what: str) -> None:
    from clients.cli.progress import transfer

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with transfer(what) as progress:
            client.download_blob_to(blob, target, progress=progress)
    except OSError as error:
        raise InvalidArgument(
            f"{target} cannot be written: {error.strerror or error}.", remedy="Choose another place.", field="output"
        ) from error


def _stem(version: SupernetVersion) -> str:
    _, supernet, _, number = version.name.split("/")
    return f"{supernet}-v{number}"
