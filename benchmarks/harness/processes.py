"""The one process pool of the benchmarks: spawned processes of one thread, which end with their parent."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import threading
from concurrent.futures import ProcessPoolExecutor

__all__ = ["ONE_THREAD", "use_one_thread", "worker_processes"]

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
"""Environment that libraries read when they are imported. Spinning threads on a shared machine are slower than one."""


def use_one_thread() -> None:
    """For this process and those that it starts; before numpy and torch are imported."""
    os.environ.update(ONE_THREAD)


def worker_processes(count: int) -> ProcessPoolExecutor:
    """Spawned, not forked: threads of torch and faiss do not survive a fork."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(count, mp_context=context, initializer=_end_with_parent)


def _end_with_parent() -> None:
    """A parent that is killed leaves no process behind that goes on with its work unseen."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker process was started by another"
    threading.Thread(target=_wait_and_end, args=(parent.sentinel,), daemon=True).start()


def _wait_and_end(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)
