"""Progress of a stream on stderr."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import Self

from supernet_registry.clients.cli import output
from supernet_registry.clients.cli.progress import JobProgress
from supernet_registry.clients.cli.searching import left_behind
from supernet_registry.clients.streams.results import StreamRow
from supernet_registry.clients.streams.runner import StreamListener
from supernet_registry.clients.streams.stream import Experience
from supernet_registry.clients.wire.resources import JobEvent, SearchJob

__all__ = ["StreamView"]


class StreamView(StreamListener):
    """One heading a task, and the bars of the task's job beneath it. Ctrl-C says how to go on."""

    def __init__(self) -> None:
        self._bars = ExitStack()
        self._progress: JobProgress | None = None
        self._job = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bars.close()
        if isinstance(error, KeyboardInterrupt):
            output.say("Run the same command again to continue the stream.")
            if self._job:
                raise left_behind(self._job) from error

    def on_task(self, experience: Experience, total: int) -> None:
        output.say(f"[{experience.current_experience + 1}/{total}] {experience.name}", style="bold")

    def on_job(self, job: SearchJob, *, resumed: bool) -> None:
        self._job = "" if resumed else job.name
        if not resumed:
            self._progress = self._bars.enter_context(JobProgress())

    def on_event(self, event: JobEvent) -> None:
        if self._progress is not None:
            self._progress.on_event(event)

    def on_row(self, row: StreamRow) -> None:
        self._bars.close()
        self._progress = None
        self._job = ""
        if row.version:
            source = output.short(row.source) or "scratch"
            already = " (already done)" if row.resumed else ""
            figures = f"supernet {output.percent(row.test_accuracy)}"
            if row.child_test_accuracy is not None:
                figures += f", child {output.percent(row.child_test_accuracy)}"
            output.say(f"  → {output.short(row.version)} from {source}: {figures}, {row.steps} steps{already}")
        else:
            output.say(f"  {row.state.value.lower()}: {row.error}", style="yellow")

    def on_message(self, text: str) -> None:
        output.say(f"  {text}", style="yellow")
