"""`supernet-registry serve`: server, workers and publisher as children of one process that keeps them alive.

    supervisor ─┬─ python -P -m supernet_registry.registry.server      torch-free; FAISS, transport, database
                ├─ python -P -m supernet_registry.registry.worker      torch; one search at a time; N of them
                └─ python -P -m supernet_registry.registry.publisher   MLflow

Children are started by `subprocess` with a clean argv (`python_module`) in sessions of their own, so that Ctrl-C
reaches only the supervisor, which then drains in order: workers hand in their checkpoints while the server still
answers, then the others stop. A child that crashes is started again with a growing pause; one that says it cannot run
(a missing package, a wrong option) is not. Children watch their parent: if the supervisor itself is killed, they leave
by themselves.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from supernet_registry.registry.publisher.store import tracking_store
from supernet_registry.registry.python_module import python_module
from supernet_registry.registry.server.lock import read_server_file
from supernet_registry.registry.settings import Settings
from supernet_registry.search.errors import InvalidArgument, SupernetRegistryError, Unavailable

__all__ = ["ServeOptions", "Started", "Supervisor"]

_SERVER = "server"
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # SIGHUP: the terminal was closed
_LOOK_SECONDS = 0.2
_START_SECONDS = 120.0
"""Time for the server to listen; opening a large registry takes a while."""
_LEAVE_SECONDS = 30.0
"""Time for a child to leave after SIGTERM, on top of the server's own `drain_seconds`; then it is killed."""
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 1.0, 60.0
_HEALTHY_SECONDS = 60.0
"""A child that lived so long starts again without a growing pause."""
_LARGEST_LOG_BYTES = 16 * 2**20
_CANNOT_RUN = frozenset({InvalidArgument.exit_code, 5, 8})
"""Exit codes that starting again does not mend: wrong options, a missing package or schema, a missing permission."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """What `serve` runs."""

    settings: Settings
    workers: int = 1
    device: str = "auto"
    publish: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """What to tell the user once the server answers."""

    address: str
    data_dir: Path
    logs_dir: Path
    workers: int
    mlflow_ui: str
    """Command (or URL) that shows the runs; empty without publisher."""
    notes: tuple[str, ...]
    """What does not run, and why."""


@dataclass(slots=True)
class _Child:
    name: str
    argv: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    pause_s: float = _FIRST_PAUSE_SECONDS
    start_at: float = 0.0
    given_up: bool = False


class Supervisor:
    """Runs the processes of one registry until it is told to stop.

    Args:
        options: what to run.
        on_started: called once, when the server answers and its companions have been started.
        say: called with one sentence about anything that happens later.
    """

    def __init__(
        self, options: ServeOptions, *, on_started: Callable[[Started], None], say: Callable[[str], None]
    ) -> None:
        self._options = options
        self._data_dir = options.settings.data_dir.absolute()
        self._logs_dir = self._data_dir / "logs"
        self._on_started = on_started
        self._say = say
        self._stop = threading.Event()
        self._children: list[_Child] = []

    def run(self) -> None:
        """Run until SIGTERM, SIGINT or SIGHUP, then drain.

        Raises:
            SupernetRegistryError: the server cannot run; the type says why.
        """
        try:
            self._logs_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidArgument(
                f"{self._data_dir} cannot be used: {error}.",
                field="data_dir",
                remedy="Choose a folder that can be written.",
            ) from error
        before = {number: signal.signal(number, self._on_signal) for number in _STOP_SIGNALS}
        try:
            server, address, secure = self._start_server()
            notes = self._start_companions(address, secure=secure)
            # On a restart the server takes the port it had, so that clients and workers find it again.
            server.argv = self._server_argv(address)
            self._on_started(self._started(address, notes))
            while not self._stop.wait(_LOOK_SECONDS):
                for child in self._children:
                    self._tend(child)
        finally:
            self._drain()
            for number, handler in before.items():
                signal.signal(number, handler)

    def stop(self) -> None:
        """Make `run` drain and return."""
        self._stop.set()

    @property
    def stopping(self) -> bool:
        """Whether it has been told to stop, by a signal or by `stop`."""
        return self._stop.is_set()

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self._stop.is_set():  # the second Ctrl-C: no more patience
            for child in self._children:
                if child.process is not None:
                    child.process.kill()
        self._stop.set()

    # Starting --------------------------------------------------------------------------------------------------------

    def _start_server(self) -> tuple[_Child, str, bool]:
        """Start the server and wait until it has announced itself: (child, address, whether it uses TLS)."""
        server = self._add(_SERVER, self._server_argv(self._options.settings.address), _NUMERIC_THREADS)
        deadline = time.monotonic() + _START_SECONDS
        while not self._stop.wait(_LOOK_SECONDS / 4):
            assert server.process is not None
            announced = read_server_file(self._data_dir) or {}
            if announced.get("pid") == server.process.pid:
                return server, str(announced["address"]), bool(announced["secure"])
            code = server.process.poll()
            if code is not None:
                raise _start_failure(code, self._last_words(server))
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"The server has not answered within {_START_SECONDS:.0f} s.",
                    remedy=f"Look into {self._log(server)}.",
                )
        raise Unavailable("The server was stopped before it answered.", remedy="Start it again.")

    def _start_companions(self, address: str, *, secure: bool) -> tuple[str, ...]:
        """Start workers and publisher; returns what is left out, and why."""
        notes = []
        options = self._options
        if options.workers and secure:
            notes.append(
                "With TLS, start workers yourself, with a worker's token: SUPERNET_REGISTRY_TOKEN=... "
                f"supernet-registry --address https://{address} worker"
            )
        elif options.workers and importlib.util.find_spec("torch") is None:
            notes.append('No worker: torch is not installed. Install "supernet-registry[worker]".')
        else:
            for number in range(1, options.workers + 1):
                self._add(f"worker-{number}", self._worker_argv(address), _worker_environment(options.workers))
        if options.publish and importlib.util.find_spec("mlflow") is None:
            notes.append('MLflow is not fed: install "supernet-registry[mlflow]", or serve with --no-mlflow.')
        elif options.publish:
            self._add("publisher", self._publisher_argv())
        return tuple(notes)

    def _started(self, address: str, notes: tuple[str, ...]) -> Started:
        names = [child.name for child in self._children]
        store = tracking_store(self._data_dir, self._options.settings.mlflow_tracking_uri)
        return Started(
            address=address,
            data_dir=self._data_dir,
            logs_dir=self._logs_dir,
            workers=sum(name.startswith("worker-") for name in names),
            mlflow_ui=store.ui_command if "publisher" in names else "",
            notes=notes,
        )

    def _server_argv(self, address: str) -> list[str]:
        return python_module(
            "supernet_registry.registry.server", "--data-dir", str(self._data_dir), "--address", address, *_PARENT
        )

    def _worker_argv(self, address: str) -> list[str]:
        return python_module(
            "supernet_registry.registry.worker",
            "--address",
            address,
            "--device",
            self._options.device,
            *_PARENT,
        )

    def _publisher_argv(self) -> list[str]:
        uri = self._options.settings.mlflow_tracking_uri
        where = () if uri is None else ("--tracking-uri", uri)
        return python_module(
            "supernet_registry.registry.publisher", "--data-dir", str(self._data_dir), *where, *_PARENT
        )

    # Keeping alive ---------------------------------------------------------------------------------------------------

    def _add(self, name: str, argv: Sequence[str], environment: Mapping[str, str] | None = None) -> _Child:
        child = _Child(name, argv, environment or {})
        self._children.append(child)
        self._launch(child)
        return child

    def _launch(self, child: _Child) -> None:
        log = self._log(child)
        if log.exists() and log.stat().st_size > _LARGEST_LOG_BYTES:
            log.replace(log.with_suffix(".log.old"))
        argv = [argument.replace(_PID, str(os.getpid())) for argument in child.argv]
        with log.open("ab") as output:
            child.process = subprocess.Popen(
                argv,
                env={**os.environ, "PYTHONUNBUFFERED": "1", "OMP_WAIT_POLICY": "PASSIVE", **child.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        child.started = time.monotonic()

    def _tend(self, child: _Child) -> None:
        """Notice that a child has ended, and start it again when its pause is over."""
        now = time.monotonic()
        if child.process is None:
            if not child.given_up and now >= child.start_at:
                self._launch(child)
            return
        code = child.process.poll()
        if code is None:
            return
        child.process = None
        words = self._last_words(child)
        if code in _CANNOT_RUN:
            if child.name == _SERVER:
                raise _start_failure(code, words)  # the others are nothing without it
            child.given_up = True
            self._say(f"{child.name} cannot run and is left out: {words}")
            return
        if now - child.started > _HEALTHY_SECONDS:
            child.pause_s = _FIRST_PAUSE_SECONDS
        child.start_at = now + child.pause_s
        self._say(f"{child.name} ended with code {code}; starting it again in {child.pause_s:.0f} s. {words}")
        child.pause_s = min(2 * child.pause_s, _LONGEST_PAUSE_SECONDS)

    def _drain(self) -> None:
        """Stop the workers, then the others; whoever does not leave in time is killed."""
        workers = [child for child in self._children if child.name.startswith("worker-")]
        others = [child for child in self._children if child not in workers]
        for group in (workers, others):
            running = [child.process for child in group if child.process is not None]
            for process in running:
                process.terminate()
            deadline = time.monotonic() + _LEAVE_SECONDS + self._options.settings.drain_seconds
            for process in running:
                try:
                    process.wait(max(0.0, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def _log(self, child: _Child) -> Path:
        return self._logs_dir / f"{child.name}.log"

    def _last_words(self, child: _Child) -> str:
        """The last line that a child wrote: its error, if it had one to report."""
        lines = self._log(child).read_text("utf-8", "replace").strip().splitlines()
        return lines[-1][:500] if lines else f"See {self._log(child)}."


_PID = "{pid}"
_PARENT = ("--parent-pid", _PID)
_NUMERIC_THREADS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "POT_BACKEND_DISABLE_PYTORCH": "1"}
"""The server's parallelism comes from concurrent requests."""


def _worker_environment(workers: int) -> dict[str, str]:
    """Share the cores among the workers, unless the user has decided."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, usable // workers)))}


def _start_failure(code: int, words: str) -> SupernetRegistryError:
    """The server's own error again, as its group: the exit code says which."""
    groups = {group.exit_code: group for group in SupernetRegistryError.__subclasses__()}
    if code in groups:
        return groups[code](words.removeprefix("error: "))
    return Unavailable(f"The server ended with code {code}: {words}")
