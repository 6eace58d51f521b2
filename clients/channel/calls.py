"""Every unary RPC as a value: which stub method, which request, and how its response becomes a resource.

The synchronous and the asynchronous client differ only in how they send; what they send, and what they make of the
answer, is written once, here. `tests/clients/test_wire.py` holds this table against the service descriptors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from uuid import uuid4

from google.protobuf.message import Message

from supernet_registry.clients.wire.convert import from_proto, to_proto
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
    Upload,
)
from supernet_registry.v1 import blobs_pb2, common_pb2, datasets_pb2, searches_pb2, supernets_pb2, workers_pb2
from supernet_registry.v1.blobs_pb2_grpc import BlobServiceStub
from supernet_registry.v1.datasets_pb2_grpc import DatasetServiceStub
from supernet_registry.v1.searches_pb2_grpc import SearchServiceStub
from supernet_registry.v1.supernets_pb2_grpc import SupernetServiceStub
from supernet_registry.v1.workers_pb2_grpc import WorkerServiceStub

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
Page = tuple[tuple[R, ...], str]
"""One page of a list, and the token of the next (empty on the last)."""

SKETCH_INLINE_BYTES = 3 * 2**20
"""Largest sketch sent within a request; a larger one goes as a blob (the message limit is 4 MiB)."""

STUBS: tuple[type, ...] = (
    BlobServiceStub,
    DatasetServiceStub,
    SearchServiceStub,
    SupernetServiceStub,
    WorkerServiceStub,
)


@dataclass(frozen=True)
class Call(Generic[R_co]):
    """One call: the stub's class and method, the request, and the conversion of the response (or of each, in a stream).

    `extra_s` is added to the client's deadline: time that the server is asked to spend waiting.
    """

    stub: type
    method: str
    request: Message | None
    convert: Callable[[Any], R_co]
    extra_s: float = 0.0


def request_id_or_new(request_id: str | None) -> str:
    """The caller's request id (AIP-155), or a random one, so that a retry inside gRPC stays idempotent."""
    return request_id or str(uuid4())


def _to(resource: type[R]) -> Callable[[Any], R]:
    return lambda message: from_proto(message, resource)


def _page(field: str, resource: type[R]) -> Callable[[Any], Page[R]]:
    def convert(message: Any) -> Page[R]:
        return tuple(from_proto(item, resource) for item in getattr(message, field)), message.next_page_token

    return convert


def _nothing(_: Any) -> None:
    return None


# Datasets ------------------------------------------------------------------------------------------------------------


def get_encoder() -> Call[Encoder]:
    return Call(DatasetServiceStub, "GetEncoder", datasets_pb2.GetEncoderRequest(name="encoder"), _to(Encoder))


def create_dataset(dataset: Dataset, sketch: bytes | str, request_id: str | None) -> Call[Dataset]:
    request = datasets_pb2.CreateDatasetRequest(
        dataset=to_proto(dataset, datasets_pb2.Dataset), request_id=request_id_or_new(request_id)
    )
    if isinstance(sketch, str):
        request.sketch_blob = sketch
    else:
        request.sketch = sketch
    return Call(DatasetServiceStub, "CreateDataset", request, _to(Dataset))


def get_dataset(name: str) -> Call[Dataset]:
    return Call(DatasetServiceStub, "GetDataset", datasets_pb2.GetDatasetRequest(name=name), _to(Dataset))


def list_datasets(page_token: str, page_size: int = 0) -> Call[Page[Dataset]]:
    request = datasets_pb2.ListDatasetsRequest(page_size=page_size, page_token=page_token)
    return Call(DatasetServiceStub, "ListDatasets", request, _page("datasets", Dataset))


def update_dataset(
    name: str, etag: str, display_name: str | None, images_blob: str | None, *, retain_images: bool | None
) -> Call[Dataset]:
    request = datasets_pb2.UpdateDatasetRequest(
        name=name, etag=etag, display_name=display_name, images_blob=images_blob, retain_images=retain_images
    )
    return Call(DatasetServiceStub, "UpdateDataset", request, _to(Dataset))


def delete_dataset(name: str, etag: str) -> Call[None]:
    return Call(DatasetServiceStub, "DeleteDataset", datasets_pb2.DeleteDatasetRequest(name=name, etag=etag), _nothing)


def query_nearest_sources(
    target: str | bytes,
    *,
    top_k: int,
    shortlist_size: int,
    search_space: SpaceDescriptor | None,
    min_index_sequence: int,
    include_class_coupling: bool,
    explain: bool,
) -> Call[NearestSources]:
    request = datasets_pb2.QueryNearestSourcesRequest(
        top_k=top_k,
        shortlist_size=shortlist_size,
        search_space=None if search_space is None else to_proto(search_space, common_pb2.SearchSpace),
        min_index_sequence=min_index_sequence,
        include_class_coupling=include_class_coupling,
        explain=explain,
    )
    _set_target(request, target)
    return Call(DatasetServiceStub, "QueryNearestSources", request, _to(NearestSources))


def map_datasets(target: str | bytes | None, max_datasets: int) -> Call[DatasetMap]:
    request = datasets_pb2.MapDatasetsRequest(max_datasets=max_datasets)
    if target is not None:
        _set_target(request, target)
    return Call(DatasetServiceStub, "MapDatasets", request, _to(DatasetMap))


def _set_target(
    request: datasets_pb2.QueryNearestSourcesRequest | datasets_pb2.MapDatasetsRequest, target: str | bytes
) -> None:
    """A serialised sketch, the blob that holds one, or a registered dataset."""
    if isinstance(target, bytes):
        request.sketch = target
    elif target.startswith("blobs/"):
        request.sketch_blob = target
    else:
        request.dataset = target


# Supernets -----------------------------------------------------------------------------------------------------------


def create_supernet(supernet_id: str, supernet: Supernet, request_id: str | None) -> Call[Supernet]:
    request = supernets_pb2.CreateSupernetRequest(
        supernet_id=supernet_id,
        supernet=to_proto(supernet, supernets_pb2.Supernet),
        request_id=request_id_or_new(request_id),
    )
    return Call(SupernetServiceStub, "CreateSupernet", request, _to(Supernet))


def get_supernet(name: str) -> Call[Supernet]:
    return Call(SupernetServiceStub, "GetSupernet", supernets_pb2.GetSupernetRequest(name=name), _to(Supernet))


def list_supernets(page_token: str, page_size: int = 0) -> Call[Page[Supernet]]:
    request = supernets_pb2.ListSupernetsRequest(page_size=page_size, page_token=page_token)
    return Call(SupernetServiceStub, "ListSupernets", request, _page("supernets", Supernet))


def update_supernet(name: str, etag: str, description: str | None, labels: Mapping[str, str]) -> Call[Supernet]:
    request = supernets_pb2.UpdateSupernetRequest(name=name, etag=etag, description=description, labels=labels)
    return Call(SupernetServiceStub, "UpdateSupernet", request, _to(Supernet))


def delete_supernet(name: str, etag: str) -> Call[None]:
    request = supernets_pb2.DeleteSupernetRequest(name=name, etag=etag)
    return Call(SupernetServiceStub, "DeleteSupernet", request, _nothing)


def rollback_supernet(name: str, version: str, etag: str) -> Call[Supernet]:
    request = supernets_pb2.RollbackSupernetRequest(name=name, version=version, etag=etag)
    return Call(SupernetServiceStub, "RollbackSupernet", request, _to(Supernet))


def get_version(name: str) -> Call[SupernetVersion]:
    request = supernets_pb2.GetSupernetVersionRequest(name=name)
    return Call(SupernetServiceStub, "GetSupernetVersion", request, _to(SupernetVersion))


def list_versions(page_token: str, page_size: int = 0, *, parent: str) -> Call[Page[SupernetVersion]]:
    request = supernets_pb2.ListSupernetVersionsRequest(parent=parent, page_size=page_size, page_token=page_token)
    return Call(SupernetServiceStub, "ListSupernetVersions", request, _page("versions", SupernetVersion))


def query_lineage(name: str, depth: int) -> Call[Lineage]:
    request = supernets_pb2.QueryLineageRequest(name=name, depth=depth)
    return Call(SupernetServiceStub, "QueryLineage", request, _to(Lineage))


# Search jobs ---------------------------------------------------------------------------------------------------------


def create_search_job(job: SearchJob, request_id: str | None, *, validate_only: bool) -> Call[SearchJob]:
    request = searches_pb2.CreateSearchJobRequest(
        search_job=to_proto(job, searches_pb2.SearchJob),
        request_id=request_id_or_new(request_id),
        validate_only=validate_only,
    )
    return Call(SearchServiceStub, "CreateSearchJob", request, _to(SearchJob))


def get_search_job(name: str) -> Call[SearchJob]:
    return Call(SearchServiceStub, "GetSearchJob", searches_pb2.GetSearchJobRequest(name=name), _to(SearchJob))


def list_search_jobs(
    page_token: str, page_size: int = 0, *, state: JobState | None, stream: str | None
) -> Call[Page[SearchJob]]:
    number = searches_pb2.JobState.Value(f"JOB_STATE_{(state or JobState.UNSPECIFIED).value}")
    request = searches_pb2.ListSearchJobsRequest(
        page_size=page_size, page_token=page_token, state=number, stream=stream or ""
    )
    return Call(SearchServiceStub, "ListSearchJobs", request, _page("search_jobs", SearchJob))


def cancel_search_job(name: str) -> Call[SearchJob]:
    return Call(SearchServiceStub, "CancelSearchJob", searches_pb2.CancelSearchJobRequest(name=name), _to(SearchJob))


def watch_search_job(name: str, after_sequence: int) -> Call[JobEvent]:
    request = searches_pb2.WatchSearchJobRequest(name=name, after_sequence=after_sequence)
    return Call(SearchServiceStub, "WatchSearchJob", request, _to(JobEvent))


# Blobs ---------------------------------------------------------------------------------------------------------------


def find_missing_blobs(names: Sequence[str]) -> Call[list[str]]:
    request = blobs_pb2.FindMissingBlobsRequest(names=names)
    return Call(BlobServiceStub, "FindMissingBlobs", request, lambda response: list(response.missing_names))


def start_upload(blob: str, size_bytes: int) -> Call[Upload]:
    request = blobs_pb2.StartUploadRequest(blob=blob, size_bytes=size_bytes)
    return Call(BlobServiceStub, "StartUpload", request, _to(Upload))


def write_blob() -> Call[Upload]:
    return Call(BlobServiceStub, "WriteBlob", None, _to(Upload))


def get_upload(name: str) -> Call[Upload]:
    return Call(BlobServiceStub, "GetUpload", blobs_pb2.GetUploadRequest(name=name), _to(Upload))


def read_blob(name: str, offset_bytes: int) -> Call[blobs_pb2.ReadBlobResponse]:
    request = blobs_pb2.ReadBlobRequest(name=name, offset_bytes=offset_bytes)
    return Call(BlobServiceStub, "ReadBlob", request, lambda response: response)


# Workers -------------------------------------------------------------------------------------------------------------


def lease_search_job(
    worker: str, device: str, job: str, wait_seconds: float
) -> Call[tuple[Lease, SearchJob, str] | None]:
    def convert(response: Any) -> tuple[Lease, SearchJob, str] | None:
        if not response.HasField("lease"):
            return None
        lease = from_proto(response.lease, Lease)
        return lease, from_proto(response.search_job, SearchJob), response.checkpoint_blob

    request = workers_pb2.LeaseSearchJobRequest(worker=worker, device=device, job=job, wait_seconds=wait_seconds)
    return Call(WorkerServiceStub, "LeaseSearchJob", request, convert, extra_s=wait_seconds)


def renew_lease(lease: Lease) -> Call[tuple[Lease, bool]]:
    def convert(response: Any) -> tuple[Lease, bool]:
        return from_proto(response.lease, Lease), response.cancel_requested

    request = workers_pb2.RenewLeaseRequest(job=lease.job, fence=lease.fence)
    return Call(WorkerServiceStub, "RenewLease", request, convert)


def report_progress(lease: Lease, events: Sequence[JobEvent]) -> Call[int]:
    request = workers_pb2.ReportProgressRequest(
        job=lease.job, fence=lease.fence, events=[to_proto(event, searches_pb2.JobEvent) for event in events]
    )
    return Call(WorkerServiceStub, "ReportProgress", request, lambda response: int(response.last_sequence))


def save_checkpoint(lease: Lease, blob: str) -> Call[None]:
    request = workers_pb2.SaveCheckpointRequest(job=lease.job, fence=lease.fence, checkpoint_blob=blob)
    return Call(WorkerServiceStub, "SaveCheckpoint", request, _nothing)


def complete_search_job(lease: Lease, version: SupernetVersion) -> Call[tuple[SupernetVersion, bool]]:
    def convert(response: Any) -> tuple[SupernetVersion, bool]:
        return from_proto(response.version, SupernetVersion), response.head_moved

    request = workers_pb2.CompleteSearchJobRequest(
        job=lease.job, fence=lease.fence, version=to_proto(version, supernets_pb2.SupernetVersion)
    )
    return Call(WorkerServiceStub, "CompleteSearchJob", request, convert)


def abandon_search_job(lease: Lease, outcome: AbandonOutcome, error: JobError | None) -> Call[SearchJob]:
    request = workers_pb2.AbandonSearchJobRequest(
        job=lease.job,
        fence=lease.fence,
        outcome=workers_pb2.AbandonSearchJobRequest.Outcome.Value(f"OUTCOME_{outcome.value}"),
        error=None if error is None else to_proto(error, searches_pb2.JobError),
    )
    return Call(WorkerServiceStub, "AbandonSearchJob", request, lambda r: from_proto(r.search_job, SearchJob))
