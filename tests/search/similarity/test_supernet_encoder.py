"""The encoder made of a stored supernet: its features, its id, and which files it refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from supernet_registry.search.errors import InvalidArgument, NotFinite, UnsafeWeights
from supernet_registry.search.networks.inputs import Normalisation
from supernet_registry.search.networks.stored import save_weights
from supernet_registry.search.networks.supernet import Network
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.similarity import load_encoder, make_sketch
from supernet_registry.search.spaces import make_space
from supernet_registry.search.training.data import load_data, make_generator
from supernet_registry.search.training.evaluation import calibrate, collect_features
from tests.tiny_search import tiny_dataset, tiny_space


def stored(path: Path, **changes: Any) -> Path:
    """A small supernet, calibrated on stripes, as a search stores it; `changes` replace arguments of `save_weights`."""
    data = load_data(tiny_dataset(), tiny_space(), torch.device("cpu"))
    network = Network(tiny_space(), 2, generator=make_generator(0, "test"))
    calibrate(network, data, Recipe())
    arguments: dict[str, Any] = {"normalisation": data.normalisation, "size": data.size, "facts": {}, **changes}
    path.write_bytes(save_weights(network, genotype="", **arguments))
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stored(tmp_path_factory.mktemp("weights") / "supernet.safetensors")


def images(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_features_are_those_that_the_search_sees_before_the_head(weights: Path) -> None:
    dataset = tiny_dataset()
    data = load_data(dataset, tiny_space(), torch.device("cpu"))
    network = Network(tiny_space(), 2, generator=make_generator(0, "test"))
    calibrate(network, data, Recipe())
    expected, _ = collect_features(network, data, data.train, Recipe(eval_batch_size=len(data.train)))
    encoder = load_encoder("supernet", weights=weights)
    features = encoder.encode(dataset.train.images)
    assert features.shape == (len(dataset.train), encoder.dimension) == (32, 16 * 2**2)
    np.testing.assert_allclose(features * np.sqrt(encoder.dimension), expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (17, 23, 3), (224, 224, 3)])
def test_images_of_every_size_become_finite_vectors_of_one_length(weights: Path, shape: tuple[int, int, int]) -> None:
    encoder = load_encoder("supernet", weights=weights)
    features = encoder.encode(images(3, *shape))
    assert features.shape == (3, encoder.dimension)
    assert features.dtype == np.float32
    assert np.isfinite(features).all()
    assert encoder.encode(images(0, *shape)).shape == (0, encoder.dimension)


def test_a_grey_image_and_its_colour_copy_have_the_same_features_to_the_byte(weights: Path) -> None:
    encoder, grey = load_encoder("supernet", weights=weights), images(4, 20, 20, 1)
    once = encoder.encode(grey)
    assert once.tobytes() == encoder.encode(grey).tobytes() == encoder.encode(np.repeat(grey, 3, axis=3)).tobytes()


def test_its_features_make_a_sketch(weights: Path) -> None:
    encoder = load_encoder("supernet", weights=weights)
    sketch = make_sketch(tiny_dataset(), encoder)
    assert (sketch.encoder_id, sketch.dimension) == (encoder.id, encoder.dimension)
    assert sketch.digest == make_sketch(tiny_dataset(), load_encoder("supernet", weights=weights)).digest


def test_the_id_hashes_weights_and_preprocessing(weights: Path, tmp_path: Path) -> None:
    changed = stored(tmp_path / "normalised", normalisation=Normalisation((0.5,) * 3, (0.2,) * 3))
    resized = stored(tmp_path / "resized", size=(16, 12))
    same = stored(tmp_path / "same")
    ids = [load_encoder("supernet", weights=path).id for path in (weights, same, changed, resized)]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3
    assert ids[0].startswith("supernet-v1-")


@pytest.mark.parametrize("size", [(0, 16), (16, 17), (16,)])
def test_metadata_that_do_not_say_how_images_are_prepared_are_refused(tmp_path: Path, size: tuple[int, ...]) -> None:
    with pytest.raises(UnsafeWeights, match="how its images are prepared"):
        load_encoder("supernet", weights=stored(tmp_path / "w", size=size))


def test_what_is_no_supernet_is_refused(weights: Path, tmp_path: Path) -> None:
    """Text, a file cut off, a supernet with another's description, one with NaN."""
    (tmp_path / "text").write_text("hello")
    (tmp_path / "cut").write_bytes(weights.read_bytes()[:-8])
    (tmp_path / "other").write_bytes(weights.read_bytes().replace(b'\\"nodes\\":2', b'\\"nodes\\":3'))
    assert (tmp_path / "other").read_bytes() != weights.read_bytes()
    for name in ("text", "cut", "other"):
        with pytest.raises(UnsafeWeights) as caught:
            load_encoder("supernet", weights=tmp_path / name)
        assert caught.value.field == "weights"
        assert caught.value.remedy
    broken = bytearray(weights.read_bytes())
    broken[-4:] = np.array([np.nan], "<f4").tobytes()
    (tmp_path / "nan").write_bytes(bytes(broken))
    with pytest.raises(NotFinite):
        load_encoder("supernet", weights=tmp_path / "nan")


def test_a_supernet_with_more_features_than_a_sketch_holds_is_refused(tmp_path: Path) -> None:
    space = make_space(channels=80, cells=1, nodes=2, operations=("none", "skip_connect"), head_pool=4)
    network = Network(space, 2, generator=make_generator(0, "test"))
    normalisation = Normalisation((0.5,) * 3, (0.2,) * 3)
    path = tmp_path / "wide"
    path.write_bytes(save_weights(network, genotype="", normalisation=normalisation, size=(32, 32), facts={}))
    with pytest.raises(InvalidArgument, match="5120 features"):
        load_encoder("supernet", weights=path)


def test_the_module_is_imported_without_torch() -> None:
    program = "import supernet_registry.search.similarity.encoders.supernet, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
