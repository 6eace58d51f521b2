"""What a kind of work decides in the catalog, and the checks that all kinds share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import sqlalchemy as sa

from supernet_registry.clients.wire.resources import SearchJob, SearchSpec, SpaceDescriptor
from supernet_registry.registry.catalog import names
from supernet_registry.registry.catalog.checks import check_labels, check_number, check_text
from supernet_registry.registry.catalog.spaces import read_space, stored_space
from supernet_registry.registry.storage.schema import supernets
from supernet_registry.search.errors import InvalidArgument, SpaceMismatch
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.recipe.settings import apply_settings
from supernet_registry.search.spaces import SearchSpace, check_compatible

__all__ = [
    "DEFAULT_STREAM",
    "SPEC",
    "Kind",
    "Plan",
    "check_job",
    "check_recipe",
    "check_source",
    "find_supernet",
    "given_space",
    "space_of",
]

DEFAULT_STREAM = "default"
SPEC = "search_job.spec"
"""Path of the spec in a request, for errors."""

_LARGEST_SEED = 2**63 - 1
_MOST_SETTINGS = 200
_LONGEST_SETTING = 1000


@dataclass(frozen=True, slots=True)
class Plan:
    """A job that passed every check, with what it refers to."""

    spec: SearchSpec
    space: SearchSpace
    datasets: Sequence[sa.Row[Any]]  # at least one; the first is the job's own
    supernet: sa.Row[Any] | None  # None: to be created

    @property
    def dataset(self) -> sa.Row[Any]:
        return self.datasets[0]

    @property
    def base_number(self) -> int | None:
        return self.supernet.head_number if self.supernet is not None else None


class Kind(Protocol):
    """A kind of work."""

    def check(self, job: SearchJob) -> SearchJob:
        """The input fields of a job, checked as far as the request alone can tell, and with explicit choices.

        Output-only fields are cleared. Raises InvalidArgument, NotFinite, with the path of the field.
        """

    def plan(self, connection: sa.Connection, draft: SearchJob) -> Plan:
        """Check a draft against the catalog, under locks that last to the transaction's end.

        Raises NotFound, ImagesMissing, SpaceMismatch, InvalidArgument, with the path of the field.
        """


def check_job(job: SearchJob, spec: SearchSpec) -> SearchJob:
    """What is common to all kinds: names, seed, recipe, stream, labels. `spec` is the job's, as its kind wants it."""
    names.supernet_id(job.supernet, "search_job.supernet")
    check_number(job.stream_step, "search_job.stream_step", low=0)
    check_number(spec.seed, f"{SPEC}.seed", low=0, high=_LARGEST_SEED)
    check_recipe(Recipe(), spec.recipe)
    return SearchJob(
        supernet=job.supernet,
        dataset=job.dataset,
        spec=spec,
        stream=check_text(job.stream, "search_job.stream", max_length=200) or DEFAULT_STREAM,
        stream_step=job.stream_step,
        labels=check_labels(job.labels, "search_job.labels"),
    )


def check_recipe(recipe: Recipe, settings: Mapping[str, str]) -> Recipe:
    """The recipe with the settings of a spec. Raises InvalidArgument with the path of the field."""
    field = f"{SPEC}.recipe"
    if len(settings) > _MOST_SETTINGS:
        raise InvalidArgument(f"{len(settings)} settings.", remedy=f"Give {_MOST_SETTINGS} at most.", field=field)
    for name, text in settings.items():
        check_text(text, f"{field}.{name[:80]}", max_length=_LONGEST_SETTING)
    return apply_settings(recipe, settings, field=field)


def given_space(spec: SearchSpec) -> SpaceDescriptor | None:
    """The space that a spec asks for; one of defaults alone asks for none."""
    return None if spec.search_space == SpaceDescriptor() else spec.search_space


def find_supernet(connection: sa.Connection, name: str) -> sa.Row[Any] | None:
    """Row of a supernet, under a shared lock; None where there is none."""
    statement = supernets.select().where(supernets.c.id == names.supernet_id(name))
    return connection.execute(statement.with_for_update(read=True)).one_or_none()


def space_of(draft: SearchJob, supernet: sa.Row[Any] | None) -> SearchSpace:
    """The job's space: what it asks for, else its supernet's, else the default one. Raises SpaceMismatch."""
    assert draft.spec is not None
    field = f"{SPEC}.search_space"
    if supernet is None:
        return read_space(draft.spec.search_space, field)
    existing = stored_space(supernet.space)
    if draft.spec.search_space is not None:
        asked = read_space(draft.spec.search_space, field)
        if asked.id != existing.id:
            raise SpaceMismatch(
                f"{draft.supernet} has the search space {existing.id}; the job asks for {asked.id}.",
                remedy="Leave the search space out, or search into another supernet.",
                field=field,
                metadata={"supernetSpace": existing.id, "jobSpace": asked.id},
            )
    return existing


def check_source(connection: sa.Connection, row: sa.Row[Any], space: SearchSpace, field: str) -> str:
    """Name of a source version (`head` resolved), whose weights fit `space`. Raises SpaceMismatch."""
    # Shared lock: its supernet cannot be deleted before the job that needs it is in the table.
    connection.execute(
        sa.select(supernets.c.row_id).where(supernets.c.row_id == row.supernet_row).with_for_update(read=True)
    )
    try:
        check_compatible(stored_space(row.space), space)
    except SpaceMismatch as error:
        error.field = field
        raise
    return names.version_name(row.supernet_id, row.number)
