"""MLflow down, hanging, and back: nothing waits for it, nothing is lost, nothing comes twice."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from mlflow import MlflowClient

from supernet_registry.registry.catalog import Catalog
from supernet_registry.registry.clock import utc_now
from supernet_registry.registry.publisher.drain import Publisher, Report
from supernet_registry.registry.publisher.store import TrackingStore, connect, tracking_store
from supernet_registry.registry.settings import Settings
from tests.registry.publisher.publisher_life import HangingServer, Life, content, run_of

# MLflow 3.17's own tables use a loader strategy that SQLAlchemy 2.1 deprecates; the warning comes at their import.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")


class Server:
    """A real `mlflow server` on loopback; `pause` makes it hang with its connections open."""

    def __init__(self, folder: Path, empty_store: Path, port: int) -> None:
        shutil.copy(empty_store, folder / "server.db")
        self.store = TrackingStore(f"http://127.0.0.1:{port}", None)
        argv = [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{folder / 'server.db'}"),
            *("--artifacts-destination", str(folder / "server-artifacts")),
        ]
        with (folder / "server.log").open("w") as log:
            self._process = subprocess.Popen(
                argv,
                stdout=log,
                stderr=log,
                cwd=folder,
                start_new_session=True,
                # Eight processes for jobs of MLflow's own, which take longer to start than all the rest.
                env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            )

    def wait_until_ready(self) -> None:
        """Return once it answers (pytest's own timeout ends a server that never does)."""
        while True:
            assert self._process.poll() is None, "mlflow server died"
            try:
                with urllib.request.urlopen(f"{self.store.uri}/health", timeout=5):
                    return
            except OSError:
                time.sleep(0.1)

    def pause(self) -> None:
        os.killpg(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.killpg(self._process.pid, signal.SIGCONT)

    def stop(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@pytest.fixture
def port() -> Iterator[int]:
    """A port that nobody listens on. Bound all along, else the system gives it to the next server that asks for any."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # lets the test's own server bind it as well
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@pytest.fixture
def starting(tmp_path: Path, empty_store: Path) -> Iterator[list[Server]]:
    """Servers to be stopped at the end of the test."""
    servers: list[Server] = []
    yield servers
    for server in servers:
        server.stop()


def test_writers_do_not_wait_while_mlflow_hangs(
    life: Life, catalog: Catalog, hanging_server: HangingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The publisher holds no transaction while it waits for an answer, so searches go on."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "200")
    life.finished_job("letters", "greek")
    waiting = catalog.outbox.backlog().count
    reports: list[Report] = []
    publisher = Publisher(catalog, TrackingStore(hanging_server.uri, None))
    thread = threading.Thread(target=lambda: reports.append(publisher.drain()))
    thread.start()
    assert hanging_server.called.wait(120)
    job = life.finished_job("letters", "latin")
    assert job.version == "supernets/letters/versions/2"
    assert reports == []
    hanging_server.close()
    thread.join()
    assert (reports[0].published, reports[0].refused) == (0, 0)
    assert reports[0].trouble
    assert catalog.outbox.backlog().count > waiting


def test_a_hanging_server_is_given_up_after_the_timeout(
    life: Life, catalog: Catalog, hanging_server: HangingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass ends by itself; the backlog stays as it was."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    life.finished_job("letters", "greek")
    waiting = catalog.outbox.backlog().count
    report = Publisher(catalog, TrackingStore(hanging_server.uri, None)).drain()
    assert "timeout" in report.trouble
    assert catalog.outbox.backlog().count == waiting


def test_the_backlog_of_an_outage_drains_once(
    life: Life,
    catalog: Catalog,
    starting: list[Server],
    port: int,
    tmp_path: Path,
    empty_store: Path,
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Down, then there, then frozen in the middle of work, then back: in the end it has what the catalog has."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
    publisher = Publisher(catalog, TrackingStore(f"http://127.0.0.1:{port}", None))
    source = life.finished_job("letters", "greek", stream="alphabets").version
    assert publisher.drain().trouble
    server = Server(tmp_path, empty_store, port)
    starting.append(server)
    life.finished_job("letters", "latin", source=source)
    server.wait_until_ready()
    drain_all(publisher, catalog)
    server.pause()
    life.finished_job("letters", "thai", source=source)
    life.finished_job("digits", "arabic", stream="numbers")
    assert publisher.drain().trouble
    server.resume()
    drain_all(publisher, catalog)
    assert content(connect(server.store)) == content_of_an_undisturbed_store(catalog, data_dir)


def test_one_resource_in_trouble_does_not_hold_up_the_others(
    life: Life, catalog: Catalog, data_dir: Path, embedded: MlflowClient
) -> None:
    """What failed is tried again after the rest, and published once the trouble is over."""
    artifacts = data_dir / "mlflow" / "artifacts"
    artifacts.mkdir()
    (artifacts / "alphabets").write_text("in the way of a folder")
    life.finished_job("letters", "greek", stream="alphabets")
    numbers = life.finished_job("digits", "arabic", stream="numbers")
    store = tracking_store(data_dir)
    assert Publisher(catalog, store).drain().trouble
    with later(data_dir, hours=1) as catalog:
        assert Publisher(catalog, store).drain().trouble
        assert run_of(embedded, numbers).info.status == "FINISHED"
    (artifacts / "alphabets").unlink()
    with later(data_dir, hours=2) as catalog:
        drain_all(Publisher(catalog, store), catalog)
    assert content(embedded)["versions"] == 2


def later(data_dir: Path, *, hours: int) -> Catalog:
    """The catalog when nothing is deferred any more."""
    return Catalog.open(Settings(data_dir=data_dir), clock=lambda: utc_now() + timedelta(hours=hours))


def drain_all(publisher: Publisher, catalog: Catalog) -> None:
    """Pass after pass, as the process does, until nothing waits."""
    while catalog.outbox.backlog().count:
        assert publisher.drain().refused == 0
    assert catalog.outbox.dead() == []


def content_of_an_undisturbed_store(catalog: Catalog, data_dir: Path) -> dict[str, int]:
    """What the embedded store has after everything was published to it in one pass."""
    store = tracking_store(data_dir)
    publisher = Publisher(catalog, store)
    publisher.rebuild()
    assert publisher.drain().trouble == ""
    client: MlflowClient = connect(store)
    return content(client)
