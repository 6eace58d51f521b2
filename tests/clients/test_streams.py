"""Task streams: Avalanche's conventions over files, streams.json and torch-style datasets."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from supernet_registry.clients.streams.stream import Experience, TaskStream
from supernet_registry.search.errors import InvalidArgument, InvalidDataset, NotFound
from supernet_registry.search.tasks import TaskDerivation, derive, load_dataset


def write_task(path: Path, *, classes: int = 3, per_class: int = 4, seed: int = 0) -> Path:
    """A task of 8×8 grey noise in which all splits are alike in size."""
    rng = np.random.default_rng(seed)
    n = classes * per_class
    arrays = {}
    for split in ("train", "val", "test"):
        arrays[f"x_{split}"] = rng.integers(0, 256, (n, 8, 8, 1), dtype=np.uint8)
        arrays[f"y_{split}"] = np.tile(np.arange(classes), per_class)
    np.savez(path, **arrays)
    return path


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    folder = tmp_path / "tasks"
    folder.mkdir()
    write_task(folder / "beta.npz", seed=1)
    write_task(folder / "alpha.npz", seed=2, classes=4)
    return folder


def streams_json(folder: Path, steps: object) -> Path:
    path = folder / "streams.json"
    path.write_text(json.dumps({"s": steps, "another": [{"task": "alpha"}]}))
    return path


class Items:
    """The least that counts as a map-style dataset."""

    def __init__(self, items: list[object], classes: list[str] | None = None) -> None:
        self.items = items
        if classes is not None:
            self.classes = classes

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> object:
        return self.items[index]


def grey(value: int, side: int = 8) -> Image.Image:
    return Image.new("L", (side, side), value)


def test_a_folder_gives_its_tasks_sorted_by_name(tasks: Path) -> None:
    stream = TaskStream.from_folder(tasks)
    assert [e.name for e in stream] == ["alpha", "beta"]
    assert (len(stream), stream.name) == (2, "tasks")
    assert stream[0].dataset.n_classes == 4


def test_an_experience_follows_avalanches_conventions(tasks: Path) -> None:
    first, second = TaskStream.from_folder(tasks)
    assert (first.current_experience, second.current_experience) == (0, 1)
    assert (first.task_label, second.task_label, second.task_labels) == (0, 1, (1,))
    assert first.classes_in_this_experience == (0, 1, 2, 3)


def test_a_slice_is_a_stream_whose_experiences_keep_their_numbers(tasks: Path) -> None:
    stream = TaskStream.from_paths([tasks / "alpha.npz", tasks / "beta.npz", tasks / "alpha.npz"], name="abc")
    part = stream[1:]
    assert isinstance(part, TaskStream)
    assert (part.name, [e.current_experience for e in part]) == ("abc", [1, 2])
    assert stream[-1].current_experience == 2


def test_experiences_of_one_task_share_their_task_label(tasks: Path) -> None:
    stream = TaskStream.from_paths([tasks / "beta.npz", tasks / "alpha.npz", tasks / "beta.npz"])
    assert [e.task_label for e in stream] == [0, 1, 0]


def test_a_broken_task_is_noticed_only_when_it_is_read(tasks: Path) -> None:
    (tasks / "broken.npz").write_bytes(b"not an archive")
    stream = TaskStream.from_folder(tasks)
    assert stream[0].dataset.n_classes == 4
    with pytest.raises(InvalidDataset, match="broken"):
        _ = stream[2].dataset


def test_an_experience_does_not_hold_on_to_its_images(tasks: Path) -> None:
    experience = TaskStream.from_json(streams_json(tasks, [{"task": "alpha", "n_train": 2}]), "s", tasks=tasks)[0]
    dataset = experience.dataset
    assert experience.dataset is dataset
    watcher = weakref.ref(dataset)
    del dataset
    gc.collect()
    assert watcher() is None


def test_image_folders_are_tasks_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for task in ("one", "two"):
        for label in ("cat", "dog"):
            folder = tmp_path / task / label
            folder.mkdir(parents=True)
            for i in range(4):
                pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    (tmp_path / "notes").mkdir()
    stream = TaskStream.from_folder(tmp_path)
    assert [e.name for e in stream] == ["one", "two"]
    assert stream[1].dataset.class_names == ("cat", "dog")


def test_streams_json_gives_the_derived_tasks(tasks: Path) -> None:
    steps = [
        {"task": "alpha", "n_train": None, "n_val": None, "seed": 0, "transform": None, "labels": None, "expect": None},
        {"task": "alpha", "n_train": 2, "n_val": 2, "seed": 5, "transform": "rot90", "classes": [2, 0], "expect": 0},
    ]
    stream = TaskStream.from_json(streams_json(tasks, steps), "s", tasks=tasks)
    whole = load_dataset(tasks / "alpha.npz")
    derivation = TaskDerivation(n_train=2, n_val=2, seed=5, transform="rot90", classes=(2, 0))
    assert stream[0].dataset.digest == whole.digest
    assert stream[1].dataset.digest == derive(whole, derivation).digest
    assert stream[1].derivation == derivation
    assert (stream[1].expect, stream[1].classes_in_this_experience) == (0, (2, 0))
    assert stream[1].name == stream[1].dataset.name == "alpha (2 a class, rot90, 2 classes)"
    assert [e.task_name for e in stream] == ["alpha", "alpha"]


def test_a_new_stream_over_a_changed_file_reads_it_again(tasks: Path) -> None:
    before = TaskStream.from_folder(tasks)[1].dataset.digest
    write_task(tasks / "beta.npz", seed=77, classes=5)
    assert TaskStream.from_folder(tasks)[1].dataset.digest != before


@pytest.mark.parametrize(
    ("step", "field"),
    [
        ({}, "s[0].task"),
        ({"task": 3}, "s[0].task"),
        ("alpha", "s[0]"),
        ({"task": "alpha", "n_trian": 3}, "s[0].n_trian"),
        ({"task": "alpha", "n_train": 0}, "s[0].n_train"),
        ({"task": "alpha", "n_val": "3"}, "s[0].n_val"),
        ({"task": "alpha", "seed": True}, "s[0].seed"),
        ({"task": "alpha", "transform": "rot45"}, "s[0].transform"),
        ({"task": "alpha", "labels": "none"}, "s[0].labels"),
        ({"task": "alpha", "classes": []}, "s[0].classes"),
        ({"task": "alpha", "classes": [1]}, "s[0].classes"),
        ({"task": "alpha", "expect": 0}, "s[0].expect"),
    ],
)
def test_a_wrong_step_is_named_with_its_field(tasks: Path, step: object, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        TaskStream.from_json(streams_json(tasks, [step]), "s", tasks=tasks)
    assert caught.value.field == field
    assert caught.value.remedy


def test_unknown_streams_and_tasks_are_not_found_and_the_nearest_name_is_offered(tasks: Path) -> None:
    file = streams_json(tasks, [{"task": "alhpa"}])
    with pytest.raises(NotFound, match=r"Did you mean 'alpha'"):
        TaskStream.from_json(file, "s", tasks=tasks)
    with pytest.raises(NotFound, match=r"Did you mean 'another'"):
        TaskStream.from_json(file, "anothre", tasks=tasks)
    with pytest.raises(NotFound, match="no folder"):
        TaskStream.from_json(file, "another", tasks=tasks / "nowhere")
    with pytest.raises(NotFound, match="no file"):
        TaskStream.from_json(tasks / "nowhere.json", "s", tasks=tasks)
    with pytest.raises(NotFound, match="no task"):
        TaskStream.from_json(streams_json(tasks, [{"task": "../tasks/alpha"}]), "s", tasks=tasks)


@pytest.mark.parametrize("content", ["{", "[]", '{"s": []}', '{"s": 3}'])
def test_a_file_that_defines_no_stream_is_refused(tasks: Path, content: str) -> None:
    path = tasks / "streams.json"
    path.write_text(content)
    with pytest.raises(InvalidArgument):
        TaskStream.from_json(path, "s", tasks=tasks)


def test_a_folder_without_tasks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"neither \.npz"):
        TaskStream.from_folder(tmp_path)
    with pytest.raises(NotFound):
        TaskStream.from_paths([tmp_path / "gone.npz"])


def test_datasets_of_pil_images_keep_the_owners_classes_and_names() -> None:
    items = [(grey(10 * i + label), label) for label in (2, 5) for i in range(6)]
    dataset = Items(items, classes=["a", "b", "c", "d", "e", "f"])
    experience = TaskStream.from_datasets([dataset], names=["letters"])[0]
    assert experience.classes_in_this_experience == (2, 5)
    assert experience.dataset.class_names == ("c", "f")
    assert sorted(set(experience.dataset.train.labels.tolist())) == [0, 1]
    assert experience.name == "letters"


def test_given_splits_are_kept_and_a_missing_one_is_carved() -> None:
    train = Items([(grey(i), i % 2) for i in range(20)])
    test = Items([(grey(100 + i), i % 2) for i in range(4)])
    dataset = TaskStream.from_datasets([{"train": train, "test": test}])[0].dataset
    assert len(dataset.test) == 4
    assert len(dataset.train) + len(dataset.val) == 20
    assert any("No val split" in warning for warning in dataset.warnings)


def test_tensors_arrays_and_pil_images_of_one_picture_give_one_dataset() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (12, 8, 10, 3), dtype=np.uint8)
    labels = [i % 2 for i in range(12)]
    arrays = Items(list(zip(pictures, labels, strict=True)))
    pil = Items([(Image.fromarray(p), y) for p, y in zip(pictures, labels, strict=True)])
    tensors = Items(
        [(torch.tensor(p).permute(2, 0, 1) / 255, torch.tensor(y)) for p, y in zip(pictures, labels, strict=True)]
    )
    digests = {e.dataset.digest for e in TaskStream.from_datasets([arrays, pil, tensors])}
    assert len(digests) == 1


def test_a_third_part_of_an_item_is_avalanches_task_label_and_ignored() -> None:
    dataset = Items([(grey(i), i % 2, 7) for i in range(12)])
    assert TaskStream.from_datasets([dataset])[0].dataset.n_classes == 2


def test_images_of_mixed_sizes_are_resized_and_a_warning_says_so() -> None:
    items = [(grey(i), i % 2) for i in range(12)] + [(grey(200, side=16), 0)]
    dataset = TaskStream.from_datasets([Items(items)])[0].dataset
    assert dataset.image_shape == (8, 8, 1)
    assert any("1 of 13 images were resized" in warning for warning in dataset.warnings)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (Items([grey(0)]), "not \\(image, label\\)"),
        (Items([(grey(0), 0.5)]), "whole number"),
        (Items([(grey(0), "cat")]), "whole number"),
        (Items([(np.zeros((8, 8, 4), np.uint8), 0)]), "shape"),
        (Items([]), "empty"),
        (iter([1]), "map-style"),
        ({"training": Items([])}, "not a split"),
        ({"test": Items([])}, "no split 'train'"),
        ({"train": Items([(grey(i), i % 2) for i in range(9)]), "test": Items([(grey(0), 2)])}, "Class 2"),
    ],
)
def test_what_is_no_image_classification_dataset_is_refused_with_its_place(item: object, message: str) -> None:
    experience = TaskStream.from_datasets([item], names=["mine"])[0]
    with pytest.raises(InvalidDataset, match=message) as caught:
        _ = experience.dataset
    assert caught.value.field.startswith("mine")


def test_names_must_match_the_datasets_in_number() -> None:
    with pytest.raises(InvalidArgument, match="2 names"):
        TaskStream.from_datasets([Items([])], names=["a", "b"])


def test_an_experience_of_ones_own_needs_no_more_than_a_loader(tasks: Path) -> None:
    stream = TaskStream([Experience(lambda: load_dataset(tasks / "alpha.npz"), task_name="mine")], name="own")
    assert stream[0].dataset.n_classes == 4


def test_streams_import_neither_torch_nor_grpc() -> None:
    code = (
        "import sys, supernet_registry.clients.streams.stream;"
        "print(sorted({'torch', 'grpc', 'matplotlib'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_a_shuffled_stream_is_renumbered_and_expects_the_latest_relative(tasks: Path) -> None:
    """alpha, beta, alpha again, beta again: in any order, each expects the kin that came last, or nothing."""
    steps = [{"task": "alpha"}, {"task": "beta"}, {"task": "alpha", "expect": 0}, {"task": "beta", "expect": 1}]
    stream = TaskStream.from_json(streams_json(tasks, steps), "s", tasks=tasks)
    orders = set()
    for seed in range(6):
        shuffled = stream.shuffled(seed)
        assert shuffled.name == "s-shuffled"
        names = [experience.task_name for experience in shuffled]
        assert sorted(names) == ["alpha", "alpha", "beta", "beta"]
        assert [experience.current_experience for experience in shuffled] == [0, 1, 2, 3]
        for position, experience in enumerate(shuffled):
            earlier = [i for i in range(position) if names[i] == names[position]]
            assert experience.expect == (earlier[-1] if earlier else None)
        orders.add(tuple(names))
    assert len(orders) > 1
    assert [experience.current_experience for experience in stream] == [0, 1, 2, 3]  # untouched


def test_another_draw_has_other_images_where_images_are_drawn(tasks: Path) -> None:
    steps = [{"task": "alpha"}, {"task": "alpha", "n_train": 2, "seed": 5}]
    file = streams_json(tasks, steps)
    first, second = (TaskStream.from_json(file, "s", tasks=tasks, redraw=draw) for draw in (0, 1))
    assert first[0].dataset.digest == second[0].dataset.digest
    assert first[1].dataset.digest != second[1].dataset.digest
    assert first[1].dataset.digest == TaskStream.from_json(file, "s", tasks=tasks)[1].dataset.digest
