"""MapDatasets over the wire: who is on the map, where, and in which order."""

from __future__ import annotations

import math

import pytest

from supernet_registry.clients.wire.resources import DatasetMap, DatasetPoint
from supernet_registry.registry.sources.dataset_map import MOST_DATASETS
from supernet_registry.search import errors
from supernet_registry.search.similarity import embed, load_encoder, make_sketch
from tests.registry.server.server_tools import make_dataset

BLENDS = (0.0, 0.3, 0.6, 0.9)


@pytest.fixture
def stored(client):
    """Datasets that lie ever farther from the first kind of pattern, as registered."""
    return [client.register_dataset(make_dataset(seed, other=blend)) for seed, blend in enumerate(BLENDS)]


def names(found: DatasetMap) -> list[str]:
    return [point.dataset for point in found.points]


def between(a: DatasetPoint, b: DatasetPoint) -> float:
    return math.dist((a.x, a.y), (b.x, b.y))


def test_an_empty_registry_has_an_empty_map(client):
    assert client.map_datasets().points == ()


def test_without_a_target_the_newest_are_on_the_map_newest_first(client, stored):
    assert names(client.map_datasets()) == [dataset.name for dataset in reversed(stored)]
    assert names(client.map_datasets(max_datasets=2)) == [stored[3].name, stored[2].name]


def test_distances_of_three_datasets_on_the_map_are_those_of_their_embeddings(client, stored):
    found = client.map_datasets(max_datasets=3)
    vectors = [embed(make_sketch(make_dataset(i, other=BLENDS[i]), load_encoder("pixels"))) for i in (3, 2, 1)]
    for i in range(3):
        for j in range(i):
            exact = math.dist(vectors[i].tolist(), vectors[j].tolist())
            assert between(found.points[i], found.points[j]) == pytest.approx(exact, rel=1e-4)
    assert found.explained_share == pytest.approx(1.0)


def test_a_target_comes_first_and_then_its_nearest(client, stored):
    found = client.dataset_map(make_dataset(77, other=0.9), max_datasets=2)
    assert [point.target for point in found.points] == [True, False, False]
    assert (found.points[0].dataset, found.points[0].display_name) == ("", "")
    assert names(found)[1:] == [stored[3].name, stored[2].name]
    assert len(client.map_datasets().points) == len(stored)  # and nothing was stored


def test_a_registered_target_is_one_point_and_keeps_its_name(client, stored):
    found = client.map_datasets(stored[1].name)
    assert found.points[0] == DatasetPoint(
        dataset=stored[1].name,
        display_name=stored[1].display_name,
        x=found.points[0].x,
        y=found.points[0].y,
        target=True,
    )
    assert sorted(names(found)) == sorted(dataset.name for dataset in stored)
    assert sum(point.target for point in found.points) == 1


def test_a_sketch_that_is_registered_is_taken_for_its_dataset(client, stored):
    """Who asks with the images of a stored dataset sees it once."""
    assert client.dataset_map(make_dataset(1, other=BLENDS[1])) == client.map_datasets(stored[1].name)


def test_points_name_the_best_version_of_their_dataset(client, finish):
    versions = [finish(make_dataset(0), f"s{i}", val_accuracy=accuracy) for i, accuracy in enumerate((0.7, 0.9, 0.8))]
    (point,) = client.map_datasets().points
    assert point.version == versions[1].name


def test_a_deleted_dataset_is_off_the_map(client, stored):
    client.delete_dataset(stored[0].name)
    for target in (None, stored[1].name):
        assert stored[0].name not in names(client.map_datasets(target))


@pytest.mark.parametrize("count", [-1, MOST_DATASETS + 1])
def test_a_number_out_of_range_is_refused(client, count):
    with pytest.raises(errors.InvalidArgument) as caught:
        client.map_datasets(max_datasets=count)
    assert caught.value.field == "max_datasets"


def test_a_target_that_is_none_is_refused(client, stored):
    with pytest.raises(errors.NotFound):
        client.map_datasets(f"datasets/{'0' * 32}")
    with pytest.raises(errors.InvalidArgument):
        client.map_datasets("datasets/me")
    with pytest.raises(errors.InvalidSketch):
        client.map_datasets(b"no sketch")
