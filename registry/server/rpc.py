"""From a service's methods to gRPC handlers: parse, run in a thread, serialise, translate errors. Written once.

A service is a subclass of `Handlers` with one method per RPC, named in snake case. gRPC passes bytes; parsing and
serialising happen here as well, so that malformed bytes become a typed error like any other bad input. What a method
may be:

    def get_dataset(self, request) -> Dataset                       runs in a thread pool; the common case
    def query_nearest(self, request, call) -> NearestSources        the same, and is told about its call
    async def lease_job(self, request, call) -> Response            runs on the event loop and must not block
    async def watch_job(self, request, call) -> AsyncIterator[...]  server stream
    async def write_blob(self, requests, call) -> Upload            client stream

Results are resources (`clients.wire.resources`) or protobuf messages. The domain is synchronous and runs in two bounded
pools, so that a slow query never keeps a quick one waiting, and nothing ever blocks the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import re
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar, ParamSpec, TypeVar

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from grpc import aio

from supernet_registry.clients.wire.convert import to_proto
from supernet_registry.clients.wire.protocol import HEADER
from supernet_registry.registry.server.auth import Access, Principal
from supernet_registry.registry.server.status import as_registry_error, grpc_code, to_status, trailing_metadata
from supernet_registry.search.errors import InvalidArgument, TooManyRequests

__all__ = ["Binder", "Call", "Handlers", "Pools"]

P = ParamSpec("P")
T = TypeVar("T")
Context = aio.ServicerContext[Any, Any]

_LONGEST_QUEUE = 512
"""Calls in the pools and waiting for them; more are refused at once with TOO_MANY_REQUESTS."""
_MOST_WAITING = 2048
"""Streams and long polls that are open at the same time. They hold no thread while they wait."""


class Handlers:
    """Base of the five services."""

    service: ClassVar[ServiceDescriptor]
    slow: ClassVar[frozenset[str]] = frozenset()
    """Methods whose work belongs into the slow pool: transport, hashing, blobs."""


class Pools:
    """The two bounded thread pools in which all domain code runs."""

    def __init__(self, *, fast_threads: int, slow_threads: int) -> None:
        self._fast = ThreadPoolExecutor(fast_threads, thread_name_prefix="fast")
        self._slow = ThreadPoolExecutor(slow_threads, thread_name_prefix="slow")

    async def fast(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run database and index work in a thread."""
        return await _run_in(self._fast, function, *args, **kwargs)

    async def slow(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run transport, hashing or file work in a thread."""
        return await _run_in(self._slow, function, *args, **kwargs)

    def close(self) -> None:
        """Wait for what runs, drop what has not begun."""
        for pool in (self._fast, self._slow):
            pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True, slots=True)
class Call:
    """What a handler may ask about the call that it serves."""

    pools: Pools
    principal: Principal
    deadline: float | None
    """`time.monotonic()` at which the caller stops listening; None if it set no deadline."""

    def remaining_s(self, at_most: float) -> float:
        """Seconds until the deadline, capped."""
        return at_most if self.deadline is None else max(0.0, min(at_most, self.deadline - time.monotonic()))


class Binder:
    """Registers services with a server; the limits on concurrent calls hold for all of them together."""

    def __init__(self, pools: Pools, access: Access) -> None:
        self._pools = pools
        self._access = access
        self._queued = _Gauge(_LONGEST_QUEUE)
        self._waiting = _Gauge(_MOST_WAITING)

    def bind(self, server: aio.Server, handlers: Handlers) -> None:
        """Register every RPC of a service.

        Raises:
            AttributeError: a method of the service has no handler.
        """
        methods = {method.name: self._handler(method, handlers) for method in handlers.service.methods}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(handlers.service.full_name, methods),))

    def _handler(self, method: MethodDescriptor, handlers: Handlers) -> Any:
        name = _snake_case(method.name)
        function = getattr(handlers, name)
        if method.server_streaming:
            return grpc.unary_stream_rpc_method_handler(self._server_stream(method, function))
        if method.client_streaming:
            return grpc.stream_unary_rpc_method_handler(self._client_stream(method, function))
        if inspect.iscoroutinefunction(function):
            return grpc.unary_unary_rpc_method_handler(self._coroutine(method, function))
        run = self._pools.slow if name in handlers.slow else self._pools.fast
        return grpc.unary_unary_rpc_method_handler(self._threaded(method, function, run))

    def _threaded(self, method: MethodDescriptor, function: Callable[..., Any], run: Callable[..., Any]) -> Any:
        wants_call = len(inspect.signature(function).parameters) > 1

        def work(raw: bytes, call: Call) -> bytes:
            request = _parse(method, raw)
            return _serialise(method, function(request, call) if wants_call else function(request))

        async def serve(raw: bytes, context: Context) -> bytes:
            async with self._answering(method, context, self._queued) as call:
                return bytes(await run(work, raw, call))
            raise AssertionError("unreachable")

        return serve

    def _coroutine(self, method: MethodDescriptor, function: Callable[..., Any]) -> Any:
        async def serve(raw: bytes, context: Context) -> bytes:
            async with self._answering(method, context, self._waiting) as call:
                return _serialise(method, await function(_parse(method, raw), call))
            raise AssertionError("unreachable")

        return serve

    def _server_stream(self, method: MethodDescriptor, function: Callable[..., Any]) -> Any:
        async def serve(raw: bytes, context: Context) -> AsyncIterator[bytes]:
            async with (
                self._answering(method, context, self._waiting) as call,
                contextlib.aclosing(function(_parse(method, raw), call)) as results,
            ):
                async for result in results:
                    yield _serialise(method, result)

        return serve

    def _client_stream(self, method: MethodDescriptor, function: Callable[..., Any]) -> Any:
        async def parsed(requests: AsyncIterator[bytes]) -> AsyncIterator[Message]:
            async for raw in requests:
                yield _parse(method, raw)

        async def serve(requests: AsyncIterator[bytes], context: Context) -> bytes:
            async with self._answering(method, context, self._waiting) as call:
                return _serialise(method, await function(parsed(requests), call))
            raise AssertionError("unreachable")

        return serve

    @contextlib.asynccontextmanager
    async def _answering(self, method: MethodDescriptor, context: Context, gauge: _Gauge) -> AsyncIterator[Call]:
        """Count the call, tell its handler about it, and turn whatever it raises into a status."""
        context.set_trailing_metadata((HEADER,))
        try:
            with gauge:
                yield Call(
                    pools=self._pools,
                    principal=self._access.identify(tuple(context.invocation_metadata() or ())),
                    deadline=_deadline(context.time_remaining()),
                )
        except Exception as error:  # noqa: BLE001  # this is the place where every error gets its status
            status = to_status(as_registry_error(error, where=method.full_name))
            await context.abort(grpc_code(status), status.message, trailing_metadata(status))


class _Gauge:
    """Counts what is under way on the event loop, and refuses more than a limit."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._count = 0

    def __enter__(self) -> None:
        if self._count >= self._limit:
            raise TooManyRequests(
                f"The server is already working on {self._count} calls.",
                remedy="Send the request again a little later.",
                retry_after_s=1.0,
            )
        self._count += 1

    def __exit__(self, *_: object) -> None:
        self._count -= 1


async def _run_in(pool: ThreadPoolExecutor, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    return await asyncio.get_running_loop().run_in_executor(pool, lambda: function(*args, **kwargs))


def _deadline(remaining_s: float | None) -> float | None:
    return None if remaining_s is None else time.monotonic() + remaining_s


def _parse(method: MethodDescriptor, raw: bytes) -> Message:
    try:
        return GetMessageClass(method.input_type).FromString(raw)
    except DecodeError as error:
        raise InvalidArgument(
            f"The request is not a valid {method.input_type.full_name}: {error}.",
            remedy="Generate the client from the protos of this release; text must be UTF-8.",
        ) from error


def _serialise(method: MethodDescriptor, result: Any) -> bytes:
    message = result if isinstance(result, Message) else to_proto(result, GetMessageClass(method.output_type))
    return message.SerializeToString()


def _snake_case(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
