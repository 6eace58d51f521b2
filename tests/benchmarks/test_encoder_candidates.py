"""The encoders that `pixels` is compared with: correct enough for the comparison to be fair."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.similarity import other_encoders as encoders
from benchmarks.similarity import scattering

CANDIDATES = [
    encoders.RawEncoder(),
    encoders.ScatteringEncoder(),
    encoders.ScatteringEncoder(order_0=False),
    encoders.RandomConvEncoder(rectifier="abs"),
    encoders.RandomConvEncoder(rectifier="relu"),
]


def pictures(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("encoder", CANDIDATES, ids=lambda encoder: encoder.name)
@pytest.mark.parametrize("shape", [(8, 8, 1), (17, 23, 3), (224, 224, 3)])
def test_every_candidate_keeps_the_protocol(encoder: Any, shape: tuple[int, int, int]) -> None:
    """Any size, grey and colour, finite, the same bytes again, independent of the batch."""
    images = pictures(70, *shape)
    features = encoder.encode(images)
    assert features.shape == (70, encoder.dimension)
    assert features.dtype == np.float32
    assert np.isfinite(features).all()
    assert features.tobytes() == encoder.encode(images).tobytes()
    np.testing.assert_allclose(encoder.encode(images[66:]), features[66:], atol=1e-5)
    assert encoder.encode(images[:0]).shape == (0, encoder.dimension)


@pytest.mark.parametrize("encoder", CANDIDATES, ids=lambda encoder: encoder.name)
def test_a_grey_image_and_its_colour_copy_have_the_same_features(encoder: Any) -> None:
    grey = pictures(3, 28, 28, 1)
    np.testing.assert_allclose(encoder.encode(grey), encoder.encode(np.repeat(grey, 3, axis=3)), atol=1e-5)


def test_candidates_have_different_ids() -> None:
    assert len({encoder.id for encoder in CANDIDATES}) == len(CANDIDATES)


def test_the_hadamard_projection_is_orthogonal() -> None:
    """All rows: lengths are kept to the last bits. A part of them: on average."""
    values = np.random.default_rng(0).normal(size=(2000, 64))
    lengths = (values**2).sum(axis=1)
    np.testing.assert_allclose((encoders.hadamard_projection(values, 64, "test") ** 2).sum(axis=1), lengths)
    part = (encoders.hadamard_projection(values, 16, "test") ** 2).sum(axis=1)
    assert np.mean(part / lengths) == pytest.approx(1.0, abs=0.03)


def direct_scattering(image: np.ndarray, *, scales: int, angles: int, grid: int) -> np.ndarray:
    """The definition, in space, every map at full resolution: circular convolutions summed term by term."""
    margin, side = scattering.MARGIN, len(image)
    x = np.pad(image, margin, mode="symmetric")
    wavelets = {
        (j, angle): morlet_in_space(len(x), j, angle * np.pi / angles, 4.0 / angles)
        for j in range(scales)
        for angle in range(angles)
    }
    places = (np.arange(grid) + 0.5) * side / grid - 0.5 + margin
    weights = np.exp(-0.5 * ((places[:, None] - np.arange(len(x))) / (scattering.SIGMA * 2 ** (scales - 1))) ** 2)
    phi = weights / weights.sum(axis=1, keepdims=True)
    first = {path: np.abs(circular_convolution(x, psi)) for path, psi in wavelets.items()}
    second = [
        np.abs(circular_convolution(first[j, angle], wavelets[k, other]))
        for j in range(scales)
        for angle in range(angles)
        for k in range(j + 1, scales)
        for other in range(angles)
    ]
    return np.array([phi @ u @ phi.T for u in (x, *first.values(), *second)])


def morlet_in_space(size: int, scale: int, angle: float, slant: float) -> np.ndarray:
    """ψ(u) = g(u) (e^{iξu} - β), periodised, ∑ψ = 0; g has mass 1."""
    u = np.arange(-2 * size, 3 * size)
    along = np.cos(angle) * u[None, :] + np.sin(angle) * u[:, None]
    across = np.cos(angle) * u[:, None] - np.sin(angle) * u[None, :]
    sigma = scattering.SIGMA * 2**scale
    envelope = slant / (2 * np.pi * sigma**2) * np.exp(-(along**2 + (slant * across) ** 2) / (2 * sigma**2))
    wave = envelope * np.exp(1j * scattering.XI / 2**scale * along)
    wave, envelope = (a.reshape(5, size, 5, size).sum(axis=(0, 2)) for a in (wave, envelope))
    return wave - wave.sum() / envelope.sum() * envelope


def circular_convolution(x: np.ndarray, h: np.ndarray) -> np.ndarray:
    """Σ_v h(v) x(u - v)."""
    return sum(h[i, j] * np.roll(x, (i, j), axis=(0, 1)) for i in range(len(h)) for j in range(len(h)))


def test_scattering_is_its_definition_but_for_subsampling() -> None:
    """The first wavelets' maps are not subsampled and agree to float32; the others to a few per cent."""
    image = np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32)
    transform = scattering.Scattering(16, scales=2, angles=3, grid=2)
    fast, slow = transform(image[None])[0], direct_scattering(image, scales=2, angles=3, grid=2)
    assert fast.shape == slow.shape == (transform.paths, 2, 2)
    np.testing.assert_allclose(fast[:4], slow[:4], atol=1e-5)
    assert np.linalg.norm(fast[4:] - slow[4:]) < 0.05 * np.linalg.norm(slow[4:])


def test_scattering_of_a_blank_image_is_its_brightness_alone() -> None:
    paths = scattering.Scattering(32, scales=3, angles=6, grid=4)(np.full((1, 32, 32), 0.7, np.float32))[0]
    np.testing.assert_allclose(paths[0], 0.7, atol=1e-5)
    np.testing.assert_allclose(paths[1:], 0.0, atol=1e-5)


def test_scattering_beyond_order_0_does_not_tell_ink_from_ground() -> None:
    transform = scattering.Scattering(32, scales=3, angles=6, grid=4)
    image = np.random.default_rng(0).normal(size=(1, 32, 32)).astype(np.float32)
    np.testing.assert_allclose(transform(-image)[:, 1:], transform(image)[:, 1:], atol=1e-6)
