"""Addresses, tokens, deadlines and retries, over real channels."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from supernet_registry import RegistryClient
from supernet_registry.clients.channel.connection import SERVICE_CONFIG, Target
from supernet_registry.clients.wire.errors import DeadlineExceeded, InvalidArgument, NotFound, Unavailable
from supernet_registry.clients.wire.protocol import HEADER
from supernet_registry.v1 import datasets_pb2
from supernet_registry.v1.datasets_pb2_grpc import DatasetServiceServicer
from tests.clients.service import SpeaksTheProtocol


class Recording(DatasetServiceServicer):
    """Answers GetDataset after some failures, and notes what came."""

    def __init__(self, failures: int = 0, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> None:
        self.failures, self.code = failures, code
        self.calls: list[dict[str, Any]] = []

    def GetDataset(self, request: datasets_pb2.GetDatasetRequest, context: Any) -> datasets_pb2.Dataset:  # noqa: N802
        self.calls.append(dict(context.invocation_metadata()) | {"remaining": context.time_remaining()})
        if request.name == "datasets/slow":
            context.add_callback(lambda: None)
            while context.is_active():
                time.sleep(0.01)
        if len(self.calls) <= self.failures:
            context.abort(self.code, "not now")
        return datasets_pb2.Dataset(name=request.name)


def test_the_address_comes_from_the_argument_the_environment_or_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this order."""
    assert Target(None, None, None).address == "127.0.0.1:50551"
    monkeypatch.setenv("SUPERNET_REGISTRY_ADDRESS", "unix:/run/registry")
    assert Target(None, None, None).address == "unix:/run/registry"
    assert Target("localhost:7", None, None).address == "localhost:7"
    assert Target("https://registry.example:443", None, None).tls


@pytest.mark.parametrize("address", ["registry.example:50551", "10.0.0.7:50551", "[2001:db8::1]:50551"])
def test_a_token_is_refused_on_plaintext_to_another_machine(address: str) -> None:
    """Whoever listens on the way could use it."""
    with pytest.raises(InvalidArgument) as caught:
        RegistryClient(address, token="secret")
    assert caught.value.field == "token"


@pytest.mark.parametrize("address", ["127.0.0.1:1", "localhost:1", "[::1]:1", "unix:/run/registry"])
def test_a_token_may_travel_within_this_machine(address: str) -> None:
    """Loopback and sockets need no TLS; there it goes as plain metadata."""
    assert Target(address, "secret", None).metadata == (HEADER, ("authorization", "Bearer secret"))


def test_on_tls_the_token_is_part_of_the_channel_credentials() -> None:
    """Call credentials cannot leave an encrypted channel by mistake; plain metadata could."""
    target = Target("https://registry.example", "secret", None)
    assert target.metadata == (HEADER,)
    assert isinstance(target.credentials, grpc.ChannelCredentials)


def test_certificates_that_cannot_be_read_are_an_invalid_argument(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By argument or environment: the error names the file."""
    with pytest.raises(InvalidArgument, match="missing"):
        RegistryClient("localhost:1", root_certificates=tmp_path / "missing.pem")
    monkeypatch.setenv("SUPERNET_REGISTRY_ROOT_CERTIFICATES", str(tmp_path / "missing.pem"))
    with pytest.raises(InvalidArgument, match="missing"):
        RegistryClient("https://localhost:1")
    assert not Target("localhost:1", None, None).tls


def test_the_token_and_a_deadline_arrive_with_every_call(serve: Callable[..., str]) -> None:
    """The server sees who calls, and how long the caller will listen."""
    servicer = Recording()
    with RegistryClient(serve(servicer), token="secret", timeout_s=5) as client:
        client.get_dataset("datasets/a")
    assert servicer.calls[0]["authorization"] == "Bearer secret"
    # 5 s, not the default 30: gRPC rounds the timeout up on the wire, by some milliseconds.
    assert 0 < servicer.calls[0]["remaining"] < 6


def test_a_unix_socket_is_an_address(tmp_path: Path, serve: Callable[..., str]) -> None:
    """No port needed on one machine."""
    from concurrent.futures import ThreadPoolExecutor

    from supernet_registry.v1.datasets_pb2_grpc import add_DatasetServiceServicer_to_server

    server = grpc.server(ThreadPoolExecutor(1), interceptors=[SpeaksTheProtocol()])
    add_DatasetServiceServicer_to_server(Recording(), server)
    address = f"unix:{tmp_path}/registry.sock"
    server.add_insecure_port(address)
    server.start()
    with RegistryClient(address) as client:
        assert client.get_dataset("datasets/a").name == "datasets/a"
    server.stop(None).wait()


def test_unavailable_is_retried(serve: Callable[..., str]) -> None:
    """Two refusals, then an answer: the caller notices nothing."""
    servicer = Recording(failures=2)
    with RegistryClient(serve(servicer)) as client:
        assert client.get_dataset("datasets/a").name == "datasets/a"
    assert len(servicer.calls) == 3


def test_decisions_of_the_server_are_not_retried(serve: Callable[..., str]) -> None:
    """NOT_FOUND stays NOT_FOUND, and is asked for once."""
    servicer = Recording(failures=1, code=grpc.StatusCode.NOT_FOUND)
    with RegistryClient(serve(servicer)) as client, pytest.raises(NotFound):
        client.get_dataset("datasets/a")
    assert len(servicer.calls) == 1


def test_a_server_that_does_not_answer_ends_in_deadline_exceeded(serve: Callable[..., str]) -> None:
    """No call hangs for ever."""
    with RegistryClient(serve(Recording()), timeout_s=0.3) as client, pytest.raises(DeadlineExceeded):
        client.get_dataset("datasets/slow")


def test_no_server_at_all_is_unavailable() -> None:
    """Port 1 is closed: the error says so before the deadline of the call is over."""
    with RegistryClient("127.0.0.1:1", timeout_s=60) as client, pytest.raises(Unavailable) as caught:
        client.get_encoder()
    assert caught.value.metadata["address"] == "127.0.0.1:1"


def test_the_service_config_retries_nothing_but_unavailable() -> None:
    """As the design says; uploads are excepted, because they resume by themselves."""
    policies = [config["retryPolicy"] for config in SERVICE_CONFIG["methodConfig"] if "retryPolicy" in config]  # type: ignore[attr-defined]
    assert [policy["retryableStatusCodes"] for policy in policies] == [["UNAVAILABLE"]]
    assert json.loads(json.dumps(SERVICE_CONFIG)) == SERVICE_CONFIG
