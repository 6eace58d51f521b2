"""What runs beside a search: heartbeats that keep its lease, and a courier that delivers its reports.

The search's thread never waits for the network: it drops events and checkpoints here and goes on. The server may be
away for a while (a restart, a broken line); then both threads try again until they get through or until the server says
that the lease is lost. Whether it is lost is only for the server to say: a fencing token, not our clock, keeps a late
worker from doing harm.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeVar

from supernet_registry.clients.channel.retry import is_outage
from supernet_registry.clients.registry_client import RegistryClient
from supernet_registry.clients.wire.errors import (
    DiskFull,
    JobFinished,
    LeaseLost,
    NotFound,
    QuotaExceeded,
    SearchCancelled,
    SupernetRegistryError,
)
from supernet_registry.clients.wire.resources import JobEvent, Lease

__all__ = ["LeaseKeeper"]

T = TypeVar("T")

_log = logging.getLogger(__name__)

_EVENTS_PER_REPORT = 100
_RETRY_S = 1.0
_OUTAGE_PATIENCE_S = 3600.0
"""A finished search waits so long for the server to return before its result is given up."""
_LEAVING_PATIENCE_S = 10.0
"""A worker that was told to leave tries so long to hand in its checkpoint."""


class LeaseKeeper:
    """Keeps the lease of one attempt from `__enter__` to `__exit__`, and delivers what the attempt reports.

    Args:
        client: the registry.
        lease: the lease to keep.
        should_leave: whether this process has been told to go; polled, and called from the search's thread.
    """

    def __init__(self, client: RegistryClient, lease: Lease, should_leave: Callable[[], bool]) -> None:
        self.lease = lease
        self._client = client
        self._should_leave = should_leave
        self._lost = threading.Event()
        self._cancelled = threading.Event()
        self._closed = threading.Event()
        self._changed = threading.Condition()
        self._events: deque[JobEvent] = deque()
        self._checkpoint: bytes | None = None
        self._delivering = False
        self._failure: SupernetRegistryError | None = None
        self._threads = [
            threading.Thread(target=run, name=f"{lease.job}/{run.__name__.strip('_')}", daemon=True)
            for run in (self._heartbeat, self._courier)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closed.set()
        with self._changed:
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(_LEAVING_PATIENCE_S)  # a call into an outage may take longer; fencing makes it harmless

    @property
    def lost(self) -> bool:
        """Whether another attempt owns the job now, or the job has ended."""
        return self._lost.is_set()

    @property
    def cancelled(self) -> bool:
        """Whether the job's owner asked for it to stop."""
        return self._cancelled.is_set()

    def should_stop(self) -> bool:
        """Whether the search should stop now, for whatever reason."""
        return self.lost or self.cancelled or self._failure is not None or self._should_leave()

    def send(self, event: JobEvent) -> None:
        """Queue an event for delivery, in order."""
        with self._changed:
            self._events.append(event)
            self._changed.notify_all()

    def send_checkpoint(self, data: bytes) -> None:
        """Queue a checkpoint; a newer one replaces one not sent yet. Events queued before are delivered before it."""
        with self._changed:
            self._checkpoint = data
            self._changed.notify_all()

    def flush(self) -> None:
        """Wait until all is delivered.

        Raises LeaseLost, SearchCancelled where the process should leave and the server is away, or what the server
        refused a report with.
        """
        patience = Patience(self._should_leave)
        with self._changed:
            while (self._events or self._checkpoint is not None or self._delivering) and not self.lost:
                if self._failure is not None:
                    break
                if patience.exhausted:
                    raise SearchCancelled("The server was away for too long to take the last reports.")
                self._changed.wait(timeout=_RETRY_S)
        if self.lost:
            raise LeaseLost(f"The lease of {self.lease.job} is lost.")
        if self._failure is not None:
            raise self._failure

    def persist(self, call: Callable[[], T]) -> T:
        """Call the server until it answers, through outages and while its disk is full.

        Raises LeaseLost as soon as the heartbeat knows, any other error of `call` at once.
        """
        patience = Patience(self._should_leave)
        while True:
            try:
                return call()
            except SupernetRegistryError as error:
                if not (is_outage(error) or isinstance(error, (DiskFull, QuotaExceeded))) or patience.exhausted:
                    raise
                _log.warning("%s: %s Trying again.", self.lease.job, error)
                if self._lost.wait(_RETRY_S):
                    raise LeaseLost(f"The lease of {self.lease.job} is lost.") from error

    def _heartbeat(self) -> None:
        period_s = self._period_s
        while not self._closed.wait(period_s):
            try:
                # A server that hangs must not keep us from asking again before the lease ends.
                self.lease, cancel = self._client.renew_lease(self.lease, timeout_s=max(1.0, self._period_s))
                period_s = self._period_s
                if cancel:
                    self._cancelled.set()
            except (LeaseLost, JobFinished, NotFound) as error:
                self._lose(error)
                return
            except SupernetRegistryError as error:
                _log.warning("%s: heartbeat failed: %s", self.lease.job, error)
                period_s = min(_RETRY_S, self._period_s)

    @property
    def _period_s(self) -> float:
        return max(0.05, self.lease.duration_seconds / 3)

    def _courier(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._events or self._checkpoint is not None or self._closed.is_set() or self.lost
                )
                if self._closed.is_set() or self.lost:
                    return
                batch = [self._events[i] for i in range(min(len(self._events), _EVENTS_PER_REPORT))]
                # A checkpoint goes only when all events before it are out: a resumed attempt would never send them.
                checkpoint = self._checkpoint if len(batch) == len(self._events) else None
                self._delivering = True
            try:
                delivered = self._deliver(batch, checkpoint)
            finally:
                with self._changed:
                    self._delivering = False
                    self._changed.notify_all()
            if not delivered:
                self._closed.wait(_RETRY_S)

    def _deliver(self, batch: list[JobEvent], checkpoint: bytes | None) -> bool:
        """Send events, then the checkpoint, and take what got through out of the queue. False: try again later."""
        try:
            if batch:
                self._client.report_progress(self.lease, batch)
                with self._changed:
                    for _ in batch:
                        self._events.popleft()
            if checkpoint is not None:
                self._store(checkpoint)
        except (LeaseLost, JobFinished) as error:
            self._lose(error)
        except SupernetRegistryError as error:
            if not (is_outage(error) or isinstance(error, (DiskFull, QuotaExceeded))):
                self._failure = error
                return True
            _log.warning("%s: a report is delayed: %s", self.lease.job, error)
            return False
        return True

    def _store(self, checkpoint: bytes) -> None:
        try:
            self._client.save_checkpoint(self.lease, self._client.upload_blob(checkpoint))
        except (DiskFull, QuotaExceeded) as error:
            # Without it a crash costs one epoch more; events must not queue up behind it.
            _log.warning("%s: a checkpoint is not stored: %s", self.lease.job, error)
        with self._changed:
            if self._checkpoint is checkpoint:
                self._checkpoint = None

    def _lose(self, error: SupernetRegistryError) -> None:
        if not self._closed.is_set():  # a heartbeat may cross the end of its own job
            _log.warning("%s: %s", self.lease.job, error)
        self._lost.set()
        with self._changed:
            self._changed.notify_all()


class Patience:
    """How long to put up with an outage: long with a result in hand, seconds once the process should leave."""

    def __init__(self, should_leave: Callable[[], bool]) -> None:
        self._should_leave = should_leave
        self._start = time.monotonic()
        self._leaving_since: float | None = None

    @property
    def exhausted(self) -> bool:
        """Whether it is time to give up."""
        now = time.monotonic()
        if self._leaving_since is None and self._should_leave():
            self._leaving_since = now
        if self._leaving_since is not None and now - self._leaving_since > _LEAVING_PATIENCE_S:
            return True
        return now - self._start > _OUTAGE_PATIENCE_S
