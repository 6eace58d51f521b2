"""A watch shows every event once, in order, through broken streams and restarts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from supernet_registry import AsyncRegistryClient, JobState, RegistryClient
from supernet_registry.clients.wire.errors import DeadlineExceeded, NotFound
from supernet_registry.v1 import searches_pb2 as pb
from supernet_registry.v1.searches_pb2_grpc import SearchServiceServicer


class Job(SearchServiceServicer):
    """A job with `count` events whose watch streams break, skip or repeat as told."""

    def __init__(self, count: int = 9, per_stream: int = 99, repeat: int = 0, skip: int = 0, ends: bool = True) -> None:
        self.count, self.per_stream, self.repeat, self.skip, self.ends = count, per_stream, repeat, skip, ends
        self.asked: list[int] = []

    def GetSearchJob(self, request: pb.GetSearchJobRequest, context: Any) -> pb.SearchJob:  # noqa: N802
        if request.name == "searchJobs/none":
            context.abort(grpc.StatusCode.NOT_FOUND, "no such job")
        return pb.SearchJob(name=request.name, state=pb.JOB_STATE_SUCCEEDED)

    def WatchSearchJob(self, request: pb.WatchSearchJobRequest, context: Any) -> Iterator[pb.JobEvent]:  # noqa: N802
        self.asked.append(request.after_sequence)
        first = max(1, request.after_sequence + 1 - self.repeat)
        if self.skip and request.after_sequence:
            first, self.skip = first + self.skip, 0
        for sent, sequence in enumerate(range(first, self.count + 1)):
            if sent == self.per_stream + self.repeat:
                context.abort(grpc.StatusCode.UNAVAILABLE, "restarting")
            last = self.ends and sequence == self.count
            yield pb.JobEvent(
                sequence=sequence, **{"state": pb.JOB_STATE_SUCCEEDED} if last else {"message": f"event {sequence}"}
            )
        while not self.ends and context.is_active():
            context.add_callback(lambda: None)
            import time

            time.sleep(0.01)


@pytest.mark.parametrize(
    "job",
    [
        Job(),
        Job(per_stream=1),
        Job(per_stream=4),
        Job(per_stream=2, repeat=2),
        Job(per_stream=3, skip=1),
    ],
    ids=["unbroken", "breaks after each", "breaks", "repeats", "skips"],
)
def test_every_event_comes_once_and_in_order(job: Job, serve: Callable[..., str]) -> None:
    """Whatever the streams do, there is no gap and no duplicate, and the end is the end."""
    with RegistryClient(serve(job)) as client:
        events = list(client.watch_search_job("searchJobs/a"))
    assert [event.sequence for event in events] == list(range(1, 10))
    assert events[-1].state is JobState.SUCCEEDED
    assert events[0].message == "event 1"


def test_a_watch_begins_after_the_sequence_it_is_given(serve: Callable[..., str]) -> None:
    """Only what the caller has not seen."""
    job = Job()
    with RegistryClient(serve(job)) as client:
        assert [event.sequence for event in client.watch_search_job("searchJobs/a", after_sequence=7)] == [8, 9]
        assert list(client.watch_search_job("searchJobs/a", after_sequence=9)) == []
    assert job.asked == [7, 9]


def test_an_unknown_job_fails_at_once(serve: Callable[..., str]) -> None:
    """A typing mistake is not an outage."""
    with RegistryClient(serve(Job())) as client, pytest.raises(NotFound):
        next(client.watch_search_job("searchJobs/none"))


def test_wait_returns_the_job_and_tells_its_events(serve: Callable[..., str]) -> None:
    """The caller sees progress while it waits."""
    seen: list[int] = []
    with RegistryClient(serve(Job(per_stream=4))) as client:
        job = client.wait_search_job("searchJobs/a", on_event=lambda event: seen.append(event.sequence))
    assert job.state is JobState.SUCCEEDED
    assert seen == list(range(1, 10))


def test_wait_gives_up_after_its_time(serve: Callable[..., str]) -> None:
    """A job that does not end is not waited for longer than asked."""
    with RegistryClient(serve(Job(ends=False))) as client, pytest.raises(DeadlineExceeded) as caught:
        client.wait_search_job("searchJobs/a", timeout_s=0.5)
    assert caught.value.metadata == {"job": "searchJobs/a"}


def test_the_asynchronous_client_watches_alike(serve: Callable[..., str]) -> None:
    """Same position, other loop."""

    async def run(address: str) -> list[int]:
        async with AsyncRegistryClient(address) as client:
            return [event.sequence async for event in client.watch_search_job("searchJobs/a")]

    assert asyncio.run(run(serve(Job(per_stream=4)))) == list(range(1, 10))
