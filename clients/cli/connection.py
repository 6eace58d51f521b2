"""Which registry the commands talk to."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from supernet_registry.clients.registry_client import RegistryClient

__all__ = ["Server", "connect"]


@dataclass(frozen=True, slots=True)
class Server:
    """The global options."""

    address: str | None = None
    token: str | None = None
    root_certificates: Path | None = None
    encoder_weights: Path | None = None
    timeout_s: float = 30.0


def connect(context: typer.Context) -> RegistryClient:
    """A client for the server that the global options name."""
    from supernet_registry.clients.registry_client import RegistryClient

    server = context.find_object(Server) or Server()
    client = RegistryClient(
        server.address,
        token=server.token,
        timeout_s=server.timeout_s,
        root_certificates=server.root_certificates,
        encoder_weights=server.encoder_weights,
    )
    _refuse_at_once(client.address)
    return client


def _refuse_at_once(address: str) -> None:
    """Raise Unavailable if nothing listens on this machine: at a prompt nobody waits out gRPC's retries."""
    from supernet_registry.clients.wire.errors import no_server

    host, _, port = address.rpartition(":")
    try:
        if host == "unix":
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(2.0)
                probe.connect(port.removeprefix("//"))
        elif host in {"127.0.0.1", "localhost", "[::1]"} and port.isdecimal():
            socket.create_connection((host.strip("[]"), int(port)), timeout=2.0).close()
    except (ConnectionRefusedError, FileNotFoundError) as error:
        raise no_server(address) from error
    except OSError:
        return  # not a clear no: gRPC will find out
