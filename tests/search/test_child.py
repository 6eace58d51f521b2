"""What is made of a child network: predictions of files, ONNX."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from supernet_registry.search.children.child import Child, derive_child, load_child
from supernet_registry.search.children.cost import count_macs, measure_child
from supernet_registry.search.children.onnx_export import INPUT, OUTPUT, child_to_onnx
from supernet_registry.search.children.predictions import Predictions
from supernet_registry.search.errors import InvalidDataset, UnsafeWeights
from supernet_registry.search.networks.supernet import Network
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.spaces import make_space
from supernet_registry.search.tasks import load_dataset
from supernet_registry.search.tasks.images import load_images
from supernet_registry.search.training.data import load_data, make_generator
from supernet_registry.search.training.devices import pick_device
from tests.tiny_child import tiny_child
from tests.tiny_search import tiny_dataset, tiny_space

SPACES = {
    "compact": make_space("compact", channels=4),
    "nas-bench-201": make_space("nas-bench-201", channels=4),
    "darts": make_space("darts", channels=4, cells=3, nodes=2),
}


@pytest.fixture
def child() -> Child:
    return load_child(tiny_child(SPACES["nas-bench-201"]))


@pytest.mark.parametrize(("name", "size"), [("compact", (17, 22)), ("nas-bench-201", (18, 21)), ("darts", (16, 19))])
def test_the_onnx_model_gives_the_same_probabilities_for_batches_of_any_length(name: str, size: tuple[int, int]):
    """Odd sides, where ceil mode, shifted reductions and uneven pooling windows all matter."""
    child = load_child(tiny_child(SPACES[name], size=size))
    import onnxruntime  # here, so that this file's GPU test runs where there is none

    session = onnxruntime.InferenceSession(child_to_onnx(child), providers=["CPUExecutionProvider"])
    for count in (1, 2, 7):
        images = np.random.default_rng(count).integers(0, 256, (count, *size, 3)).astype(np.uint8)
        (probabilities,) = session.run([OUTPUT], {INPUT: images})
        np.testing.assert_allclose(probabilities, child.predict(images), atol=1e-5)
    told = json.loads(session.get_modelmeta().custom_metadata_map["child"])
    assert (told["class_names"], told["genotype"]) == (["a", "b", "ü"], child.metadata["genotype"])


def test_a_child_begins_with_the_prototypes_of_its_own_features_softened():
    """The same classes at the same sides, but unsure: something is left to learn for the layers below."""
    data = load_data(tiny_dataset(), tiny_space(), pick_device("cpu"))
    supernet = Network(tiny_space(), data.n_classes, generator=make_generator(0, "supernet"))
    sure, unsure = (
        derive_child(
            supernet,
            supernet.derive(),
            data,
            replace(Recipe.for_space(tiny_space()), child_head_scale=scale),
            generator=make_generator(0, "child"),
        )
        for scale in (1.0, 0.1)
    )
    torch.testing.assert_close(unsure.head.weight, 0.1 * sure.head.weight)
    torch.testing.assert_close(unsure.head.bias, 0.1 * sure.head.bias)


@pytest.mark.parametrize("name", SPACES)
def test_multiply_accumulates_are_those_of_every_convolution_and_the_head(name: str):
    """Counted once more the obvious way: outputs of a layer times the products that each of them sums."""
    child = load_child(tiny_child(SPACES[name], size=(17, 20)))
    counted = 0

    def count(layer: nn.Module, _: object, output: Tensor) -> None:
        nonlocal counted
        if isinstance(layer, nn.Conv2d):
            height, width = layer.kernel_size
            counted += output.numel() * (layer.in_channels // layer.groups) * height * width
        else:
            counted += output.numel() * layer.in_features

    for layer in child.network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    child.predict(np.zeros((1, 17, 20, 3), np.uint8))
    expected = counted  # the hooks go on counting
    assert count_macs(child.network, child.size) == expected > 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_child_on_a_gpu_predicts_as_on_the_cpu_and_is_timed_there():
    space = tiny_space()
    data = tiny_child(space, class_names=("a", "b"))
    here, there = load_child(data), load_child(data, device="cuda")
    loaded = load_data(tiny_dataset(), space, pick_device("cuda"))
    images = tiny_dataset().test.images
    np.testing.assert_allclose(there.predict(images), here.predict(images), atol=1e-3)
    cost = measure_child(there.network, loaded)
    assert cost.macs == count_macs(here.network, here.size)
    assert min(cost.single_seconds, cost.batch_seconds) > 0


def test_a_child_whose_class_names_do_not_fit_its_head_is_refused():
    data = tiny_child(SPACES["nas-bench-201"])
    broken = data.replace(b'\\"b\\",', b"      ")
    assert len(broken) == len(data)
    with pytest.raises(UnsafeWeights, match="name 2 classes"):
        load_child(broken)


def test_the_top_classes_come_with_their_names_the_best_first(child: Child):
    probabilities = np.array([[0.2, 0.5, 0.3], [0.4, 0.4, 0.2]], np.float32)
    found = Predictions("supernets/a/versions/1", ("x", "y"), child.class_names, probabilities)
    assert found.top(2) == (
        (("b", pytest.approx(0.5)), ("ü", pytest.approx(0.3))),
        (("a", pytest.approx(0.4)), ("b", pytest.approx(0.4))),
    )
    assert found.labels.tolist() == [1, 0]
    assert len(found.top(9)[0]) == 3


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A task of photographs of several sizes, larger than the task's images become."""
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for label in ("cat", "dog"):
            (tmp_path / split / label).mkdir(parents=True)
            for number in range(3):
                side = 20 + 8 * number
                picture = Image.fromarray(rng.integers(0, 256, (side, side + 3, 3)).astype(np.uint8))
                picture.save(tmp_path / split / label / f"{number}.png")
    return tmp_path


def test_files_are_decoded_and_resized_as_the_tasks_own_images_were(folder: Path):
    dataset = load_dataset(folder)
    height, width, channels = dataset.image_shape
    found = load_images([folder / "test"], size=(height, width), channels=channels)
    np.testing.assert_array_equal(found.images, dataset.test.images)
    assert found.names[0] == str(folder / "test" / "cat" / "0.png")


def test_files_folders_and_arrays_may_be_mixed_and_keep_their_order(folder: Path):
    np.savez(folder / "more.npz", x_test=np.full((2, 40, 40), 0.5), other=np.zeros(3))
    paths = [folder / "more.npz", folder / "test" / "dog" / "1.png", folder / "val" / "cat"]
    found = load_images(paths, size=(24, 20), channels=1)
    assert found.images.shape == (6, 24, 20, 1)
    assert found.names[1:3] == (f"{folder / 'more.npz'}[1]", str(paths[1]))
    assert np.unique(found.images[:2]).tolist() == [128]


def test_colour_becomes_grey_for_a_grey_task_as_pillow_does_it(folder: Path):
    path = folder / "test" / "cat" / "0.png"
    with Image.open(path) as picture:
        expected = np.asarray(picture.convert("L"), np.int64)
    found = load_images([path], size=expected.shape, channels=1)
    assert np.abs(found.images[0, :, :, 0] - expected).max() <= 1  # Pillow rounds in fixed point


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path / "nothing.png", "no such file"),
        (lambda path: (path / "empty").mkdir() or path / "empty", "holds no images"),
        (lambda path: (path / "bad.png").write_bytes(b"no") and path / "bad.png", "cannot be read"),
        (lambda path: (path / "bad.npz").write_bytes(b"no") and path / "bad.npz", "not a zip"),
        (lambda path: np.savez(path / "two.npz", a=np.zeros(1), b=np.zeros(1)) or path / "two.npz", "no array images"),
        (lambda path: np.savez(path / "odd.npz", images=np.zeros((2, 3))) or path / "odd.npz", "shape"),
    ],
)
def test_images_that_cannot_be_used_are_refused_by_name(tmp_path: Path, make, said: str):
    path = make(tmp_path)
    with pytest.raises(InvalidDataset, match=said) as caught:
        load_images([path], size=(16, 16), channels=1)
    assert caught.value.field == str(path)
    assert caught.value.remedy
