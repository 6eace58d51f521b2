"""`download` and `export`: what the registry holds, as files."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from supernet_registry.clients.cli import names, output
from supernet_registry.clients.cli.connection import connect
from supernet_registry.clients.cli.options import AsJson, VersionName
from supernet_registry.clients.wire.resources import SupernetVersion
from supernet_registry.search.errors import InvalidArgument, OptionalDependency

__all__ = ["download", "export"]


class _Format(StrEnum):
    """`clients.exports.ExportFormat`, which loads gRPC: `--help` need not."""

    SAFETENSORS = "safetensors"
    ONNX = "onnx"


def download(
    context: typer.Context,
    version: VersionName,
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
    from supernet_registry.clients.exports import default_stem

    with connect(context) as client:
        found = client.get_version(names.version_name(version))
        target = output_path or Path(f"{default_stem(found)}.safetensors")
        _fetch(client, found.weights_blob, target, "downloading weights")
    if as_json:
        result = {"version": found.name, "path": str(target), "size_bytes": target.stat().st_size}
        output.print_json({**result, "sha256": found.weights_blob.removeprefix("blobs/")})
    else:
        output.console().print(str(target), markup=False, soft_wrap=True)


def export(
    context: typer.Context,
    version: VersionName,
    *,
    formats: Annotated[
        list[_Format] | None,
        typer.Option("--format", help="safetensors or onnx; may be given twice.", show_default="safetensors"),
    ] = None,
    output_folder: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to write into.", show_default="NAME-vN")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Export the child network of a version: what one deploys.

    Writes child.safetensors (weights) or child.onnx (pixels in, probabilities out; needs torch and the extra `onnx`),
    child.json (classes, size and normalisation of the images, genotype, metrics, origin) and, where matplotlib is
    installed, cell.png and cell.svg.

    Examples:

        supernet-registry export digits

        supernet-registry export digits/2 --format onnx --output deploy/
    """
    from supernet_registry.clients.cli.progress import transfer
    from supernet_registry.clients.exports import ExportFormat, export_child

    chosen = [ExportFormat(wanted.value) for wanted in formats or [_Format.SAFETENSORS]]
    with connect(context) as client, transfer("downloading child network") as progress:
        result = export_child(client, names.version_name(version), output_folder, formats=chosen, progress=progress)
    written = [*result.files, *_draw(result.version, result.folder)]
    if as_json:
        files = [str(path) for path in written]
        output.print_json({"version": result.version.name, "folder": str(result.folder), "files": files})
    else:
        for path in written:
            output.console().print(str(path), markup=False, soft_wrap=True)


def _draw(version: SupernetVersion, folder: Path) -> list[Path]:
    from supernet_registry.search.children.drawing import draw_cells

    title = f"{output.short(version.name)} on {version.dataset_display_name}"
    try:
        return [draw_cells(version.genotype, folder / name, title=title) for name in ("cell.png", "cell.svg")]
    except OptionalDependency as error:
        output.say(f"No drawing: {error.message} {error.remedy}", style="yellow")
    except InvalidArgument as error:  # a genotype of a newer release: the network itself is still worth having
        output.say(f"No drawing: {error.message}", style="yellow")
    return []


def _fetch(client: Any, blob: str, target: Path, what: str) -> None:
    from supernet_registry.clients.cli.progress import transfer

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with transfer(what) as progress:
            client.download_blob_to(blob, target, progress=progress)
    except OSError as error:
        raise InvalidArgument(
            f"{target} cannot be written: {error.strerror or error}.", remedy="Choose another place.", field="output"
        ) from error
