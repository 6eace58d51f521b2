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
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack, cast

from supernet_registry.clients.channel import blobs
from supernet_registry.clients.channel import calls as _wire
from supernet_registry.clients.channel.blobs import Progress
from supernet_registry.clients.channel.calls import Call, Page
from supernet_registry.clients.channel.connection import AsyncConnection, Target
from supernet_registry.clients.channel.watch import WatchPosition
from supernet_registry.clients.children import Images
from supernet_registry.clients.flows import Download, Flow, Flows, Step, Upload, Work
from supernet_registry.clients.registry_client import RegistryClient
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
        self._flows = Flows(encoder_weights)

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
        return await self._run(self._flows.create_dataset(dataset, sketch, request_id))

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
        return await self._run(
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

    async def map_datasets(self, target: str | bytes | None = None, *, max_datasets: int = 0) -> DatasetMap:
        return await self._run(self._flows.map_datasets(target, max_datasets))

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
        base: str = "",
        replay: bool = True,
        request_id: str | None = None,
        validate_only: bool = False,
        **options: Unpack[GeneralistOptions],
    ) -> SearchJob:
        return await self._run(
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
        return await self._run(self._flows.load_child(version, device=device, progress=progress))

    async def predict(
        self,
        version: str,
        images: Images,
        *,
        array: str = "",
        device: str = "cpu",
        progress: Progress | None = None,
    ) -> Predictions:
        return await self._run(self._flows.predict(version, images, array=array, device=device, progress=progress))

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
        return await self._run(
            self._flows.register_dataset(
                dataset,
                upload_images=upload_images,
                retain_images=retain_images,
                moments_only=moments_only,
                progress=progress,
            )
        )

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
        return await self._run(
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

    async def dataset_map(
        self, dataset: ImageDataset | str | None = None, *, max_datasets: int = 0, moments_only: bool = False
    ) -> DatasetMap:
        return await self._run(self._flows.dataset_map(dataset, max_datasets=max_datasets, moments_only=moments_only))

    async def submit_search(
        self,
        dataset: ImageDataset,
        *,
        name: str,
        request_id: str | None = None,
        progress: Progress | None = None,
        **options: Unpack[SearchOptions],
    ) -> SearchJob:
        return await self._run(
            self._flows.submit_search(dataset, name, request_id=request_id, progress=progress, options=options)
        )

    async def _run(self, flow: Flow[R]) -> R:
        """Take a flow's steps one after another; what computes does so in a thread."""
        result: Any = None
        try:
            step = next(flow)
            while True:
                try:
                    result = await self._take(step)
                except Exception as error:  # noqa: BLE001  # the flow decides what an error means
                    step = flow.throw(error)
                else:
                    step = flow.send(result)
        except StopIteration as end:
            return cast("R", end.value)

    async def _take(self, step: Step) -> Any:
        if isinstance(step, Upload):
            return await self.upload_blob(step.data, progress=step.progress)
        if isinstance(step, Download):
            return await self.download_blob(step.name, progress=step.progress)
        return await asyncio.to_thread(step.function) if isinstance(step, Work) else await self._connection.invoke(step)

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
