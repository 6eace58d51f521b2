"""Following a job through broken streams: every event once, in order, until the job has ended."""

from __future__ import annotations

import time

from supernet_registry.clients.channel import calls as _wire
from supernet_registry.clients.channel.connection import STREAM_TIMEOUT_S
from supernet_registry.clients.channel.retry import Backoff
from supernet_registry.clients.wire.errors import DeadlineExceeded, SupernetRegistryError, Unavailable
from supernet_registry.clients.wire.resources import JobEvent

__all__ = ["WatchPosition"]


class WatchPosition:
    """Where a watch stands; asks for the rest of the events after a stream has broken.

    Args:
        name: `searchJobs/{id}`.
        after_sequence: only events with a larger sequence.
        timeout_s: give up after this many seconds; None for never.
    """

    def __init__(self, name: str, after_sequence: int, timeout_s: float | None = None) -> None:
        self.name = name
        self.sequence = after_sequence
        self.ended = False
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self._backoff = Backoff(max_attempts=20)

    def call(self) -> _wire.Call[JobEvent]:
        """The call that streams the events not seen yet."""
        return _wire.watch_search_job(self.name, self.sequence)

    @property
    def stream_timeout_s(self) -> float:
        """Deadline of the next stream."""
        if self._deadline is None:
            return STREAM_TIMEOUT_S
        return max(0.001, min(STREAM_TIMEOUT_S, self._deadline - time.monotonic()))

    def accept(self, event: JobEvent) -> bool:
        """Whether an event is news; moves the position past it."""
        self._backoff.progress()
        if event.sequence <= self.sequence:
            return False
        if event.sequence != self.sequence + 1:
            # Sequences have no gaps: something was lost between server and here, so ask again from the last one seen.
            raise Unavailable(f"{self.name}: event {self.sequence + 1} is missing before {event.sequence}.")
        self.sequence = event.sequence
        self.ended = event.state is not None and event.state.ended
        return True

    def closed(self) -> None:
        """The server closed the stream in order: the job has ended, before or with the last event."""
        self.ended = True

    def wait_after(self, error: SupernetRegistryError) -> float:
        """Seconds until the next attempt. Raises `error`, or DeadlineExceeded, where there should be none."""
        if self._deadline is not None and time.monotonic() >= self._deadline:
            raise DeadlineExceeded(
                f"{self.name} has not ended in the time given.",
                remedy="The job goes on; wait again, or follow it with `supernet-registry watch`.",
                metadata={"job": self.name},
            ) from error
        if isinstance(error, DeadlineExceeded):
            return 0.0  # the stream lived its time
        return self._backoff.wait_after(error)
