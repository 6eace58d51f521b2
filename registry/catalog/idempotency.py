"""Request ids (AIP-155): the same id and body get the same resource, however often and however concurrently sent.

The row that remembers a request is written in the transaction of the change itself, and its primary key decides
between concurrent twins. A key is (method, id), so that a client may derive ids of several calls from one UUID.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from google.protobuf.message import Message

from supernet_registry.clients.wire.convert import to_proto
from supernet_registry.registry.catalog.checks import check_text
from supernet_registry.registry.clock import Clock
from supernet_registry.registry.storage.schema import requests
from supernet_registry.search.errors import InvalidArgument, RequestIdReused

__all__ = ["body_digest", "check_request_id", "remembered"]


def check_request_id(request_id: str) -> str:
    """The id in canonical form; "" for none. Raises InvalidArgument unless it is a UUID."""
    if not request_id:
        return ""
    check_text(request_id, "request_id", max_length=64)
    try:
        return str(uuid.UUID(request_id))
    except ValueError:
        raise InvalidArgument(
            f"{request_id!r} is not a UUID.", remedy="Send a UUID, or no request_id.", field="request_id"
        ) from None


def body_digest(resource: Any, message: type[Message], **more: str | bool) -> str:
    """sha256 (hexadecimal) of a request's meaning: the resource as given, without output-only fields, and the rest."""
    digest = hashlib.sha256(to_proto(resource, message).SerializeToString(deterministic=True))
    digest.update(json.dumps(more, sort_keys=True).encode())
    return digest.hexdigest()


def remembered(
    connection: sa.Connection,
    create: Callable[[], str],
    *,
    method: str,
    request_id: str,
    body_sha256: str,
    clock: Clock,
) -> str:
    """The resource that this request made before, else the one that `create` makes now (and remembers).

    Call it in `run_write`: of two concurrent twins the later one is run again and then finds the earlier one's row.

    Raises:
        RequestIdReused: the id came before with another body.
    """
    if not request_id:
        return create()
    found = connection.execute(
        sa.select(requests.c.body_sha256, requests.c.resource).where(
            requests.c.method == method, requests.c.request_id == request_id
        )
    ).one_or_none()
    if found is not None:
        if found.body_sha256 != body_sha256:
            raise RequestIdReused(
                f"request_id {request_id} came before with another body, for {found.resource}.",
                remedy="Use a new UUID for a new request; repeat a request unchanged.",
                field="request_id",
                metadata={"resource": found.resource},
            )
        return str(found.resource)
    resource = create()
    connection.execute(
        requests.insert().values(
            method=method, request_id=request_id, body_sha256=body_sha256, resource=resource, create_time=clock()
        )
    )
    return resource
