"""Progress on stderr: bars where it is a terminal, plain lines where it is not."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from supernet_registry.clients.cli import output
from supernet_registry.clients.wire.resources import EpochMetrics, JobEvent, JobState, Phase, SourceDecision

__all__ = ["JobProgress", "transfer"]

_MOST_LINES = 20  # a phase, where there is no terminal: a child network has 120 epochs


@contextmanager
def transfer(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar for bytes; yields the callback (bytes done, bytes in all). Nothing is shown when nothing travels."""
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=output.console(stderr=True), transient=True) as progress:
        task: list[Any] = []

        def advance(done: int, total: int) -> None:
            if not task:
                task.append(progress.add_task(what, total=total))
            progress.update(task[0], completed=done, total=total)

        yield advance


class JobProgress:
    """Shows the events of one job. Use it by `with`; `on_event` takes what the client's watch yields."""

    def __init__(self, *, title: str = "") -> None:
        self._title = f"{title}: " if title else ""
        self._tasks: dict[Phase, Any] = {}
        self._progress: Any = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[figures]}"),
                TimeElapsedColumn(),
                console=output.console(stderr=True),
            )
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def on_event(self, event: JobEvent) -> None:
        """Show one event."""
        if event.epoch is not None:
            self._on_epoch(event.epoch)
        elif event.decision is not None:
            self._line(describe_decision(event.decision))
        elif event.message is not None:
            self._line(event.message)
        elif event.state is JobState.QUEUED:
            self._line("waiting for a worker")
        elif event.state in (JobState.RUNNING, JobState.CANCELLING, JobState.FAILED, JobState.CANCELLED):
            self._line(event.state.value.lower())

    def line(self, text: str) -> None:
        """A line above the bars."""
        self._line(text)

    def _line(self, text: str) -> None:
        if self._progress is not None:
            self._progress.console.print(self._title + text, markup=False)
        else:
            output.say(self._title + text)

    def _on_epoch(self, epoch: EpochMetrics) -> None:
        name = "child network" if epoch.phase is Phase.CHILD else "search"
        judged = epoch.val_accuracy is not None
        figures = f"validation {epoch.val_accuracy:.1%}" if judged else f"training {epoch.train_accuracy:.1%}"
        if self._progress is None:
            every = -(-epoch.epochs // _MOST_LINES)
            if epoch.epoch % max(1, every) and epoch.epoch != epoch.epochs:
                return
            self._line(f"{name}, epoch {epoch.epoch} of {epoch.epochs}: {figures}, {_counted(epoch.steps, 'step')}")
            return
        if epoch.phase not in self._tasks:
            self._tasks[epoch.phase] = self._progress.add_task(name, total=epoch.epochs, figures="")
        self._progress.update(self._tasks[epoch.phase], completed=epoch.epoch, total=epoch.epochs, figures=figures)


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def describe_decision(decision: SourceDecision) -> str:
    """One line: the source and why."""
    if not decision.source:
        return decision.reason if decision.reason.startswith("scratch") else f"scratch: {decision.reason}"
    near = "" if decision.ot_distance is None else f" (OT distance {output.number(decision.ot_distance)})"
    return f"source {output.short(decision.source)}{near}: {decision.reason}"
