"""The clients cover the contract, and both in the same way."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import get_type_hints

from supernet_registry import AsyncRegistryClient, RegistryClient
from supernet_registry.clients.channel import calls as _wire
from supernet_registry.v1 import blobs_pb2, datasets_pb2, searches_pb2, supernets_pb2, workers_pb2

SERVICES = (blobs_pb2, datasets_pb2, searches_pb2, supernets_pb2, workers_pb2)


def test_every_rpc_is_in_the_table() -> None:
    """`clients.channel.calls` builds a call for each method of each service, and for nothing else."""
    contract = {
        (service.name, method.name)
        for module in SERVICES
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    tree = ast.parse(Path(_wire.__file__).read_text(encoding="utf-8"))
    table = {
        (node.args[0].id.removesuffix("Stub"), node.args[1].value)  # type: ignore[attr-defined]
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Call"
    }
    assert table == contract


def public_methods(cls: type) -> dict[str, inspect.Signature]:
    return {
        name: inspect.signature(method)
        for name, method in inspect.getmembers(cls, callable)
        if not name.startswith("_")
    }


def test_both_clients_have_the_same_methods() -> None:
    """Names, parameters, defaults and documentation agree; results differ only by being awaited or async iterated."""
    sync, later = public_methods(RegistryClient), public_methods(AsyncRegistryClient)
    assert sync.keys() == later.keys()
    for name in sync:
        assert sync[name].parameters == later[name].parameters, name
        asked, answered = (str(signature[name].return_annotation) for signature in (sync, later))
        assert answered.replace("AsyncIterator", "Iterator") == asked, name
        assert getattr(AsyncRegistryClient, name).__doc__ == getattr(RegistryClient, name).__doc__ != None, name  # noqa: E711


def test_annotations_of_the_call_table_resolve() -> None:
    """The description of a call is typed for tools as well as for people."""
    assert set(get_type_hints(_wire.Call)) == {"stub", "method", "request", "convert", "extra_s"}
