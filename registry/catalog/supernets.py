"""Supernets, their versions, and the lineage between them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeAlias

import sqlalchemy as sa

from supernet_registry.clients.wire.resources import JobState, Lineage, SpaceDescriptor, Supernet, SupernetVersion
from supernet_registry.registry.catalog import names
from supernet_registry.registry.catalog.checks import check_labels, check_number, check_text
from supernet_registry.registry.catalog.idempotency import body_digest, check_request_id, remembered
from supernet_registry.registry.catalog.outbox import announce
from supernet_registry.registry.catalog.paging import read_page
from supernet_registry.registry.catalog.records import check_etag, etag, from_json, to_json
from supernet_registry.registry.catalog.spaces import describe_space, read_space
from supernet_registry.registry.catalog.versions import (
    batches,
    find_version,
    lineage_edges,
    neighbours,
    select_versions,
    to_versions,
)
from supernet_registry.registry.clock import Clock
from supernet_registry.registry.storage.database import run_write, transaction
from supernet_registry.registry.storage.schema import jobs, parents, supernets, versions
from supernet_registry.search.errors import AlreadyExists, InvalidArgument, StillReferenced
from supernet_registry.search.spaces import SearchSpace
from supernet_registry.v1.common_pb2 import SearchSpace as SearchSpaceMessage
from supernet_registry.v1.supernets_pb2 import Supernet as SupernetMessage

__all__ = ["Supernets", "find_supernet", "insert_supernet", "move_head"]

SupernetPage: TypeAlias = tuple[list[Supernet], str]
VersionPage: TypeAlias = tuple[list[SupernetVersion], str]

DEFAULT_DEPTH = 20
DEEPEST = 100


class Supernets:
    """SupernetService's calls. Versions come into being by `WriteBack` only."""

    def __init__(self, engine: sa.Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock

    def create(self, supernet_id: str, supernet: Supernet, *, request_id: str = "") -> Supernet:
        """Create an empty supernet.

        Raises:
            InvalidArgument, InvalidSearchSpace: with the path of the field.
            AlreadyExists: the id is taken.
            RequestIdReused: the request id came before with another body.
        """
        _check_id(supernet_id)
        request_id = check_request_id(request_id)
        space = read_space(supernet.search_space, "supernet.search_space")
        draft = Supernet(
            description=check_text(supernet.description, "supernet.description"),
            search_space=describe_space(space),
            labels=check_labels(supernet.labels, "supernet.labels"),
        )

        def create(connection: sa.Connection) -> Supernet:
            def insert() -> str:
                name = names.supernet_name(supernet_id)
                if find_supernet(connection, supernet_id) is not None:
                    raise AlreadyExists(
                        f"{name} exists already.",
                        remedy="Choose another id.",
                        field="supernet_id",
                        metadata={"resource": name},
                    )
                now = self._clock()
                insert_supernet(connection, supernet_id, space, now, draft.description, draft.labels)
                announce(connection, "supernet", name, now)
                return name

            name = remembered(
                connection,
                insert,
                method="CreateSupernet",
                request_id=request_id,
                body_sha256=body_digest(draft, SupernetMessage, supernet_id=supernet_id),
                clock=self._clock,
            )
            return _to_supernet(_existing(connection, name))

        return run_write(self._engine, create)

    def get(self, name: str) -> Supernet:
        """One supernet. Raises NotFound, InvalidArgument."""
        with transaction(self._engine, write=False) as connection:
            return _to_supernet(_existing(connection, name))

    def update(
        self, name: str, *, etag: str = "", description: str | None = None, labels: Mapping[str, str] | None = None
    ) -> Supernet:
        """Change the description; merge labels, of which those with an empty value are removed.

        Raises:
            NotFound, InvalidArgument, ETagMismatch.
        """
        names.supernet_id(name)
        if description is not None:
            check_text(description, "description")

        def update(connection: sa.Connection) -> Supernet:
            row = _locked(connection, _existing(connection, name))
            check_etag(etag, _etag(row), name)
            changes: dict[str, Any] = {}
            if description is not None:
                changes["description"] = description
            if labels:
                merged = {**row.labels, **labels}
                changes["labels"] = check_labels({key: value for key, value in merged.items() if value}, "labels")
            return self._save(connection, row, changes)

        return run_write(self._engine, update)

    def rollback(self, name: str, version: str, *, etag: str) -> Supernet:
        """Point `head` at another version of the same supernet.

        Raises:
            NotFound: supernet or version.
            InvalidArgument: no etag, or a version of another supernet.
            ETagMismatch: the head moved, or something else changed.
        """
        supernet_id = names.supernet_id(name)
        _require_etag(etag)
        if names.version_key(version, "version")[0] != supernet_id:
            raise InvalidArgument(
                f"{version} is not a version of {name}.", remedy="Choose one of its own versions.", field="version"
            )

        def rollback(connection: sa.Connection) -> Supernet:
            row = _locked(connection, _existing(connection, name))
            check_etag(etag, _etag(row), name)
            target = find_version(connection, version, "version")
            return self._save(connection, row, {"head_number": target.number})

        return run_write(self._engine, rollback)

    def delete(self, name: str, *, etag: str) -> None:
        """Delete a supernet with all its versions.

        Raises:
            NotFound, InvalidArgument (no etag), ETagMismatch.
            StillReferenced: another supernet descends from it, or an unfinished job writes to it or starts from it.
        """
        _require_etag(etag)

        def delete(connection: sa.Connection) -> None:
            row = _locked(connection, _existing(connection, name))
            check_etag(etag, _etag(row), name)
            _check_unreferenced(connection, row)
            own = sa.select(versions.c.row_id).where(versions.c.supernet_row == row.row_id)
            connection.execute(parents.delete().where(parents.c.child_row.in_(own)))
            connection.execute(versions.delete().where(versions.c.supernet_row == row.row_id))
            connection.execute(supernets.delete().where(supernets.c.row_id == row.row_id))
            announce(connection, "supernet", name, self._clock())

        run_write(self._engine, delete)

    def get_version(self, name: str) -> SupernetVersion:
        """One version, by number or as `supernets/{id}/versions/head`. Raises NotFound, InvalidArgument."""
        with transaction(self._engine, write=False) as connection:
            return to_versions(connection, [find_version(connection, name)])[0]

    def list_versions(self, parent: str = "supernets/-", *, page_size: int = 0, page_token: str = "") -> VersionPage:
        """Versions of a supernet (of all, with `supernets/-`), newest first, and the next page's token.

        Raises:
            NotFound, InvalidArgument, InvalidPageToken.
        """
        statement = select_versions()
        with transaction(self._engine, write=False) as connection:
            if parent != "supernets/-":
                row = _existing(connection, parent, "parent")
                statement = statement.where(versions.c.supernet_row == row.row_id)
            return read_page(
                connection,
                statement,
                versions.c.row_id,
                lambda rows: to_versions(connection, rows),
                query=f"versions {parent}",
                page_size=page_size,
                page_token=page_token,
            )

    def lineage(self, name: str, *, depth: int = 0) -> Lineage:
        """Ancestors and descendants of a version, or of all versions of a supernet.

        Args:
            name: `supernets/{id}` or `supernets/{id}/versions/{n}`.
            depth: generations in each direction; 0 means 20, at most 100.

        Raises:
            NotFound, InvalidArgument.
        """
        check_number(depth, "depth", low=0, high=DEEPEST)
        with transaction(self._engine, write=False) as connection:
            start = self._lineage_start(connection, name)
            reached = set(start)
            for upwards in (True, False):
                frontier = set(start)
                for _ in range(depth or DEFAULT_DEPTH):
                    frontier = neighbours(connection, frontier, upwards=upwards) - reached
                    reached |= frontier
                    if not frontier:
                        break
            rows: list[sa.Row[Any]] = []
            for batch in batches(sorted(reached)):
                statement = select_versions().where(versions.c.row_id.in_(batch)).order_by(versions.c.row_id)
                rows.extend(connection.execute(statement))
            return Lineage(
                versions=tuple(to_versions(connection, rows)), edges=tuple(lineage_edges(connection, reached))
            )

    def list(self, *, page_size: int = 0, page_token: str = "") -> SupernetPage:
        """One page of supernets, newest first, and the next page's token. Raises InvalidArgument, InvalidPageToken."""
        with transaction(self._engine, write=False) as connection:
            return read_page(
                connection,
                supernets.select(),
                supernets.c.row_id,
                lambda rows: [_to_supernet(row) for row in rows],
                query="supernets",
                page_size=page_size,
                page_token=page_token,
            )

    def _lineage_start(self, connection: sa.Connection, name: str) -> set[int]:
        if "/versions/" in name:
            return {find_version(connection, name).row_id}
        row = _existing(connection, name)
        own = sa.select(versions.c.row_id).where(versions.c.supernet_row == row.row_id)
        return set(connection.execute(own).scalars())

    def _save(self, connection: sa.Connection, row: sa.Row[Any], changes: dict[str, Any]) -> Supernet:
        if all(getattr(row, key) == value for key, value in changes.items()):
            return _to_supernet(row)
        now = self._clock()
        statement = (
            supernets.update()
            .where(supernets.c.row_id == row.row_id)
            .values(**changes, update_time=now, revision=supernets.c.revision + 1)
            .returning(*supernets.c)
        )
        announce(connection, "supernet", names.supernet_name(row.id), now)
        return _to_supernet(connection.execute(statement).one())


def find_supernet(connection: sa.Connection, supernet_id: str) -> sa.Row[Any] | None:
    """Row of a supernet by its id."""
    return connection.execute(supernets.select().where(supernets.c.id == supernet_id)).one_or_none()


def insert_supernet(
    connection: sa.Connection,
    supernet_id: str,
    space: SearchSpace,
    now: datetime,
    description: str = "",
    labels: Mapping[str, str] | None = None,
) -> sa.Row[Any]:
    """Insert an empty supernet and return its row."""
    statement = supernets.insert().values(
        id=supernet_id,
        description=description,
        space_id=space.id,
        space=to_json(describe_space(space), SearchSpaceMessage),
        head_number=None,
        version_count=0,
        labels=dict(labels or {}),
        create_time=now,
        update_time=now,
        revision=1,
    )
    return connection.execute(statement.returning(*supernets.c)).one()


def move_head(connection: sa.Connection, supernet_row: int, base_number: int | None, number: int) -> bool:
    """Compare-and-swap of `head` from `base_number` to `number`; False if the head is another one by now."""
    statement = supernets.update().where(
        supernets.c.row_id == supernet_row, supernets.c.head_number.is_not_distinct_from(base_number)
    )
    return connection.execute(statement.values(head_number=number)).rowcount == 1


def _existing(connection: sa.Connection, name: str, field: str = "name") -> sa.Row[Any]:
    row = find_supernet(connection, names.supernet_id(name, field))
    if row is None:
        raise names.not_found(name, field, "List the supernets.")
    return row


def _locked(connection: sa.Connection, row: sa.Row[Any]) -> sa.Row[Any]:
    """The row as it is under a row lock (PostgreSQL; on SQLite the whole transaction has one)."""
    statement = supernets.select().where(supernets.c.row_id == row.row_id).with_for_update()
    return connection.execute(statement).one()


def _check_unreferenced(connection: sa.Connection, row: sa.Row[Any]) -> None:
    name = names.supernet_name(row.id)
    child, parent = versions.alias(), versions.alias()
    descendants = (
        sa.select(supernets.c.id)
        .distinct()
        .join(child, child.c.supernet_row == supernets.c.row_id)
        .join(parents, parents.c.child_row == child.c.row_id)
        .join(parent, parents.c.parent_row == parent.c.row_id)
        .where(parent.c.supernet_row == row.row_id, supernets.c.row_id != row.row_id)
        .limit(5)
    )
    found = list(connection.execute(descendants).scalars())
    if found:
        raise StillReferenced(
            f"Other supernets descend from {name}: {', '.join(found)}.",
            remedy="Delete those first.",
            field="name",
            metadata={"resource": name},
        )
    ended = [state.value for state in JobState if state.ended]
    prefix = f"{name}/versions/"
    uses = (jobs.c.supernet_id == row.id) | jobs.c.source_version.startswith(prefix, autoescape=True)
    waiting = connection.execute(sa.select(jobs.c.id).where(jobs.c.state.not_in(ended), uses).limit(5)).scalars().all()
    if waiting:
        raise StillReferenced(
            f"Unfinished jobs use {name}: {', '.join(waiting)}.",
            remedy="Cancel them, or wait for them.",
            field="name",
            metadata={"resource": name},
        )


def _check_id(supernet_id: str) -> None:
    if not names.SUPERNET_ID.fullmatch(supernet_id):
        raise InvalidArgument(
            f"{supernet_id[:80]!r} is not a supernet id.",
            remedy="Use 1 to 63 of a-z, 0-9, `_`, `.`, `-`, with a letter or digit at both ends.",
            field="supernet_id",
        )


def _require_etag(given: str) -> None:
    if not given:
        raise InvalidArgument(
            "An etag is required here.", remedy="Read the supernet first and pass its etag.", field="etag"
        )


def _etag(row: sa.Row[Any]) -> str:
    return etag(supernets, row.row_id, row.revision)


def _to_supernet(row: sa.Row[Any]) -> Supernet:
    return Supernet(
        name=names.supernet_name(row.id),
        description=row.description,
        search_space=from_json(row.space, SearchSpaceMessage, SpaceDescriptor),
        head=names.version_name(row.id, row.head_number) if row.head_number is not None else "",
        version_count=row.version_count,
        labels=row.labels,
        create_time=row.create_time,
        update_time=row.update_time,
        etag=_etag(row),
    )
