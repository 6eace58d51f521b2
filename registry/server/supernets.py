"""SupernetService."""

from __future__ import annotations

from google.protobuf.empty_pb2 import Empty

from supernet_registry.clients.wire.convert import to_proto
from supernet_registry.clients.wire.resources import Lineage, Supernet, SupernetVersion
from supernet_registry.registry.server.convert import optional, read, require
from supernet_registry.registry.server.core import Registry
from supernet_registry.registry.server.rpc import Handlers
from supernet_registry.v1 import supernets_pb2 as pb

__all__ = ["SupernetHandlers"]


class SupernetHandlers(Handlers):
    """Reads and administers supernets."""

    service = pb.DESCRIPTOR.services_by_name["SupernetService"]

    def __init__(self, registry: Registry) -> None:
        self._supernets = registry.catalog.supernets

    def create_supernet(self, request: pb.CreateSupernetRequest) -> Supernet:
        require(request, "supernet")
        supernet = read(request.supernet, Supernet, field="supernet")
        return self._supernets.create(request.supernet_id, supernet, request_id=request.request_id)

    def get_supernet(self, request: pb.GetSupernetRequest) -> Supernet:
        return self._supernets.get(request.name)

    def list_supernets(self, request: pb.ListSupernetsRequest) -> pb.ListSupernetsResponse:
        page, token = self._supernets.list(page_size=request.page_size, page_token=request.page_token)
        return pb.ListSupernetsResponse(supernets=[to_proto(item, pb.Supernet) for item in page], next_page_token=token)

    def update_supernet(self, request: pb.UpdateSupernetRequest) -> Supernet:
        return self._supernets.update(
            request.name,
            etag=request.etag,
            description=optional(request, "description"),
            labels=dict(request.labels),
        )

    def delete_supernet(self, request: pb.DeleteSupernetRequest) -> Empty:
        self._supernets.delete(request.name, etag=request.etag)
        return Empty()

    def rollback_supernet(self, request: pb.RollbackSupernetRequest) -> Supernet:
        return self._supernets.rollback(request.name, request.version, etag=request.etag)

    def get_supernet_version(self, request: pb.GetSupernetVersionRequest) -> SupernetVersion:
        return self._supernets.get_version(request.name)

    def list_supernet_versions(self, request: pb.ListSupernetVersionsRequest) -> pb.ListSupernetVersionsResponse:
        page, token = self._supernets.list_versions(
            request.parent, page_size=request.page_size, page_token=request.page_token
        )
        versions = [to_proto(item, pb.SupernetVersion) for item in page]
        return pb.ListSupernetVersionsResponse(versions=versions, next_page_token=token)

    def query_lineage(self, request: pb.QueryLineageRequest) -> Lineage:
        return self._supernets.lineage(request.name, depth=request.depth)
