"""Fields of a recipe by name and text: how requests, command lines and MLflow carry them.

A value is written as JSON writes it (`0.002`, `true`), a word as it is (`sgd`), several numbers with commas between
them (`0.9, 0.999`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar, get_args, get_type_hints

from supernet_registry.search.errors import InvalidArgument
from supernet_registry.search.recipe.fields import rules_of
from supernet_registry.search.recipe.recipe import Recipe

__all__ = ["Setting", "apply_settings", "describe_settings", "settings_text"]

_Recipe = TypeVar("_Recipe", bound=Recipe)
_BOOLS = {"true": True, "false": False}
_MOST_TEXT = 80  # characters of a wrong name or value that an error repeats


@dataclass(frozen=True, slots=True)
class Setting:
    """One field of a recipe, as people are told of it."""

    name: str
    kind: str  # what its value is, in words: a number, true or false, ...
    default: str  # of the recipe that was asked about, as `apply_settings` reads it
    bounds: str  # in words; empty where there are none
    choices: tuple[str, ...]  # all that a word may be; none for a number
    meaning: str  # in one line
    read_by: tuple[str, ...]  # the only strategies that look at it; none if it does not depend on them


def describe_settings(defaults: Recipe) -> list[Setting]:
    """Every setting of a recipe, in order, with that recipe's values as defaults: for help, docs and trackers."""
    kind = type(defaults)
    rules, kinds = dict(rules_of(kind)), _kinds(kind)
    readers = [strategy for rule in rules.values() if rule.axis for strategy in rule.axis]
    return [
        Setting(
            name=name,
            kind=_reader(kinds[name])[1],
            default=_write(getattr(defaults, name)),
            bounds=rule.bounds,
            choices=rule.choices,
            meaning=rule.meaning,
            read_by=tuple(strategy.name for strategy in readers if name in strategy.options),
        )
        for name, rule in rules.items()
    ]


def apply_settings(recipe: _Recipe, settings: Mapping[str, str], *, field: str = "recipe") -> _Recipe:
    """The recipe with some fields replaced. As `Recipe.override` with values as text.

    Fewer `epochs` shorten a warm search, too, unless `warm_epochs` are given.

    Args:
        recipe: what to begin with.
        settings: values as text, by field name.
        field: of the request that they came in, to be named in errors.

    Raises:
        InvalidArgument: a name is unknown, or a value cannot be read or is out of range.
    """
    kinds = _kinds(type(recipe))
    values = {name: _read(kinds, name, text, f"{field}.{name[:_MOST_TEXT]}") for name, text in settings.items()}
    if "epochs" in values:
        values.setdefault("warm_epochs", min(recipe.warm_epochs, values["epochs"]))
    try:
        result = replace(recipe, **values)
        result.check()
    except InvalidArgument as error:
        raise InvalidArgument(error.message, remedy=error.remedy, field=f"{field}.{error.field}") from error
    return result


def settings_text(settings: Mapping[str, object]) -> dict[str, str]:
    """Values as text: what `apply_settings` reads. Text stays as it is."""
    return {name: _write(value) for name, value in settings.items()}


def _write(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return ",".join(_write(item) for item in value)
    return str(value)


def _read(kinds: Mapping[str, Any], name: str, text: str, field: str) -> Any:
    kind = kinds.get(name)
    if kind is None:
        raise InvalidArgument(
            f"A recipe has no field {name[:_MOST_TEXT]!r}.",
            remedy=f"Correct the name; there are {', '.join(kinds)}.",
            field=field,
        )
    read, wanted = _reader(kind)
    try:
        return read(text.strip())
    except (KeyError, ValueError):
        raise InvalidArgument(
            f"{name}={text[:_MOST_TEXT]!r} is not {wanted}.", remedy=f"Give {wanted}.", field=field
        ) from None


def _kinds(recipe: type[Recipe]) -> dict[str, Any]:
    """Type of every field of a recipe."""
    hints = get_type_hints(recipe)
    return {name: hints[name] for name, _ in rules_of(recipe)}


def _reader(kind: Any) -> tuple[Callable[[str], Any], str]:
    """What reads text as a type, and what it wants, in words. It raises KeyError or ValueError."""
    if kind is bool:
        return lambda text: _BOOLS[text.lower()], "true or false"
    if kind is int:
        return int, "a whole number"
    if kind is float:
        return float, "a number"
    if kind is str:
        return str, "a word"  # which one, the field's rule checks
    sizes = get_args(kind)  # of a tuple of numbers: (float, ...) or one float for each
    if sizes[-1] is Ellipsis:
        return _read_numbers, "numbers with commas between them"
    return lambda text: _read_numbers(text, len(sizes)), f"{len(sizes)} numbers with commas between them"


def _read_numbers(text: str, count: int | None = None) -> tuple[float, ...]:
    numbers = tuple(float(item) for item in text.split(",")) if text else ()
    if count not in (None, len(numbers)):
        raise ValueError(text)
    return numbers
