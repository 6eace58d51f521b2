"""Supernets, versions, lineage."""

from __future__ import annotations

from dataclasses import replace

import pytest

from supernet_registry.clients.wire.resources import (
    LineageEdge,
    Parent,
    ParentRole,
    SourcePolicy,
    SpaceDescriptor,
    Supernet,
)
from supernet_registry.registry.catalog.spaces import describe_space
from supernet_registry.search.errors import (
    AlreadyExists,
    ETagMismatch,
    InvalidArgument,
    InvalidSearchSpace,
    NotFound,
    RequestIdReused,
    StillReferenced,
)
from tests.registry.catalog.catalog_world import SPACE, World, new_id

DRAFT = Supernet(description="first", search_space=SpaceDescriptor(channels=4), labels={"team": "blue"})


def test_a_supernet_is_created_empty_with_its_complete_space(world: World) -> None:
    made = world.catalog.supernets.create("a-b_c.9", replace(DRAFT, head="supernets/x/versions/1", version_count=5))
    assert made == Supernet(
        name="supernets/a-b_c.9",
        description="first",
        search_space=describe_space(SPACE),
        labels={"team": "blue"},
        create_time=world.clock(),
        update_time=world.clock(),
        etag=made.etag,
    )
    assert world.catalog.supernets.get(made.name) == made


def test_ids_spaces_and_request_ids_are_checked(world: World) -> None:
    create = world.catalog.supernets.create
    for bad in ("", "-a", "a-", "A", "a/b", "..", "a" * 64, "ä", "a\n"):
        with pytest.raises(InvalidArgument) as caught:
            create(bad, DRAFT)
        assert caught.value.field == "supernet_id"
    with pytest.raises(InvalidSearchSpace) as space:
        create("a", Supernet(search_space=SpaceDescriptor(channels=10**6)))
    assert space.value.field == "supernet.search_space.channels"
    request_id = new_id()
    made = create("a", DRAFT, request_id=request_id)
    assert create("a", DRAFT, request_id=request_id) == made
    with pytest.raises(RequestIdReused):
        create("b", DRAFT, request_id=request_id)
    with pytest.raises(AlreadyExists):
        create("a", DRAFT)


def test_updates_merge_labels_and_check_the_etag(world: World) -> None:
    made = world.catalog.supernets.create("a", DRAFT)
    world.clock.advance(5)
    now = world.catalog.supernets.update(made.name, etag=made.etag, description="second", labels={"team": "", "x": "y"})
    assert (now.description, now.labels, now.update_time) == ("second", {"x": "y"}, world.clock())
    assert now.etag != made.etag
    with pytest.raises(ETagMismatch):
        world.catalog.supernets.update(made.name, etag=made.etag, description="third")
    with pytest.raises(NotFound):
        world.catalog.supernets.update("supernets/none", description="x")


def test_rollback_moves_the_head_among_its_own_versions(world: World) -> None:
    first, _ = world.version("supernets/a"), world.version("supernets/a", seed=1)
    foreign = world.version("supernets/b")
    before = world.catalog.supernets.get("supernets/a")
    now = world.catalog.supernets.rollback("supernets/a", first.name, etag=before.etag)
    assert now.head == first.name
    assert world.catalog.supernets.get_version(first.name).head
    with pytest.raises(ETagMismatch):
        world.catalog.supernets.rollback("supernets/a", first.name, etag=before.etag)
    for version, error in (
        (foreign.name, InvalidArgument),
        ("supernets/a/versions/7", NotFound),
        ("nonsense", InvalidArgument),
    ):
        with pytest.raises(error):
            world.catalog.supernets.rollback("supernets/a", version, etag=now.etag)
    with pytest.raises(InvalidArgument):
        world.catalog.supernets.rollback("supernets/a", first.name, etag="")


def test_a_supernet_is_deleted_with_its_versions_and_its_name_is_free_again(world: World) -> None:
    world.version("supernets/a")
    version = world.version("supernets/a", seed=1)
    etag = world.catalog.supernets.get("supernets/a").etag
    for bad, error in (("", InvalidArgument), ("stale", ETagMismatch)):
        with pytest.raises(error):
            world.catalog.supernets.delete("supernets/a", etag=bad)
    world.catalog.supernets.delete("supernets/a", etag=etag)
    with pytest.raises(NotFound):
        world.catalog.supernets.get_version(version.name)
    assert world.catalog.jobs.get(version.job).version == version.name  # history stays
    assert world.catalog.supernets.create("a", DRAFT).etag != etag


def test_what_others_descend_from_or_jobs_use_is_not_deleted(world: World) -> None:
    source = world.version("supernets/a")
    world.version("supernets/b", source=source.name)
    waiting = world.job("supernets/c", source_policy=SourcePolicy.VERSION, source_version="supernets/b/versions/1")
    for name in ("supernets/a", "supernets/b", "supernets/c"):
        with pytest.raises(StillReferenced):
            world.catalog.supernets.delete(name, etag=world.catalog.supernets.get(name).etag)
    world.catalog.jobs.cancel(waiting.name)
    for name in ("supernets/c", "supernets/b", "supernets/a"):
        world.catalog.supernets.delete(name, etag=world.catalog.supernets.get(name).etag)


def test_lineage_follows_both_directions_to_a_depth(world: World) -> None:
    """a/1 -> b/1 -> c/1, and b/2 after b/1: seen from any of them."""
    a = world.version("supernets/a")
    b = world.version("supernets/b", source=a.name)
    c = world.version("supernets/c", source=b.name)
    b2 = world.version("supernets/b", source=c.name)
    everything = world.catalog.supernets.lineage(b.name)
    assert [version.name for version in everything.versions] == [a.name, b.name, c.name, b2.name]

    def edge(child: str, parent: str, role: ParentRole = ParentRole.SOURCE) -> LineageEdge:
        return LineageEdge(child=child, parent=Parent(version=parent, role=role))

    assert set(everything.edges) == {
        edge(b.name, a.name),
        edge(c.name, b.name),
        edge(b2.name, c.name),
        edge(b2.name, b.name, ParentRole.PREVIOUS_HEAD),
    }
    near = world.catalog.supernets.lineage(a.name, depth=1)
    assert [version.name for version in near.versions] == [a.name, b.name]
    assert near.edges == (edge(b.name, a.name),)
    of_supernet = world.catalog.supernets.lineage("supernets/b", depth=1)
    assert len(of_supernet.versions) == 4
    for bad, error in (("supernets/none", NotFound), ("supernets/a/versions/9", NotFound), ("x", InvalidArgument)):
        with pytest.raises(error):
            world.catalog.supernets.lineage(bad)
    with pytest.raises(InvalidArgument):
        world.catalog.supernets.lineage(a.name, depth=101)


def test_lists_of_versions_of_one_or_all_supernets(world: World) -> None:
    names = [world.version(f"supernets/{name}").name for name in "abab"]
    everything, _ = world.catalog.supernets.list_versions()
    assert [version.name for version in everything] == names[::-1]
    page, token = world.catalog.supernets.list_versions("supernets/a", page_size=1)
    rest, end = world.catalog.supernets.list_versions("supernets/a", page_size=1, page_token=token)
    assert [version.name for version in page + rest] == ["supernets/a/versions/2", "supernets/a/versions/1"]
    assert end == ""
    with pytest.raises(NotFound):
        world.catalog.supernets.list_versions("supernets/none")
    with pytest.raises(NotFound):
        world.catalog.supernets.get_version("supernets/a/versions/99")
    world.catalog.supernets.create("empty", DRAFT)
    with pytest.raises(NotFound):
        world.catalog.supernets.get_version("supernets/empty/versions/head")
