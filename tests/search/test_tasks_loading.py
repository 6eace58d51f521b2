"""From arrays and .npz files to datasets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from supernet_registry.search.errors import InvalidDataset
from supernet_registry.search.tasks import dataset_from_arrays, load_dataset

EXAMPLES = Path(__file__).parents[2] / "examples" / "tasks"


def arrays(per_class: int = 10, n_classes: int = 2, shape: tuple[int, ...] = (8, 8, 1)) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.tile(np.arange(n_classes), per_class)
    return {
        key: value
        for split in ("train", "val", "test")
        for key, value in (
            (f"x_{split}", rng.integers(0, 256, (len(labels), *shape), dtype=np.uint8)),
            (f"y_{split}", labels),
        )
    }


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.npz")), ids=lambda path: path.stem)
def test_every_shipped_task_loads_without_a_warning(path: Path) -> None:
    dataset = load_dataset(path)
    assert dataset.name == path.stem
    assert dataset.warnings == ()


def test_an_npz_file_is_read_with_its_class_names(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "pets.npz", **arrays(), class_names=np.array(["cat", "dog"]))
    dataset = load_dataset(tmp_path / "pets.npz", name="my pets")
    assert (dataset.name, dataset.class_names) == ("my pets", ("cat", "dog"))
    assert dataset.digest == dataset_from_arrays(**arrays()).digest


def test_grey_images_may_come_without_a_channel_axis_and_labels_as_a_column() -> None:
    flat = arrays(shape=(8, 8))
    flat["y_train"] = flat["y_train"][:, None].astype(np.uint8)
    assert dataset_from_arrays(**flat).image_shape == (8, 8, 1)


def test_floats_up_to_one_and_floats_up_to_255_give_the_same_dataset() -> None:
    """The range is judged over all splits together, and conversion is said aloud."""
    expected = dataset_from_arrays(**arrays())
    for scale, interval in ((255.0, "[0, 1]"), (1.0, "[0, 255]")):
        floats = {key: a / scale if key[0] == "x" else a for key, a in arrays().items()}
        dataset = dataset_from_arrays(**floats)
        assert dataset.digest == expected.digest
        assert dataset.warnings == (f"Floating-point images in {interval} were converted to 8 bits.",)


def test_other_integers_and_bools_are_converted() -> None:
    wide = {key: a.astype(np.int32) if key[0] == "x" else a for key, a in arrays().items()}
    assert dataset_from_arrays(**wide).digest == dataset_from_arrays(**arrays()).digest
    masks = {key: a > 127 if key[0] == "x" else a for key, a in arrays().items()}
    assert set(np.unique(dataset_from_arrays(**masks).train.images)) == {0, 255}


@pytest.mark.parametrize(
    ("key", "value", "remedy"),
    [
        ("x_train", np.full((20, 8, 8, 1), np.nan), "Repair"),
        ("x_train", np.random.default_rng(0).standard_normal((20, 8, 8, 1)), "undo a normalisation"),
        ("x_train", np.full((20, 8, 8, 1), 256), "0..255"),
        ("x_train", np.zeros((20, 3, 8, 8), np.uint8), "transpose"),
        ("x_train", np.zeros((20, 8, 8, 4), np.uint8), "alpha"),
        ("x_train", np.zeros((20, 64), np.uint8), "(n, h, w)"),
        ("x_train", np.full((20, 8, 8), "x"), "uint8"),
        ("y_train", np.zeros(20), "integer label"),
        ("y_train", np.eye(20, dtype=int), "integer label"),
        ("y_train", np.zeros(19, int), "one label for each image"),
    ],
)
def test_what_no_rule_covers_is_refused_with_a_remedy(key: str, value: np.ndarray, remedy: str) -> None:
    with pytest.raises(InvalidDataset) as caught:
        dataset_from_arrays(**{**arrays(), key: value})
    assert caught.value.field == key
    assert remedy in caught.value.remedy


def test_large_images_are_reduced_and_a_warning_says_so() -> None:
    dataset = dataset_from_arrays(**arrays(per_class=1, shape=(300, 150, 3)))
    assert dataset.image_shape == (224, 112, 3)
    assert "Images of train were reduced from 300x150 to 224x112 pixels." in dataset.warnings


def test_missing_splits_are_carved_out_of_train_by_class_and_always_alike() -> None:
    train_only = {key: value for key, value in arrays(per_class=20).items() if key.endswith("train")}
    dataset = dataset_from_arrays(**train_only)
    assert [list(split.class_counts(2)) for _, split in dataset.splits()] == [[14, 14], [3, 3], [3, 3]]
    assert dataset.warnings == ("No val and no test split: carved out of train, 15% of each class for each.",)
    images = np.concatenate([split.images for _, split in dataset.splits()])
    assert sorted(map(bytes, images)) == sorted(map(bytes, train_only["x_train"]))
    assert dataset_from_arrays(**train_only).digest == dataset.digest


def test_a_missing_val_split_leaves_test_alone() -> None:
    without_val = {key: value for key, value in arrays().items() if not key.endswith("val")}
    dataset = dataset_from_arrays(**without_val)
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (16, 4, 20)


def test_a_class_too_small_to_carve_from_is_refused() -> None:
    few = {"x_train": np.zeros((3, 8, 8), np.uint8), "y_train": np.array([0, 0, 1])}
    with pytest.raises(InvalidDataset, match="too few to carve"):
        dataset_from_arrays(**few)


def test_images_without_labels_are_refused() -> None:
    half = arrays()
    del half["y_val"]
    with pytest.raises(InvalidDataset, match="Labels of val are missing") as caught:
        dataset_from_arrays(**half)
    assert caught.value.field == "y_val"


def test_files_that_are_no_npz_are_refused(tmp_path: Path) -> None:
    """Nothing there, another suffix, no archive, a cut archive, and Python objects."""
    np.savez(tmp_path / "objects.npz", **{**arrays(), "x_train": np.array([{}], dtype=object)})
    np.savez_compressed(tmp_path / "whole.npz", **arrays())
    whole = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "damaged.npz").write_bytes(whole[:200] + b"\0" * 200 + whole[400:])
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "image.png").write_text("hello")
    for name in ("nothing.npz", "objects.npz", "cut.npz", "damaged.npz", "text.npz", "image.png"):
        with pytest.raises(InvalidDataset) as caught:
            load_dataset(tmp_path / name)
        assert caught.value.field == "dataset", name
        assert caught.value.remedy, name


def test_an_npz_without_training_images_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", weights=np.zeros(3))
    with pytest.raises(InvalidDataset, match="Images of train are missing"):
        load_dataset(tmp_path / "other.npz")
