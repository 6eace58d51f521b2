"""Image folders, with real files of the formats people have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from supernet_registry.search.errors import InvalidDataset
from supernet_registry.search.tasks import load_dataset

RNG = np.random.default_rng(0)


def grey(h: int = 12, w: int = 10) -> Image.Image:
    return Image.fromarray(RNG.integers(0, 256, (h, w), dtype=np.uint8))


def colour(h: int = 12, w: int = 10) -> Image.Image:
    return Image.fromarray(RNG.integers(0, 256, (h, w, 3), dtype=np.uint8))


def write(root: Path, name: str, image: Image.Image, **options: object) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def write_splits(root: Path, make=grey) -> None:
    """Two classes; 3 training, 1 validation and 1 test image each."""
    for split, count in (("train", 3), ("val", 1), ("test", 1)):
        for name in ("cat", "dog"):
            for i in range(count):
                write(root, f"{split}/{name}/{i}.png", make())


def test_split_folders_become_splits_and_class_folders_classes(tmp_path: Path) -> None:
    write_splits(tmp_path / "pets")
    (tmp_path / "pets" / "train" / "cat" / "notes.txt").write_text("not an image")
    (tmp_path / "pets" / "train" / ".cache").mkdir()
    dataset = load_dataset(tmp_path / "pets")
    assert (dataset.name, dataset.class_names, dataset.warnings) == ("pets", ("cat", "dog"), ())
    assert dataset.image_shape == (12, 10, 1)
    assert [list(split.labels) for _, split in dataset.splits()] == [[0, 0, 0, 1, 1, 1], [0, 1], [0, 1]]


def test_pixels_of_png_images_are_kept_exactly(tmp_path: Path) -> None:
    write_splits(tmp_path, colour)
    dataset = load_dataset(tmp_path)
    with Image.open(tmp_path / "train" / "dog" / "1.png") as image:
        assert (dataset.train.images[4] == np.asarray(image)).all()


def test_valid_is_another_name_of_val(tmp_path: Path) -> None:
    write_splits(tmp_path)
    (tmp_path / "val").rename(tmp_path / "valid")
    assert load_dataset(tmp_path).warnings == ()


def test_a_folder_of_classes_alone_is_split_and_a_warning_says_so(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for i in range(20):
            write(tmp_path, f"{name}/{i:02}.png", grey())
    dataset = load_dataset(tmp_path)
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (28, 6, 6)
    assert "carved out of train" in dataset.warnings[0]
    assert load_dataset(tmp_path).digest == dataset.digest


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for name in ("train", "plane"):
        for i in range(4):
            write(tmp_path, f"{name}/{i}.png", grey())
    assert load_dataset(tmp_path).class_names == ("plane", "train")


def test_mixed_sizes_are_brought_to_the_median_and_a_warning_says_so(tmp_path: Path) -> None:
    write_splits(tmp_path)
    write(tmp_path, "train/cat/big.png", grey(40, 20))
    dataset = load_dataset(tmp_path)
    assert dataset.image_shape == (12, 10, 1)
    assert dataset.warnings == ("1 of 11 images, of 2 sizes, were resized to 12x10 pixels.",)


def test_photographs_are_reduced_to_the_limit(tmp_path: Path) -> None:
    write_splits(tmp_path, lambda: colour(480, 640))
    dataset = load_dataset(tmp_path)
    assert dataset.image_shape == (168, 224, 3)
    assert dataset.warnings == ("10 of 10 images, of size 480x640, were resized to 168x224 pixels.",)


def test_one_colour_image_makes_the_dataset_colour(tmp_path: Path) -> None:
    write_splits(tmp_path, lambda: grey().convert("RGB"))
    assert load_dataset(tmp_path).image_shape == (12, 10, 1), "colour files without colour are grey"
    write(tmp_path, "test/cat/0.png", colour())
    assert load_dataset(tmp_path).image_shape == (12, 10, 3)


def test_orientation_from_exif_is_applied(tmp_path: Path) -> None:
    """A phone writes the sensor's picture and a note to turn it."""
    write_splits(tmp_path, lambda: grey(16, 8))
    turned = np.zeros((8, 16), np.uint8)
    turned[:, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    write(tmp_path, "train/cat/0.png", Image.fromarray(turned), exif=exif)
    dataset = load_dataset(tmp_path)
    assert dataset.warnings == (), "after turning it has the size of the others"
    assert dataset.train.images[0, 2, :, 0].tolist() == [255] * 8
    assert dataset.train.images[0, 12, :, 0].tolist() == [0] * 8


def test_palette_transparency_and_sixteen_bits_are_understood(tmp_path: Path) -> None:
    write_splits(tmp_path)
    clear = Image.new("RGBA", (10, 12), (0, 0, 0, 0))
    write(tmp_path, "train/cat/0.png", clear)
    write(tmp_path, "train/cat/1.png", Image.fromarray(np.full((12, 10), 40000, np.uint16)))
    write(tmp_path, "train/cat/2.gif", grey().convert("P"))
    images = load_dataset(tmp_path).train.images
    assert set(images[0].ravel()) == {255}, "transparency is laid over white"
    assert set(images[1].ravel()) == {40000 >> 8}


@pytest.mark.parametrize("content", [b"", b"this is no image", None])
def test_an_unreadable_image_is_named(tmp_path: Path, content: bytes | None) -> None:
    """Empty, of another format, or cut off in the middle."""
    write_splits(tmp_path)
    bad = tmp_path / "val" / "dog" / "0.png"
    bad.write_bytes(bad.read_bytes()[:90] if content is None else content)
    with pytest.raises(InvalidDataset, match=r"0\.png") as caught:
        load_dataset(tmp_path)
    assert caught.value.metadata["file"] == str(Path("val", "dog", "0.png"))
    assert caught.value.remedy


def test_a_class_without_images_is_refused(tmp_path: Path) -> None:
    write_splits(tmp_path)
    (tmp_path / "train" / "cow").mkdir()
    with pytest.raises(InvalidDataset, match="'cow' holds no images"):
        load_dataset(tmp_path)


def test_a_class_that_train_lacks_is_refused(tmp_path: Path) -> None:
    write_splits(tmp_path)
    write(tmp_path, "val/cow/0.png", grey())
    with pytest.raises(InvalidDataset, match="'cow' of val does not occur in train") as caught:
        load_dataset(tmp_path)
    assert caught.value.field == "val"


def test_folders_without_classes_or_with_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataset, match="no class folders"):
        load_dataset(tmp_path)
    for i in range(5):
        write(tmp_path, f"only/{i}.png", grey())
    with pytest.raises(InvalidDataset, match="only class 0"):
        load_dataset(tmp_path)
