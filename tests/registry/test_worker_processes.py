"""Workers as processes: killed, stopped, told to leave, and left alone by their server."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from supernet_registry import JobEvent, JobState, RegistryClient, SearchJob
from supernet_registry.registry.server.lock import read_server_file
from tests.tiny_search import QUICK, quick, tiny_dataset, tiny_space

ROOT = Path(__file__).parents[2]
EPOCHS = 12
LONG: dict[str, Any] = {**quick(epochs=EPOCHS), "source": "scratch", "space": tiny_space()}
"""Long enough to be interrupted in the middle."""


class Processes:
    """Starts our processes with a clean argv, one log file each, and ends what is left."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: list[subprocess.Popen[bytes]] = []
        self._logs: dict[int, Path] = {}

    def start(self, module: str, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        log = self._folder / f"{module}-{len(self._running)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=ROOT,
                env=os.environ | environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._running.append(process)
        self._logs[process.pid] = log
        return process

    def worker(self, address: str, *arguments: str) -> subprocess.Popen[bytes]:
        return self.start(
            "supernet_registry.registry.worker",
            "--address",
            address,
            "--device",
            "cpu",
            "--threads",
            "1",
            *arguments,
        )

    def log(self, process: subprocess.Popen[bytes]) -> str:
        return self._logs[process.pid].read_text("utf-8")

    def end(self) -> None:
        for process in self._running:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    started = Processes(tmp_path)
    yield started
    started.end()


@pytest.fixture
def connect() -> Iterator[Callable[[str], RegistryClient]]:
    clients: list[RegistryClient] = []

    def make(address: str) -> RegistryClient:
        clients.append(RegistryClient(address, timeout_s=120.0))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def submit(client: RegistryClient, name: str = "stripes") -> SearchJob:
    return client.submit_search(tiny_dataset(), name=name, **LONG)


def follow_until(client: RegistryClient, job: SearchJob, reached: Callable[[JobEvent], bool]) -> JobEvent:
    """The first event of a job for which `reached` holds."""
    return next(event for event in client.watch_search_job(job.name) if reached(event))


def in_epoch(number: int) -> Callable[[JobEvent], bool]:
    return lambda event: event.epoch is not None and event.epoch.epoch >= number


def epochs_of(client: RegistryClient, job: SearchJob) -> list[tuple[str, int]]:
    events = client.watch_search_job(job.name)
    return [(event.epoch.phase.value, event.epoch.epoch) for event in events if event.epoch is not None]


ALL_EPOCHS = [("SEARCH", number) for number in range(1, EPOCHS + 1)] + [("CHILD", 1)]


def test_a_killed_workers_job_is_resumed_and_finished_by_another(
    make_registry_server: Callable[..., Any], processes: Processes, connect: Callable[[str], RegistryClient]
) -> None:
    """SIGKILL in mid-search: the next worker goes on from the checkpoint, and the result bears no trace of it."""
    address = make_registry_server(lease_seconds=3.0).address
    client = connect(address)
    job = submit(client)
    first = processes.worker(address, "--once")
    follow_until(client, job, in_epoch(3))
    first.kill()
    first.wait()
    second = processes.worker(address)
    ended = client.wait_search_job(job.name)
    assert (ended.state, ended.attempt) == (JobState.SUCCEEDED, 2), ended.error
    assert "resumed from a checkpoint" in processes.log(second)
    assert epochs_of(client, job) == ALL_EPOCHS
    assert client.get_supernet("supernets/stripes").version_count == 1

    undisturbed = client.wait_search_job(submit(client, "undisturbed").name)
    mended, whole = client.get_version(ended.version), client.get_version(undisturbed.version)
    assert mended.weights_blob == whole.weights_blob
    assert mended.child_blob == whole.child_blob


def test_a_killed_workers_generalist_is_resumed_and_finished_by_another(
    make_registry_server: Callable[..., Any], processes: Processes, connect: Callable[[str], RegistryClient]
) -> None:
    """Several datasets change nothing about leases and checkpoints."""
    address = make_registry_server(lease_seconds=3.0).address
    client = connect(address)
    names = [client.register_dataset(tiny_dataset(seed), retain_images=True).name for seed in (0, 1)]
    job = client.pretrain_generalist(names, space=tiny_space(), recipe={"epochs": 8, "patience": 99, "batch_size": 16})
    first = processes.worker(address, "--once")
    follow_until(client, job, in_epoch(2))
    first.kill()
    first.wait()
    second = processes.worker(address)  # it may have to wait until the lease runs out
    ended = client.wait_search_job(job.name)
    assert (ended.state, ended.attempt) == (JobState.SUCCEEDED, 2), ended.error
    assert "resumed from a checkpoint" in processes.log(second)
    assert epochs_of(client, job) == [("SEARCH", number) for number in range(1, 9)]
    assert client.get_version(ended.version).datasets == tuple(names)


def test_a_stopped_worker_is_fenced_and_writes_nothing(
    make_registry_server: Callable[..., Any], processes: Processes, connect: Callable[[str], RegistryClient]
) -> None:
    """SIGSTOP past the lease: another worker finishes; the first one wakes, has no effect, and leaves in order."""
    address = make_registry_server(lease_seconds=3.0).address
    client = connect(address)
    job = submit(client)
    first = processes.worker(address, "--once", "--name", "sleeper")
    follow_until(client, job, in_epoch(2))
    first.send_signal(signal.SIGSTOP)
    processes.worker(address)
    ended = client.wait_search_job(job.name)
    first.send_signal(signal.SIGCONT)
    assert first.wait(60) == 0
    assert "this attempt has no effect" in processes.log(first)
    assert (ended.state, ended.attempt) == (JobState.SUCCEEDED, 2), ended.error
    assert ended.worker != "sleeper"
    assert client.get_search_job(job.name) == ended
    assert client.get_supernet("supernets/stripes").version_count == 1
    assert epochs_of(client, job) == ALL_EPOCHS


def start_server(processes: Processes, data_dir: Path, address: str) -> tuple[subprocess.Popen[bytes], str]:
    server = processes.start("supernet_registry.registry.server", "--data-dir", str(data_dir), "--address", address)
    while (announced := read_server_file(data_dir)) is None or announced["pid"] != server.pid:
        assert server.poll() is None, processes.log(server)
        time.sleep(0.05)
    return server, announced["address"]


def test_a_search_outlives_its_server(
    tmp_path: Path, processes: Processes, connect: Callable[[str], RegistryClient]
) -> None:
    """SIGKILL of the server and a restart: same attempt, no epoch lost, one version; the watcher sees no gap either."""
    data_dir = tmp_path / "registry"
    server, address = start_server(processes, data_dir, "127.0.0.1:0")
    client = connect(address)
    job = submit(client)
    worker = processes.worker(address, "--once")
    sequences = []
    for event in client.watch_search_job(job.name):
        sequences.append(event.sequence)
        if server.poll() is None and in_epoch(2)(event):
            server.kill()
            server.wait()
            restarted, _ = start_server(processes, data_dir, address)
    assert restarted.poll() is None
    ended = client.get_search_job(job.name)
    assert (ended.state, ended.attempt) == (JobState.SUCCEEDED, 1), processes.log(worker)
    assert sequences == list(range(1, len(sequences) + 1))
    assert epochs_of(client, job) == ALL_EPOCHS
    assert worker.wait(60) == 0


def test_a_worker_told_to_leave_gives_its_job_back(
    make_registry_server: Callable[..., Any], processes: Processes, connect: Callable[[str], RegistryClient]
) -> None:
    """SIGTERM: the job is queued again with its checkpoint, long before its lease would end; exit code 0."""
    address = make_registry_server(lease_seconds=600.0).address
    client = connect(address)
    job = submit(client)
    worker = processes.worker(address)
    follow_until(client, job, in_epoch(2))
    worker.terminate()
    assert worker.wait(60) == 0
    assert client.get_search_job(job.name).state is JobState.QUEUED
    leased = client.lease_search_job("next", device="cpu", job=job.name)
    assert leased is not None
    assert leased[2].startswith("blobs/")


def test_an_idle_worker_waits_for_its_server_and_leaves_with_its_parent(processes: Processes, tmp_path: Path) -> None:
    """No server: it asks again and again, and says so. Its parent gone: it leaves by itself."""
    script = (
        "import subprocess, sys, time\n"
        "worker = subprocess.Popen([sys.executable, '-m', 'supernet_registry.registry.worker',"
        " '--address', '127.0.0.1:1',"
        " '--parent-pid', str(__import__('os').getpid())], stderr=open(sys.argv[1], 'wb'))\n"
        "print(worker.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    log = tmp_path / "worker.log"
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(log)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    parent.stdout.readline()
    while "Asking again" not in (log.read_text() if log.exists() else ""):
        assert parent.poll() is None
        time.sleep(0.1)
    parent.stdin.close()
    parent.wait()
    parent.stdout.close()
    while not re.search("has left", log.read_text()):
        time.sleep(0.1)
    assert "No server answers at 127.0.0.1:1" in log.read_text()


def test_a_worker_loads_no_faiss_no_database_and_no_compiler() -> None:
    """torch and FAISS would fight over OpenMP threads; the worker is only a gRPC client. PyTorch's compiler, which its
    optimisers load unless prevented, costs a worker's first search seconds."""
    code = (
        "import sys, supernet_registry.registry.worker.process\n"
        "from supernet_registry.search.recipe import Recipe\n"
        "from supernet_registry.search.runs.pipeline import run_pipeline\n"
        "from tests.tiny_search import tiny_dataset, tiny_space\n"
        "recipe = Recipe.for_space(tiny_space()).override(batch_size=16, epochs=1, child_epochs=1)\n"
        "run_pipeline(tiny_dataset(), tiny_space(), recipe, seed=0, device='cpu')\n"
        "unwanted = ('faiss', 'sqlalchemy', 'mlflow', 'ot', 'torch._dynamo')\n"
        "print([name for name in unwanted if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip() == "[]"


def test_openmp_is_set_up_before_torch_is_imported() -> None:
    """OpenMP reads its environment once: importing the worker must not import torch, and its settings must hold."""
    code = (
        "import os, sys, supernet_registry.registry.worker.process as w\n"
        "assert 'torch' not in sys.modules\n"
        "w.limit_threads()\n"
        "import torch\n"
        "print(torch.get_num_threads(), os.environ['OMP_WAIT_POLICY'])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.split() == ["1", "PASSIVE"]


def start_group(processes: Processes, address: str, *arguments: str) -> list[subprocess.Popen[bytes]]:
    """Two workers as `torchrun --nproc-per-node 2 -m supernet_registry.registry.worker` starts them: the first
    leads."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    words = ["--address", address, "--device", "cpu", *arguments]
    return [processes.start("supernet_registry.registry.worker", *words, RANK=str(rank), **place) for rank in (0, 1)]


def test_two_processes_run_one_search_together(registry_server, connect, processes: Processes) -> None:
    client = connect(registry_server.address)
    job = client.submit_search(tiny_dataset(), name="together", **QUICK, source="scratch", space=tiny_space())
    group = start_group(processes, registry_server.address, "--once")
    assert [process.wait() for process in group] == [0, 0], processes.log(group[1])
    done = client.get_search_job(job.name)
    assert done.state is JobState.SUCCEEDED, done.error
    assert client.get_version(done.version).child_blob
    assert "on 2 × cpu" in processes.log(group[0])


def test_a_group_that_loses_a_process_gives_its_job_back(registry_server, connect, processes: Processes) -> None:
    """SIGKILL of the follower in mid-search: the leader ends, and a worker alone goes on from the checkpoint."""
    client = connect(registry_server.address)
    job = submit(client)
    leader, follower = start_group(processes, registry_server.address)
    follow_until(client, job, in_epoch(3))
    follower.kill()
    assert leader.wait() != 0
    assert "does not answer" in processes.log(leader)
    second = processes.worker(registry_server.address)
    ended = client.wait_search_job(job.name)
    assert (ended.state, ended.attempt) == (JobState.SUCCEEDED, 2), ended.error
    assert "resumed from a checkpoint" in processes.log(second)


def test_cuda_graphs_without_a_gpu_are_refused(processes: Processes) -> None:
    worker = processes.worker("127.0.0.1:9", "--cuda-graphs")
    assert worker.wait(60) == 2
    assert "CUDA graphs need a GPU" in processes.log(worker)
