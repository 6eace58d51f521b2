"""Encrypted channels: the server is verified, and the token goes with every call and nowhere else."""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from supernet_registry import RegistryClient
from supernet_registry.errors import Unavailable
from supernet_registry.v1 import datasets_pb2
from supernet_registry.v1.datasets_pb2_grpc import DatasetServiceServicer, add_DatasetServiceServicer_to_server
from tests.clients.service import SpeaksTheProtocol


class Recording(DatasetServiceServicer):
    def __init__(self) -> None:
        self.authorizations: list[Any] = []

    def GetDataset(self, request: datasets_pb2.GetDatasetRequest, context: Any) -> datasets_pb2.Dataset:  # noqa: N802
        self.authorizations += [value for key, value in context.invocation_metadata() if key == "authorization"]
        return datasets_pb2.Dataset(name=request.name)


def self_signed() -> tuple[bytes, bytes]:
    """(key, certificate) for 127.0.0.1, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "registry.test")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return pem, certificate.public_bytes(serialization.Encoding.PEM)


@pytest.fixture
def secure() -> Iterator[tuple[str, bytes, Recording]]:
    """(address, certificate, servicer) of a TLS server."""
    key, certificate = self_signed()
    servicer = Recording()
    server = grpc.server(ThreadPoolExecutor(2), interceptors=[SpeaksTheProtocol()])
    add_DatasetServiceServicer_to_server(servicer, server)
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, certificate)]))
    server.start()
    yield f"127.0.0.1:{port}", certificate, servicer
    server.stop(None).wait()


def test_the_token_is_sent_once_on_an_encrypted_channel(secure: tuple[str, bytes, Recording], tmp_path: Path) -> None:
    """Root certificates by bytes or by file turn TLS on."""
    address, certificate, servicer = secure
    path = tmp_path / "root.pem"
    path.write_bytes(certificate)
    for root in (certificate, path):
        with RegistryClient(address, token="secret", root_certificates=root) as client:
            assert client.get_dataset("datasets/a").name == "datasets/a"
    assert servicer.authorizations == ["Bearer secret"] * 2


def test_a_server_that_cannot_prove_itself_gets_nothing(secure: tuple[str, bytes, Recording]) -> None:
    """A certificate of somebody else: no call, no token."""
    address, _, servicer = secure
    _, other = self_signed()
    client = RegistryClient(address, token="secret", root_certificates=other)
    with client, pytest.raises(Unavailable, match="root_certificates"):
        client.get_dataset("datasets/a")
    assert servicer.authorizations == []
