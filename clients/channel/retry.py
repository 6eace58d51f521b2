"""Waiting and trying again, above gRPC's own retries: for transfers and watches that go on where they broke off."""

from __future__ import annotations

import random
from dataclasses import dataclass

from supernet_registry.clients.wire.errors import (
    DeadlineExceeded,
    DiskFull,
    QuotaExceeded,
    SupernetRegistryError,
    TryLater,
    UploadIncomplete,
    WrongOffset,
)

__all__ = ["Backoff", "is_outage"]


def is_outage(error: SupernetRegistryError) -> bool:
    """Whether nothing was decided and the server is only away, busy or slow. A full disk is a decision."""
    if isinstance(error, (DiskFull, QuotaExceeded)):
        return False
    return isinstance(error, (TryLater, DeadlineExceeded))


@dataclass
class Backoff:
    """How long to wait after each failure in a row; raises when the failure is final or there were too many.

    Progress resets the count: a long transfer over a bad line may break any number of times.
    """

    max_attempts: int = 8
    initial_s: float = 0.25
    max_s: float = 8.0
    failures: int = 0

    def progress(self) -> None:
        """Something got through: start counting afresh."""
        self.failures = 0

    def wait_after(self, error: SupernetRegistryError) -> float:
        """Seconds to wait before the next attempt. Raises `error` itself where trying again is pointless."""
        self.failures += 1
        resumable = is_outage(error) or isinstance(error, (WrongOffset, UploadIncomplete))
        if not resumable or self.failures >= self.max_attempts:
            raise error
        ceiling = min(self.max_s, self.initial_s * 2.0 ** (self.failures - 1))
        # Jitter, so that many workers do not return to a restarted server in step.
        return max(error.retry_after_s or 0.0, ceiling * random.uniform(0.5, 1.0))
