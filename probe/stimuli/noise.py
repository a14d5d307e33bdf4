"""Noise of several kinds, and images of one colour."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from .source import Stimuli


class GaussianNoise(Stimuli):
    """Every value of every pixel Gaussian, of mean ½ and deviation ¼, clipped to [0, 1].

    The paper tests on Gaussian noise without saying of which mean and deviation.
    """

    name = "noise"
    tileable = True
    stationary = True
    paints_channels = True

    def paint(self, split: str, index: int, canvas: NDArray[np.uint8]) -> None:
        noise = self.rng(split, index).standard_normal(canvas.shape, np.float32)
        canvas[...] = np.clip(noise * (255 / 4) + 255 / 2, 0, 255).round().astype(np.uint8)


class WhiteNoise(Stimuli):
    """Every value of every pixel uniform in [0, 1], independent of all others."""

    name = "noise"
    tileable = True
    stationary = True
    paints_channels = True

    def paint(self, split: str, index: int, canvas: NDArray[np.uint8]) -> None:
        noise = self.rng(split, index).integers(0, 256, canvas.shape, dtype=np.uint8)
        canvas[...] = noise


class PinkNoise(Stimuli):
    """Gaussian noise of amplitude ∝ 1/frequency by colour channel, as in natural images.

    Made by an inverse Fourier transform, hence periodic; of mean 0.5 and standard deviation 0.2
    per pixel, clipped to [0, 1].
    """

    name = "pink"
    tileable = True
    stationary = True
    paints_channels = True

    def __init__(self, image_size: tuple[int, int], seed: int = 0) -> None:
        super().__init__(image_size, seed)
        height, width = self.image_size
        fy = scipy.fft.fftfreq(height)[:, None]
        fx = scipy.fft.rfftfreq(width)[None, :]
        frequency = np.hypot(fy, fx)
        frequency[0, 0] = np.inf
        amplitude = 1 / frequency
        # Each pixel's variance is the sum of the power; middle columns stand for two.
        weight = np.full(fx.shape[1], 2.0)
        weight[0] = 1
        if width % 2 == 0:
            weight[-1] = 1
        power = (amplitude**2 * weight).sum() * 2
        scale = 0.2 * height * width / math.sqrt(power) if power > 0 else 0.0
        self._amplitude = (amplitude * scale).astype(np.float32)

    def paint(self, split: str, index: int, canvas: NDArray[np.uint8]) -> None:
        height, width = self.image_size
        rng = self.rng(split, index)
        noise = rng.standard_normal((self.channels, *self._amplitude.shape, 2), np.float32)
        spectrum = noise.view(np.complex64)[..., 0] * self._amplitude
        values = scipy.fft.irfft2(spectrum, s=(height, width), overwrite_x=True)
        values = np.clip(values * 255 + 128, 0, 255).astype(np.uint8).transpose(1, 2, 0)
        canvas[..., : self.channels] = values


class Constant(Stimuli):
    """The same uniform image again and again: black or white."""

    tileable = True
    stationary = True
    paints_channels = True
    scenes = 1

    def __init__(self, image_size: tuple[int, int], seed: int = 0, *, name: str) -> None:
        super().__init__(image_size, seed)
        self.name = name
        self._level = 255 if name == "white" else 0

    def paint(self, split: str, index: int, canvas: NDArray[np.uint8]) -> None:
        canvas[...] = self._level


black, white = partial(Constant, name="black"), partial(Constant, name="white")
