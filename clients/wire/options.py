"""Options of jobs, each said once: both clients, the stream runner and the command line take these bundles.

A setting of the search itself is no option but a field of the recipe, and goes into `recipe` by its name
(`search/recipe/recipe.py` has all, `supernet-registry search --help` lists them).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from typing import Any, TypedDict

from supernet_registry.clients.wire.resources import SpaceDescriptor, TransferMode
from supernet_registry.search.errors import InvalidArgument
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.spaces import SearchSpace

__all__ = [
    "GeneralistOptions",
    "JobOptions",
    "SearchOptions",
    "SourceOptions",
    "Space",
    "StreamOptions",
    "check_options",
]

Space = SearchSpace | SpaceDescriptor | str
"""A search space as users give it: built, described, or by the name of its family."""


class JobOptions(TypedDict, total=False):
    """What every kind of work takes.

    space: the search space; None for the supernet's, or the server's default.
    seed: of every random choice; 0 if not given.
    recipe: fields of the recipe by name, such as `{"epochs": 20, "variant": "pc-darts"}`, where the search space's
        own are not wanted.
    """

    space: Space | None
    seed: int
    recipe: Mapping[str, object]


class SourceOptions(JobOptions, total=False):
    """What a search takes besides.

    source: "auto" (nearest candidates and scratch are tasted; the default), "scratch", or a version's name.
    transfer_mode: what is taken over from the source; weights and alphas if not given.
    here: the caller runs the job itself (`clients.work.job_runner`); its images are not uploaded.
    retain_images: ask the registry to keep the images when no job needs them any more.
    moments_only: sketch class means and covariances, but no features of single images.
    """

    source: str
    transfer_mode: TransferMode | str
    here: bool
    retain_images: bool
    moments_only: bool


class _Belonging(TypedDict, total=False):
    """What a job belongs to.

    stream: the task stream, which becomes MLflow's experiment.
    labels: free labels of the owner.
    """

    stream: str
    labels: Mapping[str, str]


class SearchOptions(SourceOptions, _Belonging, total=False):
    """Options of `submit_search`.

    stream_step: the job's place in its stream, from 0.
    """

    stream_step: int


class GeneralistOptions(JobOptions, _Belonging, total=False):
    """Options of `pretrain_generalist`."""


class StreamOptions(SourceOptions, total=False):
    """Options of `run_stream`.

    device: for `here` and `evaluate`; "auto", "cpu", "cuda" or "cuda:N".
    evaluate: measure the accuracy matrix here on downloaded weights, instead of reading the records.
    keep_going: go on with the next task when one fails.
    """

    device: str
    evaluate: bool
    keep_going: bool


def check_options(given: Mapping[str, Any], known: type) -> None:
    """Raise InvalidArgument for a keyword that is no option of `known`, one of the classes above."""
    names = known.__annotations__
    for name in given:
        if name in names:
            continue
        if name in {field.name for field in fields(Recipe)}:
            remedy = f'It is a field of the recipe: give recipe={{"{name}": ...}}.'
        else:
            near = get_close_matches(name, names, n=1)
            remedy = f"Did you mean {near[0]}?" if near else f"Use one of {', '.join(sorted(names))}."
        raise InvalidArgument(f"There is no option {name!r}.", remedy=remedy, field=name)
