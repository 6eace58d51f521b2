"""What nearest-source queries read of datasets and their versions."""

from __future__ import annotations

from supernet_registry.registry.sources.stored_sources import StoredSources
from tests.registry.catalog.catalog_world import World


def test_stamps_are_of_datasets_with_versions_newest_version_first(world: World) -> None:
    first = world.version("supernets/a")
    second = world.version("supernets/b")
    empty, absent = world.dataset(7), f"datasets/{'0' * 32}"
    stamps = world.catalog.sources.source_stamps([first.dataset, empty.name, absent])
    assert list(stamps) == [first.dataset]
    assert stamps[first.dataset].sketch_digest == world.catalog.datasets.get(first.dataset).sketch_digest
    versions = world.catalog.sources.versions_by_row(stamps[first.dataset].version_rows)
    assert [versions[row].name for row in stamps[first.dataset].version_rows] == [second.name, first.name]


def delete_supernet(world: World, name: str = "supernets/a") -> None:
    """With all its versions."""
    world.catalog.supernets.delete(name, etag=world.catalog.supernets.get(name).etag)


def test_versions_that_are_gone_are_left_out(world: World) -> None:
    version = world.version()
    (row,) = world.catalog.sources.source_stamps([version.dataset])[version.dataset].version_rows
    delete_supernet(world)
    assert world.catalog.sources.versions_by_row([row]) == {}
    assert world.catalog.sources.source_stamps([version.dataset]) == {}


def test_many_datasets_are_read_at_once(world: World) -> None:
    made = [world.dataset(seed, with_images=False) for seed in range(3)]
    names = [dataset.name for dataset in made]
    assert world.catalog.datasets.get_many([*names, f"datasets/{'0' * 32}"]) == dict(zip(names, made, strict=True))
    assert world.catalog.datasets.get_many([]) == {}


def test_sources_are_as_they_are_now_although_they_were_read_before(world: World) -> None:
    sources, catalog = StoredSources(world.catalog), world.catalog
    first = world.version("supernets/a")

    def read() -> tuple[str, list[str]]:
        stamps = catalog.sources.source_stamps([first.dataset])
        (source,) = sources.read(stamps).values()
        assert source.dataset == catalog.datasets.get(first.dataset)
        return source.dataset.display_name, [version.name for version in source.versions]

    assert read() == ("noise0", [first.name])
    second = world.version("supernets/b")
    catalog.datasets.update(first.dataset, display_name="other name")
    assert read() == ("other name", [second.name, first.name])
    delete_supernet(world)
    assert read() == ("other name", [second.name])


def test_a_source_whose_versions_were_deleted_after_its_stamp_was_read_has_none(world: World) -> None:
    version = world.version()
    stamps = world.catalog.sources.source_stamps([version.dataset])
    delete_supernet(world)
    (source,) = StoredSources(world.catalog).read(stamps).values()
    assert source.versions == []
