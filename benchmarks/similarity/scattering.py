"""Wavelet scattering of two layers: Bruna & Mallat, "Invariant Scattering Convolution Networks", PAMI 2013.

    S₀x = x ∗ φ,    S₁x(λ) = |x ∗ ψ_λ| ∗ φ,    S₂x(λ, λ') = ||x ∗ ψ_λ| ∗ ψ_λ'| ∗ φ   for scales j < j'

with Morlet wavelets ψ_λ, λ = (j, angle), and a Gaussian φ, read off on a coarse grid of places. Convolutions are done
in Fourier space; a map that has passed ψ_j is kept at every 2^j-th pixel only, since its spectrum has room there.

kymatio 0.3.0, the field's library, cannot be imported with scipy 1.17 (it needs `scipy.special.sph_harm`, removed).

Legend: n images, N padded side in pixels, J scales, L angles, g grid side.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Scattering"]

SIGMA = 0.8  # width of the finest wavelet's envelope, in pixels
XI = 0.75 * np.pi  # its frequency, in radians a pixel
MARGIN = 4  # mirrored pixels on each side: Fourier space would join opposite edges
_ALIASES = 2  # copies of the spectrum, on each side, that a sampled filter folds onto one


class Scattering:
    """The transform of images of one size.

    Args:
        side: of the images in pixels; with the margins a multiple of 2^(scales-1).
        scales: J; wavelets are 1, 2, ... 2^(J-1) times the finest.
        angles: L, spread over half a turn.
        grid: g; φ is centred on g x g places, and g/2 to g of its widths cover the image.
    """

    def __init__(self, side: int, *, scales: int, angles: int, grid: int) -> None:
        self.scales, self.angles, self._padded = scales, angles, side + 2 * MARGIN
        self._psi = [
            np.array([_morlet(self._padded, j, angle * np.pi / angles, 4.0 / angles) for angle in range(angles)])
            for j in range(scales)
        ]  # [J] of (L, N, N)
        places = (np.arange(grid) + 0.5) * side / grid - 0.5 + MARGIN
        self._phi = [_gaussian(places, self._padded, 2**j, SIGMA * 2 ** (scales - 1)) for j in range(scales)]

    @property
    def paths(self) -> int:
        """1 + JL + L² J(J-1)/2."""
        return 1 + self.scales * self.angles + self.angles**2 * self.scales * (self.scales - 1) // 2

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, side, side) to (n, paths, g, g): order 0, then 1, then 2."""
        padded = np.pad(images, ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN)), mode="symmetric")
        spectrum = np.fft.fft2(padded)[:, None]  # (n, 1, N, N)
        order_1, order_2 = [], []
        for j in range(self.scales):
            first = _modulus(spectrum, self._psi[j], 2**j)  # (n, L, N/2^j, N/2^j)
            order_1.append(self._smooth(first, j))
            if j + 1 == self.scales:
                break
            spectra = np.fft.fft2(first)
            for finer in range(self.angles):
                for k in range(j + 1, self.scales):
                    psi = _fold(self._psi[k], 2**j) * 4.0**j  # of the map at every 2^j-th pixel
                    order_2.append(self._smooth(_modulus(spectra[:, finer, None], psi, 2 ** (k - j)), k))
        return np.concatenate([self._smooth(padded[:, None], 0), *order_1, *order_2], axis=1).astype(np.float32)

    def _smooth(self, maps: NDArray[Any], scale: int) -> NDArray[Any]:
        """(n, p, N/2^scale, N/2^scale) to (n, p, g, g)."""
        phi = self._phi[scale].astype(maps.dtype)
        smooth: NDArray[Any] = phi @ maps @ phi.T
        return smooth


def _modulus(spectra: NDArray[Any], psi: NDArray[Any], step: int) -> NDArray[Any]:
    """|x ∗ ψ| at every `step`-th pixel, from spectra (n, 1, N, N) and filters (L, N, N)."""
    modulus: NDArray[Any] = np.abs(np.fft.ifft2(_fold(spectra * psi.astype(spectra.real.dtype), step)))
    return modulus


def _fold(spectra: NDArray[Any], step: int) -> NDArray[Any]:
    """Spectrum (…, N, N) of a map to that of its every `step`-th pixel (…, N/step, N/step): the mean of its parts."""
    if step == 1:
        return spectra
    size = spectra.shape[-1] // step
    rows = sum(spectra[..., i * size : (i + 1) * size, :] for i in range(step))
    folded: NDArray[Any] = sum(rows[..., :, i * size : (i + 1) * size] for i in range(step)) / step**2
    return folded


def _morlet(size: int, scale: int, angle: float, slant: float) -> NDArray[np.float64]:
    """The spectrum (N, N), real, of ψ: a Gaussian bump around the frequency ξ, less one around 0 so that ∑ψ = 0.

    In space the envelope is `slant` times as narrow along the wave as across it.
    """
    omega = 2.0 * np.pi * np.arange(-_ALIASES * size, _ALIASES * size) / size
    along = np.cos(angle) * omega[None, :] + np.sin(angle) * omega[:, None]
    across = np.cos(angle) * omega[:, None] - np.sin(angle) * omega[None, :]
    sigma = SIGMA * 2**scale

    def bump(centre: float) -> NDArray[np.float64]:
        spectrum = np.exp(-0.5 * sigma**2 * ((along - centre) ** 2 + (across / slant) ** 2))
        folded: NDArray[np.float64] = spectrum.reshape(2 * _ALIASES, size, 2 * _ALIASES, size).sum(axis=(0, 2))
        return folded

    wave, envelope = bump(XI / 2**scale), bump(0.0)
    return wave - wave[0, 0] / envelope[0, 0] * envelope


def _gaussian(places: NDArray[np.float64], size: int, step: int, sigma: float) -> NDArray[np.float64]:
    """(g, N/step): weights of a Gaussian around each place over every `step`-th pixel; rows sum to 1."""
    distances = places[:, None] - np.arange(0, size, step)[None, :]
    weights = np.exp(-0.5 * (distances / sigma) ** 2)
    normalised: NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
    return normalised
