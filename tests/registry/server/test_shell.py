"""What surrounds every call: parsing, errors, admission, draining, health, limits."""

from __future__ import annotations

import threading

import grpc
import pytest
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from server_tools import job_for, make_dataset
from supernet_registry.v1 import blobs_pb2, datasets_pb2, searches_pb2, supernets_pb2, workers_pb2

from clients.registry_client import RegistryClient
from clients.resources import Supernet
from registry.server import auth
from registry.server.thread import ServerThread
from registry.settings import Settings
from search import errors

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
    options = {"timeout": 30, **options}
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


@st.composite
def messages(draw, descriptor, texts, depth=0):
    """Any message of a type: about half of its fields set, to any value that the wire can carry."""
    message = GetMessageClass(descriptor)()
    for field in descriptor.fields:
        if not draw(st.booleans()):
            continue
        kind = kind_of(field)
        if kind == "message":
            if depth > 3 or field.message_type.GetOptions().map_entry:
                continue
            child = draw(messages(field.message_type, texts, depth + 1))
            if field.is_repeated:
                getattr(message, field.name).append(child)
            else:
                getattr(message, field.name).CopyFrom(child)
            continue
        if kind == "string":
            value = draw(texts)
        elif kind in RANGES:
            low, high = RANGES[kind]
            value = draw(st.sampled_from([0, 1, 2, 1000, low, high]) | st.integers(low, high))
        else:
            value = draw(FIELD_VALUES[kind])
        if field.is_repeated:
            getattr(message, field.name).append(value)
        else:
            setattr(message, field.name, value)
    return message


@pytest.fixture
def stored_names(client, finish) -> list[str]:
    """One of everything, so that requests can name what exists."""
    version = finish(make_dataset(1))
    queued = client.create_search_job(job_for(client.register_dataset(make_dataset(2))))
    return [version.name, version.dataset, version.job, version.weights_blob, "supernets/tiny", queued.name]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_request_makes_the_server_stumble(channel, stored_names, data):
    """Any message to any unary method gets an answer or a typed error, never INTERNAL or UNKNOWN."""
    method = data.draw(st.sampled_from(UNARY), label="method")
    texts = st.sampled_from(stored_names) | TEXTS
    request = data.draw(messages(method.input_type, texts), label="request")
    if method.name == "LeaseSearchJob":
        request.wait_seconds = min(request.wait_seconds, 0.0)
    assert send(channel, method, request.SerializeToString()) in ACCEPTABLE


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
            events = watch(request.SerializeToString(), timeout=60)
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
