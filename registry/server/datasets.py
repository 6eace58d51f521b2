"""DatasetService."""

from __future__ import annotations

from google.protobuf.empty_pb2 import Empty

from supernet_registry.clients.wire.convert import to_proto
from supernet_registry.clients.wire.resources import Dataset, DatasetMap, Encoder, NearestSources, SpaceDescriptor
from supernet_registry.registry.server.convert import optional, read, require
from supernet_registry.registry.server.core import Registry
from supernet_registry.registry.server.notifier import QUEUE, Notifier
from supernet_registry.registry.server.rpc import Call, Handlers
from supernet_registry.registry.server.targets import TargetReader
from supernet_registry.registry.sources.dataset_map import DatasetMapper, MapTarget
from supernet_registry.registry.sources.finder import NearestQuery
from supernet_registry.search.errors import NotFound
from supernet_registry.search.similarity import embed
from supernet_registry.search.spaces import space_from_fields
from supernet_registry.v1 import datasets_pb2 as pb

__all__ = ["DatasetHandlers"]


class DatasetHandlers(Handlers):
    """Registers datasets by their sketches, answers nearest-source queries, and draws maps."""

    service = pb.DESCRIPTOR.services_by_name["DatasetService"]
    slow = frozenset({"create_dataset", "query_nearest_sources", "map_datasets"})

    def __init__(self, registry: Registry, notifier: Notifier) -> None:
        self._registry = registry
        self._notifier = notifier
        self._datasets = registry.catalog.datasets
        self._targets = TargetReader(registry)
        self._mapper = DatasetMapper(registry.catalog.dataset_points, registry.index, registry.embedding_id)

    def get_encoder(self, request: pb.GetEncoderRequest) -> Encoder:
        if request.name not in ("", "encoder"):
            raise NotFound(
                f"{request.name!r} does not exist.", field="name", remedy="The only encoder is named `encoder`."
            )
        return self._registry.encoder

    def create_dataset(self, request: pb.CreateDatasetRequest) -> Dataset:
        require(request, "dataset")
        data = self._targets.sketch_bytes(request, "sketch_source")
        sketch = self._registry.read_sketch(data, field="sketch")
        created = self._datasets.create(
            read(request.dataset, Dataset, field="dataset"),
            sketch=data,
            embedding=embed(sketch),
            embedding_id=self._registry.embedding_id,
            request_id=request.request_id,
        )
        self._registry.index.catch_up()
        self._notifier.notify(QUEUE)  # a job may have waited for these images
        return created

    def get_dataset(self, request: pb.GetDatasetRequest) -> Dataset:
        return self._datasets.get(request.name)

    def list_datasets(self, request: pb.ListDatasetsRequest) -> pb.ListDatasetsResponse:
        page, token = self._datasets.list(page_size=request.page_size, page_token=request.page_token)
        return pb.ListDatasetsResponse(datasets=[to_proto(item, pb.Dataset) for item in page], next_page_token=token)

    def update_dataset(self, request: pb.UpdateDatasetRequest) -> Dataset:
        updated = self._datasets.update(
            request.name,
            etag=request.etag,
            display_name=optional(request, "display_name"),
            images_blob=optional(request, "images_blob"),
            retain_images=request.retain_images if request.HasField("retain_images") else None,
        )
        self._notifier.notify(QUEUE)  # see above
        return updated

    def delete_dataset(self, request: pb.DeleteDatasetRequest) -> Empty:
        self._datasets.delete(request.name, etag=request.etag)
        self._registry.index.catch_up()
        return Empty()

    def query_nearest_sources(self, request: pb.QueryNearestSourcesRequest, call: Call) -> NearestSources:
        space = None
        if request.HasField("search_space"):
            space = space_from_fields(read(request.search_space, SpaceDescriptor, field="search_space"))
        target = self._targets.read(request)
        query = NearestQuery(
            sketch=target.sketch,
            embedding=target.embedding,
            top_k=request.top_k,
            shortlist_size=request.shortlist_size,
            space=space,
            min_index_sequence=request.min_index_sequence,
            include_class_coupling=request.include_class_coupling,
            explain=request.explain,
            deadline=call.deadline,
        )
        return self._registry.finder.find(query)

    def map_datasets(self, request: pb.MapDatasetsRequest) -> DatasetMap:
        target = None
        if request.WhichOneof("target"):
            target = MapTarget(sketch=self._targets.read(request).sketch, name=request.dataset)
        return self._mapper.draw(target, max_datasets=request.max_datasets)
