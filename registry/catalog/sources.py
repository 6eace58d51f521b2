"""What a nearest-source query reads of the datasets near its target: which have versions, and those versions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa

from supernet_registry.clients.wire.resources import SupernetVersion
from supernet_registry.registry.catalog import names
from supernet_registry.registry.catalog.generalists import is_generalist
from supernet_registry.registry.catalog.versions import batches, select_versions, to_versions
from supernet_registry.registry.storage.database import transaction
from supernet_registry.registry.storage.schema import datasets, job_datasets, supernets, versions

__all__ = ["SourceStamp", "SourceStamps"]


@dataclass(frozen=True, slots=True)
class SourceStamp:
    """A dataset with versions, in as few words as tell whether what is known of it is up to date.

    A generalist is not among the versions of any of its datasets: it is offered beside them, by itself.
    """

    row_id: int
    revision: int
    sketch_digest: str
    version_rows: list[int]
    """Row ids of its versions, newest first; never reused."""


# Built once: composing a statement takes longer than running it.
_STAMPS = (
    sa.select(
        datasets.c.id,
        datasets.c.row_id,
        datasets.c.revision,
        datasets.c.sketch_sha256,
        versions.c.row_id.label("version_row"),
    )
    .join(versions, versions.c.dataset_row == datasets.c.row_id)
    .where(datasets.c.id.in_(sa.bindparam("ids", expanding=True)), ~is_generalist())
    .order_by(versions.c.row_id.desc())
)
# In two steps, so that a registry with many versions and few generalists does not look at every version.
_GENERALIST_JOBS = sa.select(job_datasets.c.job_row).where(job_datasets.c.position == 0)
_GENERALISTS = (
    sa.select(versions.c.row_id, supernets.c.space_id)
    .join(supernets, versions.c.supernet_row == supernets.c.row_id)
    .where(versions.c.job_row.in_(sa.bindparam("rows", expanding=True)))
)
_VERSIONS = select_versions().where(versions.c.row_id.in_(sa.bindparam("rows", expanding=True)))


class SourceStamps:
    """Reads of versions by dataset."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def source_stamps(self, dataset_names: Iterable[str]) -> dict[str, SourceStamp]:
        """Stamps of those datasets that exist and have a version, by name. Raises InvalidArgument."""
        result: dict[str, SourceStamp] = {}
        with transaction(self._engine, write=False) as connection:
            for batch in batches(names.dataset_id(name) for name in dataset_names):
                for row in connection.execute(_STAMPS, {"ids": batch}):
                    new = SourceStamp(row.row_id, row.revision, row.sketch_sha256, [])
                    result.setdefault(names.dataset_name(row.id), new).version_rows.append(row.version_row)
        return result

    def generalist_rows(self, space_id: str = "", *, limit: int) -> list[int]:
        """Row ids of the newest generalists, newest first; only those of a search space, if one is given."""
        found: list[int] = []
        with transaction(self._engine, write=False) as connection:
            for batch in batches(connection.execute(_GENERALIST_JOBS).scalars()):
                rows = connection.execute(_GENERALISTS, {"rows": batch})
                found += [row.row_id for row in rows if space_id in ("", row.space_id)]
        return sorted(found, reverse=True)[:limit]

    def versions_by_row(self, version_rows: Iterable[int]) -> dict[int, SupernetVersion]:
        """Versions by row id, without those that do not exist (any more)."""
        result: dict[int, SupernetVersion] = {}
        with transaction(self._engine, write=False) as connection:
            for batch in batches(version_rows):
                rows = list(connection.execute(_VERSIONS, {"rows": batch}))
                result.update(zip((row.row_id for row in rows), to_versions(connection, rows), strict=True))
        return result
