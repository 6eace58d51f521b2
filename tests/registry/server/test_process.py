"""The server as a process: kept promises across SIGKILL, a clean SIGTERM, and what it imports."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from supernet_registry.clients.registry_client import RegistryClient
from supernet_registry.clients.wire.resources import JobState, Metrics, Supernet, SupernetVersion
from supernet_registry.registry.server.lock import read_server_file
from supernet_registry.search import errors
from tests.registry.server.server_tools import GENOTYPE, job_for, make_dataset, weights_blob

ROOT = Path(__file__).parents[3]


@contextlib.contextmanager
def server_process(data_dir: Path, *options: str) -> Iterator[tuple[subprocess.Popen, str]]:
    """A server in a process of its own: (process, address); killed at the end if it still runs."""
    argv = [
        sys.executable,
        "-m",
        "supernet_registry.registry.server",
        "--data-dir",
        str(data_dir),
        "--address",
        "127.0.0.1:0",
        *options,
    ]
    with (data_dir.parent / "server.log").open("ab") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
    try:
        while (read_server_file(data_dir) or {}).get("pid") != process.pid:
            assert process.poll() is None, (data_dir.parent / "server.log").read_text()
            time.sleep(0.02)
        yield process, read_server_file(data_dir)["address"]
    finally:
        process.kill()
        process.wait()


def test_nothing_acknowledged_is_lost_when_the_server_is_killed(tmp_path):
    """Writers of three kinds run into a SIGKILL and go on with the next server; whatever they were told is true."""
    data_dir = tmp_path / "registry"
    supernets: list[str] = []
    blobs: dict[str, bytes] = {}
    jobs: list[str] = []
    enough, stop = threading.Event(), threading.Event()

    def write_supernet(client, i) -> None:
        supernets.append(client.create_supernet(f"s{i}", Supernet()).name)

    def write_blob(client, i) -> None:
        data = b"%d" % i * 100_000
        blobs[client.upload_blob(data)] = data

    def write_job(client, i) -> None:
        jobs.append(client.create_search_job(job_for(dataset, f"j{i}")).name)

    def keep(write) -> None:
        with RegistryClient(address) as client:
            for i in itertools.count():
                if stop.is_set():
                    return
                with contextlib.suppress(errors.SupernetRegistryError):
                    write(client, i)
                if min(len(supernets), len(blobs), len(jobs)) >= 5:
                    enough.set()

    with server_process(data_dir) as (process, address):
        with RegistryClient(address) as client:
            dataset = client.register_dataset(make_dataset(1))
        writers = [threading.Thread(target=keep, args=(write,)) for write in (write_supernet, write_blob, write_job)]
        for writer in writers:
            writer.start()
        enough.wait()
        process.kill()
        process.wait()

    with server_process(data_dir, "--address", address), RegistryClient(address) as client:
        stop.set()
        for writer in writers:
            writer.join()
        assert client.get_dataset(dataset.name) == dataset
        assert set(supernets) <= {item.name for item in client.list_supernets()}
        listed = {job.name: job for job in client.list_search_jobs()}
        assert set(jobs) <= set(listed)
        assert all(client.get_supernet(job.supernet) for job in listed.values())
        for name, data in blobs.items():
            assert client.download_blob(name) == data


def test_a_worker_goes_on_after_the_server_was_killed_and_started_again(tmp_path):
    """Its lease is in the database: it renews with the same fencing token and writes its result back."""
    data_dir = tmp_path / "registry"
    with server_process(data_dir) as (process, address), RegistryClient(address) as client:
        job = client.create_search_job(job_for(client.register_dataset(make_dataset(1))))
        lease, _, _ = client.lease_search_job("w", device="cpu")
        process.kill()
    with server_process(data_dir) as (_, address), RegistryClient(address) as client:
        renewed, cancelled = client.renew_lease(lease)
        assert renewed.fence == lease.fence
        assert not cancelled
        draft = SupernetVersion(
            weights_blob=client.upload_blob(weights_blob()), genotype=GENOTYPE, metrics=Metrics(val_accuracy=0.9)
        )
        client.complete_search_job(lease, draft)
        assert client.get_search_job(job.name).state is JobState.SUCCEEDED


def test_sigterm_drains_and_leaves_nothing_behind(tmp_path):
    with server_process(tmp_path / "registry") as (process, address), RegistryClient(address) as client:
        client.get_encoder()
        process.terminate()
        assert process.wait() == 0
    assert read_server_file(tmp_path / "registry") is None


def test_a_server_leaves_when_its_supervisor_was_killed(tmp_path):
    """The one who would stop it is gone; nobody else would."""
    start = (
        "import subprocess, sys, os, time\n"
        "argv = [sys.executable, '-m', 'supernet_registry.registry.server',\n"
        f"        '--data-dir', {str(tmp_path / 'registry')!r},\n"
        "        '--address', '127.0.0.1:0', '--parent-pid', str(os.getpid())]\n"
        "subprocess.Popen(argv, start_new_session=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", start]) as parent:
        while (found := read_server_file(tmp_path / "registry")) is None:
            time.sleep(0.02)
        parent.kill()
    while read_server_file(tmp_path / "registry") is not None:  # it removes the file when it leaves
        time.sleep(0.02)
    while is_running(found["pid"]):
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--address", "0.0.0.0:0"], 2, "other machines"),
        (["--address", "nonsense"], 2, "other machines"),
        (["--address", "127.0.0.1:0", "--data-dir", "/proc/nowhere"], 2, "cannot be used"),
    ],
)
def test_a_server_that_cannot_start_says_why_in_one_line(tmp_path, options, code, words):
    argv = [
        sys.executable,
        "-m",
        "supernet_registry.registry.server",
        "--data-dir",
        str(tmp_path / "registry"),
        *options,
    ]
    ended = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert ended.returncode == code
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr


SERVE_AND_LOOK = """
import sys
from pathlib import Path
from tests.registry.server.server_tools import make_dataset
from supernet_registry.clients.registry_client import RegistryClient
from supernet_registry.registry.server.thread import ServerThread
from supernet_registry.registry.settings import Settings
with ServerThread(Settings(data_dir=Path({data_dir!r}), address="127.0.0.1:0")) as server:
    with RegistryClient(server.address, timeout_s=250.0) as client:  # its transport's process takes seconds to start
        stored = client.register_dataset(make_dataset(1))
        client.nearest(make_dataset(2), include_class_coupling=True)
print(*sorted({{name.partition(".")[0] for name in sys.modules}}))
"""


def test_the_server_never_imports_torch_or_mlflow(tmp_path):
    """torch and faiss each bring an OpenMP runtime and change each other's thread counts."""
    script = SERVE_AND_LOOK.format(data_dir=str(tmp_path / "registry"))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("POT_")}
    command = [sys.executable, "-c", script]
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=ROOT)
    modules = set(output.stdout.split())
    assert not modules & {"torch", "torchvision", "mlflow"}
    assert {"faiss", "ot", "sqlalchemy", "grpc"} <= modules
