"""The worker process: leases search jobs and runs them, one at a time. `python -m supernet_registry.registry.worker
--help`.

A worker is only a gRPC client. It runs where the GPU is, on the server's machine or another; it may be killed at any
time (its job goes on from the last checkpoint elsewhere), and it comes back to a server that was away. SIGTERM or
SIGINT drains it: the running search stops, hands in its checkpoint, and goes back to the queue.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING

from supernet_registry.clients.channel.retry import Backoff
from supernet_registry.clients.registry_client import RegistryClient
from supernet_registry.clients.wire.errors import InvalidArgument, SupernetRegistryError
from supernet_registry.clients.work.job_runner import require_torch, run_leased_job
from supernet_registry.clients.work.threads import limit_threads

if TYPE_CHECKING:
    from supernet_registry.search.training.runtime import Runtime

__all__ = ["main"]

_log = logging.getLogger(__name__)

_POLL_S = 2.0
"""How long one request for a job waits at the server; also how long an idle worker takes to leave."""
_AWAY_FIRST_S = 0.5
_AWAY_LONGEST_S = 15.0
"""First and longest pause between attempts to reach a server that does not answer."""
_PARENT_CHECK_S = 1.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a worker until it is told to leave. Returns the exit code."""
    options = _parse(arguments)
    logging.basicConfig(
        level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
    )
    limit_threads(options.threads)
    leaving = threading.Event()
    _leave_on_signals(leaving)
    if options.parent_pid:
        threading.Thread(target=_leave_with, args=(options.parent_pid, leaving), daemon=True).start()
    try:
        require_torch()
        _work(options, leaving)
    except SupernetRegistryError as error:
        _log.error("%s", error)
        return error.exit_code
    _log.info("Worker %s has left.", options.name)
    return 0


def _work(options: argparse.Namespace, leaving: threading.Event) -> None:
    """Serve the registry; under `torchrun` together with the other processes of the group, of which the first leads."""
    from supernet_registry.search.runs.together import dismiss, follow
    from supernet_registry.search.training.devices import device_name
    from supernet_registry.search.training.parallel import joined
    from supernet_registry.search.training.recording import CudaGraphs
    from supernet_registry.search.training.runtime import Runtime

    with joined(options.device) as ranks:
        device = device_name(options.device)
        record = CudaGraphs() if options.cuda_graphs else None
        runtime = Runtime.on(options.device, ranks=ranks, record=record)
        if record is not None and runtime.device.type != "cuda":
            raise InvalidArgument(
                f"CUDA graphs need a GPU; this worker searches on {device}.",
                remedy="Leave --cuda-graphs out, or start the worker where a GPU is.",
                field="cuda_graphs",
            )
        if ranks.rank:
            follow(runtime)
            return
        with RegistryClient(options.address) as client:
            _log.info("Worker %s on %d × %s, registry at %s.", options.name, ranks.size, device, client.address)
            _serve(client, options, device, runtime, leaving)
        dismiss(runtime)


def _serve(
    client: RegistryClient, options: argparse.Namespace, device: str, runtime: Runtime, leaving: threading.Event
) -> None:
    """Lease and run jobs until told to leave; with `--once`, one request for a job and what comes of it."""
    away = Backoff(max_attempts=sys.maxsize, initial_s=_AWAY_FIRST_S, max_s=_AWAY_LONGEST_S)
    while not leaving.is_set():
        try:
            leased = client.lease_search_job(options.name, device=device, job=options.job, wait_seconds=_POLL_S)
        except SupernetRegistryError as error:
            pause_s = away.wait_after(error)  # raises what waiting does not mend, such as a missing role
            _log.warning("%s Asking again in %.0f s.", error, pause_s)
            leaving.wait(pause_s)
            continue
        away.progress()
        if leased is not None:
            lease, job, checkpoint = leased
            _log.info("%s: attempt %d%s.", job.name, job.attempt, ", resumed from a checkpoint" if checkpoint else "")
            run_leased_job(
                client, lease, job, checkpoint, device=options.device, runtime=runtime, should_leave=leaving.is_set
            )
        if options.once:
            return


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m supernet_registry.registry.worker", description=__doc__)
    parser.add_argument("--address", help="the registry; default: SUPERNET_REGISTRY_ADDRESS, else 127.0.0.1:50551")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument("--name", default=f"{socket.gethostname()}-{os.getpid()}", help="unique among all workers")
    parser.add_argument("--job", default="", help="run this job and no other")
    parser.add_argument("--once", action="store_true", help="leave after one job, or when there is none")
    parser.add_argument("--threads", type=int, help="CPU threads of PyTorch (default: 1); 0: as many as may be used")
    parser.add_argument(
        "--cuda-graphs", action="store_true", help="replay gradient passes as CUDA graphs (new: not yet run on a GPU)"
    )
    parser.add_argument("--parent-pid", type=int, default=0, help="leave when this process is no longer the parent")
    parser.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    return parser.parse_args(arguments)


def _leave_on_signals(leaving: threading.Event) -> None:
    """First SIGTERM or SIGINT: drain. Second: the default, at once."""

    def leave(number: int, _: FrameType | None) -> None:
        leaving.set()
        signal.signal(number, signal.SIG_DFL)

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)


def _leave_with(parent_pid: int, leaving: threading.Event) -> None:
    """Drain when the supervisor has died, so that no worker is left behind."""
    while os.getppid() == parent_pid and not leaving.wait(_PARENT_CHECK_S):
        pass
    leaving.set()
