"""Small real gRPC servers that misbehave on purpose, on loopback."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from service import running_service
from supernet_registry.v1 import (
    blobs_pb2_grpc,
    datasets_pb2_grpc,
    searches_pb2_grpc,
    supernets_pb2_grpc,
    workers_pb2_grpc,
)

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
        server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
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
