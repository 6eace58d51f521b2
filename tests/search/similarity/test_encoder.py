"""Encoders: the pixels encoder that needs nothing, and torchvision's with local weights."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supernet_registry.search.errors import InvalidArgument, UnsafeWeights
from supernet_registry.search.similarity import load_encoder
from supernet_registry.search.similarity.encoders import pixels as encoder_module


def images(n: int = 5, h: int = 28, w: int = 28, c: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, h, w, c), dtype=np.uint8)


@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (32, 32, 3), (16, 16, 3), (17, 23, 3), (224, 224, 3)])
def test_images_of_every_size_become_finite_vectors_of_one_length(shape: tuple[int, int, int]) -> None:
    encoder = load_encoder()
    features = encoder.encode(images(3, *shape))
    assert features.shape == (3, encoder.dimension)
    assert features.dtype == np.float32
    assert np.isfinite(features).all()


def test_the_pixel_encoder_id_is_fixed() -> None:
    """Stored sketches are comparable under it; it changes only when the features do."""
    assert load_encoder().id == "pixels-v1-026efee89b7c0ffc"


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(8, 224),
    width=st.integers(8, 224),
    channels=st.sampled_from([1, 3]),
    low=st.integers(0, 255),
    span=st.integers(0, 255),
)
def test_features_are_finite_and_bounded_for_any_image(
    height: int, width: int, channels: int, low: int, span: int
) -> None:
    """Blank, faint and full-contrast images alike: no feature vector is longer than a standardised image."""
    high = min(255, low + span)
    pixels = np.random.default_rng(0).integers(low, high + 1, (2, height, width, channels), dtype=np.uint8)
    features = load_encoder().encode(pixels)
    assert np.isfinite(features).all()
    assert float((features**2).sum(axis=1).max()) < 1.1


def test_every_constant_is_in_the_pixel_encoder_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever changes what features depend on gets another id, and no distance to the old ones."""
    ids = {load_encoder().id}
    constants = [name for name in vars(encoder_module.PixelEncoder) if name.isupper() and name != "_BATCH_VALUES"]
    assert len(constants) >= 6
    for name in constants:
        with monkeypatch.context() as changed:
            changed.setattr(encoder_module.PixelEncoder, name, getattr(encoder_module.PixelEncoder, name) * 2)
            encoder_module._pixel_encoder_id.cache_clear()
            ids.add(load_encoder().id)
    encoder_module._pixel_encoder_id.cache_clear()
    assert len(ids) == 1 + len(constants)


def test_another_process_without_torch_computes_the_same_bytes() -> None:
    program = """
import hashlib, sys
import numpy as np
from supernet_registry.search.similarity import load_encoder
images = np.random.default_rng(0).integers(0, 256, (5, 28, 28, 3), dtype=np.uint8)
features = load_encoder().encode(images)
assert not {"torch", "scipy"} & set(sys.modules)
print(hashlib.sha256(features.tobytes()).hexdigest())
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    here = hashlib.sha256(load_encoder().encode(images(c=3)).tobytes()).hexdigest()
    assert run.stdout.strip() == here


def test_features_do_not_depend_on_the_batch() -> None:
    """Batches bound the memory; an image has the same features whatever it is encoded with."""
    encoder = load_encoder()
    many = images(90, 112, 112, 3)
    together = encoder.encode(many)
    alone = np.concatenate([encoder.encode(many[i : i + 1]) for i in range(len(many))])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    assert encoder.encode(many[:0]).shape == (0, encoder.dimension)


def test_a_grey_image_and_its_colour_copy_have_the_same_features() -> None:
    encoder = load_encoder()
    grey = images(c=1)
    np.testing.assert_allclose(encoder.encode(grey), encoder.encode(np.repeat(grey, 3, axis=3)), atol=1e-6)


def test_features_change_little_with_resolution_and_contrast() -> None:
    """The same picture larger, or with half the contrast, stays near; another picture does not."""
    encoder = load_encoder()
    picture, other = np.kron(images(2, 16, 16), np.ones((1, 2, 2, 1), np.uint8))
    larger = np.kron(picture, np.ones((3, 3, 1), np.uint8))
    base = encoder.encode(picture[None])
    np.testing.assert_allclose(encoder.encode(larger[None]), base, atol=1e-6)
    assert np.linalg.norm(encoder.encode(picture[None] // 2) - base) < 0.2
    assert np.linalg.norm(encoder.encode(other[None]) - base) > 0.5


def test_distances_are_at_most_those_of_the_standardised_pixels() -> None:
    """The projection is orthogonal: a full set of terms keeps lengths, a part of it shortens them."""
    encoder = load_encoder()
    picture = images(1, 16, 16)
    z = (picture / 255.0 - (picture / 255.0).mean()) / ((picture / 255.0).std() + 0.05)
    squared = float((encoder.encode(picture) ** 2).sum())
    assert 0 < squared < float((z**2).mean())


@pytest.mark.parametrize(
    ("name", "weights", "field"),
    [
        ("resnet18", None, "encoder"),
        ("torchvision:", None, "encoder"),
        ("pixels", Path("w.safetensors"), "weights"),
        ("torchvision:resnet18", None, "weights"),
        ("torchvision:resnet18", Path("absent.safetensors"), "weights"),
        ("supernet", None, "weights"),
        ("supernet", Path("absent.safetensors"), "weights"),
    ],
)
def test_encoders_that_do_not_exist_are_refused(name: str, weights: Path | None, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        load_encoder(name, weights=weights)
    assert caught.value.field == field
    assert caught.value.remedy


@pytest.mark.parametrize(
    "bad", [np.zeros((2, 8, 8, 1)), np.zeros((2, 8, 8), np.uint8), np.zeros((2, 8, 8, 4), np.uint8)]
)
def test_anything_but_uint8_images_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(InvalidArgument, match="Images are"):
        load_encoder().encode(bad)


@pytest.fixture(scope="module")
def shufflenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a small torchvision model, freshly initialised."""
    torchvision = pytest.importorskip("torchvision")
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "shufflenet.safetensors"
    save_file(torchvision.models.shufflenet_v2_x0_5().state_dict(), path)
    return path


def test_a_torchvision_encoder_runs_from_a_local_file(shufflenet: Path) -> None:
    encoder = load_encoder("torchvision:shufflenet_v2_x0_5", weights=shufflenet)
    assert (encoder.name, encoder.dimension) == ("torchvision:shufflenet_v2_x0_5", 1024)
    grey = images(2, 28, 28, 1)
    features = encoder.encode(grey)
    assert features.shape == (2, 1024)
    np.testing.assert_array_equal(features, encoder.encode(grey))
    np.testing.assert_allclose(features, encoder.encode(np.repeat(grey, 3, axis=3)), atol=1e-5)


def test_a_torchvision_encoder_id_names_the_model_and_hashes_its_weights(shufflenet: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(shufflenet)
    state["conv1.0.weight"] += 1
    save_file(state, tmp_path / "changed.safetensors")
    ids = [
        load_encoder("torchvision:shufflenet_v2_x0_5", weights=path).id
        for path in (shufflenet, shufflenet, tmp_path / "changed.safetensors")
    ]
    assert ids[0] == ids[1] != ids[2]
    assert ids[0].startswith("torchvision-v1-shufflenet_v2_x0_5-")


def test_weights_that_are_not_of_the_model_are_refused(shufflenet: Path, tmp_path: Path) -> None:
    """Not safetensors, another model's, not finite, or a model nobody knows."""
    import torch
    from safetensors.torch import load_file, save_file

    (tmp_path / "text.safetensors").write_text("hello")
    broken = load_file(shufflenet)
    broken["fc.bias"][0] = torch.nan
    save_file(broken, tmp_path / "nan.safetensors")
    for model, path in (
        ("shufflenet_v2_x0_5", tmp_path / "text.safetensors"),
        ("shufflenet_v2_x1_0", shufflenet),
        ("shufflenet_v2_x0_5", tmp_path / "nan.safetensors"),
    ):
        with pytest.raises(UnsafeWeights) as caught:
            load_encoder(f"torchvision:{model}", weights=path)
        assert caught.value.field == "weights"
    with pytest.raises(InvalidArgument, match="no model"):
        load_encoder("torchvision:nobody", weights=shufflenet)
