"""Spreads the units of an evaluation over processes, some at a time, and goes on where an earlier run stopped."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from supernet_registry.registry.evaluation.plan import Folder, Plan, Unit
from supernet_registry.registry.python_module import python_module

__all__ = ["Progress", "UnitFailed", "run_units"]

_LEAVE_SECONDS = 60.0
"""Time for a unit to hand in its last checkpoint when the evaluation is interrupted; then it is killed."""


class UnitFailed(Exception):
    """A unit ended without its run; the message is what it said last."""

    def __init__(self, unit: Unit, message: str, log: Path) -> None:
        super().__init__(message)
        self.unit = unit
        self.log = log


class Progress:
    """Told what happens, from several threads. Override what you need."""

    def on_start(self, unit: Unit) -> None:
        """A unit begins, or goes on."""

    def on_task(self, unit: Unit, task: str) -> None:
        """A task of it is done (again, where an earlier run had done it)."""

    def on_end(self, unit: Unit, failure: UnitFailed | None) -> None:
        """It is over."""


def run_units(folder: Folder, plan: Plan, *, workers: int, progress: Progress | None = None) -> list[UnitFailed]:
    """Run every unit of the plan that has no run yet, `workers` at a time; the failures.

    A unit that others take their seconds from comes before them, and they wait for it. Ctrl-C and SIGTERM end the
    units that are running, each after its last checkpoint, and are raised again.

    Raises:
        InvalidArgument: the folder holds an evaluation of other options.
        KeyboardInterrupt: interrupted.
    """
    folder.claim(plan)
    todo = [unit for unit in plan.units() if not folder.run_file(unit).exists()]
    return _Runner(folder, progress or Progress()).run(todo, workers)


class _Runner:
    def __init__(self, folder: Folder, progress: Progress) -> None:
        self._folder = folder
        self._progress = progress
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._stopping = False

    def run(self, units: Sequence[Unit], workers: int) -> list[UnitFailed]:
        ended = {unit: threading.Event() for unit in units}
        failures: list[UnitFailed] = []

        def work(unit: Unit) -> None:
            try:
                needed = ended.get(Unit(seed=unit.seed, stream=unit.stream, policy=unit.policy.needs or unit.policy))
                if needed is not None and unit.policy.needs is not None:
                    needed.wait()  # it was submitted before, so it runs or is over
                self._one(unit, failures)
            finally:
                ended[unit].set()

        before = signal.signal(signal.SIGTERM, _interrupt)
        try:
            with ThreadPoolExecutor(max_workers=workers) as pool:
                try:
                    for future in [pool.submit(work, unit) for unit in units]:
                        future.result()
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    self._stop()
                    raise
        finally:
            signal.signal(signal.SIGTERM, before)
        return failures

    def _one(self, unit: Unit, failures: list[UnitFailed]) -> None:
        with self._lock:
            if self._stopping:
                return
            process = self._start(unit)
            self._running.add(process)
        self._progress.on_start(unit)
        with process:
            said = [line for line in process.stdout or () if not self._told(unit, line)]
            code = process.wait()
        with self._lock:
            self._running.discard(process)
        failure = None
        log = self._log(unit)
        log.write_text("".join(said), "utf-8")
        if self._stopping:
            return
        if code != 0:
            failure = UnitFailed(unit, said[-1].strip() if said else f"It ended with code {code}.", log)
            failures.append(failure)
        self._progress.on_end(unit, failure)

    def _start(self, unit: Unit) -> subprocess.Popen[str]:
        self._folder.run_folder(unit).mkdir(parents=True, exist_ok=True)
        where = ["--folder", str(self._folder.root), "--stream", unit.stream]
        which = ["--policy", unit.policy.value, "--seed", str(unit.seed)]
        return subprocess.Popen(
            python_module("supernet_registry.registry.evaluation.unit", *where, *which),
            stdin=subprocess.PIPE,  # ends with us, however we end
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # Ctrl-C is ours to hand on
        )

    def _told(self, unit: Unit, line: str) -> bool:
        """Whether a line was progress."""
        try:
            task = json.loads(line)["task"]
        except (ValueError, KeyError, TypeError):
            return False
        self._progress.on_task(unit, task)
        return True

    def _log(self, unit: Unit) -> Path:
        return self._folder.run_folder(unit) / "log.txt"

    def _stop(self) -> None:
        """End what runs. Threads that wait for others find nothing to do any more."""
        with self._lock:
            self._stopping = True
            running = list(self._running)
        for process in running:
            process.terminate()
        for process in running:
            try:
                process.wait(_LEAVE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
