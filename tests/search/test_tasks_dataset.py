"""ImageDataset: digest, wire form, and what check_dataset says."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supernet_registry.search.errors import InvalidDataset
from supernet_registry.search.tasks import (
    ImageDataset,
    Split,
    check_dataset,
    dataset_from_arrays,
    pack_images,
    unpack_images,
)


def arrays(n_classes: int = 3, per_class: int = 4, shape: tuple[int, ...] = (8, 8, 1), seed: int = 0) -> dict:
    """Noise images, the same number of every class in every split."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(n_classes), per_class)
    return {
        key: value
        for split in ("train", "val", "test")
        for key, value in (
            (f"x_{split}", rng.integers(0, 256, (len(labels), *shape), dtype=np.uint8)),
            (f"y_{split}", labels.copy()),
        )
    }


def test_a_dataset_survives_its_wire_form_to_the_bit() -> None:
    dataset = dataset_from_arrays(**arrays(shape=(9, 12, 3)), name="noise", class_names=("a", "b", "c"))
    again = unpack_images(pack_images(dataset), name="noise")
    assert again.digest == dataset.digest
    assert again.class_names == ("a", "b", "c")
    assert again.image_shape == (9, 12, 3)
    assert pack_images(again) == pack_images(dataset)


def test_the_digest_is_fixed() -> None:
    """A registry recognises by it what it saw years ago; a change here orphans every stored dataset."""
    images = (np.arange(2 * 8 * 8).reshape(2, 8, 8, 1) % 251).astype(np.uint8)
    split = Split(images, np.array([0, 1]))
    dataset = ImageDataset("fixed", split, split, split, ("a", "b"))
    assert dataset.digest == "833b26f63b40da1a97b90431260998a2d91816665cc7ad1067c786df41b54823"


def test_the_digest_is_of_the_arrays_alone() -> None:
    """Names do not matter; one changed pixel, label or split does."""
    base = dataset_from_arrays(**arrays())
    assert dataset_from_arrays(**arrays(), name="x", class_names=("a", "b", "c")).digest == base.digest
    for key in ("x_train", "x_test", "y_val"):
        changed = arrays()
        changed[key].flat[0] = (changed[key].flat[0] + 1) % 3
        assert dataset_from_arrays(**changed).digest != base.digest
    swapped = arrays()
    swapped["x_val"], swapped["x_test"] = swapped["x_test"], swapped["x_val"]
    assert dataset_from_arrays(**swapped).digest != base.digest


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 8, b"\xff" * 64, b"not an images blob at all", b"\x02" + b"\0" * 7 + b"{}"]
)
def test_other_bytes_are_no_images_blob(data: bytes) -> None:
    with pytest.raises(InvalidDataset, match="not an images blob"):
        unpack_images(data)


@settings(max_examples=150, deadline=None)
@given(position=st.integers(0, 700), value=st.integers(0, 255), cut=st.integers(0, 2000))
def test_a_damaged_blob_is_a_dataset_or_a_typed_error(position: int, value: int, cut: int) -> None:
    """Whatever byte is changed or cut off, nothing but InvalidDataset is raised."""
    data = bytearray(pack_images(dataset_from_arrays(**arrays(n_classes=2, per_class=1))))
    data[position] = value
    for damaged in (bytes(data), bytes(data[: len(data) - cut])):
        with contextlib.suppress(InvalidDataset):
            check_dataset(unpack_images(damaged))


def test_a_blob_of_a_useless_dataset_is_refused() -> None:
    """from_bytes checks as load does: one class only is no task."""
    split = Split(np.zeros((2, 8, 8, 1), np.uint8), np.zeros(2, np.int64))
    data = pack_images(ImageDataset("one", split, split, split, ("only",)))
    with pytest.raises(InvalidDataset, match="only class 0"):
        unpack_images(data)


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        ({"y_train": np.zeros(12, int)}, "train.labels", "only class 0"),
        ({"y_train": np.repeat([0, 1, 3], 4)}, "train.labels", "skip 2"),
        ({"y_train": np.repeat([1, 2, 3], 4)}, "train.labels", "skip 0"),
        ({"y_val": np.repeat([0, 1, 3], 4)}, "val.labels", "Class 3 occurs in val and not in train"),
        ({"y_test": np.repeat([0, 1, -1], 4)}, "test.labels", "negative"),
        ({"x_val": np.zeros((0, 8, 8, 1), np.uint8), "y_val": np.zeros(0, int)}, "val", "empty"),
        ({"x_val": np.zeros((12, 9, 8, 1), np.uint8)}, "val.images", "have shape"),
        ({"class_names": ("a", "b")}, "class_names", "2 class names"),
    ],
)
def test_what_no_search_can_use_is_refused_with_field_and_remedy(change: dict, field: str, message: str) -> None:
    with pytest.raises(InvalidDataset, match=message) as caught:
        dataset_from_arrays(**{**arrays(), **change})
    assert caught.value.field == field
    assert caught.value.remedy


def test_images_below_eight_pixels_are_refused() -> None:
    with pytest.raises(InvalidDataset, match="7x8"):
        dataset_from_arrays(**arrays(shape=(7, 8, 1)))


def test_a_clean_dataset_has_no_warnings() -> None:
    dataset = dataset_from_arrays(**arrays())
    assert dataset.warnings == ()
    assert check_dataset(dataset) == ()


def test_images_shared_between_train_and_val_are_a_warning() -> None:
    """A leak flatters the figures; it is the owner's business whether that is meant."""
    leaky = arrays()
    leaky["x_val"][:2] = leaky["x_train"][5:7]
    assert dataset_from_arrays(**leaky).warnings == ("2 of 12 images of val are identical to training images.",)


def test_classes_missing_from_val_and_blank_images_are_warnings() -> None:
    odd = arrays()
    odd["y_val"][:] = 0
    odd["x_train"][3] = 7
    warnings = dataset_from_arrays(**odd).warnings
    assert warnings == (
        "val has no image of 2 of the 3 classes.",
        "1 of 12 training images are of one single value.",
    )


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (np.zeros((2, 8, 8, 1), np.float32), np.zeros(2, np.int64)),
        (np.zeros((2, 8, 8), np.uint8), np.zeros(2, np.int64)),
        (np.zeros((2, 8, 8, 2), np.uint8), np.zeros(2, np.int64)),
        (np.zeros((2, 8, 8, 1), np.uint8), np.zeros(3, np.int64)),
        (np.zeros((2, 8, 8, 1), np.uint8), np.zeros(2, np.int32)),
    ],
)
def test_a_split_takes_its_own_form_only(images: np.ndarray, labels: np.ndarray) -> None:
    with pytest.raises(InvalidDataset):
        Split(images, labels)
