"""Every strategy by name: one table an axis. Imports no torch; a strategy's own code is imported when a run needs it.

A new strategy is a file of its own, and one line here:

    Strategy("darts", "what it does, in a line", f"{_VARIANTS}.first_order:Darts")

Whatever lists, checks or explains strategies (recipes, command line, service, docs, parametrised tests) reads these
tables. The service has axes of its own, made in the same way where they belong.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from supernet_registry.search.errors import InvalidArgument

__all__ = ["AXES", "DERIVATIONS", "ENCODERS", "OBJECTIVES", "VARIANTS", "Axis", "Needs", "Strategy"]

_SEARCH = "supernet_registry.search"
_MOST_TEXT = 80  # characters of a wrong name that an error repeats


@dataclass(frozen=True, slots=True)
class Needs:
    """What a strategy asks of the search space: a least value of one of its numbers."""

    field: str
    least: int
    what: str  # needed, and how the space at hand falls short of it
    remedy: str

    def met_by(self, space: object) -> bool:
        """Whether a search space has it."""
        return bool(getattr(space, self.field) >= self.least)


@dataclass(frozen=True, slots=True)
class Strategy:
    """One entry of an axis.

    Attributes:
        name: how requests, recipes and command lines name it.
        help: what it does, in one line.
        target: `module:name` of the class or function; what it is called with, its axis says.
        options: names of the settings that only some strategies of the axis read, and this one does.
        parameter: what follows the name after a colon, such as `model` for `torchvision:<model>`; empty for nothing.
        needs: what it asks of the search space; None for nothing.
        alone: whether several processes cannot share its batches: it does something to a batch that is not linear in
            the images, so that averages over slices are not what it defines.
    """

    name: str
    help: str
    target: str
    options: tuple[str, ...] = ()
    parameter: str = ""
    needs: Needs | None = None
    alone: bool = False

    @property
    def usage(self) -> str:
        """The name as one writes it: with its parameter, where it has one."""
        return f"{self.name}:<{self.parameter}>" if self.parameter else self.name

    def load(self) -> Any:
        """The class or function; its module is imported."""
        module, _, name = self.target.partition(":")
        return getattr(import_module(module), name)


class Axis:
    """A table of strategies, one of which is chosen by name.

    Args:
        name: of the setting that chooses, such as `variant`.
        help: what the choice is about, in one line.
        strategies: in the order in which they are listed.
    """

    def __init__(self, name: str, help: str, strategies: Iterable[Strategy]) -> None:  # noqa: A002 - as in a strategy
        self.name, self.help = name, help
        self._strategies = {strategy.name: strategy for strategy in strategies}

    def __iter__(self) -> Iterator[Strategy]:
        return iter(self._strategies.values())

    @property
    def names(self) -> tuple[str, ...]:
        """All names in order."""
        return tuple(self._strategies)

    @property
    def usages(self) -> str:
        """All names in words, as one writes them."""
        return ", ".join(strategy.usage for strategy in self)

    def check(self, name: str, *, field: str = "") -> Strategy:
        """The strategy of a name; a parameter after the name may be any, but must be there where it belongs.

        Raises:
            InvalidArgument: there is none; the error lists what exists. `field` is where the name came from, the axis'
                own name if empty.
        """
        own, colon, parameter = name.partition(":")
        found = self._strategies.get(own)
        if found is None or bool(found.parameter) != bool(parameter) or bool(colon) != bool(parameter):
            raise InvalidArgument(
                f"Unknown {self.name} {name[:_MOST_TEXT]!r}.",
                remedy=f"Use one of {self.usages}.",
                field=field or self.name,
            )
        return found

    def load(self, name: str) -> Any:
        """The class or function of a name. Raises InvalidArgument as `check` does."""
        return self.check(name).load()

    @contextmanager
    def added(self, strategy: Strategy) -> Iterator[None]:
        """With one strategy more for the length of the block: to try one out before it has its line."""
        before = self._strategies
        self._strategies = {**before, strategy.name: strategy}
        try:
            yield
        finally:
            self._strategies = before


_VARIANTS = f"{_SEARCH}.training.variants"
_PARTIAL_CHANNELS = Needs(
    "partial_channels",
    2,
    "a search space with partial channels; this one has none",
    "Search a space with partial_channels 4 (the paper's), in a supernet of its own.",
)

VARIANTS = Axis(
    "variant",
    "How α and the weights learn: a variant of DARTS.",
    [
        Strategy(
            "darts",
            "first order: α descends on the validation split, weights are trained under softmax(α)",
            f"{_VARIANTS}.first_order:Darts",
        ),
        Strategy(
            "darts-2nd",
            "second order: α sees what one step of the weights makes of it",
            f"{_VARIANTS}.second_order:SecondOrderDarts",
            options=("curvature",),
            alone=True,
        ),
        Strategy(
            "smooth-darts-rs",
            "weights are trained under randomly perturbed mixtures",
            f"{_VARIANTS}.smooth:RandomSmoothDarts",
            options=("perturbation",),
        ),
        Strategy(
            "smooth-darts-adv",
            "weights are trained under the worst mixture nearby",
            f"{_VARIANTS}.smooth:AdversarialSmoothDarts",
            options=("perturbation", "perturbation_steps"),
            alone=True,
        ),
        Strategy(
            "pc-darts",
            "α rests at first; needs a search space with partial channels",
            f"{_VARIANTS}.partial_channels:PcDarts",
            options=("alpha_rest",),
            needs=_PARTIAL_CHANNELS,
        ),
        Strategy(
            "drnas",
            "mixtures are drawn from a Dirichlet distribution, and α learns its parameters",
            f"{_VARIANTS}.drnas:DrNas",
            options=("dirichlet_anchor",),
        ),
    ],
)
"""Classes `(network, recipe, generator)`; see `search.training.variants.base.Variant`."""

DERIVATIONS = Axis(
    "derivation",
    "How a searched supernet becomes an architecture.",
    [
        Strategy(
            "argmax",
            "the operations with the largest α",
            f"{_SEARCH}.children.argmax:select_by_argmax",
            options=("most_skips",),
        ),
        Strategy(
            "perturbation",
            "DARTS-PT: the operations without which the supernet loses most",
            f"{_SEARCH}.children.perturbation:select_by_perturbation",
            options=("derivation_steps",),
        ),
    ],
)
"""Functions; see `search.children.selection.Select`."""

_OBJECTIVES = f"{_SEARCH}.training.objectives"

OBJECTIVES = Axis(
    "objective",
    "What the steps of search and child descend.",
    [
        Strategy(
            "cross-entropy",
            "cross-entropy with the labels, smoothed for the weights",
            f"{_OBJECTIVES}.cross_entropy:CrossEntropy",
            options=("label_smoothing", "child_label_smoothing"),
        ),
    ],
)
"""Classes `(network, recipe, *, label_smoothing)`; see `search.training.objectives.objective.Objective`."""

_ENCODERS = f"{_SEARCH}.similarity.encoders"

ENCODERS = Axis(
    "encoder",
    "What makes feature vectors of images, for sketches and distances.",
    [
        Strategy("pixels", "low frequencies of a small image; needs no weights", f"{_ENCODERS}.pixels:PixelEncoder"),
        Strategy(
            "torchvision",
            "a pretrained torchvision model, from a local weights file",
            f"{_ENCODERS}.torchvision:TorchvisionEncoder",
            options=("weights", "device"),
            parameter="model",
        ),
        Strategy(
            "supernet",
            "a supernet of this project, from its local weights file",
            f"{_ENCODERS}.supernet:SupernetEncoder",
            options=("weights", "device"),
        ),
    ],
)
"""Classes, called with the parameter and with their options by name; see `search.similarity.encoders.base.Encoder`."""

AXES: dict[str, Axis] = {axis.name: axis for axis in (VARIANTS, OBJECTIVES, DERIVATIONS, ENCODERS)}
"""Every axis of this package by the setting that chooses."""
