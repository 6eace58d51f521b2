"""Which contract is spoken: every call carries the version of the client's, every answer that of the server's.

The version grows when messages change so that older and newer programs would misread each other (fields removed or
given another meaning); what proto3 adds compatibly leaves it. Programs that say nothing speak version 1: releases
before the version was said.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from supernet_registry.search.errors import ProtocolMismatch

__all__ = ["HEADER", "PROTOCOL", "check_client", "check_server"]

PROTOCOL = 2
"""Version of the contract in `protos/supernet_registry/v1` that this release speaks."""

HEADER = ("supernet-registry-protocol", str(PROTOCOL))
"""What says so, in the metadata of calls and of answers."""


def check_client(metadata: Iterable[Any]) -> None:
    """Raise ProtocolMismatch unless a call's metadata name this release's version."""
    said = _version(metadata)
    if said != PROTOCOL:
        raise ProtocolMismatch(
            f"The client speaks protocol version {said}, this server {PROTOCOL}.",
            remedy=f"Use a client and workers of the server's release (other programs send `{HEADER[0]}: {PROTOCOL}`).",
            metadata={"client": str(said), "server": str(PROTOCOL)},
        )


def check_server(metadata: Iterable[Any], address: str) -> None:
    """Raise ProtocolMismatch unless an answer's metadata name this release's version."""
    said = _version(metadata)
    if said != PROTOCOL:
        raise ProtocolMismatch(
            f"The server at {address} speaks protocol version {said}, this client {PROTOCOL}.",
            remedy="Use a client of the server's release, or upgrade the server.",
            metadata={"client": str(PROTOCOL), "server": str(said)},
        )


def _version(metadata: Iterable[Any]) -> int:
    """What metadata say; 1 where they say nothing, 0 where it is no number."""
    text = next((value for key, value in metadata if key == HEADER[0]), "1")
    return int(text) if isinstance(text, str) and text.isascii() and text.isdigit() and len(text) < 10 else 0
