"""Kinds of work as a worker runs them: one file each, and one line here. A kind's file imports torch when it runs."""

from __future__ import annotations

from supernet_registry.clients.wire.errors import NotPossibleNow
from supernet_registry.clients.wire.resources import SearchSpec
from supernet_registry.clients.work.kinds.generalist import Generalist
from supernet_registry.clients.work.kinds.kind import Desk, Kind, Run
from supernet_registry.clients.work.kinds.search import Search

__all__ = ["KINDS", "Desk", "Kind", "Run", "kind_of"]

KINDS: dict[str, Kind] = {
    "search": Search(),
    "generalist": Generalist(),
}


def kind_of(spec: SearchSpec) -> Kind:
    """The kind of work that a spec names. Raises NotPossibleNow where this worker's release does not know it."""
    kind = KINDS.get(spec.kind)
    if kind is None:
        raise NotPossibleNow(
            "The job is of a kind that this worker does not know.",
            remedy="Run workers of the registry's release.",
            field="spec.work",
        )
    return kind
