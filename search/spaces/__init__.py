"""Search spaces: what they contain, how they are validated, named and compared. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from supernet_registry.search.errors import InvalidSearchSpace, SpaceMismatch
from supernet_registry.search.spaces.compact import Compact
from supernet_registry.search.spaces.darts import Darts
from supernet_registry.search.spaces.family import Family, Genotype
from supernet_registry.search.spaces.nas_bench_201 import NasBench201
from supernet_registry.search.spaces.sizes import SIZES, block_origins, unequal_fields
from supernet_registry.search.spaces.space import SearchSpace, check_ranges

__all__ = [
    "DEFAULT_FAMILY",
    "FAMILIES",
    "Family",
    "Genotype",
    "SearchSpace",
    "check_compatible",
    "family_of",
    "make_space",
    "space_from_fields",
    "space_from_json",
]

FAMILIES: Mapping[str, Family] = {family.name: family for family in (Compact(), NasBench201(), Darts())}
"""Every known family by name. A new space is registered here."""

DEFAULT_FAMILY = "compact"

_FIELDS = tuple(f.name for f in fields(SearchSpace))


def make_space(family: str = DEFAULT_FAMILY, **overrides: Any) -> SearchSpace:
    """A search space with the family's defaults, `overrides` applied.

    Raises:
        InvalidSearchSpace: the family, a field or an operation is unknown, or a size is out of range.
    """
    known = _find_family(family)
    values: dict[str, Any] = {**known.defaults, "operations": known.operations, **overrides}
    for name, value in values.items():
        if name not in _FIELDS or name == "family":
            raise InvalidSearchSpace(f"A search space has no field {name!r}.", remedy=f"Fields: {', '.join(_FIELDS)}.")
        _check_type(name, value)
    values["operations"] = tuple(values["operations"])
    space = SearchSpace(family=family, **values)
    check_ranges(space)
    _check_operations(space, known)
    return space


def space_from_fields(descriptor: Any) -> SearchSpace:
    """The space that a descriptor means (any object with the fields of `SearchSpace`); zero and empty are defaults.

    A bool cannot be unset. A descriptor that lists its operations is taken as complete, and its `affine_batch_norm`
    literally; in one that does not, False stands for the family's default.

    Raises:
        InvalidSearchSpace: as `make_space`; also if the descriptor carries an `id` that is not its own.
    """
    if descriptor is None:
        return make_space()
    overrides = {name: value for name in _FIELDS if name != "family" and (value := getattr(descriptor, name, None))}
    if getattr(descriptor, "operations", ()):
        overrides["affine_batch_norm"] = bool(getattr(descriptor, "affine_batch_norm", False))
    space = make_space(getattr(descriptor, "family", "") or DEFAULT_FAMILY, **overrides)
    declared = getattr(descriptor, "id", "")
    if declared and declared != space.id:
        raise InvalidSearchSpace(
            f"The id {declared!r} is not the descriptor's own, {space.id!r}.",
            remedy="Leave the id out; it is computed.",
            field="search_space.id",
        )
    return space


def space_from_json(values: Mapping[str, Any]) -> SearchSpace:
    """The inverse of `SearchSpace.to_json`; raises `InvalidSearchSpace`."""
    if set(values) | {"partial_channels"} != set(_FIELDS):
        raise InvalidSearchSpace("Not a search space.", remedy=f"Give exactly the fields {', '.join(_FIELDS)}.")
    return make_space(**values)


def family_of(space: SearchSpace) -> Family:
    """The family of a space; raises `InvalidSearchSpace` if it is unknown."""
    return _find_family(space.family)


def check_compatible(source: SearchSpace, target: SearchSpace) -> None:
    """Raise `SpaceMismatch`, naming the fields that differ, unless weights of `source` fit a supernet of `target`.

    They fit as they are where the spaces are equal, and are mapped (`search.networks.mapping`) where only sizes differ.
    """
    unequal = unequal_fields(source, target)
    if set(unequal) <= set(SIZES):
        block_origins(family_of(target), source, target)
        return
    differences = ", ".join(f"{name} {getattr(source, name)!r} against {getattr(target, name)!r}" for name in unequal)
    raise SpaceMismatch(
        f"The source's search space {source.id} does not fit the target's {target.id}: {differences}.",
        remedy=f"Choose a source that differs in {' and '.join(SIZES)} only, or start from scratch.",
        field="search_space",
        metadata={"sourceSpace": source.id, "targetSpace": target.id},
    )


def _find_family(name: object) -> Family:
    if isinstance(name, str) and name in FAMILIES:
        return FAMILIES[name]
    raise InvalidSearchSpace(
        f"Unknown family {name!r}.", remedy=f"Choose one of: {', '.join(FAMILIES)}.", field="search_space.family"
    )


def _check_type(name: str, value: Any) -> None:
    if name == "affine_batch_norm":
        correct = isinstance(value, bool)
    elif name == "operations":
        correct = isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)
    else:
        correct = isinstance(value, int) and not isinstance(value, bool)
    if not correct:
        raise InvalidSearchSpace(
            f"{name}={value!r} has the wrong type.",
            remedy="Sizes are integers, operations are names.",
            field=f"search_space.{name}",
        )


def _check_operations(space: SearchSpace, family: Family) -> None:
    """A space may leave operations out, but keeps the family's order, so that equal spaces have equal ids."""
    in_order = tuple(name for name in family.operations if name in space.operations)
    if space.operations != in_order or not set(space.operations) - {"none"}:
        raise InvalidSearchSpace(
            f"operations={list(space.operations)} are not operations of {family.name} in its order.",
            remedy=f"Choose among: {', '.join(family.operations)}, in this order, at least one besides `none`.",
            field="search_space.operations",
        )
