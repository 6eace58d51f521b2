"""Named places where a test can make a process die, a disk be full, or time pass.

`SUPERNET_REGISTRY_FAILPOINT=name:nth:action` arms one point: at its nth passing `exit` kills the process as SIGKILL
does, `enospc` raises the operating system's "no space left on device", and `sleep:seconds` pauses. Unarmed, a point
costs one dictionary lookup. Every name is listed in `POINTS`, so that a test can visit all of them.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from supernet_registry.search.errors import InvalidArgument

__all__ = ["ENVIRONMENT_VARIABLE", "POINTS", "armed", "hit"]

ENVIRONMENT_VARIABLE = "SUPERNET_REGISTRY_FAILPOINT"

POINTS = frozenset(
    {
        "blob.written",  # temporary file written, not fsynced
        "blob.synced",  # fsynced, not renamed
        "blob.renamed",  # renamed, folder not fsynced
        "blob.recorded",  # row of table `blobs` inserted, transaction open
        "upload.written",  # chunk written, not fsynced
        "upload.synced",  # chunk fsynced, new size not recorded
        "upload.verified",  # whole digest right, blob not made
        "job.before_commit",  # job and its first event inserted
        "checkpoint.before_commit",
        "write_back.checked",  # weights checked, no transaction yet
        "write_back.numbered",  # version number taken
        "write_back.version",  # version inserted
        "write_back.parents",  # parents inserted
        "write_back.head",  # head moved
        "write_back.job",  # job succeeded
        "write_back.outbox",  # outbox rows inserted, before commit
        "write_back.committed",  # committed, caller not told
        "sweep.row",  # row of table `blobs` deleted, transaction open
        "sweep.file",  # file deleted, before commit
        "publish.run_created",  # MLflow has the run, the catalog does not know its id
        "publish.metrics_sent",  # MLflow has the metrics, the cursor has not moved
        "publish.child_logged",  # MLflow has the child network's files, no model version refers to them
        "publish.version_created",  # MLflow has the model version, its head alias has not moved
        "publish.before_done",  # everything published, outbox rows still there
    }
)


@dataclass
class _Armed:
    name: str
    nth: int
    action: str
    argument: str
    passed: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


def _parse(text: str) -> _Armed | None:
    if not text:
        return None
    name, _, rest = text.partition(":")
    nth, _, action = rest.partition(":")
    kind, _, argument = action.partition(":")
    if name not in POINTS or not nth.isdecimal() or kind not in ("exit", "enospc", "sleep"):
        raise InvalidArgument(
            f"{ENVIRONMENT_VARIABLE}={text!r} is not `name:nth:action` with a known name and action.",
            remedy="Names are listed in registry/storage/failpoints.py; actions are exit, enospc and sleep:seconds.",
        )
    return _Armed(name, int(nth), kind, argument)


_armed = _parse(os.environ.get(ENVIRONMENT_VARIABLE, ""))


@contextmanager
def armed(text: str) -> Iterator[None]:
    """Arm one point, `name:nth:action`, within this process and block."""
    global _armed  # noqa: PLW0603  # one process, one armed point
    before, _armed = _armed, _parse(text)
    try:
        yield
    finally:
        _armed = before


def hit(name: str) -> None:
    """Pass the point `name`; does nothing unless it is armed."""
    if name not in POINTS:
        raise KeyError(name)
    if _armed is None or _armed.name != name:
        return
    with _armed.lock:
        _armed.passed += 1
        if _armed.passed != _armed.nth:
            return
    if _armed.action == "exit":
        os.kill(os.getpid(), signal.SIGKILL)
    elif _armed.action == "enospc":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    else:
        time.sleep(float(_armed.argument))
