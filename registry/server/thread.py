"""A server beside synchronous code: for tests, notebooks and benchmarks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from supernet_registry.registry.server.app import RegistryServer, build_server
from supernet_registry.registry.settings import Settings

__all__ = ["ServerThread"]

T = TypeVar("T")


class ServerThread:
    """Runs a server on an event loop in a thread of its own, as a context manager.

    `with ServerThread(settings) as server:` gives the started `RegistryServer`; leaving the block drains and stops it.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def __enter__(self) -> RegistryServer:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="registry-server", daemon=True)
        self._thread.start()
        try:
            self._server = self._run(_started(self._settings))
        except BaseException:
            self._end_loop()
            raise
        return self._server

    def __exit__(self, *_: object) -> None:
        try:
            self._run(self._server.stop())
        finally:
            self._end_loop()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _started(settings: Settings) -> RegistryServer:
    server = build_server(settings)
    await server.start()
    return server
