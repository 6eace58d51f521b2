"""The app: global options, and the commands in the order in which help shows them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from supernet_registry.clients.cli import (
    comparing,
    files,
    generalists,
    jobs,
    lineages,
    predicting,
    reading,
    searching,
    streaming,
)
from supernet_registry.clients.cli.connection import Server
from supernet_registry.search.version import __version__

__all__ = ["app"]

_HELP = """
A registry of DARTS supernets that learns from task to task.

It finds the stored supernet whose data lie nearest to yours by optimal transport, warm-starts an architecture search
from it, and stores the result, so that each task makes the next one cheaper.

    supernet-registry search my_task.npz --name my-task

    supernet-registry nearest my_task.npz

    supernet-registry predict my-task photo.png

DATASET is a .npz file (x_train y_train x_val y_val x_test y_test) or a folder of images (train/CLASS/*.png).

VERSION is `x/3` or `supernets/x/versions/3`; `x` alone is the head of supernet x.

Every command takes --json; then stdout carries nothing but the result.
"""

app = typer.Typer(
    name="supernet-registry",
    help=_HELP,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:  # noqa: FBT001  typer calls it with the flag's value
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    *,
    address: Annotated[
        str | None,
        typer.Option(
            envvar="SUPERNET_REGISTRY_ADDRESS",
            help="The server: host:port, unix:/path, or https://host:port.",
            show_default="127.0.0.1:50551",
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(envvar="SUPERNET_REGISTRY_TOKEN", help="Bearer token, where the server asks for one."),
    ] = None,
    root_certificates: Annotated[
        Path | None,
        typer.Option(
            envvar="SUPERNET_REGISTRY_ROOT_CERTIFICATES", help="PEM file of the server's certificate authority."
        ),
    ] = None,
    encoder_weights: Annotated[
        Path | None,
        typer.Option(
            envvar="SUPERNET_REGISTRY_ENCODER_WEIGHTS",
            help="Weights file, where the registry's encoder is torchvision:MODEL.",
        ),
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds that one call may take; transfers have their own.")] = 30.0,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Where the registry is."""
    context.obj = Server(address, token, root_certificates, encoder_weights, timeout)


for _name, _command in (
    ("search", searching.search),
    ("generalist", generalists.generalist),
    ("nearest", comparing.nearest),
    ("map", comparing.map_datasets),
    ("stream", streaming.stream),
    ("list", reading.list_resources),
    ("show", reading.show),
    ("lineage", lineages.lineage),
    ("jobs", jobs.jobs),
    ("watch", jobs.watch),
    ("cancel", jobs.cancel),
    ("download", files.download),
    ("export", files.export),
    ("predict", predicting.predict),
):
    app.command(_name, epilog=getattr(_command, "epilog", None))(_command)
