"""Which registry the commands talk to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from clients.registry_client import RegistryClient

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
    from clients.registry_client import RegistryClient

    server = context.find_object(Server) or Server()
    return RegistryClient(
        server.address,
        token=server.token,
        timeout_s=server.timeout_s,
        root_certificates=server.root_certificates,
        encoder_weights=server.encoder_weights,
    )
