"""The asynchronous client: the methods of `RegistryClient` for an event loop, lists and watches as async iterators.

Docstrings are taken over from `RegistryClient`; only what differs is said here.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from supernet_registry.clients import children as _children
from supernet_registry.clients import prepare as _prepare
from supernet_registry.clients.channel import blobs
from supernet_registry.clients.channel import calls as _wire
from supernet_registry.clients.channel.blobs import Progress
from supernet_registry.clients.channel.calls import Call, Page
from supernet_registry.clients.channel.connection import AsyncConnection, Target
from supernet_registry.clients.channel.watch import WatchPosition
from supernet_registry.clients.children import Images
from supernet_registry.clients.prepare import Space
from supernet_registry.clients.registry_client import RegistryClient
from supernet_registry.clients.wire.errors import ImagesMissing, NotFound, SupernetRegistryError
from supernet_registry.clients.wire.resources import (
    AbandonOutcome,
    Dataset,
    DatasetMap,
    Derivation,
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
    TransferMode,
    Variant,
)
from supernet_registry.search.tasks import pack_images

if TYPE_CHECKING:
    from supernet_registry.search.children.child import Child
    from supernet_registry.search.children.predictions import Predictions
    from supernet_registry.search.tasks import ImageDataset

__all__ = ["AsyncRegistryClient"]

R = TypeVar("R")


class AsyncRegistryClient:
    """A connection to a registry from one event loop; to be closed, or used by `async with`.

    Arguments and errors as `RegistryClient`. Hashing, sketching and the writing of files run in threads, so that
    the loop stays free.
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
        self._connection = AsyncConnection(Target(address, token, root_certificates), timeout_s)
        self._encoder_weights = encoder_weights

    @property
    def address(self) -> str:
        """The server's address."""
        return self._connection.target.address

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._connection.close()

    # Datasets ----------------------------------------------------------------------------------------------------

    async def get_encoder(self) -> Encoder:
        return await self._connection.invoke(_wire.get_encoder())

    async def create_dataset(self, dataset: Dataset, sketch: bytes, *, request_id: str | None = None) -> Dataset:
        source = await self._inline_or_blob(sketch)
        return await self._connection.invoke(_wire.create_dataset(dataset, source, request_id))

    async def get_dataset(self, name: str) -> Dataset:
        return await self._connection.invoke(_wire.get_dataset(name))

    def list_datasets(self) -> AsyncIterator[Dataset]:
        return self._pages(_wire.list_datasets)

    async def update_dataset(
        self,
        name: str,
        *,
        etag: str = "",
        display_name: str | None = None,
        images_blob: str | None = None,
        retain_images: bool | None = None,
    ) -> Dataset:
        call = _wire.update_dataset(name, etag, display_name, images_blob, retain_images=retain_images)
        return await self._connection.invoke(call)

    async def delete_dataset(self, name: str, *, etag: str = "") -> None:
        await self._connection.invoke(_wire.delete_dataset(name, etag))

    async def query_nearest_sources(
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
        call = _wire.query_nearest_sources(
            await self._inline_or_blob(target) if isinstance(target, bytes) else target,
            top_k=top_k,
            shortlist_size=shortlist_size,
            search_space=search_space,
            min_index_sequence=min_index_sequence,
            include_class_coupling=include_class_coupling,
            explain=explain,
        )
        return await self._connection.invoke(call)

    async def map_datasets(self, target: str | bytes | None = None, *, max_datasets: int = 0) -> DatasetMap:
        source = await self._inline_or_blob(target) if isinstance(target, bytes) else target
        return await self._connection.invoke(_wire.map_datasets(source, max_datasets))

    # Supernets ---------------------------------------------------------------------------------------------------

    async def create_supernet(self, supernet_id: str, supernet: Supernet, *, request_id: str | None = None) -> Supernet:
        return await self._connection.invoke(_wire.create_supernet(supernet_id, supernet, request_id))

    async def get_supernet(self, name: str) -> Supernet:
        return await self._connection.invoke(_wire.get_supernet(name))

    def list_supernets(self) -> AsyncIterator[Supernet]:
        return self._pages(_wire.list_supernets)

    async def update_supernet(
        self, name: str, *, etag: str = "", description: str | None = None, labels: Mapping[str, str] | None = None
    ) -> Supernet:
        return await self._connection.invoke(_wire.update_supernet(name, etag, description, labels or {}))

    async def delete_supernet(self, name: str, *, etag: str) -> None:
        await self._connection.invoke(_wire.delete_supernet(name, etag))

    async def rollback_supernet(self, name: str, version: str, *, etag: str) -> Supernet:
        return await self._connection.invoke(_wire.rollback_supernet(name, version, etag))

    async def get_version(self, name: str) -> SupernetVersion:
        return await self._connection.invoke(_wire.get_version(name))

    def list_versions(self, parent: str = "supernets/-") -> AsyncIterator[SupernetVersion]:
        return self._pages(partial(_wire.list_versions, parent=parent))

    async def query_lineage(self, name: str, *, depth: int = 0) -> Lineage:
        return await self._connection.invoke(_wire.query_lineage(name, depth))

    # Search jobs -------------------------------------------------------------------------------------------------

    async def create_search_job(
        self, job: SearchJob, *, request_id: str | None = None, validate_only: bool = False
    ) -> SearchJob:
        return await self._connection.invoke(_wire.create_search_job(job, request_id, validate_only=validate_only))

    async def pretrain_generalist(
        self,
        datasets: Sequence[str],
        *,
        name: str = "generalist",
        space: Space | None = None,
        base: str = "",
        replay: bool = True,
        epochs: int = 0,
        patience: int = 0,
        batch_size: int = 0,
        seed: int = 0,
        recipe: Mapping[str, object] | None = None,
        stream: str = "",
        labels: Mapping[str, str] | None = None,
        request_id: str | None = None,
        validate_only: bool = False,
    ) -> SearchJob:
        call = _wire.pretrain_generalist(
            datasets,
            _prepare.supernet_name(name),
            _prepare.space_descriptor(space),
            _prepare.supernet_name(base) if base else "",
            replay=replay,
            epochs=epochs,
            patience=patience,
            batch_size=batch_size,
            seed=seed,
            recipe=recipe,
            stream=stream,
            labels=labels,
            request_id=request_id,
            validate_only=validate_only,
        )
        return await self._connection.invoke(call)

    async def get_search_job(self, name: str) -> SearchJob:
        return await self._connection.invoke(_wire.get_search_job(name))

    def list_search_jobs(self, state: JobState | None = None, stream: str | None = None) -> AsyncIterator[SearchJob]:
        return self._pages(partial(_wire.list_search_jobs, state=state, stream=stream))

    async def cancel_search_job(self, name: str) -> SearchJob:
        return await self._connection.invoke(_wire.cancel_search_job(name))

    def watch_search_job(self, name: str, *, after_sequence: int = 0) -> AsyncIterator[JobEvent]:
        return self._watch(WatchPosition(name, after_sequence))

    async def wait_search_job(
        self, name: str, *, timeout_s: float | None = None, on_event: Callable[[JobEvent], None] | None = None
    ) -> SearchJob:
        async for event in self._watch(WatchPosition(name, 0, timeout_s)):
            if on_event is not None:
                on_event(event)
        return await self.get_search_job(name)

    async def _watch(self, position: WatchPosition) -> AsyncIterator[JobEvent]:
        await self.get_search_job(position.name)  # a wrong name, or no server at all, fails at once
        while not position.ended:
            try:
                async with aclosing(
                    self._connection.read(position.call(), timeout_s=position.stream_timeout_s)
                ) as events:
                    async for event in events:
                        if position.accept(event):
                            yield event
                position.closed()
            except SupernetRegistryError as error:
                await asyncio.sleep(position.wait_after(error))

    # Blobs -------------------------------------------------------------------------------------------------------

    async def find_missing_blobs(self, names: Sequence[str]) -> list[str]:
        return await self._connection.invoke(_wire.find_missing_blobs(names))

    async def upload_blob(self, data: bytes | Path, *, progress: Progress | None = None) -> str:
        return await blobs.upload_async(self._connection, data, progress)

    async def download_blob(self, name: str, *, progress: Progress | None = None) -> bytes:
        sink = BytesIO()
        await blobs.download_async(self._connection, name, sink, progress)
        return sink.getvalue()

    async def download_blob_to(self, name: str, path: str | Path, *, progress: Progress | None = None) -> Path:
        target = Path(path)
        incoming = blobs.IncomingFile(target)
        try:
            await blobs.download_async(self._connection, name, incoming.file, progress)
        except BaseException:
            incoming.discard()
            raise
        await asyncio.to_thread(incoming.commit)
        return target

    # Child networks ----------------------------------------------------------------------------------------------

    async def load_child(self, version: str, *, device: str = "cpu", progress: Progress | None = None) -> Child:
        _children.need_torch()
        found = await self.get_version(_children.full_version_name(version))
        data = await self.download_blob(_children.require_child(found), progress=progress)
        return await asyncio.to_thread(_children.open_child, data, device)

    async def predict(
        self,
        version: str,
        images: Images,
        *,
        array: str = "",
        device: str = "cpu",
        progress: Progress | None = None,
    ) -> Predictions:
        _children.need_torch()
        found = await self.get_version(_children.full_version_name(version))
        data = await self.download_blob(_children.require_child(found), progress=progress)
        dataset = await self.get_dataset(found.dataset)
        return await asyncio.to_thread(_children.classify, data, found, dataset, images, array=array, device=device)

    # What a worker needs -----------------------------------------------------------------------------------------

    async def lease_search_job(
        self, worker: str, *, device: str, job: str = "", wait_seconds: float = 0.0
    ) -> tuple[Lease, SearchJob, str] | None:
        return await self._connection.invoke(_wire.lease_search_job(worker, device, job, wait_seconds))

    async def renew_lease(self, lease: Lease, *, timeout_s: float | None = None) -> tuple[Lease, bool]:
        return await self._connection.invoke(_wire.renew_lease(lease), timeout_s=timeout_s)

    async def report_progress(self, lease: Lease, events: Sequence[JobEvent]) -> int:
        return await self._connection.invoke(_wire.report_progress(lease, events))

    async def save_checkpoint(self, lease: Lease, blob: str) -> None:
        await self._connection.invoke(_wire.save_checkpoint(lease, blob))

    async def complete_search_job(self, lease: Lease, version: SupernetVersion) -> tuple[SupernetVersion, bool]:
        return await self._connection.invoke(_wire.complete_search_job(lease, version))

    async def abandon_search_job(
        self, lease: Lease, outcome: AbandonOutcome, error: JobError | None = None
    ) -> SearchJob:
        return await self._connection.invoke(_wire.abandon_search_job(lease, outcome, error))

    # With a dataset at hand --------------------------------------------------------------------------------------

    async def register_dataset(
        self,
        dataset: ImageDataset,
        *,
        upload_images: bool = True,
        retain_images: bool = False,
        moments_only: bool = False,
        progress: Progress | None = None,
    ) -> Dataset:
        record = _prepare.dataset_record(dataset, retain_images=retain_images)
        stored = await self._known_dataset(record.name, await self.get_encoder())
        if stored is None:
            stored = await self.create_dataset(record, await self._sketch(dataset, moments_only=moments_only))
        images = None
        if upload_images and not stored.images_blob:
            data = await asyncio.to_thread(pack_images, dataset)
            images = await self.upload_blob(data, progress=progress)
        retain = True if retain_images and not stored.retain_images else None
        if images is None and retain is None:
            return stored
        return await self.update_dataset(stored.name, images_blob=images, retain_images=retain)

    async def nearest(
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
        sketch = await self._sketch(dataset, moments_only=moments_only)
        return await self.query_nearest_sources(
            sketch,
            top_k=top_k,
            shortlist_size=shortlist_size,
            search_space=_prepare.space_descriptor(search_space),
            include_class_coupling=include_class_coupling,
            explain=explain,
        )

    async def dataset_map(
        self, dataset: ImageDataset | str | None = None, *, max_datasets: int = 0, moments_only: bool = False
    ) -> DatasetMap:
        target: str | bytes | None
        if dataset is None or isinstance(dataset, str):
            target = dataset
        else:
            target = await self._sketch(dataset, moments_only=moments_only)
        return await self.map_datasets(target, max_datasets=max_datasets)

    async def submit_search(
        self,
        dataset: ImageDataset,
        *,
        name: str,
        space: Space | None = None,
        source: str = "auto",
        transfer_mode: TransferMode | str = TransferMode.UNSPECIFIED,
        epochs: int = 0,
        patience: int = 0,
        batch_size: int = 0,
        seed: int = 0,
        child_epochs: int = 0,
        taste_share: float = 0.0,
        taste_candidates: int = 0,
        derivation: Derivation | str = Derivation.UNSPECIFIED,
        derivation_steps: int = 0,
        child_holds_out: bool = False,
        variant: Variant | str = Variant.UNSPECIFIED,
        drop_shares: Sequence[float] = (),
        recipe: Mapping[str, object] | None = None,
        stream: str = "",
        stream_step: int = 0,
        labels: Mapping[str, str] | None = None,
        here: bool = False,
        retain_images: bool = False,
        moments_only: bool = False,
        request_id: str | None = None,
        progress: Progress | None = None,
    ) -> SearchJob:
        spec = _prepare.search_spec(
            space,
            source,
            transfer_mode,
            epochs=epochs,
            patience=patience,
            batch_size=batch_size,
            seed=seed,
            child_epochs=child_epochs,
            taste_share=taste_share,
            taste_candidates=taste_candidates,
            derivation=derivation,
            derivation_steps=derivation_steps,
            child_holds_out=child_holds_out,
            variant=variant,
            drop_shares=drop_shares,
            recipe=recipe,
            here=here,
        )
        registered = await self.register_dataset(
            dataset, upload_images=False, retain_images=retain_images, moments_only=moments_only
        )
        job = SearchJob(
            supernet=_prepare.supernet_name(name),
            dataset=registered.name,
            spec=spec,
            stream=stream,
            stream_step=stream_step,
            labels=dict(labels or {}),
        )
        request_id = _wire.request_id_or_new(request_id)
        try:
            return await self.create_search_job(job, request_id=request_id)
        except ImagesMissing:
            # Only now: a job that exists already, or whose images the registry holds, needs no upload.
            await self.register_dataset(dataset, retain_images=retain_images, progress=progress)
            return await self.create_search_job(job, request_id=request_id)

    async def _sketch(self, dataset: ImageDataset, *, moments_only: bool) -> bytes:
        encoder = await self.get_encoder()
        weights = self._encoder_weights
        return await asyncio.to_thread(_prepare.sketch_bytes, dataset, encoder, weights, moments_only=moments_only)

    async def _known_dataset(self, name: str, encoder: Encoder) -> Dataset | None:
        """The stored dataset, unless it is unknown or was sketched by another encoder."""
        try:
            stored = await self.get_dataset(name)
        except NotFound:
            return None
        return stored if stored.encoder_id == encoder.encoder_id else None

    async def _inline_or_blob(self, sketch: bytes) -> bytes | str:
        return sketch if len(sketch) <= _wire.SKETCH_INLINE_BYTES else await self.upload_blob(sketch)

    async def _pages(self, page: Callable[[str], Call[Page[R]]]) -> AsyncIterator[R]:
        token = ""
        while True:
            items, token = await self._connection.invoke(page(token))
            for item in items:
                yield item
            if not token:
                return


for _name, _method in inspect.getmembers(AsyncRegistryClient, callable):
    if not _name.startswith("_") and _method.__doc__ is None:
        _method.__doc__ = getattr(RegistryClient, _name).__doc__
