"""A bounded pool that solves exact transports: in processes of its own, or where there is one core, in a thread.

POT's solver holds Python's global lock: threads solve one transport at a time, and every other call waits meanwhile. Of
a transport of 13 ms, a process leaves 0.35 ms to the server; sending and parsing the sketches makes it 1.3 ms longer
altogether. That is little enough to send a single transport, or a bound of 3 ms, to a process too.

A process that dies (killed, out of memory) loses nothing: what it was solving is solved in the server, and a new one
takes its place. While a process is starting, which takes a second or two, transports are solved in the server as well.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import queue
import select
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from supernet_registry.registry.lru import LruCache
from supernet_registry.registry.python_module import python_module
from supernet_registry.registry.transport.process import SHELF_BYTES, read_frame, write_frame
from supernet_registry.registry.transport.solver import Solution, solve, warm_up
from supernet_registry.search.errors import Draining
from supernet_registry.search.similarity import Sketch, lower_bound

__all__ = ["TransportPool", "default_processes"]

T = TypeVar("T")

_log = logging.getLogger(__name__)

_MOST_PROCESSES = 8
_RESTART_PAUSE_S = 5.0
"""Between two starts of a process: one that cannot live must not cost a start for every transport."""
_ENVIRONMENT = {
    "POT_BACKEND_DISABLE_PYTORCH": "1",  # importing torch takes seconds and hundreds of megabytes
    "OMP_NUM_THREADS": "1",  # the processes are the parallelism
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
}


def default_processes() -> int:
    """One for each core that this process may use, at most 8; none where there is only one core."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _MOST_PROCESSES) if cores > 1 else 0


class TransportPool:
    """Solves transports in the order in which they are submitted, `size` at the same time.

    Args:
        processes: 0 solves in a thread of this process.
    """

    def __init__(self, processes: int) -> None:
        self.size = max(1, processes)
        self._threads = ThreadPoolExecutor(self.size, thread_name_prefix="transport")
        self._idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        self._processes = [_Process() for _ in range(processes)]
        for process in self._processes:
            self._idle.put(process)
        self._closing = False

    @property
    def process_ids(self) -> list[int]:
        """Of the processes that are ready for work."""
        return [process.id for process in self._processes if process.id is not None]

    def warm_up(self) -> None:
        """Start the processes, and import what transports need, in the background."""
        self._threads.submit(self._start_idle)
        self._threads.submit(warm_up)  # for this process: it embeds, and solves while the others are starting

    def solve(self, target: Sketch, source: Sketch) -> Future[Solution]:
        """The exact distance, in the background. Raises Draining once the pool is closed."""
        return self._submit(lambda process: process.solve(target, source), lambda: solve(target, source))

    def bound(self, target: Sketch, source: Sketch) -> Future[float]:
        """`search.similarity.lower_bound`, in the background. Raises Draining once the pool is closed."""
        return self._submit(lambda process: process.bound(target, source), lambda: lower_bound(target, source))

    def close(self) -> None:
        """Drop what has not begun and stop what runs, whose futures fail with Draining."""
        self._closing = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        for process in self._processes:
            process.kill()
        self._threads.shutdown(wait=True)
        for process in self._processes:
            process.end()

    def _start_idle(self) -> None:
        taken = []
        with contextlib.suppress(queue.Empty):
            while True:
                taken.append(self._idle.get_nowait())
        for process in taken:
            process.ready()
            self._idle.put(process)

    def _submit(self, remote: Callable[[_Process], T | None], here: Callable[[], T]) -> Future[T]:
        try:
            return self._threads.submit(self._run, remote, here)
        except RuntimeError:
            raise _draining() from None

    def _run(self, remote: Callable[[_Process], T | None], here: Callable[[], T]) -> T:
        if self._processes:
            process = self._idle.get()  # as many as threads, so there is one
            try:
                result = remote(process)
            finally:
                self._idle.put(process)
            if result is not None:
                return result
        if self._closing:
            raise _draining()
        return here()


def _draining() -> Draining:
    return Draining("The server is shutting down.", remedy="Send the request again.", retry_after_s=1.0)


class _Process:
    """One process of the pool, started when it is first needed, and again after it died. One thread at a time."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._is_ready = False
        self._started = -math.inf
        self._shelf: LruCache[str, int] = LruCache(SHELF_BYTES)
        self._lock = threading.Lock()  # of starting and killing: the latter comes from another thread
        self._killed = False

    @property
    def id(self) -> int | None:
        """Of the process, if it is ready for work."""
        child = self._child
        return child.pid if child is not None and self._is_ready else None

    def solve(self, target: Sketch, source: Sketch) -> Solution | None:
        """None if there is no process to do it, it died over it, or it raised an error."""
        answered = self._ask("distance", target, source)
        if answered is None:
            return None
        answer, payloads = answered
        coupling = np.frombuffer(payloads[0], dtype="<f8").reshape(answer["shape"])
        return Solution(answer["distance"], answer["converged"], coupling)

    def bound(self, target: Sketch, source: Sketch) -> float | None:
        """None as for `solve`."""
        answered = self._ask("bound", target, source)
        return None if answered is None else float(answered[0]["bound"])

    def _ask(self, want: str, target: Sketch, source: Sketch) -> tuple[dict[str, Any], list[bytes]] | None:
        if not self.ready():
            return None
        child = self._child
        assert child is not None
        assert child.stdin is not None
        assert child.stdout is not None
        request = {"want": want, "target": target.digest, "source": source.digest}
        try:
            write_frame(child.stdin, request, [self._unless_held(target), self._unless_held(source)])
            answer, payloads = read_frame(child.stdout)
        except (OSError, EOFError, ValueError) as error:
            self._give_up(error)
            return None
        # Whoever does it instead raises an error again, as what it is.
        return None if "error" in answer else (answer, payloads)

    def ready(self) -> bool:
        """Whether the process can take a transport; starts it if there is none."""
        if self._is_ready:
            return True
        if self._child is None:
            self._start()
            return False
        assert self._child.stdout is not None
        if select.select([self._child.stdout], [], [], 0.0)[0]:
            try:
                read_frame(self._child.stdout)
                self._is_ready = True
            except (OSError, EOFError, ValueError) as error:
                self._give_up(error)
        return self._is_ready

    def kill(self) -> None:
        """End the process, from any thread, and start no other."""
        with self._lock:
            self._killed = True
            if self._child is not None:
                self._child.kill()

    def end(self) -> None:
        """Free what is left of the process."""
        child, self._child, self._is_ready = self._child, None, False
        self._shelf = LruCache(SHELF_BYTES)
        if child is None:
            return
        child.kill()
        for stream in (child.stdin, child.stdout):
            assert stream is not None
            with contextlib.suppress(OSError):  # of a request that nobody read
                stream.close()
        child.wait()

    def _start(self) -> None:
        with self._lock:
            if self._killed or time.monotonic() < self._started + _RESTART_PAUSE_S:
                return
            self._started = time.monotonic()
            try:
                self._child = subprocess.Popen(
                    python_module("supernet_registry.registry.transport.process"),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env={**os.environ, **_ENVIRONMENT},
                )
            except OSError as error:
                _log.warning("a transport process cannot be started: %s", error)

    def _give_up(self, error: Exception) -> None:
        if not self._killed:
            _log.warning("a transport process died (%s); another one will be started", repr(error))
        self.end()

    def _unless_held(self, sketch: Sketch) -> bytes:
        """What to send of a sketch: nothing if the process holds it. Follows the process's own shelf step by step."""
        if self._shelf.get(sketch.digest):
            return b""
        data = sketch.to_bytes()
        self._shelf.put(sketch.digest, len(data), weight=len(data))
        return data
