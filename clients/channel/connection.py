"""The channel to a registry: address, security, service config, and how a call is sent.

Retries live in the channel's service config (gRPC proposal A6): UNAVAILABLE only, since any other code says that the
server has decided something. Every call has a deadline. The message limit stays at gRPC's 4 MiB; larger things stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import os
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from pathlib import Path
from typing import Any, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from supernet_registry.clients.channel.calls import STUBS, Call
from supernet_registry.clients.wire.errors import InvalidArgument, SupernetRegistryError, from_rpc_error
from supernet_registry.clients.wire.protocol import HEADER, check_server

R = TypeVar("R")

DEFAULT_ADDRESS = "127.0.0.1:50551"
ADDRESS_VARIABLE = "SUPERNET_REGISTRY_ADDRESS"
TOKEN_VARIABLE = "SUPERNET_REGISTRY_TOKEN"  # noqa: S105  # the variable's name, not a secret
ROOT_CERTIFICATES_VARIABLE = "SUPERNET_REGISTRY_ROOT_CERTIFICATES"

STREAM_TIMEOUT_S = 600.0
"""Deadline of one stream; longer transfers and watches resume on a new one."""

SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 5,  # gRPC's own cap
                "initialBackoff": "0.5s",
                "maxBackoff": "10s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        },
        # `clients.channel.blobs` resumes an upload from the persisted size; replayed chunks would only meet
        # WRONG_OFFSET.
        {"name": [{"service": "supernet_registry.v1.BlobService", "method": "WriteBlob"}]},
    ],
    "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
}


class Target:
    """Where the server is, and how to reach it safely."""

    def __init__(self, address: str | None, token: str | None, root_certificates: bytes | Path | None) -> None:
        given = address or os.environ.get(ADDRESS_VARIABLE) or DEFAULT_ADDRESS
        if root_certificates is None and given.startswith("https://"):
            named = os.environ.get(ROOT_CERTIFICATES_VARIABLE)
            root_certificates = Path(named) if named else None
        self.tls = root_certificates is not None or given.startswith("https://")
        self.address = given.removeprefix("https://").removeprefix("http://").rstrip("/")
        self.local = _is_local(self.address)
        self._root_certificates = _read_certificates(root_certificates)
        self._token = token or os.environ.get(TOKEN_VARIABLE) or ""
        if self._token and not self.tls and not self.local:
            raise InvalidArgument(
                f"A token would travel unencrypted to {self.address}.",
                remedy="Give `root_certificates` or an address with https://, or leave the token out.",
                field="token",
            )

    @property
    def options(self) -> list[tuple[str, Any]]:
        """Channel arguments."""
        return [
            ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
            ("grpc.enable_retries", 1),
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.keepalive_permit_without_calls", 0),
            # A restarted server is found within seconds; gRPC would wait up to two minutes.
            ("grpc.initial_reconnect_backoff_ms", 250),
            ("grpc.min_reconnect_backoff_ms", 250),
            ("grpc.max_reconnect_backoff_ms", 5_000),
            ("grpc.use_local_subchannel_pool", 1),
            # A proxy from the environment is not meant for this machine's own addresses.
            ("grpc.enable_http_proxy", 0 if self.local else 1),
        ]

    @property
    def credentials(self) -> grpc.ChannelCredentials | None:
        """Channel credentials, None for plaintext. The token is part of them: it cannot leave an encrypted channel."""
        if not self.tls:
            return None
        channel = grpc.ssl_channel_credentials(self._root_certificates)
        if not self._token:
            return channel
        return grpc.composite_channel_credentials(channel, grpc.access_token_call_credentials(self._token))

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Metadata of every call: the protocol's version, and the token on plaintext within this machine, where gRPC
        takes no call credentials."""
        token = (("authorization", f"Bearer {self._token}"),) if self._token and not self.tls else ()
        return (HEADER, *token)


def _read_certificates(source: bytes | Path | None) -> bytes | None:
    if not isinstance(source, Path):
        return source
    try:
        return source.read_bytes()
    except OSError as error:
        raise InvalidArgument(
            f"The certificates in {source} cannot be read: {error.strerror}.",
            remedy="Name a PEM file with the certificate of the server's authority.",
            field="root_certificates",
        ) from error


def _is_local(address: str) -> bool:
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    host = address.rsplit(":", 1)[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Connection:
    """A synchronous channel; safe to use from several threads."""

    def __init__(self, target: Target, timeout_s: float) -> None:
        credentials = target.credentials
        self._channel = (
            grpc.insecure_channel(target.address, target.options)
            if credentials is None
            else grpc.secure_channel(target.address, credentials, target.options)
        )
        self.target = target
        self.timeout_s = timeout_s
        self._stubs = {stub: stub(self._channel) for stub in STUBS}
        self._known = False  # whether the server has said that it speaks our protocol

    def invoke(self, call: Call[R], *, timeout_s: float | None = None) -> R:
        """Send a unary call. Raises the matching type of `clients.wire.errors`."""
        method: Any = self._method(call)
        try:
            response, answer = method.with_call(
                call.request, timeout=(timeout_s or self.timeout_s) + call.extra_s, metadata=self.target.metadata
            )
        except grpc.RpcError as error:
            raise self._translate(error) from error
        if not self._known:
            check_server(answer.trailing_metadata() or (), self.target.address)
            self._known = True
        return call.convert(response)

    def read(self, call: Call[R], *, timeout_s: float = STREAM_TIMEOUT_S) -> Generator[R, None, None]:
        """Send a call that answers with a stream. Closing the iterator cancels the call."""
        stream = self._method(call)(call.request, timeout=timeout_s, metadata=self.target.metadata)
        try:
            for response in stream:
                yield call.convert(response)
        except grpc.RpcError as error:
            raise self._translate(error) from error
        finally:
            stream.cancel()

    def write(self, call: Call[R], requests: Iterator[Message]) -> R:
        """Send a stream of requests for one answer."""
        try:
            response = self._method(call)(requests, timeout=STREAM_TIMEOUT_S, metadata=self.target.metadata)
        except grpc.RpcError as error:
            raise self._translate(error) from error
        return call.convert(response)

    def start_write(self, call: Call[R], requests: Iterator[Message]) -> Any:
        """The same without waiting and untranslated: the running call, a `grpc.Future` of the message."""
        method: Any = self._method(call)
        return method.future(requests, timeout=STREAM_TIMEOUT_S, metadata=self.target.metadata)

    def close(self) -> None:
        self._channel.close()

    def _method(self, call: Call[R]) -> Callable[..., Any]:
        method: Callable[..., Any] = getattr(self._stubs[call.stub], call.method)
        return method

    def _translate(self, error: grpc.RpcError) -> SupernetRegistryError:
        return from_rpc_error(error, self.target.address)


class AsyncConnection:
    """The same over `grpc.aio`; belongs to the event loop that it is used in first."""

    def __init__(self, target: Target, timeout_s: float) -> None:
        credentials = target.credentials
        self._channel = (
            grpc.aio.insecure_channel(target.address, target.options)
            if credentials is None
            else grpc.aio.secure_channel(target.address, credentials, target.options)
        )
        self.target = target
        self.timeout_s = timeout_s
        self._stubs = {stub: stub(self._channel) for stub in STUBS}
        self._writing = Connection(target, timeout_s)  # connects when first used
        self._known = False

    async def invoke(self, call: Call[R], *, timeout_s: float | None = None) -> R:
        """Send a unary call. Raises the matching type of `clients.wire.errors`."""
        running = self._method(call)(
            call.request, timeout=(timeout_s or self.timeout_s) + call.extra_s, metadata=self.target.metadata
        )
        try:
            response = await running
        except grpc.RpcError as error:
            raise self._translate(error) from error
        if not self._known:
            check_server(await running.trailing_metadata() or (), self.target.address)
            self._known = True
        return call.convert(response)

    async def read(self, call: Call[R], *, timeout_s: float = STREAM_TIMEOUT_S) -> AsyncGenerator[R, None]:
        """Send a call that answers with a stream. Closing the iterator cancels the call."""
        stream = self._method(call)(call.request, timeout=timeout_s, metadata=self.target.metadata)
        try:
            async for response in stream:
                yield call.convert(response)
        except grpc.RpcError as error:
            raise self._translate(error) from error
        finally:
            stream.cancel()

    async def write(self, call: Call[R], requests: Iterator[Message]) -> R:
        """Send a stream of requests for one answer. Cancelling the task cancels the call.

        A synchronous call does the work: where the server ends a stream early, say for a full disk, grpc.aio may
        report its own failure to send as INTERNAL in place of the server's error (grpc/grpc#36066).
        """
        loop, ended = asyncio.get_running_loop(), asyncio.Event()

        def end(_: Any) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits
                loop.call_soon_threadsafe(ended.set)

        running = self._writing.start_write(call, requests)
        running.add_done_callback(end)
        try:
            await ended.wait()
        finally:
            running.cancel()  # does nothing to a call that has ended
        try:
            response = running.result()
        except grpc.RpcError as error:
            raise self._translate(error) from error
        return call.convert(response)

    async def close(self) -> None:
        self._writing.close()
        await self._channel.close()

    def _method(self, call: Call[R]) -> Callable[..., Any]:
        method: Callable[..., Any] = getattr(self._stubs[call.stub], call.method)
        return method

    def _translate(self, error: grpc.RpcError) -> SupernetRegistryError:
        return from_rpc_error(error, self.target.address)
