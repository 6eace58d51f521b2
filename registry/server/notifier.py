"""Wakes coroutines when something they wait for has happened: a job's events, a job in the queue, the shutdown.

Only a hint inside of one process. Whoever is woken reads the database again, and whoever waits also looks there from
time to time by itself, because another server may share the database.
"""

from __future__ import annotations

import asyncio
from weakref import WeakValueDictionary

__all__ = ["QUEUE", "Notifier"]

QUEUE = "queue"
"""Topic: a job may have become available. All other topics are names of jobs."""


class Notifier:
    """Topics to wait for. Belongs to one event loop; `notify` may be called from any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        # Weak: an event lives as long as somebody waits for it, so forgotten topics take no memory.
        self._signals: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()
        self.draining = False

    def signal(self, topic: str) -> asyncio.Event:
        """Return the event that the next notification of a topic sets.

        Take it before reading the database: what is committed after the read then finds it.
        """
        event = self._signals.get(topic)
        if event is None:
            event = self._signals[topic] = asyncio.Event()
        return event

    def notify(self, *topics: str) -> None:
        """Wake everybody who waits for one of these topics."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake, topics)

    def drain(self) -> None:
        """Wake everybody; `draining` is true from now on."""
        self.draining = True
        self._wake(tuple(self._signals))

    def _wake(self, topics: tuple[str, ...]) -> None:
        for topic in topics:
            event = self._signals.pop(topic, None)  # each event wakes once
            if event is not None:
                event.set()


async def wait_for(event: asyncio.Event, timeout_s: float) -> None:
    """Wait until the event is set or the time is over, whichever comes first."""
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        pass
