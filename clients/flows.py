"""What users combine calls to, written once: both clients drive these flows, one waiting, one awaiting.

A flow is a generator of steps. It yields a `Call`, an `Upload`, a `Download` or a `Work`, is sent the step's result (or
thrown its error), and returns its own. It knows neither channels nor event loops.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from supernet_registry.clients import children, prepare
from supernet_registry.clients.channel import calls
from supernet_registry.clients.channel.blobs import Progress
from supernet_registry.clients.channel.calls import Call
from supernet_registry.clients.wire.errors import ImagesMissing, NotFound
from supernet_registry.clients.wire.options import GeneralistOptions, SearchOptions, Space, check_options
from supernet_registry.clients.wire.resources import (
    Dataset,
    DatasetMap,
    GeneralistWork,
    NearestSources,
    SearchJob,
    SpaceDescriptor,
)
from supernet_registry.search.tasks import pack_images

if TYPE_CHECKING:
    from supernet_registry.clients.children import Images
    from supernet_registry.search.children.child import Child
    from supernet_registry.search.children.predictions import Predictions
    from supernet_registry.search.tasks import ImageDataset

__all__ = ["Download", "Flow", "Flows", "Upload", "Work"]

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Upload:
    """Upload bytes unless the registry has them; gives the blob's name."""

    data: bytes
    progress: Progress | None = None


@dataclass(frozen=True, slots=True)
class Download:
    """Download a blob; gives its bytes, verified."""

    name: str
    progress: Progress | None = None


@dataclass(frozen=True, slots=True)
class Work(Generic[R]):
    """Compute something that takes a while; gives what it returns."""

    function: Callable[[], R]


Step = Call[Any] | Upload | Download | Work[Any]
Flow = Generator[Step, Any, R]
"""Steps of a flow, and what it returns in the end."""


def _ask(call: Call[R]) -> Flow[R]:
    return cast("R", (yield call))


def _compute(function: Callable[[], R]) -> Flow[R]:
    return cast("R", (yield Work(function)))


@dataclass(frozen=True, slots=True)
class Flows:
    """The flows of one client; their arguments are those of the client's methods.

    Args:
        encoder_weights: local weights file, where the registry's encoder is `torchvision:<model>`.
    """

    encoder_weights: Path | None

    def create_dataset(self, dataset: Dataset, sketch: bytes, request_id: str | None) -> Flow[Dataset]:
        source = yield from self._inline_or_blob(sketch)
        return (yield from _ask(calls.create_dataset(dataset, source, request_id)))

    def query_nearest_sources(
        self, target: str | bytes, search_space: SpaceDescriptor | None, **options: Any
    ) -> Flow[NearestSources]:
        source = (yield from self._inline_or_blob(target)) if isinstance(target, bytes) else target
        return (yield from _ask(calls.query_nearest_sources(source, search_space=search_space, **options)))

    def map_datasets(self, target: str | bytes | None, max_datasets: int) -> Flow[DatasetMap]:
        source = (yield from self._inline_or_blob(target)) if isinstance(target, bytes) else target
        return (yield from _ask(calls.map_datasets(source, max_datasets)))

    def register_dataset(
        self,
        dataset: ImageDataset,
        *,
        upload_images: bool,
        retain_images: bool,
        moments_only: bool,
        progress: Progress | None,
    ) -> Flow[Dataset]:
        record = prepare.dataset_record(dataset, retain_images=retain_images)
        stored = yield from self._known_dataset(record.name)
        if stored is None:
            sketch = yield from self._sketch(dataset, moments_only=moments_only)
            stored = yield from self.create_dataset(record, sketch, None)
        images = None
        if upload_images and not stored.images_blob:
            data = yield from _compute(lambda: pack_images(dataset))
            images = cast("str", (yield Upload(data, progress)))
        retain = True if retain_images and not stored.retain_images else None
        if images is None and retain is None:
            return stored
        return (yield from _ask(calls.update_dataset(stored.name, "", None, images, retain_images=retain)))

    def nearest(
        self, dataset: ImageDataset, *, search_space: Space | None, moments_only: bool, **options: Any
    ) -> Flow[NearestSources]:
        sketch = yield from self._sketch(dataset, moments_only=moments_only)
        space = prepare.space_descriptor(search_space)
        return (yield from self.query_nearest_sources(sketch, space, min_index_sequence=0, **options))

    def dataset_map(
        self, dataset: ImageDataset | str | None, *, max_datasets: int, moments_only: bool
    ) -> Flow[DatasetMap]:
        if dataset is None or isinstance(dataset, str):
            return (yield from self.map_datasets(dataset, max_datasets))
        sketch = yield from self._sketch(dataset, moments_only=moments_only)
        return (yield from self.map_datasets(sketch, max_datasets))

    def submit_search(
        self,
        dataset: ImageDataset,
        name: str,
        *,
        request_id: str | None,
        progress: Progress | None,
        options: SearchOptions,
    ) -> Flow[SearchJob]:
        check_options(options, SearchOptions)
        spec = prepare.search_spec(options)
        keep = {name: bool(options.get(name)) for name in ("retain_images", "moments_only")}
        registered = yield from self.register_dataset(dataset, upload_images=False, progress=None, **keep)
        job = SearchJob(
            supernet=prepare.supernet_name(name),
            dataset=registered.name,
            spec=spec,
            stream=options.get("stream", ""),
            stream_step=options.get("stream_step", 0),
            labels=dict(options.get("labels") or {}),
        )
        create = calls.create_search_job(job, calls.request_id_or_new(request_id), validate_only=False)
        try:
            return (yield from _ask(create))
        except ImagesMissing:
            # Only now: a job that exists already, or whose images the registry holds, needs no upload.
            yield from self.register_dataset(dataset, upload_images=True, progress=progress, **keep)
            return (yield from _ask(create))

    def pretrain_generalist(
        self,
        datasets: Sequence[str],
        name: str,
        base: str,
        *,
        replay: bool,
        request_id: str | None,
        validate_only: bool,
        options: GeneralistOptions,
    ) -> Flow[SearchJob]:
        check_options(options, GeneralistOptions)
        work = GeneralistWork(
            datasets=tuple(datasets),
            base_version=prepare.supernet_name(base) if base else "",
            without_replay=not replay,
        )
        job = SearchJob(
            supernet=prepare.supernet_name(name),
            spec=replace(prepare.job_spec(options), generalist=work),
            stream=options.get("stream", ""),
            labels=dict(options.get("labels") or {}),
        )
        return (yield from _ask(calls.create_search_job(job, request_id, validate_only=validate_only)))

    def load_child(self, version: str, *, device: str, progress: Progress | None) -> Flow[Child]:
        children.need_torch()
        found = yield from _ask(calls.get_version(children.full_version_name(version)))
        data = cast("bytes", (yield Download(children.require_child(found), progress)))
        return (yield from _compute(lambda: children.open_child(data, device)))

    def predict(
        self, version: str, images: Images, *, array: str, device: str, progress: Progress | None
    ) -> Flow[Predictions]:
        children.need_torch()
        found = yield from _ask(calls.get_version(children.full_version_name(version)))
        data = cast("bytes", (yield Download(children.require_child(found), progress)))
        dataset = yield from _ask(calls.get_dataset(found.dataset))
        return (
            yield from _compute(lambda: children.classify(data, found, dataset, images, array=array, device=device))
        )

    def _sketch(self, dataset: ImageDataset, *, moments_only: bool) -> Flow[bytes]:
        encoder, weights = (yield from _ask(calls.get_encoder())), self.encoder_weights
        return (yield from _compute(lambda: prepare.sketch_bytes(dataset, encoder, weights, moments_only=moments_only)))

    def _known_dataset(self, name: str) -> Flow[Dataset | None]:
        """The stored dataset, unless it is unknown or was sketched by another encoder."""
        encoder = yield from _ask(calls.get_encoder())
        try:
            stored = yield from _ask(calls.get_dataset(name))
        except NotFound:
            return None
        return stored if stored.encoder_id == encoder.encoder_id else None

    def _inline_or_blob(self, sketch: bytes) -> Flow[bytes | str]:
        if len(sketch) <= calls.SKETCH_INLINE_BYTES:
            return sketch
        return cast("str", (yield Upload(sketch)))
