"""The synchronous client: every RPC as a typed method, and the few steps that users combine them to."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack, cast

from supernet_registry.clients.channel import blobs
from supernet_registry.clients.channel import calls as _wire
from supernet_registry.clients.channel.blobs import Progress
from supernet_registry.clients.channel.calls import Call, Page
from supernet_registry.clients.channel.connection import Connection, Target
from supernet_registry.clients.channel.watch import WatchPosition
from supernet_registry.clients.children import Images
from supernet_registry.clients.flows import Download, Flow, Flows, Step, Upload, Work
from supernet_registry.clients.wire.errors import SupernetRegistryError
from supernet_registry.clients.wire.options import GeneralistOptions, SearchOptions, Space
from supernet_registry.clients.wire.resources import (
    AbandonOutcome,
    Dataset,
    DatasetMap,
    Encoder,
    JobError,
    JobEvent,
    JobState,
    Lease,
    Lineage,
    NearestSources,
    SearchJob,
    SpaceDescriptor,
    Supernet,
    SupernetVersion,
)

if TYPE_CHECKING:
    from supernet_registry.search.children.child import Child
    from supernet_registry.search.children.predictions import Predictions
    from supernet_registry.search.tasks import ImageDataset

__all__ = ["RegistryClient"]

R = TypeVar("R")


class RegistryClient:
    """A connection to a registry; safe to use from several threads, to be closed (or used by `with`).

    Args:
        address: `host:port`, `unix:/path`, or `https://host:port` for TLS with the system's root certificates; the
            environment variable SUPERNET_REGISTRY_ADDRESS, else 127.0.0.1:50551, if not given.
        token: bearer token; the environment variable SUPERNET_REGISTRY_TOKEN if not given. Refused (InvalidArgument)
            where it would travel unencrypted to another machine.
        timeout_s: deadline of each call in seconds, gRPC's retries included. Transfers and watches have their own.
        root_certificates: PEM bytes or file of the server's authority, which turns TLS on; with an https:// address
            the file named by the environment variable SUPERNET_REGISTRY_ROOT_CERTIFICATES if not given.
        encoder_weights: local weights file, where the registry's encoder is `torchvision:<model>`.

    Every method raises types of `clients.wire.errors`: Unavailable where no server answers, DeadlineExceeded, and what
    it names itself.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        token: str | None = None,
        timeout_s: float = 30.0,
        root_certificates: bytes | Path | None = None,
        encoder_weights: Path | None = None,
    ) -> None:
        self._connection = Connection(Target(address, token, root_certificates), timeout_s)
        self._flows = Flows(encoder_weights)

    @property
    def address(self) -> str:
        """The server's address."""
        return self._connection.target.address

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; calls under way are cancelled."""
        self._connection.close()

    # Datasets ----------------------------------------------------------------------------------------------------

    def get_encoder(self) -> Encoder:
        """The encoder whose sketches this registry compares."""
        return self._connection.invoke(_wire.get_encoder())

    def create_dataset(self, dataset: Dataset, sketch: bytes, *, request_id: str | None = None) -> Dataset:
        """Register a dataset by its serialised sketch; the stored one if it is known. See `register_dataset`."""
        return self._run(self._flows.create_dataset(dataset, sketch, request_id))

    def get_dataset(self, name: str) -> Dataset:
        """One dataset, `datasets/{id}`. Raises NotFound."""
        return self._connection.invoke(_wire.get_dataset(name))

    def list_datasets(self) -> Iterator[Dataset]:
        """All datasets, newest first, page by page."""
        return self._pages(_wire.list_datasets)

    def update_dataset(
        self,
        name: str,
        *,
        etag: str = "",
        display_name: str | None = None,
        images_blob: str | None = None,
        retain_images: bool | None = None,
    ) -> Dataset:
        """Change what is given; None leaves a field as it is. Raises ETagMismatch if `etag` is given and old."""
        call = _wire.update_dataset(name, etag, display_name, images_blob, retain_images=retain_images)
        return self._connection.invoke(call)

    def delete_dataset(self, name: str, *, etag: str = "") -> None:
        """Delete a dataset. Raises StillReferenced where a version or a job refers to it."""
        self._connection.invoke(_wire.delete_dataset(name, etag))

    def query_nearest_sources(
        self,
        target: str | bytes,
        *,
        top_k: int = 0,
        shortlist_size: int = 0,
        search_space: SpaceDescriptor | None = None,
        min_index_sequence: int = 0,
        include_class_coupling: bool = False,
        explain: bool = False,
    ) -> NearestSources:
        """Rank the stored versions as sources.

        Args:
            target: a registered dataset (`datasets/{id}`), or a serialised sketch, which is not stored.
            top_k: candidates to return; 0 for the server's default.
            shortlist_size: datasets to re-rank by exact transport; 0 for the server's setting.
            search_space: mark versions of other spaces as incompatible.
            min_index_sequence: wait until the index reflects this sequence (`Dataset.index_sequence`).
            include_class_coupling: also return the class coupling of every transport plan.
            explain: also return what became of every shortlisted dataset.
        """
        return self._run(
            self._flows.query_nearest_sources(
                target,
                search_space,
                top_k=top_k,
                shortlist_size=shortlist_size,
                min_index_sequence=min_index_sequence,
                include_class_coupling=include_class_coupling,
                explain=explain,
            )
        )

    def map_datasets(self, target: str | bytes | None = None, *, max_datasets: int = 0) -> DatasetMap:
        """Place stored datasets on a plane, so that distances there resemble those of their embeddings.

        Args:
            target: a dataset to place among the others: registered (`datasets/{id}`), or a serialised sketch, which is
                not stored. None: the stored datasets alone.
            max_datasets: stored datasets, those nearest to the target, without one the newest; 0 for the server's
                default, 500; at most 2000.
        """
        return self._run(self._flows.map_datasets(target, max_datasets))

    # Supernets ---------------------------------------------------------------------------------------------------

    def create_supernet(self, supernet_id: str, supernet: Supernet, *, request_id: str | None = None) -> Supernet:
        """Create an empty supernet. Raises AlreadyExists."""
        return self._connection.invoke(_wire.create_supernet(supernet_id, supernet, request_id))

    def get_supernet(self, name: str) -> Supernet:
        """One supernet, `supernets/{id}`. Raises NotFound."""
        return self._connection.invoke(_wire.get_supernet(name))

    def list_supernets(self) -> Iterator[Supernet]:
        """All supernets, newest first, page by page."""
        return self._pages(_wire.list_supernets)

    def update_supernet(
        self, name: str, *, etag: str = "", description: str | None = None, labels: Mapping[str, str] | None = None
    ) -> Supernet:
        """Change the description, set labels; a label with an empty value is removed. Raises ETagMismatch."""
        return self._connection.invoke(_wire.update_supernet(name, etag, description, labels or {}))

    def delete_supernet(self, name: str, *, etag: str) -> None:
        """Delete a supernet and its versions. Raises ETagMismatch, StillReferenced."""
        self._connection.invoke(_wire.delete_supernet(name, etag))

    def rollback_supernet(self, name: str, version: str, *, etag: str) -> Supernet:
        """Point `head` at another version of the same supernet. Raises ETagMismatch."""
        return self._connection.invoke(_wire.rollback_supernet(name, version, etag))

    def get_version(self, name: str) -> SupernetVersion:
        """One version, `supernets/{id}/versions/{n}`; `head` for n is an alias. Raises NotFound."""
        return self._connection.invoke(_wire.get_version(name))

    def list_versions(self, parent: str = "supernets/-") -> Iterator[SupernetVersion]:
        """The versions of a supernet, or of all, newest first, page by page."""
        return self._pages(partial(_wire.list_versions, parent=parent))

    def query_lineage(self, name: str, *, depth: int = 0) -> Lineage:
        """Ancestors and descendants of a version, or of all versions of a supernet; `depth` 0: the server's default."""
        return self._connection.invoke(_wire.query_lineage(name, depth))

    # Search jobs -------------------------------------------------------------------------------------------------

    def create_search_job(
        self, job: SearchJob, *, request_id: str | None = None, validate_only: bool = False
    ) -> SearchJob:
        """Queue a job. The same `request_id` and body return the same job. See `submit_search`.

        Raises InvalidInput types with the field, NotFound, ImagesMissing, SpaceMismatch, RequestIdReused.
        """
        return self._connection.invoke(_wire.create_search_job(job, request_id, validate_only=validate_only))

    def pretrain_generalist(
        self,
        datasets: Sequence[str],
        *,
        name: str = "generalist",
        base: str = "",
        replay: bool = True,
        request_id: str | None = None,
        validate_only: bool = False,
        **options: Unpack[GeneralistOptions],
    ) -> SearchJob:
        """Queue the pretraining of a generalist: one supernet over several datasets, with a head for each.

        Args:
            datasets: `datasets/{id}`, with those of the base at least two; the registry must retain their images.
            name: the supernet that receives the version, `supernets/{id}` or the id alone; created if there is none.
            base: version to go on from; the datasets of a generalist are added to those named. Empty: from scratch.
            replay: whether the base's datasets are trained along; if not, they are only scored before and after.
            request_id: the same id and the same request return the same job; random if not given.
            validate_only: check everything, create nothing.
            options: see `GeneralistOptions`; without a space the supernet's, the base's, or the server's default.

        Raises InvalidInput types with the field, NotFound, ImagesMissing, SpaceMismatch, RequestIdReused.
        """
        return self._run(
            self._flows.pretrain_generalist(
                datasets,
                name,
                base,
                replay=replay,
                request_id=request_id,
                validate_only=validate_only,
                options=options,
            )
        )

    def get_search_job(self, name: str) -> SearchJob:
        """One job, `searchJobs/{id}`. Raises NotFound."""
        return self._connection.invoke(_wire.get_search_job(name))

    def list_search_jobs(self, state: JobState | None = None, stream: str | None = None) -> Iterator[SearchJob]:
        """Jobs, newest first, page by page; only those in `state`, or of a task stream."""
        return self._pages(partial(_wire.list_search_jobs, state=state, stream=stream))

    def cancel_search_job(self, name: str) -> SearchJob:
        """Ask a job to stop. Raises JobFinished."""
        return self._connection.invoke(_wire.cancel_search_job(name))

    def watch_search_job(self, name: str, *, after_sequence: int = 0) -> Iterator[JobEvent]:
        """Every event of a job after a sequence, once and in order, until the job has ended.

        Broken streams are taken up again where they stopped, also across a restart of the server.
        """
        return self._watch(WatchPosition(name, after_sequence))

    def wait_search_job(
        self, name: str, *, timeout_s: float | None = None, on_event: Callable[[JobEvent], None] | None = None
    ) -> SearchJob:
        """Wait until a job has ended, and return it. Raises DeadlineExceeded after `timeout_s`; the job goes on."""
        for event in self._watch(WatchPosition(name, 0, timeout_s)):
            if on_event is not None:
                on_event(event)
        return self.get_search_job(name)

    def _watch(self, position: WatchPosition) -> Iterator[JobEvent]:
        self.get_search_job(position.name)  # a wrong name, or no server at all, fails at once
        while not position.ended:
            try:
                with closing(self._connection.read(position.call(), timeout_s=position.stream_timeout_s)) as events:
                    for event in events:
                        if position.accept(event):
                            yield event
                position.closed()
            except SupernetRegistryError as error:
                time.sleep(position.wait_after(error))

    # Blobs -------------------------------------------------------------------------------------------------------

    def find_missing_blobs(self, names: Sequence[str]) -> list[str]:
        """Those of some `blobs/{sha256}` that the registry does not have."""
        return self._connection.invoke(_wire.find_missing_blobs(names))

    def upload_blob(self, data: bytes | Path, *, progress: Progress | None = None) -> str:
        """Upload bytes or a file (never loaded whole) unless the registry has them; resumes after a failure.

        Returns the blob's name. `progress` is called with (bytes sent, bytes in all).
        Raises DigestMismatch, DiskFull, QuotaExceeded, Unavailable.
        """
        return blobs.upload(self._connection, data, progress)

    def download_blob(self, name: str, *, progress: Progress | None = None) -> bytes:
        """The bytes of a blob, verified. Raises NotFound, BlobCorrupt, DigestMismatch, Unavailable."""
        sink = BytesIO()
        blobs.download(self._connection, name, sink, progress)
        return sink.getvalue()

    def download_blob_to(self, name: str, path: str | Path, *, progress: Progress | None = None) -> Path:
        """Download a blob into a file that appears only when it is whole and verified. Raises as `download_blob`."""
        target = Path(path)
        with blobs.IncomingFile(target) as sink:
            blobs.download(self._connection, name, sink, progress)
        return target

    # Child networks ----------------------------------------------------------------------------------------------

    def load_child(self, version: str, *, device: str = "cpu", progress: Progress | None = None) -> Child:
        """Download and check a version's child network; its `predict` gives class probabilities.

        Args:
            version: `supernets/{id}/versions/{n}`, or a supernet for its head.
            device: `auto`, `cpu`, `cuda` or `cuda:N`.
            progress: called with (bytes received, bytes in all).

        Raises NotFound, NotPossibleNow where there is no child network, OptionalDependency without torch.
        """
        return self._run(self._flows.load_child(version, device=device, progress=progress))

    def predict(
        self,
        version: str,
        images: Images,
        *,
        array: str = "",
        device: str = "cpu",
        progress: Progress | None = None,
    ) -> Predictions:
        """Classify images with a version's child network. To classify often, keep what `load_child` returns.

        Args:
            version: `supernets/{id}/versions/{n}`, or a supernet for its head.
            images: uint8 array (n, height, width, 1 or 3); or files, folders of images and .npz files, which are
                resized as the task's own images were.
            array: name of the array in .npz files; without one `images`, `x` or `x_test`, or the only one.
            device: `auto`, `cpu`, `cuda` or `cuda:N`.
            progress: called with (bytes received, bytes in all) of the network.

        Raises InvalidDataset for images that cannot be used, and as `load_child`.
        """
        return self._run(self._flows.predict(version, images, array=array, device=device, progress=progress))

    # What a worker needs -----------------------------------------------------------------------------------------

    def lease_search_job(
        self, worker: str, *, device: str, job: str = "", wait_seconds: float = 0.0
    ) -> tuple[Lease, SearchJob, str] | None:
        """Take the oldest queued job, or a named one: (lease, job, checkpoint blob or ""). None when there is none."""
        return self._connection.invoke(_wire.lease_search_job(worker, device, job, wait_seconds))

    def renew_lease(self, lease: Lease, *, timeout_s: float | None = None) -> tuple[Lease, bool]:
        """Prolong a lease: (lease, whether the job should stop). Raises LeaseLost."""
        return self._connection.invoke(_wire.renew_lease(lease), timeout_s=timeout_s)

    def report_progress(self, lease: Lease, events: Sequence[JobEvent]) -> int:
        """Append events to a job; the sequence of the last one. Raises LeaseLost."""
        return self._connection.invoke(_wire.report_progress(lease, events))

    def save_checkpoint(self, lease: Lease, blob: str) -> None:
        """Record an uploaded checkpoint. Raises LeaseLost."""
        self._connection.invoke(_wire.save_checkpoint(lease, blob))

    def complete_search_job(self, lease: Lease, version: SupernetVersion) -> tuple[SupernetVersion, bool]:
        """Write the result back: (version, whether the head had moved meanwhile). Idempotent. Raises LeaseLost."""
        return self._connection.invoke(_wire.complete_search_job(lease, version))

    def abandon_search_job(self, lease: Lease, outcome: AbandonOutcome, error: JobError | None = None) -> SearchJob:
        """End an attempt without a result. Raises LeaseLost."""
        return self._connection.invoke(_wire.abandon_search_job(lease, outcome, error))

    # With a dataset at hand --------------------------------------------------------------------------------------

    def register_dataset(
        self,
        dataset: ImageDataset,
        *,
        upload_images: bool = True,
        retain_images: bool = False,
        moments_only: bool = False,
        progress: Progress | None = None,
    ) -> Dataset:
        """Sketch a dataset here and register it; upload its images unless the registry holds them.

        Args:
            dataset: the images and labels.
            upload_images: False keeps the images on this machine; only the sketch travels.
            retain_images: ask the registry to keep the images when no job needs them any more.
            moments_only: sketch class means and covariances, but no features of single images; needs a few images of
                every class. Says nothing about the images themselves: see `upload_images`. A dataset that is known
                keeps the sketch that it has.
            progress: called with (bytes sent, bytes in all) of the images.

        Raises EncoderMismatch where this client cannot sketch for the registry, InvalidDataset, InvalidArgument where
        a class is too small for `moments_only`.
        """
        return self._run(
            self._flows.register_dataset(
                dataset,
                upload_images=upload_images,
                retain_images=retain_images,
                moments_only=moments_only,
                progress=progress,
            )
        )

    def nearest(
        self,
        dataset: ImageDataset,
        *,
        top_k: int = 0,
        shortlist_size: int = 0,
        search_space: Space | None = None,
        include_class_coupling: bool = False,
        explain: bool = False,
        moments_only: bool = False,
    ) -> NearestSources:
        """Rank the stored versions as sources for a dataset at hand; its sketch travels, and nothing is stored.

        Arguments as `query_nearest_sources`, `moments_only` as `register_dataset`.
        """
        return self._run(
            self._flows.nearest(
                dataset,
                top_k=top_k,
                shortlist_size=shortlist_size,
                search_space=search_space,
                include_class_coupling=include_class_coupling,
                explain=explain,
                moments_only=moments_only,
            )
        )

    def dataset_map(
        self, dataset: ImageDataset | str | None = None, *, max_datasets: int = 0, moments_only: bool = False
    ) -> DatasetMap:
        """Place stored datasets on a plane, around one at hand whose sketch travels; nothing is stored.

        Args:
            dataset: images and labels, the name of a registered dataset, or None for the stored datasets alone.
            max_datasets: see `map_datasets`.
            moments_only: see `register_dataset`.
        """
        return self._run(self._flows.dataset_map(dataset, max_datasets=max_datasets, moments_only=moments_only))

    def submit_search(
        self,
        dataset: ImageDataset,
        *,
        name: str,
        request_id: str | None = None,
        progress: Progress | None = None,
        **options: Unpack[SearchOptions],
    ) -> SearchJob:
        """Register a dataset and queue a search on it; upload its images if the job needs them and nobody has.

        Args:
            dataset: the images and labels; see `register_dataset` for what travels.
            name: the target supernet, `supernets/{id}` or the id alone; created if there is none.
            request_id: the same id and the same search return the same job; random if not given.
            progress: called with (bytes sent, bytes in all) of the images.
            options: see `SearchOptions`; settings of the search itself are fields of the recipe, by name.

        Raises InvalidInput types with the field, NotFound, SpaceMismatch, RequestIdReused.
        """
        return self._run(
            self._flows.submit_search(dataset, name, request_id=request_id, progress=progress, options=options)
        )

    def _run(self, flow: Flow[R]) -> R:
        """Take a flow's steps one after another."""
        result: Any = None
        try:
            step = next(flow)
            while True:
                try:
                    result = self._take(step)
                except Exception as error:  # noqa: BLE001  # the flow decides what an error means
                    step = flow.throw(error)
                else:
                    step = flow.send(result)
        except StopIteration as end:
            return cast("R", end.value)

    def _take(self, step: Step) -> Any:
        if isinstance(step, Upload):
            return self.upload_blob(step.data, progress=step.progress)
        if isinstance(step, Download):
            return self.download_blob(step.name, progress=step.progress)
        return step.function() if isinstance(step, Work) else self._connection.invoke(step)

    def _pages(self, page: Callable[[str], Call[Page[R]]]) -> Iterator[R]:
        token = ""
        while True:
            items, token = self._connection.invoke(page(token))
            yield from items
            if not token:
                return
