"""The command `supernet-registry`: the client's commands (`clients.cli`) and those that run the service.

What runs the service needs the extras `server`, `worker` and `mlflow`; they are imported inside the commands, so that
a light client install still has a working `--help` and says which extra a command lacks.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from supernet_registry.clients.cli import app, output, run
from supernet_registry.clients.cli.connection import Server
from supernet_registry.clients.cli.names import version_name
from supernet_registry.registry.evaluation.command import evaluate
from supernet_registry.search.errors import InvalidArgument, OptionalDependency, Unavailable

if TYPE_CHECKING:
    from supernet_registry.registry.publisher.drain import LoggedAgain
    from supernet_registry.registry.supervisor import Started

__all__ = ["main"]

_database = typer.Typer(no_args_is_help=True, help="Look after the registry's database.")
app.add_typer(_database, name="db")

_SERVICE = "Run the service"

DataDir = Annotated[
    Path,
    typer.Option("--data-dir", envvar="SUPERNET_REGISTRY_DATA_DIR", help="Folder of database, blobs, logs and MLflow."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]


@app.command(rich_help_panel=_SERVICE)
def serve(
    *,
    data_dir: DataDir = Path("registry-data"),
    address: Annotated[
        str, typer.Option(help="host:port (port 0: any free one) or unix:/path/of/socket.", metavar="ADDRESS")
    ] = "127.0.0.1:50551",
    workers: Annotated[int, typer.Option(min=0, help="Searches that run at the same time.")] = 1,
    device: Annotated[str, typer.Option(help="Where they run: auto, cpu, cuda or cuda:N.")] = "auto",
    no_worker: Annotated[
        bool, typer.Option("--no-worker", help="Start no worker; others connect from elsewhere.")
    ] = False,
    mlflow_uri: Annotated[
        str | None, typer.Option(help="MLflow tracking server; default: a SQLite store in the data folder.")
    ] = None,
    no_mlflow: Annotated[bool, typer.Option("--no-mlflow", help="Publish nothing to MLflow.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run server, workers and MLflow publisher on this machine until Ctrl-C."""
    try:
        from supernet_registry.registry.settings import load_settings
        from supernet_registry.registry.supervisor import ServeOptions, Supervisor
    except ModuleNotFoundError as error:
        raise _missing("server", error) from error
    given: dict[str, Any] = {"data_dir": data_dir, "address": address}
    if mlflow_uri is not None:
        given["mlflow_tracking_uri"] = mlflow_uri
    options = ServeOptions(
        settings=load_settings(**given), workers=0 if no_worker else workers, device=device, publish=not no_mlflow
    )
    Supervisor(
        options,
        on_started=_print_json if as_json else _print_banner,
        say=output.say,
    ).run()


@app.command(
    rich_help_panel=_SERVICE,
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def worker(context: typer.Context) -> None:
    """Run one worker, here or on another machine; `worker --help` lists its options."""
    server = context.find_object(Server) or Server()
    # A process of its own would get these from the environment; gRPC reads its own variable when it is imported.
    if server.token:
        os.environ["SUPERNET_REGISTRY_TOKEN"] = server.token
    if server.root_certificates:
        os.environ["GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"] = str(server.root_certificates)
    from supernet_registry.registry.worker import process as module

    where = ["--address", server.address] if server.address else []
    raise typer.Exit(module.main([*where, *context.args]))


@app.command(rich_help_panel=_SERVICE)
def token(
    *,
    name: Annotated[str, typer.Argument(help="Whose token it is; a word.")],
    role: Annotated[str, typer.Option(help="reader, writer, worker or admin.")] = "reader",
    as_json: AsJson = False,
) -> None:
    """Make an access token, and its line for the server's tokens file."""
    try:
        from supernet_registry.registry.server.auth import Role, new_token
    except ModuleNotFoundError as error:
        raise _missing("server", error) from error
    if role not in list(Role) or len(name.split()) != 1:
        raise InvalidArgument(
            f"A token needs a name of one word and a role, not {name!r} and {role!r}.",
            remedy=f"Roles: {', '.join(Role)}.",
            field="role",
        )
    secret, line = new_token(name, Role(role))
    if as_json:
        output.print_json({"token": secret, "line": line})
    else:
        output.print_fields([("token, shown once", secret), ("line for the tokens file", line)])


@app.command(rich_help_panel=_SERVICE)
def publish(
    *,
    versions: Annotated[
        list[str] | None,
        typer.Argument(metavar="VERSION", help="With --again: only these; default: all.", show_default=False),
    ] = None,
    again: Annotated[
        bool,
        typer.Option("--again", help="Log the models of published child networks again, as this release logs them."),
    ] = False,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="First queue every job and supernet again, to fill a new MLflow store.")
    ] = False,
    data_dir: DataDir = Path("registry-data"),
    mlflow_uri: Annotated[
        str | None, typer.Option(help="MLflow tracking server; default: a SQLite store in the data folder.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Publish to MLflow what waits, then exit; `serve` does so by itself. With --again, renew published models."""
    try:
        from supernet_registry.registry.publisher.process import open_publisher, publish_once
        from supernet_registry.registry.settings import load_settings
    except ModuleNotFoundError as error:
        raise _missing("server", error) from error
    if versions and not again:
        raise InvalidArgument("Versions are named with --again only.", remedy="Add --again.", field="versions")
    if again and rebuild:
        raise InvalidArgument("--again and --rebuild exclude each other.", remedy="Run one, then the other.")
    settings = load_settings(data_dir=data_dir)
    with open_publisher(settings, mlflow_uri) as (publisher, _):
        if again:
            renewed = publisher.log_again(version_name(name) for name in versions or ())
            _print_renewed(renewed, as_json=as_json)
            return
        report = publish_once(publisher, settings, rebuild=rebuild)
    if as_json:
        output.print_json(report)
    else:
        output.print_fields([("published", str(report.published)), ("refused", str(report.refused))])
    if report.trouble:
        raise Unavailable(f"MLflow is out of reach: {report.trouble}.", remedy="What is left waits; run this again.")


app.command("evaluate", rich_help_panel=_SERVICE, epilog=getattr(evaluate, "epilog", None))(evaluate)


@_database.command("upgrade")
def upgrade(*, data_dir: DataDir = Path("registry-data"), as_json: AsJson = False) -> None:
    """Bring the database to this release's schema. Stop the server and make a copy first."""
    try:
        from supernet_registry.registry.settings import load_settings
        from supernet_registry.registry.storage import database
    except ModuleNotFoundError as error:
        raise _missing("server", error) from error
    before, after = database.upgrade(load_settings(data_dir=data_dir).resolved_database_url)
    if as_json:
        output.print_json({"before": before, "after": after})
    elif before == after:
        typer.echo(f"The database is at revision {after} already.")
    else:
        typer.echo(f"The database went from revision {before or '(none)'} to {after}.")


def main() -> None:
    """Run the command line of the whole project."""
    sys.exit(run(app))


def _print_banner(started: Started) -> None:
    fields = [
        ("data", str(started.data_dir)),
        ("logs", str(started.logs_dir)),
        ("workers", str(started.workers)),
        ("MLflow", started.mlflow_ui or "not fed"),
        *(("note", note) for note in started.notes),
        ("clients", f"export SUPERNET_REGISTRY_ADDRESS={started.address}"),
        ("stop", "Ctrl-C"),
    ]
    output.print_fields(fields, title=f"Supernet Registry answers at {started.address}")


def _print_json(started: Started) -> None:
    """One line, unlike other commands: `serve` goes on, and a script must know when the answer is complete."""
    sys.stdout.write(json.dumps(output.plain(started) | {"pid": os.getpid()}, default=str) + "\n")
    sys.stdout.flush()


def _print_renewed(renewed: LoggedAgain, *, as_json: bool) -> None:
    if as_json:
        output.print_json(renewed)
        return
    rows = [[output.short(name), what] for what, names in _fates(renewed) for name in names]
    output.print_table(["~version", "model"], rows, empty="No version is published.")


def _fates(renewed: LoggedAgain) -> list[tuple[str, tuple[str, ...]]]:
    return [
        ("logged again", renewed.logged),
        ("as it should be, or no child network", renewed.left),
        ("not in MLflow; --rebuild publishes it", renewed.missing),
    ]


def _missing(extra: str, error: ModuleNotFoundError) -> OptionalDependency:
    return OptionalDependency(
        f"This command needs the package {error.name!r}.", remedy=f'pip install "supernet-registry[{extra}]"'
    )


if __name__ == "__main__":
    main()
