"""Versions and the edges between them, as read from the tables: shared by supernets, datasets and write-back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa

from supernet_registry.clients.wire.resources import (
    Cost,
    LineageEdge,
    Metrics,
    Parent,
    ParentRole,
    SpaceDescriptor,
    SupernetVersion,
    TransferMode,
)
from supernet_registry.registry.catalog import names
from supernet_registry.registry.catalog.generalists import generalist_datasets
from supernet_registry.registry.catalog.job_rows import display_name
from supernet_registry.registry.catalog.records import from_json
from supernet_registry.registry.storage.schema import blobs, datasets, jobs, parents, supernets, versions
from supernet_registry.v1.common_pb2 import SearchSpace as SearchSpaceMessage
from supernet_registry.v1.supernets_pb2 import Cost as CostMessage
from supernet_registry.v1.supernets_pb2 import Metrics as MetricsMessage

__all__ = ["batches", "find_version", "lineage_edges", "neighbours", "select_versions", "to_versions"]

T = TypeVar("T")

_BATCH = 500
"""Values in one IN (...); SQLite and drivers limit the parameters of a statement."""


def select_versions() -> sa.Select[Any]:
    """All versions, with what their resource shows of supernet, dataset, job and blob."""
    return (
        sa.select(
            versions,
            supernets.c.id.label("supernet_id"),
            supernets.c.space,
            supernets.c.space_id,
            supernets.c.head_number,
            datasets.c.id.label("dataset_id"),
            datasets.c.display_name,
            jobs.c.id.label("job_id"),
            blobs.c.size_bytes,
        )
        .join(supernets, versions.c.supernet_row == supernets.c.row_id)
        .join(datasets, versions.c.dataset_row == datasets.c.row_id)
        .join(jobs, versions.c.job_row == jobs.c.row_id)
        .join(blobs, versions.c.weights_sha256 == blobs.c.sha256)
    )


def to_versions(connection: sa.Connection, rows: Sequence[sa.Row[Any]]) -> list[SupernetVersion]:
    """Resources of rows of `select_versions`, in their order."""
    parents_of: dict[int, list[Parent]] = {}
    for edge in _edges(connection, versions.c.row_id, [row.row_id for row in rows]):
        parents_of.setdefault(edge.child_row, []).append(_parent(edge))
    datasets_of = generalist_datasets(connection, [row.job_row for row in rows])
    return [
        _to_version(
            row,
            tuple(parents_of.get(row.row_id, ())),
            tuple(names.dataset_name(dataset.id) for dataset in datasets_of.get(row.job_row, ())),
        )
        for row in rows
    ]


def find_version(connection: sa.Connection, name: str, field: str = "name") -> sa.Row[Any]:
    """Row (of `select_versions`) of a version name or `head` alias. Raises NotFound, InvalidArgument, with `field`."""
    supernet_id, number = names.version_key(name, field)
    wanted = supernets.c.head_number if number == "head" else number
    statement = select_versions().where(supernets.c.id == supernet_id, versions.c.number == wanted)
    row = connection.execute(statement).one_or_none()
    if row is None:
        raise names.not_found(name, field, "List the supernet's versions.")
    return row


def neighbours(connection: sa.Connection, rows: Iterable[int], *, upwards: bool) -> set[int]:
    """Row ids of the parents (`upwards`) or children of versions."""
    near, far = (parents.c.child_row, parents.c.parent_row) if upwards else (parents.c.parent_row, parents.c.child_row)
    found: set[int] = set()
    for batch in batches(rows):
        found.update(connection.execute(sa.select(far).where(near.in_(batch))).scalars())
    return found


def lineage_edges(connection: sa.Connection, rows: Iterable[int]) -> list[LineageEdge]:
    """All arrows between the given versions."""
    inside = set(rows)
    return [
        LineageEdge(child=names.version_name(edge.child_supernet, edge.child_number), parent=_parent(edge))
        for edge in _edges(connection, versions.c.row_id, sorted(inside))
        if edge.parent_row in inside
    ]


def batches(values: Iterable[T]) -> Iterator[list[T]]:
    """The values in lists that fit one IN (...)."""
    everything = list(values)
    for start in range(0, len(everything), _BATCH):
        yield everything[start : start + _BATCH]


def _edges(connection: sa.Connection, child: sa.Column[int], rows: Sequence[int]) -> Iterator[sa.Row[Any]]:
    parent_version, parent_supernet = versions.alias(), supernets.alias()
    statement = (
        sa.select(
            parents,
            supernets.c.id.label("child_supernet"),
            versions.c.number.label("child_number"),
            parent_supernet.c.id.label("parent_supernet"),
            parent_version.c.number.label("parent_number"),
        )
        .join(versions, parents.c.child_row == versions.c.row_id)
        .join(supernets, versions.c.supernet_row == supernets.c.row_id)
        .join(parent_version, parents.c.parent_row == parent_version.c.row_id)
        .join(parent_supernet, parent_version.c.supernet_row == parent_supernet.c.row_id)
        .order_by(parents.c.child_row, parents.c.role.desc(), parents.c.parent_row)  # SOURCE first
    )
    for batch in batches(rows):
        yield from connection.execute(statement.where(child.in_(batch)))


def _parent(edge: sa.Row[Any]) -> Parent:
    return Parent(version=names.version_name(edge.parent_supernet, edge.parent_number), role=ParentRole(edge.role))


def _to_version(row: sa.Row[Any], row_parents: tuple[Parent, ...], learnt: tuple[str, ...]) -> SupernetVersion:
    return SupernetVersion(
        name=names.version_name(row.supernet_id, row.number),
        weights_blob=names.blob_name(row.weights_sha256),
        weights_size_bytes=row.size_bytes,
        child_blob=names.blob_name(row.child_sha256) if row.child_sha256 else "",
        genotype=row.genotype,
        dataset=names.dataset_name(row.dataset_id),
        job=names.job_name(row.job_id),
        parents=row_parents,
        transfer_mode=TransferMode(row.transfer_mode),
        metrics=from_json(row.metrics, MetricsMessage, Metrics),
        cost=from_json(row.cost, CostMessage, Cost),
        search_space=from_json(row.space, SearchSpaceMessage, SpaceDescriptor),
        head=row.number == row.head_number,
        create_time=row.create_time,
        dataset_display_name=display_name(learnt, row.display_name),
        datasets=learnt,
    )
