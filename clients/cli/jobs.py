"""`jobs`, `watch` and `cancel`."""

from __future__ import annotations

from itertools import islice
from typing import Annotated

import typer

from supernet_registry.clients.cli import names, output
from supernet_registry.clients.cli.connection import connect
from supernet_registry.clients.cli.options import AsJson
from supernet_registry.clients.cli.searching import finished, left_behind, print_result, result_of
from supernet_registry.clients.wire.resources import JobEvent, JobState, SearchJob

__all__ = ["cancel", "jobs", "watch"]

_Job = Annotated[str, typer.Argument(metavar="JOB", help="`searchJobs/ID` or the id alone.", show_default=False)]


def jobs(
    context: typer.Context,
    *,
    state: Annotated[JobState | None, typer.Option(case_sensitive=False, help="Only jobs in this state.")] = None,
    stream: Annotated[str | None, typer.Option(help="Only jobs of this task stream.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, newest first.")] = 30,
    as_json: AsJson = False,
) -> None:
    """List search jobs, newest first.

    Examples:

        supernet-registry jobs --state running

        supernet-registry jobs --stream s_pairs --json
    """
    with connect(context) as client:
        listed = list(islice(client.list_search_jobs(state, stream), limit))
    if as_json:
        output.print_json({"jobs": listed})
        return
    output.print_table(
        ["!job", "!state", "~supernet", "~dataset", "~progress"],
        [
            (
                output.short(job.name),
                job.state.value.lower(),
                output.short(job.supernet),
                job.dataset_display_name,
                _progress(job),
            )
            for job in listed
        ],
        empty="No such jobs.",
    )


def _progress(job: SearchJob) -> str:
    if job.version:
        return f"→ {output.short(job.version)}"
    if job.error is not None:
        return job.error.reason
    if job.progress is not None:
        at = f"{job.progress.phase.value.lower()} {job.progress.epoch}/{job.progress.epochs}"
        accuracy = job.progress.val_accuracy
        return at if accuracy is None else f"{at}, {output.percent(accuracy)}"
    return ""


def watch(context: typer.Context, job: _Job, *, as_json: AsJson = False) -> None:
    """Follow a job to its end, from its first event on.

    Ctrl-C ends the watching, never the job. The exit code tells how the job ended: 0 for success, 9 where the search
    failed or was cancelled. With --json the result comes at the end, all events with it.

    Examples:

        supernet-registry watch 1f0c9a3e

        supernet-registry watch 1f0c9a3e --json | jq '.events[].epoch'
    """
    from supernet_registry.clients.cli.progress import JobProgress

    name = names.job_name(job)
    events: list[JobEvent] = []
    with connect(context) as client:
        try:
            with JobProgress() as progress:

                def on_event(event: JobEvent) -> None:
                    events.append(event)
                    progress.on_event(event)

                ended = finished(client.wait_search_job(name, on_event=on_event))
        except KeyboardInterrupt as error:
            raise left_behind(name) from error
        version = client.get_version(ended.version)
    if as_json:
        output.print_json({**result_of(ended, version), "events": events})
    else:
        print_result(ended, version, as_json=False)


def cancel(context: typer.Context, job: _Job, *, as_json: AsJson = False) -> None:
    """Ask a job to stop. A queued job is cancelled at once, a running one at its worker's next heartbeat.

    Example:

        supernet-registry cancel 1f0c9a3e
    """
    with connect(context) as client:
        asked = client.cancel_search_job(names.job_name(job))
    if as_json:
        output.print_json(asked)
    else:
        output.console().print(f"{asked.name}: {asked.state.value.lower()}", markup=False)
