"""WorkerService."""

from __future__ import annotations

import math
import time

from supernet_registry.clients.wire.convert import to_proto
from supernet_registry.clients.wire.resources import AbandonOutcome, JobError, JobEvent, SupernetVersion
from supernet_registry.registry.server.auth import Role
from supernet_registry.registry.server.convert import read, require
from supernet_registry.registry.server.core import Registry
from supernet_registry.registry.server.notifier import QUEUE, Notifier, wait_for
from supernet_registry.registry.server.rpc import Call, Handlers
from supernet_registry.search.errors import Draining, InvalidArgument, PermissionDenied
from supernet_registry.v1 import workers_pb2 as pb
from supernet_registry.v1.searches_pb2 import SearchJob as SearchJobMessage
from supernet_registry.v1.supernets_pb2 import SupernetVersion as SupernetVersionMessage

__all__ = ["WorkerHandlers"]

_LONGEST_WAIT_SECONDS = 30.0
_POLL_SECONDS = 5.0
"""Pause between two looks at the queue when nobody wakes a waiting worker."""
_ANSWER_SECONDS = 0.5
"""Of the caller's time, kept back: a lease that arrives after the deadline would be lost until it expires."""


class WorkerHandlers(Handlers):
    """What workers need: leases, heartbeats, progress, checkpoints, write-back."""

    service = pb.DESCRIPTOR.services_by_name["WorkerService"]
    slow = frozenset({"complete_search_job"})  # reads and checks the weights

    def __init__(self, registry: Registry, notifier: Notifier) -> None:
        self._leases = registry.catalog.leases
        self._write_back = registry.catalog.write_back
        self._notifier = notifier

    async def lease_search_job(self, request: pb.LeaseSearchJobRequest, call: Call) -> pb.LeaseSearchJobResponse:
        if not request.job and call.principal.role is Role.WRITER:
            raise PermissionDenied(
                "A writer may lease only a job that it names.",
                field="job",
                remedy="Name the job, or use a worker's token.",
            )
        if not math.isfinite(request.wait_seconds) or request.wait_seconds < 0:
            raise InvalidArgument(
                f"{request.wait_seconds} is not a number of seconds.", field="wait_seconds", remedy="Use 0 to 30."
            )
        patience = min(request.wait_seconds, _LONGEST_WAIT_SECONDS, call.remaining_s(math.inf) - _ANSWER_SECONDS)
        end = time.monotonic() + patience
        while True:
            if self._notifier.draining:
                raise Draining("The server is shutting down.", remedy="Ask again later.", retry_after_s=1.0)
            woken = self._notifier.signal(QUEUE)
            leased = await call.pools.fast(self._leases.lease, request.worker, device=request.device, job=request.job)
            if leased is not None:
                break
            remaining = end - time.monotonic()
            if remaining <= 0:
                return pb.LeaseSearchJobResponse()
            await wait_for(woken, min(remaining, _POLL_SECONDS))
        lease, job, checkpoint = leased
        self._notifier.notify(job.name)
        return pb.LeaseSearchJobResponse(
            lease=to_proto(lease, pb.Lease), search_job=to_proto(job, SearchJobMessage), checkpoint_blob=checkpoint
        )

    def renew_lease(self, request: pb.RenewLeaseRequest) -> pb.RenewLeaseResponse:
        lease, cancel = self._leases.renew(request.job, request.fence)
        return pb.RenewLeaseResponse(lease=to_proto(lease, pb.Lease), cancel_requested=cancel)

    def report_progress(self, request: pb.ReportProgressRequest) -> pb.ReportProgressResponse:
        events = [read(event, JobEvent, field=f"events[{i}]") for i, event in enumerate(request.events)]
        last = self._leases.report(request.job, request.fence, events)
        self._notifier.notify(request.job)
        return pb.ReportProgressResponse(last_sequence=last)

    def save_checkpoint(self, request: pb.SaveCheckpointRequest) -> pb.SaveCheckpointResponse:
        self._leases.save_checkpoint(request.job, request.fence, request.checkpoint_blob)
        return pb.SaveCheckpointResponse()

    def complete_search_job(self, request: pb.CompleteSearchJobRequest) -> pb.CompleteSearchJobResponse:
        require(request, "version")
        draft = read(request.version, SupernetVersion, field="version")
        version, head_moved = self._write_back.complete(request.job, request.fence, draft)
        self._notifier.notify(request.job)
        return pb.CompleteSearchJobResponse(version=to_proto(version, SupernetVersionMessage), head_moved=head_moved)

    def abandon_search_job(self, request: pb.AbandonSearchJobRequest) -> pb.AbandonSearchJobResponse:
        error = read(request.error, JobError, field="error") if request.HasField("error") else None
        job = self._leases.abandon(request.job, request.fence, _outcome(request.outcome), error)
        self._notifier.notify(request.job, QUEUE)
        return pb.AbandonSearchJobResponse(search_job=to_proto(job, SearchJobMessage))


def _outcome(number: int) -> AbandonOutcome:
    outcomes = pb.AbandonSearchJobRequest.Outcome
    if number not in outcomes.values() or number == outcomes.OUTCOME_UNSPECIFIED:
        raise InvalidArgument(
            f"{number} is not an outcome.", field="outcome", remedy="Say FAILED, CANCELLED or REQUEUE."
        )
    return AbandonOutcome(outcomes.Name(outcomes.ValueType(number)).removeprefix("OUTCOME_"))
