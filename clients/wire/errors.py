"""The wire's errors as exceptions: the tree of `search.errors`, and the translation from a gRPC status.

The server sends every error as a `google.rpc.Status` with an `ErrorInfo(reason, domain="supernet_registry")`, whose
metadata carries `remedy` and `field`, a `BadRequest` where a field is at fault, and a `RetryInfo` where waiting helps.
Only the *name* of a reason crosses the wire, and only names of our own tree are looked up: a server cannot
make a client import or raise anything else.
"""

from __future__ import annotations

import re
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from supernet_registry.search import errors as _tree
from supernet_registry.search.errors import *  # noqa: F403  # the tree is part of this module's public face
from supernet_registry.search.errors import (
    AlreadyExists,
    BlobCorrupt,
    Conflict,
    DeadlineExceeded,
    InternalError,
    InvalidArgument,
    NotFound,
    NotPossibleNow,
    PermissionDenied,
    SupernetRegistryError,
    TryLater,
    Unauthenticated,
    Unavailable,
    WeightsTooLarge,
    WrongOffset,
    error_types,
)

__all__ = ["DOMAIN", "from_rpc_error", "no_server"]
__all__ += _tree.__all__

DOMAIN = "supernet_registry"
"""Domain of every `ErrorInfo` of this service."""

_STATUS_KEY = "grpc-status-details-bin"

# What a status without our ErrorInfo means: it comes from gRPC itself or from a proxy, not from a handler.
_BY_CODE: dict[grpc.StatusCode, type[SupernetRegistryError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.ABORTED: Conflict,
    grpc.StatusCode.FAILED_PRECONDITION: NotPossibleNow,
    grpc.StatusCode.OUT_OF_RANGE: WrongOffset,
    grpc.StatusCode.RESOURCE_EXHAUSTED: TryLater,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.DATA_LOSS: BlobCorrupt,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
}

_UNEXPECTED = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
# How gRPC reports a server that died in the middle of a stream, when it does not say UNAVAILABLE.
_BROKEN_STREAM = re.compile("Stream removed|RST_STREAM")
_HANDSHAKE = re.compile("handshake|certificate", re.IGNORECASE)


def from_rpc_error(error: grpc.RpcError, address: str = "") -> SupernetRegistryError:
    """The exception for a failed call.

    Args:
        error: what grpc (`grpc.Call`) or grpc.aio (`AioRpcError`) raised.
        address: the server's address, to be named where none answers.
    """
    code = error.code() if hasattr(error, "code") else grpc.StatusCode.UNKNOWN
    message = (error.details() if hasattr(error, "details") else None) or str(code)
    details = _details(error)
    info = details.get("ErrorInfo")
    if info is None or info.domain != DOMAIN:
        return _without_info(code, message, address)

    metadata = dict(info.metadata)
    field, remedy = metadata.pop("field", ""), metadata.pop("remedy", "")
    bad_request = details.get("BadRequest")
    if not field and bad_request is not None and bad_request.field_violations:
        field = bad_request.field_violations[0].field
    retry = details.get("RetryInfo")
    kind = error_types().get(info.reason)
    if kind is None:  # a reason of a newer server: its group is still known by the code
        kind = _BY_CODE.get(code, SupernetRegistryError)
        metadata["reason"] = info.reason
    return kind(
        message,
        remedy=remedy,
        field=field,
        retry_after_s=retry.retry_delay.ToNanoseconds() / 1e9 if retry is not None else None,
        metadata=metadata,
    )


def no_server(address: str, detail: str = "") -> Unavailable:
    """The error for an address where nothing listens."""
    return Unavailable(
        f"No server answers at {address or 'the address'}.",
        remedy="Start one with `supernet-registry serve`, or name another by SUPERNET_REGISTRY_ADDRESS.",
        metadata={"address": address, "detail": detail},
    )


def _without_info(code: grpc.StatusCode, message: str, address: str) -> SupernetRegistryError:
    if code is grpc.StatusCode.CANCELLED or (code in _UNEXPECTED and _BROKEN_STREAM.search(message)):
        return Unavailable(
            f"The connection to {address or 'the server'} was cut ({message}).",
            remedy="Send it again; the server may be restarting.",
            metadata={"address": address},
        )
    if code is grpc.StatusCode.UNAVAILABLE and _HANDSHAKE.search(message):
        return Unavailable(
            f"No encrypted connection to {address or 'the server'} ({message}).",
            remedy="Give the certificate of its authority (`root_certificates`), and https:// only where it uses TLS.",
            metadata={"address": address},
        )
    if code is grpc.StatusCode.UNAVAILABLE:
        return no_server(address, message)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded(
            f"The server at {address or 'the address'} did not answer in time.",
            remedy="Give the call more time (`timeout_s`), or look at the server's load.",
            metadata={"address": address},
        )
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in message:
        return WeightsTooLarge(
            f"The message is above the limit of one gRPC message ({message}).",
            remedy="Send large content as a blob (`upload_blob`) and refer to it by name.",
        )
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return NotPossibleNow(
            f"The server at {address or 'the address'} does not know this call ({message}).",
            remedy="Use a client and a server of the same release.",
        )
    if code in _UNEXPECTED:
        return InternalError(message, remedy="This is a bug; look into the server's log.")
    return _BY_CODE.get(code, SupernetRegistryError)(message)


def _details(error: grpc.RpcError) -> dict[str, Any]:
    """The packed messages of `grpc-status-details-bin` by type name; empty when there are none or they are garbled."""
    trailers: Any = error.trailing_metadata() if hasattr(error, "trailing_metadata") else None
    packed = next((value for key, value in trailers or () if key == _STATUS_KEY), None)
    found: dict[str, Any] = {}
    if packed is None:
        return found
    try:
        for item in Status.FromString(packed).details:
            for kind in (ErrorInfo, BadRequest, RetryInfo):
                if item.Is(kind.DESCRIPTOR):
                    found[kind.DESCRIPTOR.name] = kind.FromString(item.value)
    except DecodeError:
        return {}
    return found
