"""Options and arguments that several commands share.

A command that queues jobs has one parameter `options` and says by `takes` which bundles of options it has. The bundles
become options of the command line, and `options` what the client's methods take: each is said once, here or in the
recipe, however many commands have it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from supernet_registry.clients.cli import names
from supernet_registry.clients.wire.resources import TransferMode
from supernet_registry.search.errors import InvalidArgument
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.recipe.settings import Setting, apply_settings, describe_settings

if TYPE_CHECKING:
    from supernet_registry.clients.registry_client import RegistryClient

__all__ = [
    "PLACE",
    "RECIPE",
    "SEED",
    "SOURCE",
    "SPACE",
    "AsJson",
    "DatasetPath",
    "Device",
    "Family",
    "MomentsOnly",
    "VersionName",
    "plot_option",
    "resolve_source",
    "takes",
]

_SPACE_PANEL = "Search space"
_RECIPE_PANEL = "Recipe"
_PLACE_PANEL = "Where it runs"
_Parameters = dict[str, tuple[Any, Any]]  # by name: annotation and default


_SETTINGS = {setting.name: setting for setting in describe_settings(Recipe.for_family("compact"))}


@dataclass(frozen=True)
class Bundle:
    """Options that belong together, and what the client is given of them."""

    parameters: _Parameters
    read: Callable[[Mapping[str, Any]], dict[str, Any]]


def takes(*bundles: Bundle) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command the options of bundles; its parameter `options` gets what they say, as a dictionary."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(command, include_extras=True)
        own = inspect.signature(command).parameters
        shared = {name: value for bundle in bundles for name, value in bundle.parameters.items()}
        parameters = []
        for name, parameter in own.items():
            if name == "options":
                for added, (annotation, default) in shared.items():
                    parameters.append(
                        inspect.Parameter(added, parameter.KEYWORD_ONLY, default=default, annotation=annotation)
                    )
            else:
                parameters.append(parameter.replace(annotation=hints[name]))

        @functools.wraps(command)
        def wrapper(*arguments: Any, **given: Any) -> None:
            values = {name: given.pop(name) for name in shared}
            options = {key: value for bundle in bundles for key, value in bundle.read(values).items()}
            command(*arguments, **given, options=options)

        if RECIPE in bundles:
            wrapper.epilog = _all_settings()  # type: ignore[attr-defined]
        wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        del wrapper.__wrapped__
        return wrapper

    return decorate


DatasetPath = Annotated[
    Path, typer.Argument(metavar="DATASET", help="A .npz file or a folder of images.", show_default=False)
]
VersionName = Annotated[
    str, typer.Argument(metavar="VERSION", help="`x/3`, or `x` for the head of supernet x.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout, and nothing else there.")]

Device = Annotated[str, typer.Option(help="With --here: auto, cpu, cuda or cuda:N.", rich_help_panel=_PLACE_PANEL)]
MomentsOnly = Annotated[
    bool,
    typer.Option(
        "--moments-only",
        help="Send class means and covariances, but no sampled features. A job's images stay here only with --here.",
    ),
]


def _size(help_text: str) -> Any:
    return Annotated[
        int, typer.Option(min=0, help=help_text, show_default="the family's", rich_help_panel=_SPACE_PANEL)
    ]


_SIZES: _Parameters = {
    "channels": (_size("Channels of the first cell."), 0),
    "cells": (_size("Cells: a stage (compact, nas-bench-201) or in all (darts)."), 0),
    "stem_stride": (_size("Stride of the stem convolution, 1 or 2."), 0),
    "head_pool": (_size("Side of the pooled feature map that the classifier sees."), 0),
    "resolution": (_size("Largest image side in pixels; larger images are resized."), 0),
    "partial_channels": (
        _size("Only 1/K of the channels go through the mixture (PC-DARTS: 4); K divides the channels."),
        0,
    ),
}
Family = Annotated[
    str | None,
    typer.Option(
        help="Family of search spaces: compact, nas-bench-201 or darts.",
        show_default="the supernet's, else compact",
        rich_help_panel=_SPACE_PANEL,
    ),
]


def _read_space(values: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: values[name] for name in _SIZES if values[name]}
    if values["space"] is None and not given:
        return {}
    from supernet_registry.search.spaces import DEFAULT_FAMILY, make_space

    return {"space": make_space(values["space"] or DEFAULT_FAMILY, **given)}


SPACE = Bundle({"space": (Family, None), **_SIZES}, _read_space)
"""The search space. Gives `space`, where any of it was given. Raises InvalidSearchSpace."""


_WIDEST_METAVAR = 24
_FLAGGED = (
    "epochs",
    "child_epochs",
    "patience",
    "batch_size",
    "variant",
    "drop_shares",
    "derivation",
    "derivation_steps",
    "child_holds_out",
    "taste_share",
    "taste_candidates",
)
"""Settings that have an option of their own, besides `--set`: the ones most used."""


def _flag(setting: Setting) -> tuple[Any, Any]:
    """The option of one setting; what it says is text, read with that of `--set`."""
    meaning = f"{setting.meaning[0].upper()}{setting.meaning[1:]}."
    name = f"--{setting.name.replace('_', '-')}"
    if setting.kind == "true or false":
        return Annotated[bool, typer.Option(name, help=meaning, rich_help_panel=_RECIPE_PANEL)], False
    words = "|".join(setting.choices)
    option = typer.Option(
        name,
        metavar=words if 0 < len(words) <= _WIDEST_METAVAR else "VALUE",
        help=meaning if len(words) <= _WIDEST_METAVAR else f"{meaning} One of {', '.join(setting.choices)}.",
        show_default="the recipe's",
        rich_help_panel=_RECIPE_PANEL,
    )
    return Annotated[str | None, option], None


_Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Any setting of the recipe, such as horizontal_flip=true; repeat it. All are listed below.",
        rich_help_panel=_RECIPE_PANEL,
    ),
]
_Seed = Annotated[int, typer.Option(help="Seed of every random choice.", rich_help_panel=_RECIPE_PANEL)]


def _read_recipe(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings as text by name, checked before anything is sent. Raises InvalidArgument."""
    settings = {name: str(values[name]).lower() if values[name] is True else values[name] for name in _FLAGGED}
    settings = {name: text for name, text in settings.items() if text not in (None, False)}
    for text in values["set"] or ():
        name, separator, value = text.partition("=")
        if not separator or not name.strip():
            raise InvalidArgument(f"{text!r} is not NAME=VALUE.", remedy="Write horizontal_flip=true.", field="set")
        settings[name.strip()] = value.strip()
    apply_settings(Recipe(), settings, field="set")
    return {"recipe": settings}


RECIPE = Bundle(
    {**{name: _flag(_SETTINGS[name]) for name in _FLAGGED}, "set": (_Set, None)},
    _read_recipe,
)
"""How a search is run. Gives `recipe`: settings as text by name."""


def _all_settings() -> str:
    """The settings that `--set` takes, a paragraph each."""
    lines = ["Settings that --set takes, with their defaults in the space compact:"]
    for setting in _SETTINGS.values():
        limits = "one of " + ", ".join(setting.choices) if setting.choices else setting.bounds or setting.kind
        lines.append(f"{setting.name}={setting.default or '(none)'} - {setting.meaning} ({limits})")
    return "\n\n".join(lines)


SEED = Bundle({"seed": (_Seed, 0)}, lambda values: {"seed": values["seed"]})

SOURCE = Bundle(
    {
        "source": (
            Annotated[
                str,
                typer.Option(
                    metavar="auto|scratch|VERSION",
                    help="Where to start: auto lets the nearest sources and scratch compete in a taste.",
                    rich_help_panel=_RECIPE_PANEL,
                ),
            ],
            "auto",
        ),
        "transfer_mode": (
            Annotated[
                TransferMode,
                typer.Option(
                    case_sensitive=False,
                    metavar="MODE",
                    show_default="weights_and_alphas",
                    help="What is taken over from the source: weights_and_alphas, alphas_only or weights_only.",
                    rich_help_panel=_RECIPE_PANEL,
                ),
            ],
            TransferMode.UNSPECIFIED,
        ),
    },
    lambda values: {name: values[name] for name in ("source", "transfer_mode")},
)
"""Where a search starts. Gives `source`, to be resolved by `resolve_source`, and `transfer_mode`."""

PLACE = Bundle(
    {
        "here": (
            Annotated[
                bool,
                typer.Option(
                    "--here",
                    help="Search in this process; the images stay on this machine.",
                    rich_help_panel=_PLACE_PANEL,
                ),
            ],
            False,
        ),
        "retain_images": (
            Annotated[
                bool,
                typer.Option(
                    "--retain-images",
                    help="Ask the registry to keep the images (a generalist learns only from retained ones).",
                    rich_help_panel=_PLACE_PANEL,
                ),
            ],
            False,
        ),
        "moments_only": (MomentsOnly, False),
    },
    lambda values: {name: values[name] for name in ("here", "retain_images", "moments_only")},
)
"""Where a search runs, and what travels."""


def plot_option(help_text: str) -> object:
    """The option `--plot FILE` of a command that can draw its result."""
    return typer.Option("--plot", metavar="FILE", help=help_text)


def resolve_source(client: RegistryClient, source: str) -> str:
    """`auto`, `scratch`, or the full name of a version. Raises InvalidArgument, NotFound."""
    if source.lower() in ("auto", "scratch"):
        return source.lower()
    return client.get_version(names.version_name(source, field="source")).name
