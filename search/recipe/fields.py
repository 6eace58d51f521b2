"""Fields of a recipe that say what they mean and what they may be: default, bounds and meaning stand in one place.

    epochs: int = setting(50, "most epochs of a search from scratch", low=1, high=10_000)

Whatever reads, checks or explains a recipe asks the fields; nothing else lists them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from supernet_registry.search.errors import InvalidArgument
from supernet_registry.search.strategies import Axis

__all__ = ["Rule", "check_values", "rules_of", "setting"]

_KEY = "rule"
_MOST_TEXT = 80  # characters of a wrong value that an error repeats


@dataclass(frozen=True, slots=True)
class Rule:
    """What a field means and may be. Bounds of several numbers hold for each of them."""

    meaning: str  # in one line
    low: float | None = None  # least value
    high: float | None = None  # greatest value
    below: float | None = None  # what every value is less than
    words: tuple[str, ...] = ()  # the only ones that it may be
    axis: Axis | None = None  # whose strategies it names

    @property
    def choices(self) -> tuple[str, ...]:
        """The words, or the names of strategies, that it may be; none for a number."""
        return self.words if self.axis is None else self.axis.names

    @property
    def bounds(self) -> str:
        """Bounds in words; empty where there are none."""
        if self.below is not None:
            return f"at least {self.low} and less than {self.below}"
        return "" if self.high is None else f"between {self.low} and {self.high}"

    def check(self, name: str, value: Any) -> None:
        """Raise InvalidArgument, which names the field and says what is right, unless a value is allowed."""
        if self.axis is not None:
            self.axis.check(value, field=name)
        elif self.words and value not in self.words:
            raise InvalidArgument(
                f"Unknown {name} {str(value)[:_MOST_TEXT]!r}.",
                remedy=f"Use one of {', '.join(self.words)}.",
                field=name,
            )
        elif self.bounds and isinstance(value, tuple):
            if not all(self._holds(item) for item in value):
                raise InvalidArgument(
                    f"{name}={str(value)[:_MOST_TEXT]} are not all {self.bounds}.",
                    remedy="Choose values in that range.",
                    field=name,
                )
        elif self.bounds and not self._holds(value):
            raise InvalidArgument(
                f"{name}={value} is not {self.bounds}.", remedy="Choose a value in that range.", field=name
            )

    def _holds(self, number: float) -> bool:
        """Never for what is no number."""
        within = self.high is None or number <= self.high
        return within and (self.below is None or number < self.below) and (self.low is None or number >= self.low)


def setting(
    default: Any,
    meaning: str,
    *,
    low: float | None = None,
    high: float | None = None,
    below: float | None = None,
    words: tuple[str, ...] = (),
    axis: Axis | None = None,
) -> Any:
    """A field of a recipe.

    Args:
        default: for spaces that have none of their own.
        meaning: in one line, without the name and without what the type and the bounds say.
        low: least value of a number.
        high: its greatest value.
        below: instead of `high`, what it is less than.
        words: all that a word may be.
        axis: whose strategies it names.
    """
    return dataclasses.field(default=default, metadata={_KEY: Rule(meaning, low, high, below, words, axis)})


def rules_of(kind: type) -> Iterator[tuple[str, Rule]]:
    """(name, rule) of every field of a recipe's class, in order."""
    for field in dataclasses.fields(kind):
        yield field.name, field.metadata[_KEY]


def check_values(recipe: object) -> None:
    """Raise InvalidArgument, which names the field, if a value is none that its field may have."""
    for name, rule in rules_of(type(recipe)):
        rule.check(name, getattr(recipe, name))
