"""One attempt at a search job, step by step: images, checkpoint, candidates, search, write-back."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict

from supernet_registry.clients.prepare import space_descriptor
from supernet_registry.clients.registry_client import RegistryClient
from supernet_registry.clients.wire.errors import (
    BlobCorrupt,
    DigestMismatch,
    ImagesMissing,
    InvalidArgument,
    NotFinite,
    NotFound,
    SearchCancelled,
    SupernetRegistryError,
    UnsafeWeights,
)
from supernet_registry.clients.wire.resources import (
    AbandonOutcome,
    EpochMetrics,
    JobError,
    JobEvent,
    JobKind,
    NearestSources,
    Phase,
    SearchJob,
    SearchSpec,
    SourcePolicy,
    SupernetVersion,
    TransferMode,
)
from supernet_registry.clients.work.candidates import choose_candidates
from supernet_registry.clients.work.lease_keeper import LeaseKeeper
from supernet_registry.clients.work.translate import decision_resource, recipe_of, transfer_mode_of, version_resource
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.results import NEAREST, Candidate, Decision, Epoch, Listener, PipelineResult
from supernet_registry.search.spaces import SearchSpace, space_from_fields
from supernet_registry.search.storage.weights import check_weights
from supernet_registry.search.tasks import ImageDataset, unpack_images
from supernet_registry.search.training.devices import device_name

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
        on_event: Callable[[JobEvent], None] | None,
    ) -> None:
        self._client = client
        self._keeper = keeper
        self._job = job
        self._spec = job.spec or SearchSpec()
        self._device = device
        self._on_event = on_event
        self._novel = False

    def run(self, checkpoint_blob: str, dataset: ImageDataset | None) -> SupernetVersion:
        if self._keeper.should_stop():
            raise SearchCancelled("This worker was told to leave before it began.")
        from supernet_registry.search.runs.together import run_together

        if self._job.kind is JobKind.GENERALIST:
            return self._write_back(self._generalist(checkpoint_blob))
        spec = self._spec
        space = space_from_fields(spec.search_space)
        recipe = recipe_of(spec, space)
        data = self._images(self._job.dataset) if dataset is None else self._checked(dataset)

        def search(checkpoint: bytes | None) -> PipelineResult:
            return run_together(
                data,
                space,
                recipe,
                seed=spec.seed,
                candidates=self._candidates(space, recipe) if checkpoint is None else [],
                taste=spec.source_policy is not SourcePolicy.VERSION,
                transfer_mode=transfer_mode_of(spec).value,
                device=self._device,
                checkpoint=checkpoint,
                listener=_Reporter(self),
            )

        return self._write_back(self._go_on(search, checkpoint_blob))

    def _generalist(self, checkpoint_blob: str) -> PipelineResult:
        """Pretrain over the job's datasets, all of which come from the registry."""
        from supernet_registry.search.runs.generalist import pretrain_generalist
        from supernet_registry.search.training.parallel import alone

        spec = self._spec
        space = space_from_fields(spec.search_space)
        recipe = recipe_of(spec, space)
        data = [self._images(name) for name in spec.datasets]

        def pretrain(checkpoint: bytes | None) -> PipelineResult:
            base = self._download(spec.source_version, 0.0) if spec.source_version and checkpoint is None else None
            with alone():
                return pretrain_generalist(
                    data,
                    space,
                    recipe,
                    seed=spec.seed,
                    base=base,
                    replay=not spec.without_replay,
                    device=self._device,
                    checkpoint=checkpoint,
                    listener=_Reporter(self),
                ).result

        return self._go_on(pretrain, checkpoint_blob)

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
            _log.warning("%s: the lease is lost; this attempt has no effect", self._job.name)
        elif self._keeper.cancelled:
            _log.info("%s: cancelled", self._job.name)
            self.abandon(AbandonOutcome.CANCELLED)
        else:
            try:
                self._keeper.flush()
            except SearchCancelled:
                _log.warning("%s: left without handing in the last checkpoint", self._job.name)
            except SupernetRegistryError as refused:
                self.abandon(AbandonOutcome.FAILED, JobError(reason=refused.reason, message=str(refused)))
                return
            _log.info("%s: given back to the queue: %s", self._job.name, error)
            self.abandon(AbandonOutcome.REQUEUE)

    def abandon(self, outcome: AbandonOutcome, error: JobError | None = None) -> None:
        """End the attempt. Failing to say so is harmless: the lease runs out."""
        try:
            self._keeper.persist(lambda: self._client.abandon_search_job(self._keeper.lease, outcome, error))
        except SupernetRegistryError as refused:
            _log.warning("%s: could not report %s: %s", self._job.name, outcome.value, refused)

    # Inputs

    def _images(self, name: str) -> ImageDataset:
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

    def _checked(self, dataset: ImageDataset) -> ImageDataset:
        """A dataset given locally must be the one that the job is about."""
        registered = self._keeper.persist(lambda: self._client.get_dataset(self._job.dataset))
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
        self.report(JobEvent(message=f"The checkpoint cannot be used, so the search begins again. {error}"))

    def _candidates(self, space: SearchSpace, recipe: Recipe) -> list[Candidate]:
        """What the search may start from, by the job's source policy; also notes whether the task is novel."""
        spec = self._spec
        if spec.source_policy is SourcePolicy.SCRATCH or transfer_mode_of(spec) is TransferMode.SCRATCH:
            return []
        found = self._query(space)
        self._novel = found.novel
        if spec.source_policy is SourcePolicy.VERSION:
            name = spec.source_version
            # The answer names one version a dataset; the distance is the dataset's, whichever version was asked for.
            version = self._keeper.persist(lambda: self._client.get_version(name))
            known = {c.dataset or c.version: c.ot_distance for c in reversed(found.candidates)}
            return [self._download(name, known.get(version.name if version.datasets else version.dataset, 0.0))]
        candidates = []
        for chosen in choose_candidates(found, recipe.taste_candidates):
            try:
                candidate = self._download(chosen.version, chosen.ot_distance, origin=chosen.origin)
                check_weights(candidate.weights)
            except (BlobCorrupt, DigestMismatch, NotFound, UnsafeWeights, NotFinite) as error:
                # One bad blob must not stop the others; scratch is always left.
                self.report(JobEvent(message=f"{chosen.version} is not tasted: its weights cannot be used. {error}"))
            else:
                candidates.append(candidate)
        return candidates

    def _query(self, space: SearchSpace) -> NearestSources:
        dataset = self._keeper.persist(lambda: self._client.get_dataset(self._job.dataset))
        return self._keeper.persist(
            lambda: self._client.query_nearest_sources(
                self._job.dataset,
                top_k=_QUERY_TOP_K,
                search_space=space_descriptor(space),
                min_index_sequence=dataset.index_sequence,
            )
        )

    def _download(self, version: str, ot_distance: float, *, origin: str = NEAREST) -> Candidate:
        resource = self._keeper.persist(lambda: self._client.get_version(version))
        weights = self._keeper.persist(lambda: self._client.download_blob(resource.weights_blob))
        return Candidate(version=resource.name, ot_distance=ot_distance, weights=weights, origin=origin)

    # Result

    def _write_back(self, result: PipelineResult) -> SupernetVersion:
        """Upload the result's blobs and complete the job; both may be repeated without harm."""

        def upload_and_complete() -> tuple[SupernetVersion, bool]:
            weights = self._client.upload_blob(result.weights)
            child = self._client.upload_blob(result.child) if result.child is not None else ""
            draft = version_resource(result, weights, child, device_name(self._device))
            return self._client.complete_search_job(self._keeper.lease, draft)

        version, head_moved = self._keeper.persist(upload_and_complete)
        _log.info("%s: wrote %s%s", self._job.name, version.name, " (the head had moved)" if head_moved else "")
        return version


class _Reporter(Listener):
    """Turns what the pipeline tells into events of the job."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt

    def on_decision(self, d: Decision) -> None:
        self._attempt.report_decision(d)

    def on_epoch(self, e: Epoch) -> None:
        self._attempt.report(JobEvent(epoch=EpochMetrics(**{**asdict(e), "phase": Phase(e.phase)})))

    def on_checkpoint(self, data: bytes) -> None:
        self._attempt.keeper.send_checkpoint(data)

    def on_message(self, text: str) -> None:
        self._attempt.report(JobEvent(message=text))

    def should_stop(self) -> bool:
        return self._attempt.keeper.should_stop()
