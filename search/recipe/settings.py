"""Fields of a recipe by name and text: how requests, command lines and MLflow carry them.

A value is written as JSON writes it (`0.002`, `true`), a word as it is (`sgd`), several numbers with commas between
them (`0.9, 0.999`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

from supernet_registry.search.errors import InvalidArgument
from supernet_registry.search.recipe import Recipe

__all__ = ["apply_settings", "settings_text"]

_BOOLS = {"true": True, "false": False}
_MOST_TEXT = 80  # characters of a wrong name or value that an error repeats


def apply_settings(recipe: Recipe, settings: Mapping[str, str], *, field: str = "recipe") -> Recipe:
    """The recipe with some fields replaced. Unlike `Recipe.override` it takes zeros at their word.

    Args:
        recipe: what to begin with.
        settings: values as text, by field name.
        field: of the request that they came in, to be named in errors.

    Raises:
        InvalidArgument: a name is unknown, or a value cannot be read or is out of range.
    """
    values = {name: _read(name, text, f"{field}.{name[:_MOST_TEXT]}") for name, text in settings.items()}
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


def _read(name: str, text: str, field: str) -> Any:
    kind = _kinds().get(name)
    if kind is None:
        raise InvalidArgument(
            f"A recipe has no field {name[:_MOST_TEXT]!r}.",
            remedy=f"Correct the name; there are {', '.join(_kinds())}.",
            field=field,
        )
    read, wanted = _reader(kind)
    try:
        return read(text.strip())
    except (KeyError, ValueError):
        raise InvalidArgument(
            f"{name}={text[:_MOST_TEXT]!r} is not {wanted}.", remedy=f"Give {wanted}.", field=field
        ) from None


@cache
def _kinds() -> dict[str, Any]:
    """Type of every field of a recipe."""
    return get_type_hints(Recipe)


def _reader(kind: Any) -> tuple[Callable[[str], Any], str]:
    """What reads text as a type, and what it wants, in words. It raises KeyError or ValueError."""
    if kind is bool:
        return lambda text: _BOOLS[text.lower()], "true or false"
    if kind is int:
        return int, "a whole number"
    if kind is float:
        return float, "a number"
    if kind is str:
        return str, "a word"
    if get_origin(kind) is Literal:
        words = get_args(kind)
        return lambda text: words[words.index(text)], f"one of {', '.join(words)}"
    sizes = get_args(kind)  # of a tuple of numbers: (float, ...) or one float for each
    if sizes[-1] is Ellipsis:
        return _read_numbers, "numbers with commas between them"
    return lambda text: _read_numbers(text, len(sizes)), f"{len(sizes)} numbers with commas between them"


def _read_numbers(text: str, count: int | None = None) -> tuple[float, ...]:
    numbers = tuple(float(item) for item in text.split(",")) if text else ()
    if count not in (None, len(numbers)):
        raise ValueError(text)
    return numbers
