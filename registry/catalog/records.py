"""Between rows and resources: messages in JSON columns, etags, counters."""

from __future__ import annotations

import hashlib
from typing import Any, TypeVar

import sqlalchemy as sa
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message

from supernet_registry.clients.wire.convert import from_proto, to_proto
from supernet_registry.registry.storage.schema import counters
from supernet_registry.search.errors import ETagMismatch

__all__ = ["check_etag", "etag", "from_json", "next_count", "to_json"]

R = TypeVar("R")


def to_json(resource: Any, message: type[Message]) -> dict[str, Any]:
    """A resource as protobuf's JSON mapping, for a JSON column."""
    return MessageToDict(to_proto(resource, message), preserving_proto_field_name=True)


def from_json(value: dict[str, Any], message: type[Message], resource: type[R]) -> R:
    """The inverse; fields that this release does not know are dropped."""
    return from_proto(ParseDict(value, message(), ignore_unknown_fields=True), resource)


def etag(table: sa.Table, row_id: int, revision: int) -> str:
    """Etag of a row. Row ids are never reused, so a re-created resource cannot have an old one's etag."""
    return hashlib.sha256(f"{table.name}/{row_id}/{revision}".encode()).hexdigest()[:16]


def check_etag(given: str, present: str, name: str) -> None:
    """Raises ETagMismatch if a given etag is not the present one; "" skips the check."""
    if given and given != present:
        raise ETagMismatch(
            f"{name} changed since it was read.",
            remedy="Read it again and decide again.",
            field="etag",
            metadata={"resource": name, "etag": present},
        )


def next_count(connection: sa.Connection, counter: str) -> int:
    """The next number of a counter. Its row stays locked to the commit, so numbers become visible in order."""
    statement = (
        counters.update()
        .where(counters.c.name == counter)
        .values(value=counters.c.value + 1)
        .returning(counters.c.value)
    )
    return int(connection.execute(statement).scalar_one())
