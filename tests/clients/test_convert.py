"""Resources and messages are twins, and translation loses nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from supernet_registry.clients.wire import resources
from supernet_registry.clients.wire.convert import from_proto, to_proto
from supernet_registry.clients.work import kinds as worker_kinds
from supernet_registry.registry.catalog import kinds as catalog_kinds
from supernet_registry.v1 import blobs_pb2, common_pb2, datasets_pb2, searches_pb2, supernets_pb2, workers_pb2

MODULES = (blobs_pb2, common_pb2, datasets_pb2, searches_pb2, supernets_pb2, workers_pb2)
RENAMED = {
    "SearchSpace": "SpaceDescriptor",
    "QueryNearestSourcesResponse": "NearestSources",
    "QueryLineageResponse": "Lineage",
    "MapDatasetsResponse": "DatasetMap",
}
ONLY_ON_THE_WIRE = {"Chunk"}


def messages() -> Iterator[Any]:
    for module in MODULES:
        for name in module.DESCRIPTOR.message_types_by_name:
            yield getattr(module, name)


def is_rpc_envelope(name: str) -> bool:
    return name.endswith(("Request", "Response")) and name not in RENAMED


TWINS = [
    (message, getattr(resources, RENAMED.get(message.DESCRIPTOR.name, message.DESCRIPTOR.name)))
    for message in messages()
    if not is_rpc_envelope(message.DESCRIPTOR.name) and message.DESCRIPTOR.name not in ONLY_ON_THE_WIRE
]


def test_every_resource_dataclass_has_a_message() -> None:
    """No dataclass of `clients.wire.resources` is without a message that it mirrors."""
    classes = {item for item in vars(resources).values() if isinstance(item, type) and dataclasses.is_dataclass(item)}
    assert {resource for _, resource in TWINS} == classes


@pytest.mark.parametrize(("message", "resource"), TWINS, ids=lambda x: x.__name__)
def test_twins_have_the_same_fields(message: type[Message], resource: type) -> None:
    """A field added to one side only is noticed."""
    assert {f.name for f in dataclasses.fields(resource)} == set(message.DESCRIPTOR.fields_by_name)


def test_enums_have_the_same_members() -> None:
    """Every enum of the contract has a StrEnum with the same members, without their prefix."""
    enums = {}
    for module in MODULES:
        scopes = [module.DESCRIPTOR, *module.DESCRIPTOR.message_types_by_name.values()]
        for scope in scopes:
            for name, enum in scope.enum_types_by_name.items():
                prefix = enum.values_by_number[0].name.removesuffix("UNSPECIFIED")
                owner = "Abandon" if name == "Outcome" else "Parent" if name == "Role" else ""
                enums[owner + name] = [value.name.removeprefix(prefix) for value in enum.values]
    twins = {
        name: [member.value for member in kind]
        for name, kind in vars(resources).items()
        if isinstance(kind, type) and issubclass(kind, StrEnum) and kind is not StrEnum
    }
    assert twins == enums


def values(hint: Any, descriptor: Any) -> st.SearchStrategy[Any]:
    """Any value that a field can hold on the wire."""
    if get_origin(hint) is UnionType:
        kind = next(arg for arg in get_args(hint) if arg is not type(None))
        return st.none() | values(kind, descriptor)
    if get_origin(hint) is Mapping:
        return st.dictionaries(*(values(item, descriptor) for item in get_args(hint)), max_size=3)
    if get_origin(hint) is tuple:
        return st.lists(values(get_args(hint)[0], descriptor), max_size=3).map(tuple)
    if dataclasses.is_dataclass(hint):
        return resource_values(descriptor.message_type._concrete_class, hint)
    if issubclass(hint, StrEnum):
        return st.sampled_from(hint)
    bits = 31 if descriptor.type == FieldDescriptor.TYPE_INT32 else 63
    scalars: dict[type, st.SearchStrategy[Any]] = {
        str: st.text(),
        bool: st.booleans(),
        int: st.integers(-(2**bits), 2**bits - 1),
        float: st.floats(allow_nan=False),
        datetime: st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    }
    return scalars[hint]


def resource_values(message: type[Message], resource: type) -> st.SearchStrategy[Any]:
    hints = get_type_hints(resource)
    fields = message.DESCRIPTOR.fields_by_name
    return st.builds(resource, **{name: values(hint, fields[name]) for name, hint in hints.items()}).map(one_of_each)


def one_of_each(resource: Any) -> Any:
    """A job event and a spec carry one thing at most, as their oneofs demand."""
    if isinstance(resource, resources.JobEvent):
        names = ("state", "epoch", "decision", "message")
    elif isinstance(resource, resources.SearchSpec):
        names = resources.WORK
    else:
        return resource
    given_names = [name for name in names if getattr(resource, name) is not None]
    return dataclasses.replace(resource, **dict.fromkeys(given_names[1:]))


@settings(max_examples=20, deadline=None)
@given(st.data())
@pytest.mark.parametrize(("message", "resource"), TWINS, ids=lambda x: x.__name__)
def test_round_trip_through_bytes_loses_nothing(message: type[Message], resource: type, data: st.DataObject) -> None:
    """Resource → message → bytes → message → resource is the identity."""
    original = data.draw(resource_values(message, resource))
    wire = to_proto(original, message).SerializeToString()
    assert from_proto(message.FromString(wire), resource) == original


def test_an_enum_value_of_a_newer_server_reads_as_unspecified() -> None:
    """proto3 enums are open: an unknown number must not break an older client."""
    job = searches_pb2.SearchJob(state=99)  # type: ignore[arg-type]
    assert from_proto(job, resources.SearchJob).state is resources.JobState.UNSPECIFIED


def test_the_kinds_of_work_are_those_of_the_oneof_and_each_is_known_to_catalog_and_worker() -> None:
    """A new kind is a message, a file on either side, and a line in each table."""
    oneof = searches_pb2.SearchSpec.DESCRIPTOR.oneofs_by_name["work"]
    names = tuple(field.name for field in oneof.fields)
    assert names == resources.WORK == tuple(catalog_kinds.KINDS) == tuple(worker_kinds.KINDS)


def test_a_naive_time_is_not_taken_for_utc_silently() -> None:
    """Times are timezone-aware; another zone arrives as the same instant in UTC."""
    berlin = datetime.fromisoformat("2026-01-01T01:00:00+01:00")
    message = to_proto(resources.Dataset(create_time=berlin), datasets_pb2.Dataset)
    assert from_proto(message, resources.Dataset).create_time == datetime(2026, 1, 1, tzinfo=UTC)
