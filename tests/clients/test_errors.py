"""What the server raises, the client raises again: same type, message, field, remedy, patience and facts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as Packed
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st

from supernet_registry import AsyncRegistryClient, RegistryClient
from supernet_registry.clients.wire.errors import DOMAIN, error_types, from_rpc_error
from supernet_registry.registry.server.status import grpc_code, to_status, trailing_metadata
from supernet_registry.search import errors
from supernet_registry.v1 import searches_pb2
from supernet_registry.v1.searches_pb2_grpc import SearchServiceServicer

CONCRETE = {reason: kind for reason, kind in error_types().items() if kind is not errors.SupernetRegistryError}


class Refusing(SearchServiceServicer):
    """Answers GetSearchJob with an error of the reason that is asked for."""

    def GetSearchJob(self, request: searches_pb2.GetSearchJobRequest, context: Any) -> Any:  # noqa: N802
        error = CONCRETE[request.name](
            "It is „wrong“.", remedy="Make it right.", field="a.b", retry_after_s=1.5, metadata={"found": "3"}
        )
        status = to_status(error)
        context.set_trailing_metadata(trailing_metadata(status))
        context.abort(grpc_code(status), status.message)


# An unavailable server is retried by gRPC for seconds; this is about the translation only.
ANSWERED_AT_ONCE = sorted(reason for reason, kind in CONCRETE.items() if kind.code != "UNAVAILABLE")


@pytest.mark.parametrize("reason", ANSWERED_AT_ONCE)
def test_every_error_type_survives_the_wire(reason: str, serve: Callable[..., str]) -> None:
    """Through a real channel: nothing of a typed error is lost."""
    with RegistryClient(serve(Refusing())) as client, pytest.raises(CONCRETE[reason]) as caught:
        client.get_search_job(reason)
    error = caught.value
    assert type(error) is CONCRETE[reason]
    assert (error.message, error.remedy, error.field) == ("It is „wrong“.", "Make it right.", "a.b")
    assert (error.retry_after_s, error.metadata) == (1.5, {"found": "3"})


async def refused(address: str) -> errors.SupernetRegistryError:
    async with AsyncRegistryClient(address) as client:
        with pytest.raises(errors.SupernetRegistryError) as caught:
            await client.get_search_job("HEAD_MOVED")
    return caught.value


def test_the_asynchronous_client_raises_the_same(serve: Callable[..., str]) -> None:
    """`AioRpcError` carries the same details."""
    import asyncio

    error = asyncio.run(refused(serve(Refusing())))
    assert type(error) is errors.HeadMoved
    assert (error.remedy, error.metadata) == ("Make it right.", {"found": "3"})


class Failed(grpc.RpcError):
    """What grpc raises, without a channel."""

    def __init__(self, code: grpc.StatusCode, details: str = "", status: bytes | None = None) -> None:
        self._code, self._details, self._status = code, details, status

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        return () if self._status is None else (("grpc-status-details-bin", self._status),)


@pytest.mark.parametrize(
    ("code", "details", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, "connection refused", errors.Unavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "", errors.DeadlineExceeded),
        (grpc.StatusCode.CANCELLED, "", errors.Unavailable),
        (grpc.StatusCode.UNKNOWN, "Stream removed", errors.Unavailable),
        (grpc.StatusCode.INTERNAL, "Received RST_STREAM with error code 2", errors.Unavailable),
        (grpc.StatusCode.INTERNAL, "boom", errors.InternalError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max (9 vs. 4)", errors.WeightsTooLarge),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "slow down", errors.TryLater),
        (grpc.StatusCode.UNIMPLEMENTED, "Method not found!", errors.NotPossibleNow),
        (grpc.StatusCode.PERMISSION_DENIED, "no", errors.PermissionDenied),
    ],
)
def test_a_status_without_our_details_is_mapped_by_its_code(
    code: grpc.StatusCode, details: str, kind: type[errors.SupernetRegistryError]
) -> None:
    """gRPC itself and proxies send plain statuses; they too become types with a remedy."""
    error = from_rpc_error(Failed(code, details), "127.0.0.1:1")
    assert type(error) is kind
    assert code.name in {kind.code, "CANCELLED", "UNKNOWN", "INTERNAL", "RESOURCE_EXHAUSTED", "UNIMPLEMENTED"}


def test_no_server_says_how_to_start_one() -> None:
    """The most common error of all names the address and the command."""
    error = from_rpc_error(Failed(grpc.StatusCode.UNAVAILABLE), "127.0.0.1:50551")
    assert "127.0.0.1:50551" in str(error)
    assert "supernet-registry serve" in str(error)


def packed(reason: str, domain: str) -> bytes:
    detail = Packed()
    detail.Pack(ErrorInfo(reason=reason, domain=domain))
    return Status(code=10, message="m", details=[detail]).SerializeToString()


def test_a_reason_of_a_newer_server_keeps_its_group_and_its_name() -> None:
    """An unknown reason is not a crash: the code says what the caller may do."""
    error = from_rpc_error(Failed(grpc.StatusCode.ABORTED, "m", packed("MOON_PHASE", DOMAIN)))
    assert type(error) is errors.Conflict
    assert error.metadata["reason"] == "MOON_PHASE"


def test_reasons_of_other_domains_are_not_ours() -> None:
    """A proxy's ErrorInfo may use the same words for other things."""
    error = from_rpc_error(Failed(grpc.StatusCode.ABORTED, "m", packed("LEASE_LOST", "proxy.example")))
    assert type(error) is errors.Conflict


@given(st.binary(max_size=200))
def test_garbled_details_never_break_the_translation(status: bytes) -> None:
    """Whatever the trailer holds, an error of ours comes out."""
    error = from_rpc_error(Failed(grpc.StatusCode.ABORTED, "m", status))
    assert isinstance(error, errors.SupernetRegistryError)
