"""What a search job must be before it is queued, as far as the request alone can tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace

from supernet_registry.clients.wire.resources import (
    Executor,
    SearchJob,
    SearchSpec,
    SourcePolicy,
    SpaceDescriptor,
    TransferMode,
    Variant,
)
from supernet_registry.registry.catalog import names
from supernet_registry.registry.catalog.checks import check_labels, check_number, check_text
from supernet_registry.search.errors import InvalidArgument
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.recipe.settings import apply_settings

__all__ = ["DEFAULT_STREAM", "SPEC_RANGES", "check_job_draft", "check_recipe"]

DEFAULT_STREAM = "default"

_SPEC = "search_job.spec"
_MAX_DROPS = 32  # no edge has more operations
SPEC_RANGES: dict[str, tuple[float, float]] = {
    "epochs": (0, 10_000),
    "patience": (0, 10_000),
    "batch_size": (0, 8192),
    "seed": (0, 2**63 - 1),
    "child_epochs": (-1, 10_000),
    "taste_share": (0.0, 1.0),
    "taste_candidates": (0, 32),
    "derivation_steps": (0, 10_000),
}
"""Least and largest values of a spec's numbers."""
_OWN_FIELDS = frozenset(f.name for f in fields(SearchSpec))


def check_job_draft(job: SearchJob) -> SearchJob:
    """The input fields of a job, checked and with explicit choices; output-only fields are cleared.

    Raises:
        InvalidArgument, NotFinite: with the path of the field.
    """
    names.supernet_id(job.supernet, "search_job.supernet")
    names.dataset_id(job.dataset, "search_job.dataset")
    check_number(job.stream_step, "search_job.stream_step", low=0)
    return SearchJob(
        supernet=job.supernet,
        dataset=job.dataset,
        spec=_check_spec(job.spec or SearchSpec()),
        stream=check_text(job.stream, "search_job.stream", max_length=200) or DEFAULT_STREAM,
        stream_step=job.stream_step,
        labels=check_labels(job.labels, "search_job.labels"),
    )


def _check_spec(spec: SearchSpec) -> SearchSpec:
    for name, (low, high) in SPEC_RANGES.items():
        check_number(getattr(spec, name), f"{_SPEC}.{name}", low=low, high=high)
    if len(spec.drop_shares) > _MAX_DROPS:
        raise InvalidArgument(
            f"{len(spec.drop_shares)} drop_shares.", remedy=f"Give {_MAX_DROPS} at most.", field=f"{_SPEC}.drop_shares"
        )
    for share in spec.drop_shares:
        check_number(share, f"{_SPEC}.drop_shares", low=0.0, high=1.0)
    if spec.datasets or spec.without_replay:
        raise InvalidArgument(
            "A search job has one dataset.",
            remedy="Call PretrainGeneralist for a supernet of several datasets.",
            field=f"{_SPEC}.datasets" if spec.datasets else f"{_SPEC}.without_replay",
        )
    check_recipe(spec.recipe, f"{_SPEC}.recipe")
    policy = SourcePolicy.AUTO if spec.source_policy is SourcePolicy.UNSPECIFIED else spec.source_policy
    if (policy is SourcePolicy.VERSION) != bool(spec.source_version):
        raise InvalidArgument(
            f"Source policy {policy} with source_version {spec.source_version[:200]!r}.",
            remedy="Name a source_version with policy VERSION, and with no other.",
            field=f"{_SPEC}.source_version",
        )
    if spec.source_version:
        names.version_key(spec.source_version, f"{_SPEC}.source_version")
    return replace(
        spec,
        search_space=None if spec.search_space == SpaceDescriptor() else spec.search_space,
        source_policy=policy,
        transfer_mode=_check_transfer_mode(spec.transfer_mode, policy),
        executor=Executor.POOL if spec.executor is Executor.UNSPECIFIED else spec.executor,
        variant=Variant.DARTS if spec.variant is Variant.UNSPECIFIED else spec.variant,
    )


def check_recipe(settings: Mapping[str, str], field: str) -> None:
    """Fields of a recipe that a spec has no field for, with values that a recipe can have. Raises InvalidArgument."""
    for name in settings:
        if name in _OWN_FIELDS:
            raise InvalidArgument(
                f"{name} has a field of its own.", remedy=f"Set {name} in the spec.", field=f"{field}.{name}"
            )
    apply_settings(Recipe(), settings, field=field)


def _check_transfer_mode(mode: TransferMode, policy: SourcePolicy) -> TransferMode:
    scratch = policy is SourcePolicy.SCRATCH
    if mode is TransferMode.UNSPECIFIED:
        return TransferMode.SCRATCH if scratch else TransferMode.WEIGHTS_AND_ALPHAS
    if (mode is TransferMode.SCRATCH) != scratch:
        raise InvalidArgument(
            f"Transfer mode {mode} does not go with source policy {policy}.",
            remedy="Use SCRATCH for both, or for neither.",
            field=f"{_SPEC}.transfer_mode",
        )
    return mode
