"""Search spaces at the catalog's boundary: from a request's descriptor to the complete, identified one, and stored."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from supernet_registry.clients.wire.resources import SpaceDescriptor
from supernet_registry.registry.catalog.records import from_json
from supernet_registry.search.errors import InvalidSearchSpace
from supernet_registry.search.spaces import SearchSpace, space_from_fields
from supernet_registry.v1.common_pb2 import SearchSpace as SearchSpaceMessage

__all__ = ["describe_space", "read_space", "stored_space"]


def read_space(descriptor: SpaceDescriptor | None, field: str) -> SearchSpace:
    """The space that a request's descriptor means; empty fields take the family's defaults.

    Raises:
        InvalidSearchSpace: with the path of the offending field below `field`.
    """
    try:
        return space_from_fields(descriptor)
    except InvalidSearchSpace as error:
        error.field = f"{field}{error.field.removeprefix('search_space')}"
        raise


def stored_space(value: dict[str, Any]) -> SearchSpace:
    """The space of a JSON column."""
    return space_from_fields(from_json(value, SearchSpaceMessage, SpaceDescriptor))


def describe_space(space: SearchSpace) -> SpaceDescriptor:
    """The descriptor of a space, with its id."""
    return SpaceDescriptor(**{item.name: getattr(space, item.name) for item in fields(space)}, id=space.id)
