"""What an attempt asks of a kind of work, and what a kind may ask of the attempt."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from supernet_registry.clients.wire.resources import SearchJob, SearchSpec
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.results import NEAREST, Candidate, Listener, PipelineResult
from supernet_registry.search.spaces import SearchSpace
from supernet_registry.search.tasks import ImageDataset

if TYPE_CHECKING:
    from supernet_registry.clients.wire.resources import NearestSources, SupernetVersion
    from supernet_registry.search.training.runtime import Runtime

__all__ = ["Desk", "Kind", "Run"]

Run = Callable[[bytes | None], PipelineResult]
"""Does the work from a checkpoint, or from the beginning if that is None."""


class Desk(Protocol):
    """An attempt, as a kind of work sees it: what the job says, and what the registry gives."""

    @property
    def job(self) -> SearchJob: ...

    @property
    def spec(self) -> SearchSpec: ...

    @property
    def runtime(self) -> Runtime:
        """Where it computes, and with whom."""

    @property
    def space(self) -> SearchSpace: ...

    @property
    def recipe(self) -> Recipe:
        """The space's recipe with the job's settings."""

    @property
    def listener(self) -> Listener:
        """Turns what a run tells into events of the job."""

    def images(self, name: str) -> ImageDataset:
        """Images of a dataset of the registry. Raises ImagesMissing, DigestMismatch."""

    def own_images(self) -> ImageDataset:
        """Images of the job's dataset: those at hand if there are any, else the registry's."""

    def version(self, name: str) -> SupernetVersion:
        """A version's resource. Raises NotFound."""

    def download(self, version: str, ot_distance: float, *, origin: str = NEAREST) -> Candidate:
        """A version's supernet. Raises NotFound, BlobCorrupt, DigestMismatch."""

    def nearest(self) -> NearestSources:
        """The registry's answer for the job's dataset and space; whether it is novel is reported with the decision."""

    def say(self, text: str) -> None:
        """Tell a remark to whoever watches the job."""


class Kind(Protocol):
    """A kind of work: prepares a run from what a job says."""

    def prepare(self, desk: Desk) -> Run:
        """Fetch what the work needs. Raises whatever the registry or the data raise."""
