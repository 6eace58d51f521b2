"""Old and new understand each other, or say so: the version of the protocol in every call and every answer."""

from __future__ import annotations

import asyncio
from concurrent import futures

import grpc
import pytest

from supernet_registry import AsyncRegistryClient, RegistryClient
from supernet_registry.clients.wire.errors import from_rpc_error
from supernet_registry.clients.wire.protocol import HEADER, PROTOCOL, check_client
from supernet_registry.errors import ProtocolMismatch
from supernet_registry.v1 import datasets_pb2, datasets_pb2_grpc, workers_pb2, workers_pb2_grpc


@pytest.mark.parametrize(("metadata", "said"), [((), 1), ((("supernet-registry-protocol", "99"),), 99)])
def test_a_client_or_worker_of_another_version_is_told_both(registry_server, metadata, said):
    """Releases before the version was said speak version 1; nothing of their request is looked at."""
    with grpc.insecure_channel(registry_server.address) as channel:
        client = datasets_pb2_grpc.DatasetServiceStub(channel)
        worker = workers_pb2_grpc.WorkerServiceStub(channel)
        for call, request in (
            (client.GetEncoder, datasets_pb2.GetEncoderRequest(name="nonsense")),
            (worker.LeaseSearchJob, workers_pb2.LeaseSearchJobRequest(worker="w", device="cpu")),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                call(request, timeout=30, metadata=metadata)
            error = from_rpc_error(caught.value)
            assert isinstance(error, ProtocolMismatch)
            assert (error.metadata["client"], error.metadata["server"]) == (str(said), str(PROTOCOL))
            assert f"version {said}" in str(error)
            assert str(PROTOCOL) in str(error)


class OldServer(datasets_pb2_grpc.DatasetServiceServicer):
    """Answers as a release did that knew no versions."""

    def GetEncoder(self, request, context):  # noqa: N802
        return datasets_pb2.Encoder(name="encoder", encoder="pixels")


def test_an_older_server_is_told_from_ours():
    server = grpc.server(futures.ThreadPoolExecutor(1))
    datasets_pb2_grpc.add_DatasetServiceServicer_to_server(OldServer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    address = f"127.0.0.1:{port}"

    async def ask() -> None:
        async with AsyncRegistryClient(address) as later:
            await later.get_encoder()

    try:
        with RegistryClient(address) as client:
            for _ in range(2):
                with pytest.raises(ProtocolMismatch, match=f"version 1, this client {PROTOCOL}"):
                    client.get_encoder()
        with pytest.raises(ProtocolMismatch, match="version 1"):
            asyncio.run(ask())
    finally:
        server.stop(None)


@pytest.mark.parametrize("text", ["", "-1", "two", "9" * 40, b"2", "²"])
def test_a_version_that_is_no_number_is_another_version(text):
    with pytest.raises(ProtocolMismatch):
        check_client([(HEADER[0], text)])
