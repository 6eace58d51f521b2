"""One run of an evaluation, in a process of its own:

    python -m supernet_registry.registry.evaluation.unit --folder OUT --stream s_pairs --policy registry --seed 0

Tells its progress as JSON lines on standard output, and ends when its standard input is closed: that is how it notices
that the evaluation was killed. Run again, it goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from supernet_registry.clients.registry_client import RegistryClient
from supernet_registry.clients.streams.results import StreamResult, StreamRow
from supernet_registry.clients.streams.runner import StreamListener, run_stream
from supernet_registry.clients.streams.stream import TaskStream
from supernet_registry.clients.work.threads import limit_threads
from supernet_registry.registry.evaluation.choosers import source_chooser
from supernet_registry.registry.evaluation.plan import Folder, Plan, Unit
from supernet_registry.registry.evaluation.policies import Policy
from supernet_registry.registry.evaluation.service import with_service
from supernet_registry.search.errors import SupernetRegistryError

__all__ = ["main", "run_unit"]


def run_unit(folder: Folder, plan: Plan, unit: Unit) -> None:
    """Do a unit, or what is missing of it, and store the run.

    Raises:
        SearchCancelled: told to stop.
        SupernetRegistryError: whatever a dataset, the registry or a search raises.
    """
    stream = plan.stream(unit.stream, unit.seed)
    if unit.policy is Policy.FIXED_COLD:
        from supernet_registry.registry.evaluation.fixed import train_independently

        train_independently(folder, plan, unit, stream, tell=_tell)
    elif unit.policy.fixed:
        from supernet_registry.registry.evaluation.fixed import train_from_sources

        _store(folder, unit, train_from_sources(folder, plan, unit, stream, tell=_tell))
        return
    elif unit.policy.independent:
        missing = [e for e in stream if folder.independent_row(unit.policy, unit.seed, e) is None]
        if missing:
            _through_a_service(folder, plan, unit, TaskStream(missing, name=unit.stream))
    else:
        result, more = _through_a_service(folder, plan, unit, stream)
        _store(folder, unit, result, **more)
        return
    rows = [folder.independent_row(unit.policy, unit.seed, experience) for experience in stream]
    _store(folder, unit, _independent_result(unit.stream, [row for row in rows if row is not None]))


def _through_a_service(
    folder: Folder, plan: Plan, unit: Unit, stream: TaskStream
) -> tuple[StreamResult, dict[str, Any]]:
    """Run the stream's searches through a registry of its own; the result, and what the registry is like then."""

    def work(address: str) -> tuple[StreamResult, dict[str, Any]]:
        with RegistryClient(address) as client:
            listener = _Progress(client, folder, unit, stream)
            options = plan.options(unit.policy, unit.seed)
            result = run_stream(
                client,
                stream,
                stream_name=f"{unit.stream}-{unit.policy}-{unit.seed}",
                choose_source=source_chooser(unit.policy, client, options),
                listener=listener,
                **options,
            )
            points = client.map_datasets()
        return result, {"stored_bytes": listener.stored_bytes, "map": points}

    return with_service(folder.run_folder(unit) / "registry", work, device=plan.device)


class _Progress(StreamListener):
    """Tells of finished tasks, keeps those that other streams may share, and weighs what the registry has to keep."""

    def __init__(self, client: RegistryClient, folder: Folder, unit: Unit, stream: TaskStream) -> None:
        self._client = client
        self._folder = folder
        self._unit = unit
        self._experiences = {experience.current_experience: experience for experience in stream}
        self.stored_bytes: list[int] = []

    def on_row(self, row: StreamRow) -> None:
        if not row.version:  # it has failed: `run_stream` says why
            return
        before = self.stored_bytes[-1] if self.stored_bytes else 0
        version = self._client.get_version(row.version)
        child = len(self._client.download_blob(version.child_blob)) if version.child_blob else 0
        self.stored_bytes.append(before + version.weights_size_bytes + child)
        if self._unit.policy.independent:
            experience = self._experiences[row.step]
            self._folder.keep_independent_row(self._unit.policy, self._unit.seed, experience, row)
        _tell(row.task)


def _independent_result(stream: str, rows: Sequence[StreamRow]) -> StreamResult:
    """The result of tasks of which none has seen another: the matrix repeats what each was once."""

    def matrix(values: Sequence[float | None]) -> tuple[tuple[float | None, ...], ...]:
        return tuple((*values[: i + 1], *[None] * (len(values) - i - 1)) for i in range(len(values)))

    return StreamResult(
        stream=stream,
        rows=tuple(rows),
        accuracies=matrix([row.test_accuracy for row in rows]),
        child_accuracies=matrix([row.child_test_accuracy for row in rows]),
    )


def _store(folder: Folder, unit: Unit, result: StreamResult, **more: Any) -> None:
    folder.write(folder.run_file(unit), {"result": result.to_json(), **more})


def _tell(task: str) -> None:
    sys.stdout.write(json.dumps({"task": task}) + "\n")
    sys.stdout.flush()


def _leave_with_the_parent() -> None:
    """SIGTERM to ourselves when standard input ends: the evaluation that started us is gone."""
    while os.read(0, 1):  # not `sys.stdin`, whose lock this thread would hold at the interpreter's end
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one unit. Exit code 0 when it is stored, else that of the error, which is told on standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--stream", required=True)
    parser.add_argument("--policy", type=Policy, choices=list(Policy), required=True)
    parser.add_argument("--seed", type=int, required=True)
    given = parser.parse_args(argv)
    limit_threads()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    threading.Thread(target=_leave_with_the_parent, daemon=True).start()
    folder = Folder(given.folder)
    unit = Unit(seed=given.seed, stream=given.stream, policy=given.policy)
    try:
        run_unit(folder, Plan.from_configuration(folder.configuration), unit)
    except SupernetRegistryError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
