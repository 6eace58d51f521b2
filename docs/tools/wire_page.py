"""The wire contract as a page: services, messages and enums with the comments of the .proto files."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
)

__all__ = ["render"]

PACKAGE = ".supernet_registry.v1."
_MESSAGES, _ENUMS, _SERVICES = 4, 5, 6  # field numbers in FileDescriptorProto, of which paths of comments are made


def render(protos: Path) -> str:
    """Markdown of all files of the contract, in the order of their names."""
    described = _describe(protos)
    text = "# Wire\n\nThe gRPC contract `supernet_registry.v1`, made from the comments of its `.proto` files.\n"
    for file in described.file:
        if f".{file.package}." == PACKAGE:
            text += _File(file).render()
    return text


def _describe(protos: Path) -> FileDescriptorSet:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "set"
        sources = sorted(str(path.relative_to(protos)) for path in protos.glob("supernet_registry/v1/*.proto"))
        includes = [f"-I{protos}", f"-I{files('grpc_tools') / '_proto'}"]
        command = [sys.executable, "-m", "grpc_tools.protoc", *includes, "--include_source_info"]
        subprocess.run([*command, f"--descriptor_set_out={out}", *sources], check=True, cwd=protos)
        return FileDescriptorSet.FromString(out.read_bytes())


class _File:
    def __init__(self, file: FileDescriptorProto) -> None:
        self.file = file
        self.comments = {tuple(place.path): place for place in file.source_code_info.location}

    def comment(self, *path: int) -> str:
        """What is said before a thing, or after it on its line, as one line of text."""
        place = self.comments.get(path)
        said = f"{place.leading_comments} {place.trailing_comments}" if place else ""
        return " ".join(said.split()).replace("|", "\\|").replace("<", "&lt;")

    def render(self) -> str:
        name = self.file.name.rsplit("/", 1)[-1]
        about = self.comments.get((12,))  # the syntax line, which a file's own comment stands before
        text = f"\n## {name}\n\n{' '.join(about.leading_comments.split()) if about else ''}\n"
        for number, service in enumerate(self.file.service):
            text += _head(service.name, self.comment(_SERVICES, number)) + "\n| call | request | response | |\n"
            text += "|---|---|---|---|\n"
            for index, method in enumerate(service.method):
                text += _method(method, self.comment(_SERVICES, number, 2, index))
        for number, message in enumerate(self.file.message_type):
            text += self.message(message, message.name, (_MESSAGES, number))
        for number, enum in enumerate(self.file.enum_type):
            text += self.enum(enum, enum.name, (_ENUMS, number))
        return text

    def message(self, message: DescriptorProto, name: str, path: Sequence[int]) -> str:
        text = _head(name, self.comment(*path))
        entries = {f"{PACKAGE}{name}.{nested.name}": nested for nested in message.nested_type}
        maps = {key: nested for key, nested in entries.items() if nested.options.map_entry}
        if message.field:
            text += "\n| field | number | type | |\n|---|---|---|---|\n"
        for index, field in enumerate(message.field):
            said = self.comment(*path, 2, index)
            if field.HasField("oneof_index") and not field.proto3_optional:
                said = f"(one of `{message.oneof_decl[field.oneof_index].name}`) {said}"
            text += f"| `{field.name}` | {field.number} | {_kind(field, maps)} | {said} |\n"
        for index, nested in enumerate(message.nested_type):
            if not nested.options.map_entry:
                text += self.message(nested, f"{name}.{nested.name}", (*path, 3, index))
        for index, enum in enumerate(message.enum_type):
            text += self.enum(enum, f"{name}.{enum.name}", (*path, 4, index))
        return text

    def enum(self, enum: EnumDescriptorProto, name: str, path: Sequence[int]) -> str:
        text = _head(name, self.comment(*path)) + "\n| value | number | |\n|---|---|---|\n"
        for index, value in enumerate(enum.value):
            text += f"| `{value.name}` | {value.number} | {self.comment(*path, 2, index)} |\n"
        return text


def _head(name: str, said: str) -> str:
    return f"\n### {name} {{#{name}}}\n" + (f"\n{said}\n" if said else "")


def _method(method: MethodDescriptorProto, said: str) -> str:
    asked = ("stream " if method.client_streaming else "") + _linked(method.input_type)
    given = ("stream " if method.server_streaming else "") + _linked(method.output_type)
    return f"| `{method.name}` | {asked} | {given} | {said} |\n"


def _linked(name: str) -> str:
    own = name.removeprefix(PACKAGE)
    return f"[`{own}`](#{own})" if own != name else f"`{name.lstrip('.')}`"


def _kind(field: FieldDescriptorProto, maps: dict[str, DescriptorProto]) -> str:
    if field.type_name in maps:
        key, value = maps[field.type_name].field
        return f"map of {_kind(key, maps)} to {_kind(value, maps)}"
    plain = FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    kind = _linked(field.type_name) if field.type_name else f"`{plain}`"
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        return f"repeated {kind}"
    return f"optional {kind}" if field.proto3_optional else kind
