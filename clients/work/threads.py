"""CPU threads of the process that runs searches. OpenMP reads its settings once, when torch is imported."""

from __future__ import annotations

import os

__all__ = ["limit_threads"]


def limit_threads(threads: int | None = None) -> None:
    """Set OpenMP up for a machine that is shared; call it before torch is imported.

    The compact supernet's operations are too small to gain from a second thread, and on a shared machine a spinning
    thread takes the core that another one waits for: two threads were measured at half the speed of one, with default
    spinning at a tenth. One thread also gives the same bits on every machine, which an exact resume elsewhere needs.

    Args:
        threads: None for OMP_NUM_THREADS, else 1; 0 for as many as this process may use.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if threads is None:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    else:
        usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        os.environ["OMP_NUM_THREADS"] = str(threads or usable)
