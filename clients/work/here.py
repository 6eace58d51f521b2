"""Running a job in the caller's own process: the images stay here, only sketch and weights travel."""

from __future__ import annotations

import os
import platform
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from supernet_registry.clients.registry_client import RegistryClient
from supernet_registry.clients.wire.errors import Conflict, SearchCancelled
from supernet_registry.clients.wire.resources import JobEvent, JobState, SearchJob
from supernet_registry.clients.work.threads import limit_threads

if TYPE_CHECKING:
    from supernet_registry.search.tasks import ImageDataset

__all__ = ["run_job_here"]

_LEASE_WAITS = 6
_LEASE_WAIT_S = 10.0
"""A crashed earlier attempt holds its lease until it runs out: so many waits of so many seconds."""


def run_job_here(
    client: RegistryClient,
    job: SearchJob,
    dataset: ImageDataset,
    *,
    device: str = "auto",
    on_event: Callable[[JobEvent], None] | None = None,
) -> SearchJob:
    """Lease `job` by its name, run it in this thread, and return it as it then is.

    The first Ctrl-C lets the search hand in its last checkpoint and gives the job back, so that the same command
    continues it; the second one ends at once.

    Raises:
        OptionalDependency: torch is missing.
        Conflict: another process is running the job.
        SearchCancelled: interrupted by Ctrl-C; the job can be continued.
    """
    from supernet_registry.clients.work.job_runner import require_torch, run_leased_job

    if job.state.ended:
        return job
    require_torch()
    from supernet_registry.search.training.devices import device_name

    limit_threads()
    worker = f"{platform.node() or 'caller'}/{os.getpid()}"
    leased = None
    for _ in range(_LEASE_WAITS):
        leased = client.lease_search_job(worker, device=device_name(device), job=job.name, wait_seconds=_LEASE_WAIT_S)
        if leased is not None:
            break
    if leased is None:
        raise Conflict(
            f"{job.name} is being run by another process.",
            remedy=f"Follow it with `supernet-registry watch {job.name}`.",
            field="job",
        )
    lease, current, checkpoint = leased
    with _interruptible() as interrupted:
        run_leased_job(
            client,
            lease,
            current,
            checkpoint,
            device=device,
            dataset=dataset,
            should_leave=interrupted.is_set,
            on_event=on_event,
        )
    result = client.get_search_job(job.name)
    if interrupted.is_set() and result.state in (JobState.QUEUED, JobState.RUNNING):
        raise SearchCancelled(
            f"{job.name} was interrupted after its last checkpoint.",
            remedy="Run the same command with the same --request-id again to continue it.",
            metadata={"job": job.name},
        )
    return result


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; later ones interrupt as usual. Only signals of the main thread are ours."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    previous = signal.getsignal(signal.SIGINT)

    def leave(_signal: int, _frame: FrameType | None) -> None:
        interrupted.set()
        signal.signal(signal.SIGINT, previous)

    signal.signal(signal.SIGINT, leave)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, previous)
