"""Small things that all services need when they read requests."""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import Message

from supernet_registry.clients.wire.convert import from_proto
from supernet_registry.search.errors import InvalidArgument

__all__ = ["optional", "read", "require"]

R = TypeVar("R")


def require(request: Message, field: str) -> None:
    """Raise InvalidArgument unless a message field of the request is set."""
    if not request.HasField(field):
        raise InvalidArgument("It is required.", field=field, remedy=f"Set {field}.")


def read(message: Message, resource: type[R], *, field: str) -> R:
    """Translate a message to its resource.

    Raises:
        InvalidArgument: a timestamp lies outside of the years 1 to 9999.
    """
    try:
        return from_proto(message, resource)
    except (ValueError, OverflowError) as error:
        raise InvalidArgument(f"It cannot be read: {error}.", field=field, remedy="Correct its timestamps.") from error


def optional(request: Message, field: str) -> str | None:
    """Return an optional text of the request, None if it is not set."""
    return getattr(request, field) if request.HasField(field) else None
