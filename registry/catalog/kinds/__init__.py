"""Kinds of work as the catalog checks them: one file each, and one line here.

A kind is a message in `oneof work` of `SearchSpec` and a field of the resource of that name. Leases, fencing,
checkpoints, events and write-back need not know of it.
"""

from __future__ import annotations

from supernet_registry.clients.wire.resources import SearchSpec
from supernet_registry.registry.catalog.kinds.generalist import Generalist
from supernet_registry.registry.catalog.kinds.kind import SPEC, Kind, Plan
from supernet_registry.registry.catalog.kinds.search import Search
from supernet_registry.search.errors import InvalidArgument

__all__ = ["KINDS", "Kind", "Plan", "kind_of"]

KINDS: dict[str, Kind] = {
    "search": Search(),
    "generalist": Generalist(),
}


def kind_of(spec: SearchSpec) -> Kind:
    """The kind of work that a spec names. Raises InvalidArgument where it names none that is known here."""
    kind = KINDS.get(spec.kind)
    if kind is None:
        raise InvalidArgument(
            "The job names no kind of work that this registry knows.",
            remedy=f"Set one of {', '.join(KINDS)} in its spec.",
            field=f"{SPEC}.work",
        )
    return kind
