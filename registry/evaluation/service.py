"""A registry of its own for one run: server and worker on loopback, which end with the process that wanted them."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from supernet_registry.registry.settings import load_settings
from supernet_registry.registry.supervisor import ServeOptions, Started, Supervisor
from supernet_registry.search.errors import SearchCancelled

__all__ = ["with_service"]

T = TypeVar("T")

_log = logging.getLogger(__name__)


def with_service(data_dir: Path, work: Callable[[str], T], *, device: str = "auto") -> T:
    """Start a service on `data_dir`, do `work` with its address in a thread, stop the service, return the result.

    Must be called in the main thread: SIGTERM and Ctrl-C drain the service, so that the worker hands in its last
    checkpoint. Server and worker are children of this process and leave by themselves if it is killed.

    Raises:
        SearchCancelled: told to stop before the work was done.
        SupernetRegistryError: the service cannot run, or whatever the work raises.
    """
    # Many services share the machine. The children read their settings from the environment.
    os.environ.setdefault("SUPERNET_REGISTRY_TRANSPORT_PROCESSES", "0")
    os.environ.setdefault("SUPERNET_REGISTRY_SWEEP_INTERVAL_SECONDS", "30")  # an epoch leaves megabytes of checkpoint
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    settings = load_settings(data_dir=data_dir, address="127.0.0.1:0")
    outcome: list[T] = []
    failure: list[BaseException] = []

    def run(address: str) -> None:
        try:
            outcome.append(work(address))
        except BaseException as error:  # noqa: BLE001 - handed on to the main thread
            if not supervisor.stopping:  # else the service went away under the work
                failure.append(error)
        finally:
            supervisor.stop()

    def start(started: Started) -> None:
        threading.Thread(target=run, args=(started.address,), name="work", daemon=True).start()

    supervisor = Supervisor(
        ServeOptions(settings=settings, device=device, publish=False),
        on_started=start,
        say=_log.warning,
    )
    supervisor.run()
    if outcome:
        return outcome[0]
    if failure:
        raise failure[0]
    raise SearchCancelled("Stopped before the stream was done.", remedy="Run the same command again to go on.")
