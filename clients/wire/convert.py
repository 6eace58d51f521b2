"""Translation between resources (`clients.wire.resources`) and protobuf messages, by field name.

One generic pair of functions serves client and server: a dataclass field goes to the message field of the same
name. What needs a rule of its own: timestamps (aware UTC datetimes), enums (`StrEnum` members are the proto names
without their prefix), maps (dict), repeated fields (tuple), and unset messages or oneof members (None).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from types import GenericAlias, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

__all__ = ["from_proto", "to_proto"]

# `Any`: the stubs make descriptors unions of the Python and the upb implementation, every attribute optional.
Descriptor = Any

M = TypeVar("M", bound=Message)
R = TypeVar("R")


def to_proto(resource: Any, message: type[M]) -> M:
    """Build a `message` from a resource dataclass."""
    result = message()
    fields = message.DESCRIPTOR.fields_by_name
    for name in _field_types(type(resource)):
        value = getattr(resource, name)
        if value is None:
            continue
        descriptor = fields[name]
        if isinstance(value, Mapping):
            getattr(result, name).update(value)
        elif isinstance(value, tuple):
            items = (_value_to_proto(item, descriptor) for item in value)
            getattr(result, name).extend(items)
        elif descriptor.message_type is not None:
            getattr(result, name).CopyFrom(_value_to_proto(value, descriptor))
        elif descriptor.containing_oneof is not None or value:
            setattr(result, name, _value_to_proto(value, descriptor))
    return result


def from_proto(message: Message, resource: type[R]) -> R:
    """Build a resource dataclass from a protobuf message."""
    values: dict[str, Any] = {}
    fields = message.DESCRIPTOR.fields_by_name
    for name, (kind, optional) in _field_types(resource).items():
        descriptor = fields[name]
        raw = getattr(message, name)
        if descriptor.message_type is not None and descriptor.message_type.GetOptions().map_entry:
            values[name] = dict(raw)
        elif isinstance(kind, GenericAlias):
            item = get_args(kind)[0]
            values[name] = tuple(_value_from_proto(entry, descriptor, item) for entry in raw)
        elif optional and not message.HasField(name):
            values[name] = None
        else:
            values[name] = _value_from_proto(raw, descriptor, kind)
    return resource(**values)


def _value_to_proto(value: Any, descriptor: Descriptor) -> Any:
    if isinstance(value, datetime):
        stamp = Timestamp()
        stamp.FromDatetime(value.astimezone(UTC))
        return stamp
    if isinstance(value, StrEnum):
        return descriptor.enum_type.values_by_name[_enum_prefix(descriptor.enum_type) + value.value].number
    if dataclasses.is_dataclass(value):
        return to_proto(value, descriptor.message_type._concrete_class)
    return value


def _value_from_proto(raw: Any, descriptor: Descriptor, kind: Any) -> Any:
    if isinstance(raw, Timestamp):
        return raw.ToDatetime(tzinfo=UTC)
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        value = descriptor.enum_type.values_by_number.get(raw)
        # An enum value of a newer server reads as UNSPECIFIED, as proto3 intends.
        return kind(value.name.removeprefix(_enum_prefix(descriptor.enum_type)) if value else "UNSPECIFIED")
    if dataclasses.is_dataclass(kind):
        return from_proto(raw, kind)  # type: ignore[arg-type]  # `kind` is a class here, never an instance
    return raw


def _enum_prefix(enum: Descriptor) -> str:
    """`JOB_STATE_` for JobState: the zero value is always `<PREFIX>_UNSPECIFIED` (a buf lint rule)."""
    return str(enum.values_by_number[0].name).removesuffix("UNSPECIFIED")


_FieldTypes = dict[str, tuple[Any, bool]]
_known_field_types: dict[type, _FieldTypes] = {}


def _field_types(resource: type) -> _FieldTypes:
    """Field name → (type without None, whether None is allowed); looked up once for each class."""
    if resource not in _known_field_types:
        _known_field_types[resource] = _read_field_types(resource)
    return _known_field_types[resource]


def _read_field_types(resource: type) -> _FieldTypes:
    hints = get_type_hints(resource)
    result: _FieldTypes = {}
    for item in dataclasses.fields(resource):
        hint = hints[item.name]
        if get_origin(hint) in (Union, UnionType):
            kinds = [arg for arg in get_args(hint) if arg is not type(None)]
            result[item.name] = (kinds[0], True)
        else:
            result[item.name] = (hint, False)
    return result
