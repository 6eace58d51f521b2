"""Errors on their way out: any exception → a type of `search.errors` → a `google.rpc.Status`.

The client half, which raises the same type again, is `clients.wire.errors`.
"""

from __future__ import annotations

import errno
import logging
import secrets

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from sqlalchemy import exc as database_errors

from supernet_registry.search.errors import (
    DiskFull,
    InternalError,
    InvalidArgument,
    SupernetRegistryError,
    TooManyRequests,
)

__all__ = ["DOMAIN", "STATUS_KEY", "as_registry_error", "grpc_code", "to_status", "trailing_metadata"]

DOMAIN = "supernet_registry"
"""`ErrorInfo.domain` of every error of this service."""
STATUS_KEY = "grpc-status-details-bin"
"""Trailing metadata key under which gRPC carries a serialised `google.rpc.Status`."""

_log = logging.getLogger(__name__)

_LONGEST_TEXT_BYTES = 600
"""gRPC gives trailing metadata 8 KiB in all, in which a message appears percent-encoded (up to three times as long)
and once more in base64. A message may quote what the caller sent, so it must be cut somewhere."""


def as_registry_error(error: BaseException, *, where: str) -> SupernetRegistryError:
    """Return the error itself if it is one of ours, else the one of ours that tells the caller what to do.

    What nobody foresaw becomes an `InternalError` that carries nothing but an incident id: the text of an unknown
    exception may hold paths or data, so it goes to the log, under the same id.

    Args:
        error: what was raised.
        where: full name of the RPC, for the log.
    """
    if isinstance(error, SupernetRegistryError):
        return error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _disk_full()
    if isinstance(error, database_errors.OperationalError):
        text = str(error.orig)
        if "disk is full" in text:
            return _disk_full()
        if "locked" in text or "busy" in text:
            return TooManyRequests("The database is busy.", remedy="Send the request again.", retry_after_s=1.0)
    if isinstance(error, (database_errors.DataError, OverflowError)):
        return InvalidArgument(
            "The request holds a number or text that the database cannot store.",
            remedy="Integers must fit 64 bits, and text must not hold NUL characters.",
        )
    incident = secrets.token_hex(6)
    _log.error("incident %s in %s", incident, where, exc_info=error)
    return InternalError(
        f"Unexpected error in the server, incident {incident}.",
        remedy="Report the incident id; the server's log has the details.",
        metadata={"incident": incident},
    )


def to_status(error: SupernetRegistryError) -> Status:
    """Return the wire form of an error.

    The status message is the error's `message`; `ErrorInfo` carries `reason` and `metadata`, with the `remedy` under
    the key of that name; `BadRequest.field_violations[0].field` is the `field`, `RetryInfo` the `retry_after_s`.
    """
    metadata = error.metadata | ({"remedy": error.remedy} if error.remedy else {})
    details: list[Message] = [ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=_printable(metadata))]
    if error.field:
        violation = BadRequest.FieldViolation(
            field=_shortened(error.field), description=_shortened(error.message), reason=error.reason
        )
        details.append(BadRequest(field_violations=[violation]))
    if error.retry_after_s is not None:
        retry = RetryInfo()
        retry.retry_delay.FromNanoseconds(int(error.retry_after_s * 1e9))
        details.append(retry)
    return Status(code=Code.Value(error.code), message=_shortened(error.message), details=[_packed(d) for d in details])


def trailing_metadata(status: Status) -> tuple[tuple[str, bytes], ...]:
    """Return the trailing metadata that carries a status."""
    return ((STATUS_KEY, status.SerializeToString()),)


def grpc_code(status: Status) -> grpc.StatusCode:
    """Return gRPC's own enumeration member for the code of a status."""
    return grpc.StatusCode[Code.Name(status.code)]


def _disk_full() -> DiskFull:
    return DiskFull("The server's disk is full.", remedy="Free space in the data folder.", retry_after_s=60.0)


def _packed(detail: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(detail)
    return packed


def _printable(metadata: dict[str, str]) -> dict[str, str]:
    return {_shortened(key): _shortened(str(value)) for key, value in metadata.items()}


def _shortened(text: str) -> str:
    # "replace": lone surrogates cannot be serialised to protobuf.
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= _LONGEST_TEXT_BYTES:
        return encoded.decode()
    return encoded[:_LONGEST_TEXT_BYTES].decode("utf-8", "ignore") + "…"
