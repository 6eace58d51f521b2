"""Heartbeats and reports of a running attempt, against a real server that loses, cancels, refuses and breaks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from supernet_registry import JobEvent, Lease, RegistryClient
from supernet_registry.clients.wire.errors import DiskFull, InvalidArgument, LeaseLost, SupernetRegistryError
from supernet_registry.clients.work.lease_keeper import LeaseKeeper
from supernet_registry.registry.server.status import grpc_code, to_status, trailing_metadata
from supernet_registry.v1 import blobs_pb2, workers_pb2
from supernet_registry.v1.blobs_pb2_grpc import BlobServiceServicer
from supernet_registry.v1.workers_pb2_grpc import WorkerServiceServicer

LEASE = Lease(job="searchJobs/a", fence=7, duration_seconds=0.15)


class Worker(WorkerServiceServicer, BlobServiceServicer):
    """Takes what a worker sends, and fails each method as often as told."""

    def __init__(self, **failures: list[SupernetRegistryError]) -> None:
        self.failures = failures
        self.log: list[str] = []
        self.cancel = False
        self.renewed = threading.Semaphore(0)
        self.gate = threading.Event()
        self.gate.set()

    def _meet(self, method: str, context: Any) -> None:
        self.gate.wait(10)
        if self.failures.get(method):
            error = self.failures[method].pop(0)
            status = to_status(error)
            context.set_trailing_metadata(trailing_metadata(status))
            context.abort(grpc_code(status), status.message)

    def RenewLease(self, request: Any, context: Any) -> workers_pb2.RenewLeaseResponse:  # noqa: N802
        self._meet("renew", context)
        assert (request.job, request.fence) == (LEASE.job, LEASE.fence)
        self.renewed.release()
        lease = workers_pb2.Lease(job=LEASE.job, fence=LEASE.fence, duration_seconds=LEASE.duration_seconds)
        return workers_pb2.RenewLeaseResponse(lease=lease, cancel_requested=self.cancel)

    def ReportProgress(self, request: Any, context: Any) -> workers_pb2.ReportProgressResponse:  # noqa: N802
        self._meet("report", context)
        self.log += [event.message for event in request.events]
        return workers_pb2.ReportProgressResponse(last_sequence=len(self.log))

    def SaveCheckpoint(self, request: Any, context: Any) -> workers_pb2.SaveCheckpointResponse:  # noqa: N802
        self._meet("save", context)
        self.log.append("checkpoint")
        return workers_pb2.SaveCheckpointResponse()

    def StartUpload(self, request: Any, context: Any) -> blobs_pb2.Upload:  # noqa: N802
        self._meet("upload", context)
        return blobs_pb2.Upload(name="uploads/a", blob=request.blob, size_bytes=request.size_bytes, complete=True)


@pytest.fixture
def keep(serve: Callable[..., str]) -> Iterator[Callable[[Worker], LeaseKeeper]]:
    """`keep(servicer)` gives a keeper that talks to it."""
    clients: list[RegistryClient] = []

    def start(servicer: Worker) -> LeaseKeeper:
        clients.append(RegistryClient(serve(servicer)))
        return LeaseKeeper(clients[-1], LEASE, lambda: False)

    yield start
    for client in clients:
        client.close()


Keep = Callable[[Worker], LeaseKeeper]


def event(text: str) -> JobEvent:
    return JobEvent(message=text)


def test_events_arrive_in_order_and_before_the_checkpoint_that_follows_them(keep: Keep) -> None:
    """A resumed attempt never repeats what its checkpoint has behind it, so that must have been told."""
    servicer = Worker()
    with keep(servicer) as keeper:
        for i in range(250):
            keeper.send(event(str(i)))
        keeper.send_checkpoint(b"state")
        keeper.flush()
    assert servicer.log == [str(i) for i in range(250)] + ["checkpoint"]


def test_the_search_never_waits_and_only_the_newest_checkpoint_travels(keep: Keep) -> None:
    """The server hangs; three checkpoints later it answers and gets what counts."""
    servicer = Worker()
    servicer.gate.clear()
    with keep(servicer) as keeper:
        keeper.send(event("first"))
        for state in (b"1", b"2", b"3"):
            keeper.send_checkpoint(state)
        servicer.gate.set()
        keeper.flush()
    assert servicer.log[0] == "first"
    assert servicer.log.count("checkpoint") <= 2


def test_an_outage_delays_reports_and_loses_none(keep: Keep) -> None:
    """INTERNAL is final, UNAVAILABLE is not: here the line breaks under every kind of call."""
    from supernet_registry.clients.wire.errors import Unavailable

    away = [Unavailable("away") for _ in range(2)]
    servicer = Worker(report=list(away), save=list(away), upload=list(away), renew=list(away))
    with keep(servicer) as keeper:
        keeper.send(event("first"))
        keeper.send_checkpoint(b"state")
        keeper.flush()
        assert servicer.renewed.acquire(timeout=30)
        assert not keeper.should_stop()
    assert servicer.log == ["first", "checkpoint"]


def test_a_cancelled_job_stops_its_search(keep: Keep) -> None:
    """The heartbeat brings the news; the lease is kept until the worker has confirmed."""
    servicer = Worker()
    servicer.cancel = True
    with keep(servicer) as keeper:
        for _ in range(3):
            assert servicer.renewed.acquire(timeout=30)
        assert keeper.cancelled
        assert keeper.should_stop()
        assert not keeper.lost


@pytest.mark.parametrize("where", ["renew", "report", "save"])
def test_a_lost_lease_stops_the_search_wherever_it_is_noticed(where: str, keep: Keep) -> None:
    """Heartbeat, report or checkpoint: whoever hears it first."""
    with keep(Worker(**{where: [LeaseLost("another attempt owns it")]})) as keeper:
        keeper.send(event("first"))
        keeper.send_checkpoint(b"state")
        with pytest.raises(LeaseLost):
            while True:  # the heartbeat hears it only at its next beat
                keeper.flush()
        assert keeper.lost
        assert keeper.should_stop()


def test_a_refused_report_ends_the_search_with_that_error(keep: Keep) -> None:
    """What the server will never take must not be lost silently."""
    with keep(Worker(report=[InvalidArgument("no such epoch")])) as keeper:
        keeper.send(event("first"))
        with pytest.raises(InvalidArgument, match="no such epoch"):
            keeper.flush()
        assert keeper.should_stop()


def test_a_full_disk_costs_a_checkpoint_and_nothing_else(keep: Keep) -> None:
    """Events go on; the next epoch brings another checkpoint."""
    servicer = Worker(upload=[DiskFull("full")])
    with keep(servicer) as keeper:
        keeper.send_checkpoint(b"lost")
        keeper.flush()
        keeper.send(event("later"))
        keeper.send_checkpoint(b"kept")
        keeper.flush()
    assert servicer.log == ["later", "checkpoint"]


def test_persist_waits_for_space_and_passes_other_errors_on(keep: Keep) -> None:
    """A result in hand is worth waiting for a disk to be cleaned up."""
    answers: list[Any] = [DiskFull("full"), "done"]

    def call() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    with keep(Worker()) as keeper:
        assert keeper.persist(call) == "done"
        answers[:] = [InvalidArgument("no")]
        with pytest.raises(InvalidArgument):
            keeper.persist(call)
