"""SearchService."""

from __future__ import annotations

from collections.abc import AsyncIterator

from supernet_registry.clients.wire.convert import to_proto
from supernet_registry.clients.wire.resources import JobEvent, JobState, SearchJob
from supernet_registry.registry.server.convert import read, require
from supernet_registry.registry.server.core import Registry
from supernet_registry.registry.server.notifier import QUEUE, Notifier, wait_for
from supernet_registry.registry.server.rpc import Call, Handlers
from supernet_registry.search.errors import Draining, InvalidArgument
from supernet_registry.v1 import searches_pb2 as pb

__all__ = ["SearchHandlers"]

_POLL_SECONDS = 2.0
"""Pause between two looks at the events of a job when nobody wakes the watcher."""
_EVENTS_AT_ONCE = 500


class SearchHandlers(Handlers):
    """Creates, follows and cancels search jobs."""

    service = pb.DESCRIPTOR.services_by_name["SearchService"]

    def __init__(self, registry: Registry, notifier: Notifier) -> None:
        self._jobs = registry.catalog.jobs
        self._notifier = notifier

    def create_search_job(self, request: pb.CreateSearchJobRequest) -> SearchJob:
        require(request, "search_job")
        draft = read(request.search_job, SearchJob, field="search_job")
        job = self._jobs.create(draft, request_id=request.request_id, validate_only=request.validate_only)
        self._notifier.notify(QUEUE)
        return job

    def get_search_job(self, request: pb.GetSearchJobRequest) -> SearchJob:
        return self._jobs.get(request.name)

    def list_search_jobs(self, request: pb.ListSearchJobsRequest) -> pb.ListSearchJobsResponse:
        page, token = self._jobs.list(
            page_size=request.page_size,
            page_token=request.page_token,
            state=_job_state(request.state),
            stream=request.stream,
        )
        return pb.ListSearchJobsResponse(
            search_jobs=[to_proto(job, pb.SearchJob) for job in page], next_page_token=token
        )

    def cancel_search_job(self, request: pb.CancelSearchJobRequest) -> SearchJob:
        job = self._jobs.cancel(request.name)
        self._notifier.notify(request.name)
        return job

    async def watch_search_job(self, request: pb.WatchSearchJobRequest, call: Call) -> AsyncIterator[JobEvent]:
        if request.after_sequence < 0:
            raise InvalidArgument(
                f"{request.after_sequence} is negative.", field="after_sequence", remedy="Use 0 for all events."
            )
        after = request.after_sequence
        while True:
            woken = self._notifier.signal(request.name)
            job = await call.pools.fast(self._jobs.get, request.name)
            events = await call.pools.fast(self._jobs.events, request.name, after_sequence=after, limit=_EVENTS_AT_ONCE)
            for event in events:
                yield event
                after = event.sequence
            # The job was read before its events: if it had ended by then, its last sequence is known for good.
            if job.state.ended and after >= job.last_sequence:
                return
            if len(events) == _EVENTS_AT_ONCE:
                continue
            if self._notifier.draining:
                raise Draining(
                    "The server is shutting down.",
                    remedy=f"Watch again after sequence {after}.",
                    retry_after_s=1.0,
                    metadata={"after_sequence": str(after)},
                )
            await wait_for(woken, _POLL_SECONDS)


def _job_state(number: int) -> JobState | None:
    """The state to filter by; None for all."""
    if number == pb.JOB_STATE_UNSPECIFIED:
        return None
    if number not in pb.JobState.values():
        raise InvalidArgument(
            f"{number} is not a state of this release.", field="state", remedy="Leave it out for all jobs."
        )
    return JobState(pb.JobState.Name(pb.JobState.ValueType(number)).removeprefix("JOB_STATE_"))
