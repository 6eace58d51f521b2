"""Sketches: what is sampled, what is computed over the whole split, and what is refused from outside."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from supernet_registry.search.errors import DimensionMismatch, InvalidArgument, InvalidSketch, NotFinite
from supernet_registry.search.similarity import DEFAULT_SKETCH_SIZE, Sketch, load_encoder, make_sketch, otdd
from supernet_registry.search.similarity.moment_points import moment_points
from supernet_registry.search.similarity.sketch import FACTOR_RANK, MIN_CLASS_IMAGES, SHRINKAGE_IMAGES
from supernet_registry.search.tasks import ImageDataset, TaskDerivation, derive
from tests.search.similarity.small_sketches import random_sketch

Shipped = Callable[[str], ImageDataset]

FIRST_RELEASE = base64.b64decode(
    "mAEAAAAAAAB7Il9fbWV0YWRhdGFfXyI6eyJza2V0Y2giOiJ7XCJlbmNvZGVyX2lkXCI6XCJwaXhlbHMtdjEtMFwiLFwidmVyc2lvblwiOjF9"
    "In0sImNsYXNzX2NvdW50cyI6eyJkdHlwZSI6Ikk2NCIsInNoYXBlIjpbMl0sImRhdGFfb2Zmc2V0cyI6WzAsMTZdfSwibGFiZWxzIjp7ImR0"
    "eXBlIjoiSTY0Iiwic2hhcGUiOlszXSwiZGF0YV9vZmZzZXRzIjpbMTYsNDBdfSwiY2xhc3NfZmFjdG9ycyI6eyJkdHlwZSI6IkYzMiIsInNo"
    "YXBlIjpbMiwxLDJdLCJkYXRhX29mZnNldHMiOls0MCw1Nl19LCJjbGFzc19tZWFucyI6eyJkdHlwZSI6IkYzMiIsInNoYXBlIjpbMiwyXSwi"
    "ZGF0YV9vZmZzZXRzIjpbNTYsNzJdfSwiZmVhdHVyZXMiOnsiZHR5cGUiOiJGMzIiLCJzaGFwZSI6WzMsMl0sImRhdGFfb2Zmc2V0cyI6Wzcy"
    "LDk2XX19ICAgICACAAAAAAAAAAEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAEAAAAAAAAAAAAAPgAAwL8AAAAAAAAAAAAAwD4AAAA/AACAPwAA"
    "AAAAAAA/AACAvwAAgD4AAABAAACAPwAAAAA="
)
"""Three points, two classes, as the first release wrote them."""


def test_the_same_dataset_gives_the_same_bytes(shipped: Shipped) -> None:
    sketches = [make_sketch(shipped("print_digits"), load_encoder()) for _ in range(2)]
    assert sketches[0].to_bytes() == sketches[1].to_bytes()
    assert sketches[0].digest == sketches[1].digest


def test_another_seed_samples_other_points_and_keeps_the_moments(shipped: Shipped) -> None:
    a, b = (make_sketch(shipped("print_digits"), load_encoder(), size=50, seed=seed) for seed in (0, 1))
    assert a.digest != b.digest
    np.testing.assert_array_equal(a.class_means, b.class_means)


def test_a_sketch_survives_its_wire_form_to_the_bit(shipped: Shipped) -> None:
    sketch = make_sketch(shipped("texture3"), load_encoder())
    again = Sketch.from_bytes(sketch.to_bytes())
    assert again.digest == sketch.digest
    assert again.encoder_id == load_encoder().id
    assert (again.n_classes, again.dimension) == (3, load_encoder().dimension)


def test_bytes_of_the_first_release_still_parse_and_are_still_written() -> None:
    """Digests of stored sketches, by which distances are cached, stay valid."""
    sketch = Sketch.from_bytes(FIRST_RELEASE)
    assert sketch.encoder_id == "pixels-v1-0"
    assert not sketch.moments_only
    np.testing.assert_array_equal(sketch.features, np.array([[0.5, -1], [0.25, 2], [1, 0]], np.float32))
    np.testing.assert_array_equal(sketch.class_counts, [2, 1])
    assert sketch.to_bytes() == FIRST_RELEASE
    assert sketch.digest == "aa231e8c6aab8cea6756f7f2eea0b1d2b882c9a18b27c5a5e467d07a98788670"


def test_points_are_features_of_training_images_with_their_labels(shipped: Shipped) -> None:
    task = shipped("optdigits")
    sketch = make_sketch(task, load_encoder())
    known = {(bytes(f), int(y)) for f, y in zip(_stored(task), task.train.labels, strict=True)}
    assert len(sketch.labels) == DEFAULT_SKETCH_SIZE
    assert {(bytes(f), int(y)) for f, y in zip(sketch.features, sketch.labels, strict=True)} <= known


def test_means_and_counts_are_of_the_whole_training_split(shipped: Shipped) -> None:
    task = shipped("optdigits")
    sketch = make_sketch(task, load_encoder(), size=20)
    features = load_encoder().encode(task.train.images)
    for c in range(10):
        np.testing.assert_allclose(sketch.class_means[c], features[task.train.labels == c].mean(axis=0), atol=1e-4)
    np.testing.assert_array_equal(sketch.class_counts, task.train.class_counts(10))


def test_factors_are_the_best_low_rank_root_of_the_shrunk_covariance(shipped: Shipped) -> None:
    task = shipped("fashion_tops")
    sketch = make_sketch(task, load_encoder())
    features, labels = load_encoder().encode(task.train.images).astype(np.float64), task.train.labels
    counts = task.train.class_counts(5)
    covariances = np.array([np.cov(features[labels == c].T, bias=True) for c in range(5)])
    within = (counts[:, None, None] * covariances).sum(axis=0) / counts.sum()
    for c in range(5):
        share = SHRINKAGE_IMAGES / (SHRINKAGE_IMAGES + counts[c])
        expected = (1 - share) * covariances[c] + share * within
        factor = sketch.class_factors[c].astype(np.float64)
        discarded = np.linalg.eigvalsh(expected)[:-FACTOR_RANK]
        error = np.linalg.norm(factor.T @ factor - expected)
        assert error == pytest.approx(np.linalg.norm(discarded), rel=0.02, abs=1e-4)


def test_few_images_of_many_classes_still_make_a_sketch(shipped: Shipped) -> None:
    """One image a class has no covariance of its own; every class keeps a point though there are fewer than classes."""
    few = derive(shipped("print_thai"), TaskDerivation(n_train=1))
    sketch = make_sketch(few, load_encoder(), size=8)
    assert len(sketch.labels) == sketch.n_classes == 37
    assert not sketch.class_factors.any(), "one image in every class: nothing varies within any"


def test_factors_of_very_many_classes_are_limited_together() -> None:
    """What a stranger's sketch can make a server compute is bounded."""
    k = 200
    many = {
        "features": np.zeros((k, 5), np.float32),
        "labels": np.arange(k),
        "class_means": np.zeros((k, 5), np.float32),
        "class_counts": np.ones(k, np.int64),
    }
    replace(random_sketch(0), **many, class_factors=np.zeros((k, 40, 5), np.float32))
    with pytest.raises(InvalidSketch, match="8200 factors in all"):
        replace(random_sketch(0), **many, class_factors=np.zeros((k, 41, 5), np.float32))


def test_moments_only_reveals_no_feature_of_any_image(shipped: Shipped) -> None:
    task = shipped("optdigits")
    sketch = make_sketch(task, load_encoder(), moments_only=True)
    assert sketch.moments_only
    known = {bytes(f) for f in _stored(task)}
    assert not any(bytes(f) in known for f in sketch.features)


def test_points_of_moments_only_can_be_drawn_again_from_the_moments(shipped: Shipped) -> None:
    """A function of what the sketch sends anyway, so that they tell nothing more."""
    sketch = make_sketch(shipped("texture3"), load_encoder(), moments_only=True, seed=5)
    again = moment_points(sketch.class_means, sketch.class_factors, np.bincount(sketch.labels), 5)
    np.testing.assert_allclose(sketch.features, again, atol=2**-14)


def test_moments_only_sends_the_moments_of_an_ordinary_sketch(shipped: Shipped) -> None:
    ordinary, moments = (make_sketch(shipped("texture3"), load_encoder(), moments_only=m) for m in (False, True))
    for name in ("labels", "class_means", "class_factors", "class_counts"):
        np.testing.assert_array_equal(getattr(ordinary, name), getattr(moments, name))


def test_drawn_points_have_the_mean_and_the_variance_of_their_class(shipped: Shipped) -> None:
    sketch = make_sketch(shipped("print_digits"), load_encoder(), moments_only=True)
    for c in range(10):
        points = sketch.features[sketch.labels == c].astype(np.float64)
        np.testing.assert_allclose(points.mean(axis=0), sketch.class_means[c], atol=1e-4)
        assert points.var(axis=0).sum() == pytest.approx(float((sketch.class_factors[c] ** 2).sum()), rel=1e-3)


def test_moments_only_is_kept_in_the_wire_form_and_deterministic(shipped: Shipped) -> None:
    sketches = [make_sketch(shipped("print_digits"), load_encoder(), moments_only=True) for _ in range(2)]
    assert sketches[0].to_bytes() == sketches[1].to_bytes()
    again = Sketch.from_bytes(sketches[0].to_bytes())
    assert again.moments_only
    assert again.digest == sketches[0].digest


def test_moments_only_lies_where_the_ordinary_sketch_lies(shipped: Shipped) -> None:
    """Not nearer to its own kind than to ordinary sketches: both may stand in one registry."""
    here, there = shipped("optdigits"), shipped("texture3")
    a, b = (make_sketch(task, load_encoder()) for task in (here, there))
    a_moments, b_moments = (make_sketch(task, load_encoder(), moments_only=True) for task in (here, there))
    expected = otdd(a, b).distance
    for first, second in ((a_moments, b), (a, b_moments), (a_moments, b_moments)):
        assert otdd(first, second).distance == pytest.approx(expected, rel=0.02)


def test_moments_of_few_images_are_refused(shipped: Shipped) -> None:
    """They are nearly the images themselves."""
    few = derive(shipped("print_digits"), TaskDerivation(n_train=MIN_CLASS_IMAGES - 1))
    with pytest.raises(InvalidArgument, match="4 training images") as caught:
        make_sketch(few, load_encoder(), moments_only=True)
    assert caught.value.field == "moments_only"
    enough = derive(shipped("print_digits"), TaskDerivation(n_train=MIN_CLASS_IMAGES))
    assert make_sketch(enough, load_encoder(), moments_only=True).moments_only


@settings(max_examples=100, deadline=None)
@given(counts=st.lists(st.integers(1, 500), min_size=2, max_size=40), size=st.integers(2, 600))
def test_shares_are_proportional_and_complete(counts: list[int], size: int) -> None:
    """Every class gets at least one and at most what it has, all points are given out, in proportion."""
    from supernet_registry.search.similarity.sketch import _shares

    array = np.array(counts)
    quota = _shares(array, size)
    total = min(max(size, len(counts)), sum(counts))
    assert quota.sum() == total
    assert (quota >= 1).all()
    assert (quota <= array).all()
    if size >= 40 * len(counts):
        assert np.abs(quota - total * array / array.sum()).max() <= 1 + len(counts)


def test_weights_give_every_class_its_share_of_the_whole_split() -> None:
    sketch = random_sketch(0)
    mass = np.bincount(sketch.labels, weights=sketch.weights)
    np.testing.assert_allclose(mass, sketch.class_counts / sketch.class_counts.sum())


@pytest.mark.parametrize("size", [0, 1, 4097])
def test_sizes_out_of_range_are_refused(shipped: Shipped, size: int) -> None:
    with pytest.raises(InvalidArgument) as caught:
        make_sketch(shipped("texture3"), load_encoder(), size=size)
    assert caught.value.field == "size"


def test_an_encoder_that_returns_nan_is_refused(shipped: Shipped) -> None:
    class Broken:
        id, name, dimension = "broken-v1", "broken", 2

        def encode(self, images: np.ndarray) -> np.ndarray:
            return np.full((len(images), 2), np.nan, np.float32)

    with pytest.raises(NotFinite, match="broken"):
        make_sketch(shipped("texture3"), Broken())


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"features": np.full((24, 5), np.inf, np.float32)}, NotFinite),
        ({"class_means": np.full((3, 5), np.nan, np.float32)}, NotFinite),
        ({"class_factors": np.full((3, 3, 5), 1e9, np.float32)}, InvalidSketch),
        ({"class_means": np.zeros((3, 4), np.float32)}, DimensionMismatch),
        ({"class_factors": np.zeros((2, 3, 5), np.float32)}, DimensionMismatch),
        ({"labels": np.zeros(23, np.int64)}, DimensionMismatch),
        ({"labels": np.zeros(24, np.int64)}, InvalidSketch),
        ({"labels": np.arange(24)}, InvalidSketch),
        ({"labels": np.arange(24) - 1}, InvalidSketch),
        ({"class_counts": np.zeros(3, np.int64)}, InvalidSketch),
        ({"class_counts": np.full(3, 2**62)}, InvalidSketch),
        ({"class_factors": np.zeros((3, 65, 5), np.float32)}, InvalidSketch),
        ({"encoder_id": "x" * 257}, InvalidSketch),
        ({"features": np.zeros((24, 5), np.float64)}, InvalidSketch),
        ({"encoder_id": ""}, InvalidSketch),
        ({"encoder_id": "line\nbreak"}, InvalidSketch),
    ],
)
def test_no_sketch_can_be_built_that_no_dataset_has(change: dict, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        replace(random_sketch(0), **change)
    assert caught.value.field.startswith("sketch")
    assert caught.value.remedy


def _arrays(sketch: Sketch) -> dict[str, np.ndarray]:
    return {
        name: getattr(sketch, name) for name in ("features", "labels", "class_means", "class_factors", "class_counts")
    }


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"\xff" * 100,
        b"\x02\0\0\0\0\0\0\0{}",
        save(_arrays(random_sketch(0))),
        save(_arrays(random_sketch(0)), {"sketch": json.dumps({"version": 2, "encoder_id": "x"})}),
        save(_arrays(random_sketch(0)), {"sketch": "[]"}),
        save(_arrays(random_sketch(0)), {"sketch": json.dumps({"version": 1, "encoder_id": "x", "moments_only": 1})}),
        save({"features": np.zeros((2, 2), np.float32)}, {"sketch": json.dumps({"version": 1, "encoder_id": "x"})}),
    ],
    ids=[
        "empty",
        "text",
        "huge header",
        "no tensors",
        "no metadata",
        "later version",
        "odd metadata",
        "odd mark",
        "tensors missing",
    ],
)
def test_other_bytes_are_no_sketch(data: bytes) -> None:
    with pytest.raises(InvalidSketch) as caught:
        Sketch.from_bytes(data)
    assert caught.value.field == "sketch"


def test_a_header_that_promises_more_than_it_brings_allocates_nothing() -> None:
    """A terabyte in twelve bytes of JSON: refused by arithmetic."""
    header = json.dumps({"features": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}}).encode()
    with pytest.raises(InvalidSketch, match="declares"):
        Sketch.from_bytes(len(header).to_bytes(8, "little") + header + b"\0\0\0\0")


def test_a_header_that_names_a_tensor_twice_is_refused() -> None:
    entry = b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    header = b"{" + entry + b"," + entry + b"}"
    with pytest.raises(InvalidSketch):
        Sketch.from_bytes(len(header).to_bytes(8, "little") + header + b"\0\0\0\0")


@settings(max_examples=200, deadline=None)
@given(position=st.integers(0, 1500), value=st.integers(0, 255), cut=st.integers(0, 1800))
def test_damaged_bytes_are_a_sketch_or_a_typed_error(position: int, value: int, cut: int) -> None:
    """Whatever byte is changed or cut off, nothing but the three documented types is raised."""
    data = bytearray(random_sketch(1).to_bytes())
    data[position % len(data)] = value
    for damaged in (bytes(data), bytes(data[: len(data) - cut])):
        with contextlib.suppress(InvalidSketch, NotFinite, DimensionMismatch):
            Sketch.from_bytes(damaged)


def _stored(task: ImageDataset) -> np.ndarray:
    """Features as a sketch stores them, rounded to its grid."""
    features = load_encoder().encode(task.train.images).astype(np.float64)
    return (np.rint(features * 2**14) / 2**14).astype(np.float32)
