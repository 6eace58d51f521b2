"""The server: five services, health and (if asked for) reflection on one address.

    server = build_server(settings)      # checks the settings; raises before anything listens
    await server.start()                 # server.address is now the real one
    await server.wait()                  # until stop() was called
    await server.stop()

`registry.server.thread.ServerThread` runs one beside synchronous code, `python -m supernet_registry.registry.server` as
a process.
"""

from __future__ import annotations

import asyncio
import logging

import grpc
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from supernet_registry.clients.wire.protocol import check_client
from supernet_registry.registry.server.auth import Access, AccessInterceptor, Metadata, check_bind
from supernet_registry.registry.server.background import background_tasks
from supernet_registry.registry.server.blobs import BlobHandlers
from supernet_registry.registry.server.core import Registry
from supernet_registry.registry.server.datasets import DatasetHandlers
from supernet_registry.registry.server.lock import DataDirLock
from supernet_registry.registry.server.notifier import Notifier
from supernet_registry.registry.server.rpc import Binder, Handlers, Pools
from supernet_registry.registry.server.searches import SearchHandlers
from supernet_registry.registry.server.supernets import SupernetHandlers
from supernet_registry.registry.server.workers import WorkerHandlers
from supernet_registry.registry.settings import Settings
from supernet_registry.search.errors import Draining, InvalidArgument, Unavailable

__all__ = ["RegistryServer", "build_server"]

_log = logging.getLogger(__name__)

_OPTIONS = (
    # Without this a second server could share the port unnoticed, and clients would reach either.
    ("grpc.so_reuseport", 0),
    # Clients ping every 30 s; the default of 300 s would answer them with GOAWAY too_many_pings.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    # Finds dead peers behind watches; a connection is renewed now and then, so that load balancers can rebalance.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.max_connection_age_ms", 30 * 60_000),
    # The size limit of a message stays at gRPC's 4 MiB; what is larger travels as a blob.
)
_HEALTH = "/grpc.health.v1.Health/"
_OWN = "/supernet_registry."


class RegistryServer:
    """One gRPC server over one registry. Made by `build_server`; belongs to one event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._access = Access(settings.tokens_file)
        self._credentials = _credentials(settings)
        check_bind(settings.address, tls=self._credentials is not None, tokens=settings.tokens_file is not None)
        self._address = settings.address
        self._draining = False
        self._stopped = asyncio.Event()

    @property
    def settings(self) -> Settings:
        """The settings it was built with."""
        return self._settings

    @property
    def address(self) -> str:
        """Where it listens: as in the settings, with the real port once it has started."""
        return self._address

    @property
    def registry(self) -> Registry:
        """What it serves, once it has started."""
        return self._registry

    async def start(self) -> None:
        """Open the registry and listen. Raises what `Registry.open` does, AlreadyExists and Unavailable."""
        lock = DataDirLock(self._settings.data_dir)
        try:
            self._registry = await asyncio.to_thread(Registry.open, self._settings)
            try:
                await self._listen()
            except BaseException:
                self._registry.close()
                raise
        except BaseException:
            lock.release()
            raise
        self._lock = lock
        lock.announce(self._address, secure=self._credentials is not None)
        self._registry.finder.warm_up()
        _log.info("listening on %s, data in %s", self._address, self._settings.data_dir)

    async def _listen(self) -> None:
        self._pools = Pools(fast_threads=self._settings.rpc_threads, slow_threads=self._settings.slow_rpc_threads)
        self._notifier = Notifier(asyncio.get_running_loop())
        self._server = aio.server(interceptors=(AccessInterceptor(self._admit),), options=_OPTIONS)
        services: tuple[Handlers, ...] = (
            DatasetHandlers(self._registry, self._notifier),
            SupernetHandlers(self._registry),
            SearchHandlers(self._registry, self._notifier),
            BlobHandlers(self._registry),
            WorkerHandlers(self._registry, self._notifier),
        )
        binder = Binder(self._pools, self._access)
        for service in services:
            binder.bind(self._server, service)
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = [service.service.full_name for service in services]
        for name in names:
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        if self._settings.reflection:
            names += [health.SERVICE_NAME, reflection.SERVICE_NAME]
            reflection.enable_server_reflection(names, self._server)
        self._address = self._bind_address()
        await self._server.start()
        self._background = background_tasks(self._registry, self._notifier, self._pools)

    async def wait(self) -> None:
        """Return when the server has stopped."""
        await self._stopped.wait()

    async def stop(self, grace_s: float | None = None) -> None:
        """Drain and stop: new calls get DRAINING, watches end with it, running calls get `grace_s` to finish.

        Args:
            grace_s: None for `drain_seconds` of the settings.
        """
        if self._draining:
            await self._stopped.wait()
            return
        self._draining = True
        _log.info("draining")
        await self._health.enter_graceful_shutdown()
        self._notifier.drain()
        await self._server.stop(self._settings.drain_seconds if grace_s is None else grace_s)
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await asyncio.to_thread(self._pools.close)
        await asyncio.to_thread(self._registry.close)
        self._lock.release()
        self._stopped.set()
        _log.info("stopped")

    def _admit(self, method: str, metadata: Metadata) -> None:
        if self._draining and not method.startswith(_HEALTH):
            raise Draining("The server is shutting down.", remedy="Send the request again.", retry_after_s=1.0)
        if method.startswith(_OWN):
            check_client(metadata)
        self._access.check(method, metadata)

    def _bind_address(self) -> str:
        wanted = self._settings.address
        try:
            if self._credentials is None:
                port = self._server.add_insecure_port(wanted)
            else:
                port = self._server.add_secure_port(wanted, self._credentials)
        except RuntimeError as error:
            raise Unavailable(
                f"The server cannot listen on {wanted}.",
                field="address",
                remedy="Another process may have the port: choose another, or port 0 for any free one.",
            ) from error
        if wanted.startswith(("unix:", "unix-abstract:")):
            return wanted
        return f"{wanted.rpartition(':')[0]}:{port}"


def build_server(settings: Settings) -> RegistryServer:
    """Make a server.

    Raises:
        InvalidArgument: the address would be open to others without TLS and tokens, or a file cannot be read.
    """
    return RegistryServer(settings)


def _credentials(settings: Settings) -> grpc.ServerCredentials | None:
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    try:
        pair = settings.tls_key.read_bytes(), settings.tls_certificate.read_bytes()
    except OSError as error:
        raise InvalidArgument(
            f"The TLS files cannot be read: {error}.", field="tls_certificate", remedy="Correct their paths."
        ) from error
    return grpc.ssl_server_credentials([pair])
