"""Opaque page tokens (AIP-158), bound to the query that they came from.

Lists run newest first, that is by descending `row_id`, so a page is "the next rows below the last one seen": rows
inserted or deleted between two pages never shift it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Callable
from typing import Any, TypeVar

import sqlalchemy as sa

from supernet_registry.registry.catalog.checks import page_limit
from supernet_registry.search.errors import InvalidPageToken

__all__ = ["read_page"]

R = TypeVar("R")

_DIGEST = 12
"""Bytes of the digest that ties a token to its query (and shows that it was not made up)."""


def read_page(
    connection: sa.Connection,
    statement: sa.Select[Any],
    row_id: sa.Column[int],
    to_resources: Callable[[list[sa.Row[Any]]], list[R]],
    *,
    query: str,
    page_size: int,
    page_token: str,
) -> tuple[list[R], str]:
    """One page of `statement`, newest first, and the token of the next page ("" on the last).

    Args:
        statement: the filtered rows, without order; its rows have an attribute `row_id`.
        row_id: the column to page by.
        to_resources: turns the rows of a page into resources.
        query: names the list and its filters; a token of another query is refused.
        page_size: as in the request.
        page_token: as in the request.

    Raises:
        InvalidArgument: negative page size.
        InvalidPageToken: the token is not ours, or of another query.
    """
    limit = page_limit(page_size)
    if page_token:
        statement = statement.where(row_id < _decode(page_token, query))
    rows = list(connection.execute(statement.order_by(row_id.desc()).limit(limit + 1)))
    token = _encode(rows[limit - 1].row_id, query) if len(rows) > limit else ""
    return to_resources(rows[:limit]), token


def _seal(cursor: bytes, query: str) -> bytes:
    return hashlib.sha256(cursor + b"\0" + query.encode()).digest()[:_DIGEST]


def _encode(row_id: int, query: str) -> str:
    cursor = json.dumps(row_id).encode()
    return base64.urlsafe_b64encode(_seal(cursor, query) + cursor).decode().rstrip("=")


def _decode(token: str, query: str) -> int:
    try:
        raw = base64.urlsafe_b64decode(token.encode("ascii") + b"=" * (-len(token) % 4))
    except (binascii.Error, ValueError):
        raw = b""
    seal, cursor = raw[:_DIGEST], raw[_DIGEST:]
    if not cursor.isdigit() or seal != _seal(cursor, query):
        raise InvalidPageToken(
            "The page token is not of this list with these filters.",
            remedy="Pass next_page_token of the previous page unchanged, with the same filters; or start again.",
            field="page_token",
        )
    return int(cursor)
