"""Options and arguments that several commands share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from supernet_registry.clients.cli import names
from supernet_registry.clients.wire.resources import Derivation, TransferMode, Variant
from supernet_registry.search.errors import InvalidArgument

if TYPE_CHECKING:
    from supernet_registry.clients.registry_client import RegistryClient
    from supernet_registry.search.spaces import SearchSpace

__all__ = [
    "AsJson",
    "BatchSize",
    "Cells",
    "Channels",
    "ChildEpochs",
    "ChildHoldsOut",
    "DatasetPath",
    "DerivationOption",
    "DerivationSteps",
    "Device",
    "DropAt",
    "Epochs",
    "HeadPool",
    "Here",
    "MomentsOnly",
    "PartialChannels",
    "Patience",
    "Resolution",
    "RetainImages",
    "Seed",
    "Settings",
    "Source",
    "Space",
    "StemStride",
    "TasteCandidates",
    "TasteShare",
    "TransferModeOption",
    "VariantOption",
    "VersionName",
    "plot_option",
    "recipe_settings",
    "resolve_source",
    "search_space",
]

_SPACE_PANEL = "Search space"
_RECIPE_PANEL = "Recipe"
_PLACE_PANEL = "Where it runs"

DatasetPath = Annotated[
    Path, typer.Argument(metavar="DATASET", help="A .npz file or a folder of images.", show_default=False)
]
VersionName = Annotated[
    str, typer.Argument(metavar="VERSION", help="`x/3`, or `x` for the head of supernet x.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout, and nothing else there.")]

Space = Annotated[
    str | None,
    typer.Option(
        help="Family of search spaces: compact, nas-bench-201 or darts.",
        show_default="the supernet's, else compact",
        rich_help_panel=_SPACE_PANEL,
    ),
]


def _size(help_text: str) -> object:
    return typer.Option(min=0, help=help_text, show_default="the family's", rich_help_panel=_SPACE_PANEL)


Channels = Annotated[int, _size("Channels of the first cell.")]
Cells = Annotated[int, _size("Cells: a stage (compact, nas-bench-201) or in all (darts).")]
StemStride = Annotated[int, _size("Stride of the stem convolution, 1 or 2.")]
HeadPool = Annotated[int, _size("Side of the pooled feature map that the classifier sees.")]
Resolution = Annotated[int, _size("Largest image side in pixels; larger images are resized.")]
PartialChannels = Annotated[
    int, _size("Only 1/K of the channels go through the mixture (PC-DARTS: 4); K divides the channels.")
]


def _recipe(help_text: str, default: str = "the recipe's") -> object:
    return typer.Option(help=help_text, show_default=default, rich_help_panel=_RECIPE_PANEL)


Source = Annotated[
    str,
    typer.Option(
        metavar="auto|scratch|VERSION",
        help="Where to start: auto lets the nearest sources and scratch compete in a taste.",
        rich_help_panel=_RECIPE_PANEL,
    ),
]
TransferModeOption = Annotated[
    TransferMode,
    typer.Option(
        case_sensitive=False,
        metavar="MODE",
        show_default="weights_and_alphas",
        help="What is taken over from the source: weights_and_alphas, alphas_only or weights_only.",
        rich_help_panel=_RECIPE_PANEL,
    ),
]


def _variant(text: str) -> Variant:
    try:
        return Variant.named(text)
    except InvalidArgument as error:
        raise typer.BadParameter(str(error)) from None


VariantOption = Annotated[
    Variant,
    typer.Option(
        parser=_variant,
        metavar="VARIANT",
        show_default="darts",
        help="Variant of DARTS: darts, darts-2nd, smooth-darts-rs, smooth-darts-adv, pc-darts or drnas.",
        rich_help_panel=_RECIPE_PANEL,
    ),
]
DropAt = Annotated[
    list[float] | None,
    typer.Option(
        min=0.0,
        max=1.0,
        metavar="SHARE",
        help="Drop every edge's weakest operation at this share of the search; may be given several times.",
        rich_help_panel=_RECIPE_PANEL,
    ),
]
Epochs = Annotated[int, _recipe("Most epochs of the search.")]
ChildEpochs = Annotated[int, _recipe("Epochs of the child network; -1 for no child network.")]
Patience = Annotated[int, _recipe("Epochs without progress after which the search stops.")]
BatchSize = Annotated[int, _recipe("Images a batch.")]
TasteShare = Annotated[float, _recipe("Steps of the taste, as a share of a full search.")]
TasteCandidates = Annotated[int, _recipe("Most candidates to taste besides scratch.")]
DerivationOption = Annotated[
    Derivation,
    typer.Option(
        case_sensitive=False,
        metavar="HOW",
        show_default="the recipe's",
        help="How the architecture is read off the supernet: argmax of α, or perturbation (DARTS-PT).",
        rich_help_panel=_RECIPE_PANEL,
    ),
]
DerivationSteps = Annotated[int, _recipe("Perturbation: steps of fine-tuning after every decision.")]
ChildHoldsOut = Annotated[
    bool,
    typer.Option(
        "--child-holds-out",
        help="Keep the validation split out of the child network's training, to judge it by.",
        rich_help_panel=_RECIPE_PANEL,
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Another field of the recipe, such as horizontal_flip=true; may be given several times.",
        rich_help_panel=_RECIPE_PANEL,
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of every random choice.", rich_help_panel=_RECIPE_PANEL)]

Here = Annotated[
    bool,
    typer.Option(
        "--here", help="Search in this process; the images stay on this machine.", rich_help_panel=_PLACE_PANEL
    ),
]
Device = Annotated[str, typer.Option(help="With --here: auto, cpu, cuda or cuda:N.", rich_help_panel=_PLACE_PANEL)]
RetainImages = Annotated[
    bool,
    typer.Option(
        "--retain-images",
        help="Ask the registry to keep the images (a generalist learns only from retained ones).",
        rich_help_panel=_PLACE_PANEL,
    ),
]

MomentsOnly = Annotated[
    bool,
    typer.Option(
        "--moments-only",
        help="Send class means and covariances, but no sampled features. A job's images stay here only with --here.",
    ),
]


def plot_option(help_text: str) -> object:
    """The option `--plot FILE` of a command that can draw its result."""
    return typer.Option("--plot", metavar="FILE", help=help_text)


def recipe_settings(given: Sequence[str] | None) -> dict[str, str]:
    """What `--set` says: values by name, checked before anything is sent. Raises InvalidArgument."""
    from supernet_registry.search.recipe import Recipe
    from supernet_registry.search.recipe.settings import apply_settings

    settings = {}
    for text in given or ():
        name, separator, value = text.partition("=")
        if not separator or not name.strip():
            raise InvalidArgument(f"{text!r} is not NAME=VALUE.", remedy="Write horizontal_flip=true.", field="set")
        settings[name.strip()] = value.strip()
    apply_settings(Recipe(), settings, field="set")
    return settings


def search_space(family: str | None, overrides: Mapping[str, int]) -> SearchSpace | None:
    """The space that the options describe; None where no option was given. Raises InvalidSearchSpace."""
    given = {name: value for name, value in overrides.items() if value}
    if family is None and not given:
        return None
    from supernet_registry.search.spaces import DEFAULT_FAMILY, make_space

    return make_space(family or DEFAULT_FAMILY, **given)


def resolve_source(client: RegistryClient, source: str) -> str:
    """`auto`, `scratch`, or the full name of a version. Raises InvalidArgument, NotFound."""
    if source.lower() in ("auto", "scratch"):
        return source.lower()
    return client.get_version(names.version_name(source, field="source")).name
