"""One attempt at a search job, step by step: images, checkpoint, candidates, search, write-back."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

from supernet_registry.clients.prepare import space_descriptor
from supernet_registry.clients.registry_client import RegistryClient
from supernet_registry.clients.wire.errors import (
    BlobCorrupt,
    DigestMismatch,
    ImagesMissing,
    InvalidArgument,
    NotFound,
    SearchCancelled,
    SupernetRegistryError,
)
from supernet_registry.clients.wire.resources import (
    AbandonOutcome,
    JobError,
    JobEvent,
    NearestSources,
    SearchJob,
    SearchSpec,
    SupernetVersion,
)
from supernet_registry.clients.work.kinds import kind_of
from supernet_registry.clients.work.lease_keeper import LeaseKeeper
from supernet_registry.clients.work.translate import decision_resource, epoch_resource, version_resource
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.recipe.settings import apply_settings
from supernet_registry.search.results import NEAREST, Candidate, Decision, Epoch, Listener, PipelineResult
from supernet_registry.search.spaces import SearchSpace, space_from_fields
from supernet_registry.search.tasks import ImageDataset, unpack_images

if TYPE_CHECKING:
    from supernet_registry.search.training.runtime import Runtime

__all__ = ["Attempt"]

_log = logging.getLogger(__name__)

_QUERY_TOP_K = 100
"""Candidates asked for: several versions may share a dataset, and only the nearest of each is tasted."""


class Attempt:
    """One attempt at a job, step by step."""

    def __init__(
        self,
        client: RegistryClient,
        keeper: LeaseKeeper,
        job: SearchJob,
        device: str,
        runtime: Runtime,
        on_event: Callable[[JobEvent], None] | None,
    ) -> None:
        self._client = client
        self._keeper = keeper
        self.job = job
        self.spec = job.spec or SearchSpec()
        self.runtime = runtime
        self._device = device
        self._on_event = on_event
        self._novel = False
        self._at_hand: ImageDataset | None = None

    def run(self, checkpoint_blob: str, dataset: ImageDataset | None) -> SupernetVersion:
        """Do the job's work and write the result back. Raises whatever ends an attempt."""
        if self._keeper.should_stop():
            raise SearchCancelled("This worker was told to leave before it began.")
        self._at_hand = dataset
        run = kind_of(self.spec).prepare(self)
        return self._write_back(self._go_on(run, checkpoint_blob))

    def _go_on(self, work: Callable[[bytes | None], PipelineResult], checkpoint_blob: str) -> PipelineResult:
        """Work from a checkpoint, or from the beginning if there is none or it cannot be used."""
        checkpoint = self._checkpoint(checkpoint_blob)
        try:
            result = work(checkpoint)
        except (BlobCorrupt, InvalidArgument) as error:
            if checkpoint is None or error.field != "checkpoint":
                raise
            self._begin_again(error)
            result = work(None)
        self._keeper.flush()
        return result

    # What a kind of work asks (`kinds.Desk`)

    @cached_property
    def space(self) -> SearchSpace:
        return space_from_fields(self.spec.search_space)

    @cached_property
    def recipe(self) -> Recipe:
        return apply_settings(Recipe.for_space(self.space), self.spec.recipe)

    @property
    def listener(self) -> Listener:
        return _Reporter(self)

    def own_images(self) -> ImageDataset:
        return self.images(self.job.dataset) if self._at_hand is None else self._checked(self._at_hand)

    def images(self, name: str) -> ImageDataset:
        dataset = self._keeper.persist(lambda: self._client.get_dataset(name))
        if not dataset.images_blob:
            raise ImagesMissing(
                f"The registry holds no images of {dataset.name} ({dataset.display_name}).",
                remedy="Upload them (`register_dataset`), or run the job where they are (`search --here`).",
                field="dataset",
            )
        data = self._keeper.persist(lambda: self._client.download_blob(dataset.images_blob))
        images = unpack_images(data, name=dataset.display_name)
        if images.digest != dataset.digest:
            raise DigestMismatch(
                f"The images in {dataset.images_blob} are not those of {dataset.name}.",
                remedy="Upload the dataset's own images.",
                field="dataset.images_blob",
            )
        return images

    def version(self, name: str) -> SupernetVersion:
        return self._keeper.persist(lambda: self._client.get_version(name))

    def download(self, version: str, ot_distance: float, *, origin: str = NEAREST) -> Candidate:
        resource = self.version(version)
        weights = self._keeper.persist(lambda: self._client.download_blob(resource.weights_blob))
        return Candidate(version=resource.name, ot_distance=ot_distance, weights=weights, origin=origin)

    def nearest(self) -> NearestSources:
        dataset = self._keeper.persist(lambda: self._client.get_dataset(self.job.dataset))
        found = self._keeper.persist(
            lambda: self._client.query_nearest_sources(
                self.job.dataset,
                top_k=_QUERY_TOP_K,
                search_space=space_descriptor(self.space),
                min_index_sequence=dataset.index_sequence,
            )
        )
        self._novel = found.novel
        return found

    def say(self, text: str) -> None:
        self.report(JobEvent(message=text))

    # What is told

    def report(self, event: JobEvent) -> None:
        """Queue an event for the registry and tell the caller."""
        self._keeper.send(event)
        if self._on_event is not None:
            self._on_event(event)

    def report_decision(self, decision: Decision) -> None:
        """Report which source was chosen, with the query's verdict on novelty."""
        self.report(JobEvent(decision=decision_resource(decision, novel=self._novel)))

    @property
    def keeper(self) -> LeaseKeeper:
        return self._keeper

    def stopped(self, error: SearchCancelled) -> None:
        """The search stopped before its end: say why, and leave the job as its owner would want it."""
        if self._keeper.lost:
            _log.warning("%s: the lease is lost; this attempt has no effect", self.job.name)
        elif self._keeper.cancelled:
            _log.info("%s: cancelled", self.job.name)
            self.abandon(AbandonOutcome.CANCELLED)
        else:
            try:
                self._keeper.flush()
            except SearchCancelled:
                _log.warning("%s: left without handing in the last checkpoint", self.job.name)
            except SupernetRegistryError as refused:
                self.abandon(AbandonOutcome.FAILED, JobError(reason=refused.reason, message=str(refused)))
                return
            _log.info("%s: given back to the queue: %s", self.job.name, error)
            self.abandon(AbandonOutcome.REQUEUE)

    def abandon(self, outcome: AbandonOutcome, error: JobError | None = None) -> None:
        """End the attempt. Failing to say so is harmless: the lease runs out."""
        try:
            self._keeper.persist(lambda: self._client.abandon_search_job(self._keeper.lease, outcome, error))
        except SupernetRegistryError as refused:
            _log.warning("%s: could not report %s: %s", self.job.name, outcome.value, refused)

    # Inputs

    def _checked(self, dataset: ImageDataset) -> ImageDataset:
        """A dataset given locally must be the one that the job is about."""
        registered = self._keeper.persist(lambda: self._client.get_dataset(self.job.dataset))
        if registered.digest != dataset.digest:
            raise DigestMismatch(
                f"The dataset at hand is not {registered.name} ({registered.display_name}).",
                remedy="Give the dataset that the job was submitted with.",
                field="dataset",
            )
        return dataset

    def _checkpoint(self, blob: str) -> bytes | None:
        if not blob:
            return None
        try:
            return self._keeper.persist(lambda: self._client.download_blob(blob))
        except (BlobCorrupt, DigestMismatch, NotFound) as error:
            self._begin_again(error)
            return None

    def _begin_again(self, error: SupernetRegistryError) -> None:
        self.say(f"The checkpoint cannot be used, so the search begins again. {error}")

    # Result

    def _write_back(self, result: PipelineResult) -> SupernetVersion:
        """Upload the result's blobs and complete the job; both may be repeated without harm."""
        from supernet_registry.search.training.devices import device_name

        def upload_and_complete() -> tuple[SupernetVersion, bool]:
            weights = self._client.upload_blob(result.weights)
            child = self._client.upload_blob(result.child) if result.child is not None else ""
            draft = version_resource(result, weights, child, device_name(self._device))
            return self._client.complete_search_job(self._keeper.lease, draft)

        version, head_moved = self._keeper.persist(upload_and_complete)
        _log.info("%s: wrote %s%s", self.job.name, version.name, " (the head had moved)" if head_moved else "")
        return version


class _Reporter(Listener):
    """Turns what the pipeline tells into events of the job."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt

    def on_decision(self, d: Decision) -> None:
        self._attempt.report_decision(d)

    def on_epoch(self, e: Epoch) -> None:
        self._attempt.report(JobEvent(epoch=epoch_resource(e)))

    def on_checkpoint(self, data: bytes) -> None:
        self._attempt.keeper.send_checkpoint(data)

    def on_message(self, text: str) -> None:
        self._attempt.say(text)

    def should_stop(self) -> bool:
        return self._attempt.keeper.should_stop()
