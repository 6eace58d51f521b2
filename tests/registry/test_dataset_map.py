"""Classical scaling of embeddings to a plane."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from supernet_registry.registry.sources.dataset_map import on_a_plane


def distances(points: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points[:, None] - points[None], axis=2)


vectors = st.tuples(st.integers(0, 12), st.integers(1, 6)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.floats(-100, 100, width=32))
)


@given(arrays(np.float64, (3, 7), elements=st.floats(-100, 100, width=32)))
def test_three_datasets_keep_their_distances_for_three_points_lie_on_a_plane(three: np.ndarray) -> None:
    places, share = on_a_plane(three)
    assert np.allclose(distances(places), distances(three), atol=1e-9 * (1 + np.abs(three).max()))
    assert share == pytest.approx(1.0)


@given(vectors)
def test_a_plane_never_shows_two_datasets_farther_apart_than_they_are(embeddings: np.ndarray) -> None:
    places, share = on_a_plane(embeddings)
    assert places.shape == (len(embeddings), 2)
    assert 0.0 <= share <= 1.0
    assert np.all(distances(places) <= distances(embeddings) + 1e-9 * (1 + np.abs(embeddings).max(initial=0)))


def test_the_plane_is_that_of_classical_scaling_by_its_definition() -> None:
    """Torgerson: the two leading eigenvectors of the doubly centred matrix of squared distances."""
    embeddings = np.random.default_rng(0).normal(size=(20, 8))
    squared = distances(embeddings) ** 2
    centring = np.eye(20) - 1 / 20
    values, axes = np.linalg.eigh(-0.5 * centring @ squared @ centring)
    expected = axes[:, :-3:-1] * np.sqrt(values[:-3:-1])
    places, share = on_a_plane(embeddings)
    assert np.allclose(np.abs(places), np.abs(expected))
    assert share == pytest.approx(values[-2:].sum() / values.sum())


def test_the_order_of_the_datasets_does_not_turn_the_map() -> None:
    embeddings = np.random.default_rng(1).normal(size=(30, 5))
    order = np.random.default_rng(2).permutation(30)
    assert np.allclose(on_a_plane(embeddings[order])[0], on_a_plane(embeddings)[0][order])


def test_a_dataset_alone_and_equal_ones_lie_at_the_origin() -> None:
    for embeddings in (np.ones((1, 4)), np.ones((5, 4)), np.empty((0, 4)), np.empty(0)):
        places, share = on_a_plane(embeddings)
        assert np.allclose(places, 0.0)
        assert share == 1.0
