"""Servers of several kinds, all real and on loopback, and the command line against them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from supernet_registry.clients.cli import app, run
from supernet_registry.v1 import (
    blobs_pb2_grpc,
    datasets_pb2_grpc,
    searches_pb2_grpc,
    supernets_pb2_grpc,
    workers_pb2_grpc,
)
from tests.clients.service import ROOT, TINY, SpeaksTheProtocol, running_service, write_bars

Cli = Callable[..., SimpleNamespace]
MODULES = (blobs_pb2_grpc, datasets_pb2_grpc, searches_pb2_grpc, supernets_pb2_grpc, workers_pb2_grpc)


def add(servicer: Any, server: grpc.Server) -> None:
    """Register a servicer with all services that its class derives from."""
    for module in MODULES:
        for name in dir(module):
            if name.endswith("Servicer") and isinstance(servicer, getattr(module, name)):
                getattr(module, f"add_{name}_to_server")(servicer, server)


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """`serve(servicer, ...)` starts a server with these servicers and returns its address."""
    servers: list[grpc.Server] = []

    def start(*servicers: Any, port: int = 0) -> str:
        server = grpc.server(
            ThreadPoolExecutor(8), interceptors=[SpeaksTheProtocol()], options=[("grpc.so_reuseport", 0)]
        )
        for servicer in servicers:
            add(servicer, server)
        bound = server.add_insecure_port(f"127.0.0.1:{port}")
        server.start()
        servers.append(server)
        return f"127.0.0.1:{bound}"

    yield start
    for server in servers:
        server.stop(None).wait()


@pytest.fixture(scope="session")
def service_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Server and worker in processes of their own, shared by all tests that ask for them: use names of your own."""
    with running_service(tmp_path_factory.mktemp("service") / "data") as address:
        yield address


@pytest.fixture(scope="session")
def bars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bars(tmp_path_factory.mktemp("tasks") / "bars.npz", seed=1)


@pytest.fixture
def cli_at(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Cli]:
    """Runs command lines against a server: `.code`, `.out`, `.err`, `.json`."""
    monkeypatch.setenv("COLUMNS", "80")

    def at(address: str) -> Cli:
        def call(*words: object) -> SimpleNamespace:
            code = run(app, ["--address", address, *(str(word) for word in words)])
            captured = capsys.readouterr()
            parsed = json.loads(captured.out) if "--json" in words else None
            return SimpleNamespace(code=code, out=captured.out, err=captured.err, json=parsed)

        return call

    return at


@pytest.fixture
def cli(service_address: str, cli_at: Callable[[str], Cli]) -> Cli:
    """Against the whole service."""
    return cli_at(service_address)


@pytest.fixture
def idle(registry_server: Any, cli_at: Callable[[str], Cli]) -> Cli:
    """Against a server without a worker, where jobs stay queued."""
    return cli_at(registry_server.address)


@pytest.fixture(scope="session")
def searched(service_address: str, bars: Path) -> dict[str, object]:
    """A finished search on the bars, as its JSON."""
    command = [
        sys.executable,
        "-m",
        "supernet_registry.clients.cli",
        "--address",
        service_address,
        "search",
        str(bars),
        "--name",
        "bars",
    ]
    result = subprocess.run([*command, *TINY, "--json"], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    parsed: dict[str, object] = json.loads(result.stdout)
    return parsed
