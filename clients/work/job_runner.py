"""Runs a leased search job in this process: data in, source chosen, search, result written back.

Used by the pool's workers (`registry.worker.process`) and by `search --here`. Needs torch (the `worker` extra),
imported only when a job runs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING

from supernet_registry.clients.registry_client import RegistryClient
from supernet_registry.clients.wire.errors import (
    JobFinished,
    LeaseLost,
    OptionalDependency,
    SearchCancelled,
    SupernetRegistryError,
)
from supernet_registry.clients.wire.resources import (
    AbandonOutcome,
    JobError,
    JobEvent,
    Lease,
    SearchJob,
    SupernetVersion,
)
from supernet_registry.clients.work.attempt import Attempt
from supernet_registry.clients.work.lease_keeper import LeaseKeeper
from supernet_registry.search.tasks import ImageDataset

if TYPE_CHECKING:
    from supernet_registry.search.training.runtime import Runtime

__all__ = ["require_torch", "run_leased_job"]

_log = logging.getLogger(__name__)


def require_torch() -> None:
    """Raise OptionalDependency where this process cannot run searches."""
    if find_spec("torch") is None:
        raise OptionalDependency(
            "Running a search needs PyTorch.", remedy="Install it with `pip install 'supernet-registry[worker]'`."
        )


def run_leased_job(
    client: RegistryClient,
    lease: Lease,
    job: SearchJob,
    checkpoint_blob: str = "",
    *,
    device: str = "auto",
    runtime: Runtime | None = None,
    dataset: ImageDataset | None = None,
    should_leave: Callable[[], bool] = lambda: False,
    on_event: Callable[[JobEvent], None] | None = None,
) -> SupernetVersion | None:
    """Run one attempt of a job to its end.

    Args:
        client: the registry that the lease is from.
        lease, job, checkpoint_blob: what `lease_search_job` returned.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        runtime: where searches compute, and with whom; None for this process alone, on `device`.
        dataset: the images, where they are at hand (`search --here`); downloaded otherwise.
        should_leave: polled; True ends the attempt after its last checkpoint and gives the job back to the queue.
        on_event: told of decision, epochs and messages as they happen; called in this thread.

    Returns:
        The version written back. None when there is none: the job was cancelled, given back, taken over by
        another attempt, or has failed with an error that is recorded on it.

    Errors of this project are recorded on the job, not raised. Any other exception is a bug: it is recorded, and raised
    so that the process can be replaced.

    Raises:
        ProcessLost: searches are run together with other processes here, and one of them is gone. The job is given
            back, and goes on from its checkpoint when the group has been replaced.
    """
    require_torch()
    from supernet_registry.search.training.runtime import Runtime

    with LeaseKeeper(client, lease, should_leave) as keeper:
        attempt = Attempt(client, keeper, job, device, runtime or Runtime.on(device), on_event)
        try:
            return attempt.run(checkpoint_blob, dataset)
        except (LeaseLost, JobFinished):
            _log.warning("%s: the lease is lost; this attempt has no effect", job.name)
        except SearchCancelled as error:
            attempt.stopped(error)
        except SupernetRegistryError as error:
            from supernet_registry.search.training.parallel import ProcessLost

            if isinstance(error, ProcessLost):
                attempt.abandon(AbandonOutcome.REQUEUE)
                raise
            _log.warning("%s failed: %s", job.name, error)
            attempt.abandon(AbandonOutcome.FAILED, JobError(reason=error.reason, message=str(error)))
        except Exception as error:
            _log.exception("%s failed", job.name)
            attempt.abandon(
                AbandonOutcome.FAILED, JobError(reason="INTERNAL", message=f"{type(error).__name__}: {error}")
            )
            raise
        except BaseException:  # KeyboardInterrupt, SystemExit: the process goes, the job need not
            attempt.abandon(AbandonOutcome.REQUEUE)
            raise
    return None
