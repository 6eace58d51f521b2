"""What the server does by itself.

It takes jobs from dead workers, sweeps, looks for what other servers committed, rebuilds a large index, embeds anew
what another release has embedded, and learns from finished jobs.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from supernet_registry.registry.server.core import Registry
from supernet_registry.registry.server.notifier import QUEUE, Notifier
from supernet_registry.registry.server.rpc import Pools

__all__ = ["background_tasks"]

_log = logging.getLogger(__name__)

_INDEX_SECONDS = 5.0
"""Pause between two looks for datasets that another server on the same database registered, and for a due rebuild."""

_RENEW_SECONDS = 1.0
"""Pause between two looks for embeddings of another release; a look without work costs nothing."""

_LEARN_SECONDS = 60.0
"""Pause between two looks for finished jobs that the signals have not seen; a look without news reads row ids."""


def background_tasks(registry: Registry, notifier: Notifier, pools: Pools) -> list[asyncio.Task[None]]:
    """Start the chores; cancel the tasks to stop them."""
    settings, catalog = registry.settings, registry.catalog

    async def expire() -> None:
        changed = await pools.fast(catalog.leases.expire)
        if changed:
            _log.warning("leases ran out: %s", ", ".join(changed))
            notifier.notify(QUEUE, *changed)

    async def sweep() -> None:
        _log.info("%s", await pools.slow(catalog.sweeper.sweep))

    async def catch_up() -> None:
        await pools.fast(registry.index.catch_up)

    async def rebuild() -> None:
        await _interruptible(pools.slow, registry.index.rebuild_if_due)

    async def renew() -> None:
        while registry.embeddings.pending:
            await _interruptible(pools.slow, registry.embeddings.renew_batch)
            await pools.fast(registry.index.catch_up)

    async def learn() -> None:
        for signal in registry.signals.values():
            await _interruptible(pools.slow, signal.refresh)

    # A quarter of a lease: a dead worker's job waits at most that much longer.
    chores = (
        (expire, settings.lease_seconds / 4),
        (sweep, settings.sweep_interval_seconds),
        (catch_up, _INDEX_SECONDS),
        (rebuild, _INDEX_SECONDS),
        (renew, _RENEW_SECONDS),
        (learn, _LEARN_SECONDS),
    )
    return [asyncio.create_task(_repeat(chore, pause), name=chore.__name__) for chore, pause in chores]


async def _interruptible(run: Callable[..., Awaitable[Any]], function: Callable[[Callable[[], bool]], object]) -> None:
    """Run a long function in a pool; it is asked to stop when the chore is cancelled, so that the server can stop."""
    stop = threading.Event()
    try:
        await run(function, stop.is_set)
    finally:
        stop.set()


async def _repeat(chore: Callable[[], Awaitable[None]], pause_s: float) -> None:
    while True:
        await asyncio.sleep(pause_s)
        try:
            await chore()
        except Exception:  # noqa: BLE001  # logged, and tried again at the next turn
            # A full disk or a locked database today must not end the chore for good.
            _log.exception("background chore failed; next try in %.0f s", pause_s)
