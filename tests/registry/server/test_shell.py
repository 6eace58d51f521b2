"""What surrounds every call: parsing, errors, admission, draining, health, limits."""

from __future__ import annotations

import shutil
import subprocess
import threading
import uuid

import grpc
import pytest
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supernet_registry.clients.prepare import dataset_record
from supernet_registry.clients.registry_client import RegistryClient
from supernet_registry.clients.wire.convert import to_proto
from supernet_registry.clients.wire.protocol import HEADER
from supernet_registry.clients.wire.resources import Dataset, Supernet
from supernet_registry.registry.server import auth, rpc
from supernet_registry.registry.server.thread import ServerThread
from supernet_registry.registry.settings import Settings
from supernet_registry.search import errors
from supernet_registry.search.similarity import load_encoder, make_sketch
from supernet_registry.v1 import blobs_pb2, datasets_pb2, searches_pb2, supernets_pb2, workers_pb2
from tests.registry.server.server_tools import GENOTYPE, job_for, make_dataset

FILES = (blobs_pb2, datasets_pb2, searches_pb2, supernets_pb2, workers_pb2)
METHODS = [
    method for file in FILES for service in file.DESCRIPTOR.services_by_name.values() for method in service.methods
]
UNARY = [method for method in METHODS if not (method.client_streaming or method.server_streaming)]
ACCEPTABLE = set(grpc.StatusCode) - {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNIMPLEMENTED}


def path_of(method) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"


@pytest.fixture
def channel(registry_server):
    with grpc.insecure_channel(registry_server.address) as opened:
        yield opened


def send(channel, method, raw: bytes, **options) -> grpc.StatusCode:
    """Send bytes to a method; the code of the answer."""
    if method.client_streaming:
        call = channel.stream_unary(path_of(method))
    elif method.server_streaming:
        call = channel.unary_stream(path_of(method))
    else:
        call = channel.unary_unary(path_of(method))
    options = {"timeout": 30, **options, "metadata": (HEADER, *options.get("metadata", ()))}
    try:
        answer = call(iter([raw]) if method.client_streaming else raw, **options)
        if method.server_streaming:
            list(answer)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


# Text and numbers as an attacker, a bug or a hurried user would send them.
KINDS = st.sampled_from(["datasets", "supernets", "searchJobs", "blobs", "uploads"])
REST = st.sampled_from(["", "x", "-", "../x", "a" * 70, "0" * 32, "0" * 64, "x/versions/1", "tiny/versions/head"])
NAMES = st.builds("{}/{}".format, KINDS, REST)
TEXTS = NAMES | st.text(max_size=30) | st.sampled_from(["", "\0", "head", "é" * 40, "%s", "' OR 1=1 --", "supernets/-"])
FIELD_VALUES = {
    "bytes": st.binary(max_size=40),
    "double": st.floats() | st.sampled_from([0.0, 1.0, -1.0]),
    "bool": st.booleans(),
}
RANGES = {"int32": (-(2**31), 2**31 - 1), "int64": (-(2**63), 2**63 - 1), "fixed32": (0, 2**32 - 1)}


def kind_of(field) -> str:
    return {
        field.TYPE_STRING: "string",
        field.TYPE_BYTES: "bytes",
        field.TYPE_DOUBLE: "double",
        field.TYPE_BOOL: "bool",
        field.TYPE_INT32: "int32",
        field.TYPE_INT64: "int64",
        field.TYPE_FIXED32: "fixed32",
        field.TYPE_ENUM: "int32",
        field.TYPE_MESSAGE: "message",
    }[field.type]


def values(field, texts, depth):
    """Any value of a field."""
    kind = kind_of(field)
    if kind == "message":
        return messages(field.message_type, texts, depth + 1)
    if kind == "string":
        return texts
    if kind in RANGES:
        low, high = RANGES[kind]
        return st.sampled_from([0, 1, 2, 1000, low, high]) | st.integers(low, high)
    return FIELD_VALUES[kind]


def is_map(field) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


@st.composite
def messages(draw, descriptor, texts, depth=0):
    """Any message of a type: about half of its fields set, to any value that the wire can carry."""
    message = GetMessageClass(descriptor)()
    for field in descriptor.fields:
        if draw(st.booleans()) and not is_map(field) and (depth < 4 or field.message_type is None):
            set_field(message, field, draw(values(field, texts, depth)))
    return message


@st.composite
def nearly(draw, valid, texts, depth=0):
    """A valid message with one field, somewhere in it, set to any value."""
    message = type(valid)()
    message.CopyFrom(valid)
    fields = [field for field in message.DESCRIPTOR.fields if not is_map(field)]
    field = draw(st.sampled_from(fields))
    if kind_of(field) == "message" and not field.is_repeated and message.HasField(field.name) and draw(st.booleans()):
        getattr(message, field.name).CopyFrom(draw(nearly(getattr(message, field.name), texts, depth + 1)))
    else:
        set_field(message, field, draw(values(field, texts, depth)))
    return message


def set_field(message, field, value) -> None:
    if field.is_repeated:
        getattr(message, field.name).append(value)
    elif kind_of(field) == "message":
        getattr(message, field.name).CopyFrom(value)
    else:
        setattr(message, field.name, value)


@pytest.fixture
def stored(client, finish) -> dict[str, str]:
    """One of everything, so that requests can name what exists."""
    version = finish(make_dataset(1))
    job = client.create_search_job(job_for(client.register_dataset(make_dataset(2))))
    lease, _, _ = client.lease_search_job("w", device="cpu", job=job.name)
    return {
        "supernet": "supernets/tiny",
        "version": version.name,
        "dataset": version.dataset,
        "blob": version.weights_blob,
        "finished": version.job,
        "job": lease.job,
        "fence": str(lease.fence),
    }


def valid_requests(stored) -> list:
    """(method, request that succeeds or fails for one reason only)."""
    data = make_dataset(3)
    sketch = make_sketch(data, load_encoder("pixels")).to_bytes()
    dataset = to_proto(dataset_record(data, retain_images=False), datasets_pb2.Dataset)
    job = to_proto(job_for(Dataset(name=stored["dataset"])), searches_pb2.SearchJob)
    held = {"job": stored["job"], "fence": int(stored["fence"])}
    epoch = searches_pb2.EpochMetrics(phase=1, epoch=1, epochs=2, steps=3, val_accuracy=0.5)
    metrics = supernets_pb2.Metrics(val_accuracy=0.9)
    result = supernets_pb2.SupernetVersion(weights_blob=stored["blob"], genotype=GENOTYPE, metrics=metrics)
    decision = searches_pb2.SourceDecision(source=stored["version"], transfer_mode=1, reason="near", ot_distance=1.0)
    requests = [
        datasets_pb2.CreateDatasetRequest(dataset=dataset, sketch=sketch, request_id=str(uuid.uuid4())),
        datasets_pb2.UpdateDatasetRequest(name=stored["dataset"], display_name="new"),
        datasets_pb2.QueryNearestSourcesRequest(dataset=stored["dataset"], top_k=3, search_space=job.spec.search_space),
        datasets_pb2.ListDatasetsRequest(page_size=1),
        supernets_pb2.CreateSupernetRequest(supernet_id="new", supernet=supernets_pb2.Supernet(description="d")),
        supernets_pb2.UpdateSupernetRequest(name=stored["supernet"], description="d"),
        supernets_pb2.RollbackSupernetRequest(name=stored["supernet"], version=stored["version"], etag="e"),
        supernets_pb2.QueryLineageRequest(name=stored["supernet"]),
        searches_pb2.CreateSearchJobRequest(search_job=job, validate_only=True),
        searches_pb2.ListSearchJobsRequest(state=1, stream="default"),
        workers_pb2.LeaseSearchJobRequest(worker="w", device="cpu"),
        workers_pb2.RenewLeaseRequest(**held),
        workers_pb2.ReportProgressRequest(events=[searches_pb2.JobEvent(epoch=epoch)], **held),
        workers_pb2.ReportProgressRequest(events=[searches_pb2.JobEvent(decision=decision)], **held),
        workers_pb2.SaveCheckpointRequest(checkpoint_blob=stored["blob"], **held),
        workers_pb2.CompleteSearchJobRequest(version=result, **held),
        blobs_pb2.FindMissingBlobsRequest(names=[stored["blob"]]),
        blobs_pb2.StartUploadRequest(blob="blobs/" + "0" * 64, size_bytes=10),
    ]
    of_type = {method.input_type.full_name: method for method in UNARY}
    return [(of_type[request.DESCRIPTOR.full_name], request) for request in requests]


def check_answer(channel, method, request) -> None:
    if method.name == "LeaseSearchJob":
        request.wait_seconds = min(request.wait_seconds, 0.0)  # no waiting
    assert send(channel, method, request.SerializeToString()) in ACCEPTABLE


FUZZ = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]}


@settings(max_examples=200, **FUZZ)
@given(data=st.data())
def test_no_request_makes_the_server_stumble(channel, stored, data):
    """Any message to any unary method gets an answer or a typed error, never INTERNAL or UNKNOWN."""
    method = data.draw(st.sampled_from(UNARY), label="method")
    texts = st.sampled_from(sorted(stored.values())) | TEXTS
    check_answer(channel, method, data.draw(messages(method.input_type, texts), label="request"))


@settings(max_examples=500, **FUZZ)
@given(data=st.data())
def test_no_field_of_a_valid_request_makes_the_server_stumble(channel, stored, data):
    """Requests that are right but for one field get past the first checks."""
    method, valid = data.draw(st.sampled_from(valid_requests(stored)), label="valid")
    texts = st.sampled_from(sorted(stored.values())) | TEXTS
    check_answer(channel, method, data.draw(nearly(valid, texts), label="request"))


def test_bytes_that_are_no_message_are_invalid_arguments(channel):
    for method in METHODS:
        for raw in (b"\xff\xff\xff", b"\x0a\x05ab"):
            assert send(channel, method, raw) is grpc.StatusCode.INVALID_ARGUMENT, (method.name, raw)


def test_text_that_is_not_utf8_is_an_invalid_argument(channel):
    for method in METHODS:
        texts = [field.number for field in method.input_type.fields if kind_of(field) == "string"]
        for number in texts:
            raw = bytes([number << 3 | 2, 2, 0xFF, 0xFE])
            assert send(channel, method, raw) is grpc.StatusCode.INVALID_ARGUMENT, (method.name, number)


def test_a_message_above_the_limit_of_grpc_is_refused_with_a_type(client):
    with pytest.raises(errors.WeightsTooLarge):
        client.create_supernet("large", Supernet(description="x" * 5_000_000))


def test_health_follows_the_server(registry_server, channel):
    stub = health_pb2_grpc.HealthStub(channel)
    for service in ["", *{method.containing_service.full_name for method in METHODS}]:
        answer = stub.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("enabled", [False, True])
def test_reflection_is_there_only_if_asked_for(make_registry_server, enabled):
    server = make_registry_server(reflection=enabled)
    with grpc.insecure_channel(server.address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        answers = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        if enabled:
            listed = {service.name for service in next(answers).list_services_response.service}
            assert {method.containing_service.full_name for method in METHODS} <= listed
        else:
            with pytest.raises(grpc.RpcError) as caught:
                next(answers)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_drained_server_ends_watches_with_draining_and_where_to_go_on(tmp_path):
    with ServerThread(Settings(data_dir=tmp_path / "draining", address="127.0.0.1:0")) as server:
        with RegistryClient(server.address) as other:
            job = other.create_search_job(job_for(other.register_dataset(make_dataset(1))))
        with grpc.insecure_channel(server.address) as channel:
            watch = channel.unary_stream("/supernet_registry.v1.SearchService/WatchSearchJob")
            request = searches_pb2.WatchSearchJobRequest(name=job.name)
            events = watch(request.SerializeToString(), timeout=60, metadata=(HEADER,))
            first = searches_pb2.JobEvent.FromString(next(events))
            seen: list[grpc.RpcError] = []
            reader = threading.Thread(target=lambda: seen.append(failure_of(events)))
            reader.start()
            server_thread_stop(server)
            reader.join()
    assert first.sequence == 1
    assert seen[0].code() is grpc.StatusCode.UNAVAILABLE
    assert "shutting down" in seen[0].details()


def failure_of(events) -> grpc.RpcError:
    try:
        list(events)
    except grpc.RpcError as error:
        return error
    raise AssertionError("the stream ended without an error")


def server_thread_stop(server) -> None:
    """Stop a server from outside of its event loop, as SIGTERM would."""
    import asyncio

    asyncio.run_coroutine_threadsafe(server.stop(), server._notifier._loop).result()


@pytest.fixture
def guarded(make_registry_server, tmp_path):
    """(server with tokens, token of every role)."""
    given, lines = {}, []
    for role in auth.Role:
        given[role], line = auth.new_token(str(role), role)
        lines.append(line)
    (tmp_path / "tokens").write_text("\n".join(lines))
    return make_registry_server(tokens_file=tmp_path / "tokens", reflection=True), given


def test_every_rpc_asks_for_a_token(guarded):
    server, tokens = guarded
    with grpc.insecure_channel(server.address) as channel:
        for method in METHODS:
            check_token(channel, method, tokens)


def check_token(channel, method, tokens) -> None:
    assert send(channel, method, b"") is grpc.StatusCode.UNAUTHENTICATED
    wrong = (("authorization", "Bearer wrong"),)
    assert send(channel, method, b"", metadata=wrong) is grpc.StatusCode.UNAUTHENTICATED
    for role, token in tokens.items():
        code = send(channel, method, b"", metadata=(("authorization", f"Bearer {token}"),))
        denied = code in {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}
        # A writer may lease, but only by name: its empty request is denied by the handler itself.
        allowed = role in auth.METHOD_ROLES[path_of(method)]
        assert denied != allowed or (role is auth.Role.WRITER and method.name == "LeaseSearchJob")


def test_reflection_asks_for_a_token_and_health_does_not(guarded):
    server, _ = guarded
    with grpc.insecure_channel(server.address) as channel:
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        answers = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        assert failure_of(answers).code() is grpc.StatusCode.UNAUTHENTICATED


def test_the_client_gets_typed_refusals(guarded):
    server, tokens = guarded
    with RegistryClient(server.address) as nobody, pytest.raises(errors.Unauthenticated):
        nobody.get_encoder()
    with RegistryClient(server.address, token=tokens[auth.Role.READER]) as reader:
        reader.get_encoder()
        with pytest.raises(errors.PermissionDenied):
            reader.register_dataset(make_dataset(1))


def test_a_server_that_others_could_reach_does_not_start_without_tls_and_tokens(tmp_path):
    with (
        pytest.raises(errors.InvalidArgument, match="other machines"),
        ServerThread(Settings(data_dir=tmp_path / "open", address="0.0.0.0:0")),
    ):
        pass
    assert not (tmp_path / "open").exists()


def test_two_servers_do_not_share_a_data_folder(registry_server, make_registry_server):
    with pytest.raises(errors.AlreadyExists, match=registry_server.address):
        make_registry_server()


def test_two_servers_do_not_share_a_port(registry_server, make_registry_server, tmp_path):
    with pytest.raises(errors.Unavailable, match="cannot listen"):
        make_registry_server(data_dir=tmp_path / "second", address=registry_server.address)
    make_registry_server(data_dir=tmp_path / "second")  # the failed start has let go of the folder


def test_a_unix_socket_serves_as_well(make_registry_server, tmp_path):
    server = make_registry_server(address=f"unix:{tmp_path}/s")
    with RegistryClient(server.address) as client:
        assert client.get_encoder().encoder == "pixels"


def test_a_call_too_many_is_told_when_to_come_back(monkeypatch, make_registry_server):
    monkeypatch.setattr(rpc, "_MOST_WAITING", 1)
    server = make_registry_server()
    with RegistryClient(server.address) as client, RegistryClient(server.address) as other:
        job = client.create_search_job(job_for(client.register_dataset(make_dataset(1))))
        first = client.watch_search_job(job.name)
        next(first)  # from here on its stream is open
        with pytest.raises(errors.TooManyRequests) as caught:
            other.lease_search_job("w", device="cpu", wait_seconds=0)
        assert caught.value.retry_after_s == 1.0
        assert other.get_search_job(job.name).name == job.name, "short calls are counted apart"
        client.cancel_search_job(job.name)
        assert len(list(first)) > 0


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with")
def test_tls_with_tokens_opens_the_door_to_those_who_hold_one(make_registry_server, tmp_path):
    certificate, key = tmp_path / "server.pem", tmp_path / "server.key"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, *subject]
    subprocess.run(made, check=True, capture_output=True)
    token, line = auth.new_token("ann", auth.Role.WRITER)
    (tmp_path / "tokens").write_text(line)
    secure = {"tls_certificate": certificate, "tls_key": key, "tokens_file": tmp_path / "tokens"}
    server = make_registry_server(address="0.0.0.0:0", **secure)
    address = f"localhost:{server.address.rpartition(':')[2]}"
    with RegistryClient(address, token=token, root_certificates=certificate) as client:
        assert client.get_encoder().encoder == "pixels"
    with RegistryClient(address, root_certificates=certificate) as nobody, pytest.raises(errors.Unauthenticated):
        nobody.get_encoder()
