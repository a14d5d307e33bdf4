r"""Synthetic ground truth: features of known position information, to calibrate the pipeline by.

At place p of image i the C channels carry a target t behind gaussian noise,

.. math::
    f_i(p) = o + S \, (s \, a \, \tilde t(p) + ε_i(p)), \qquad
    \tilde t = t - \bar t, \qquad ε_i(p) \sim N(0, Σ),

with a unit vector a, offsets o and scales S (a diagonal) drawn at random, which a readout that
standardises its features should not notice. With :math:`\mathrm{var}(t)` the variance of t over
places, the signal-to-noise ratio of the best direction is
:math:`λ = s^2 \, \mathrm{var}(t) \, a^T Σ^{-1} a`. The covariance of the features over images and
places is :math:`K = Σ + s^2 \mathrm{var}(t) \, a a^T` (but for S), that of features and target
:math:`c = s \, \mathrm{var}(t) \, a`. The squared multiple correlation, the R² of the best linear
readout, follows by the formula of Sherman and Morrison for :math:`K^{-1}`:

.. math::
    R^2 = \frac{c^T K^{-1} c}{\mathrm{var}(t)}
        = s^2 \mathrm{var}(t) \left( a^T Σ^{-1} a
          - \frac{s^2 \mathrm{var}(t) (a^T Σ^{-1} a)^2}{1 + λ} \right)
        = λ - \frac{λ^2}{1 + λ} = \frac{λ}{1 + λ}.

It is also the expected R² of one image: that readout's squared error, averaged over the places of
an image, has the expectation :math:`\mathrm{var}(t) / (1 + λ)`.

References
----------
Anderson (2003), "An introduction to multivariate statistical analysis", 3rd edition, sections
2.5 (multiple correlation), 3.3 (mean and covariance of a normal sample are independent) and 7.2
(Wishart distribution and Bartlett's decomposition). Sherman, Morrison (1950), "Adjustment of an
inverse matrix corresponding to a change in one element of a given matrix", Annals of Mathematical
Statistics 21.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.signal import lfilter
from torch import Tensor

from ...errors import ProbeError, one_of, whole_number
from ...readouts.moments import Moments
from ...targets import TARGETS, target_map

Array = NDArray[np.float64]
CHANNELS: tuple[int, ...] = (8, 32, 128, 512, 2048)
SNRS: tuple[float, ...] = (1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3)
_STREAMS = ("truth", "moments", "train", "test")
_BLOCK = 256  # rows of moments whose products are taken at once


@dataclass(frozen=True)
class Planted:
    """Features of one target at a known signal-to-noise ratio; see the module's text.

    Attributes
    ----------
    channels : int
        Number C of channels.
    snr : float
        λ > 0.
    target : str
        Which target the features carry, one of :data:`probe.TARGETS`.
    size : (int, int)
        Height h and width w of the features.
    correlation : float
        ρ in [0, 1): noise of channels c and d correlates with :math:`Σ_{cd} = ρ^{|c - d|}`.
    seed : int
        Of the direction a, offsets, scales and noise.
    """

    channels: int
    snr: float
    target: str = "gaussian"
    size: tuple[int, int] = (7, 7)
    correlation: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        whole_number(self.channels, "channels", 1)
        whole_number(self.seed, "seed", 0)
        if not isinstance(self.snr, int | float | np.number) or not 0 < self.snr < math.inf:
            raise ProbeError(f"snr: expected a finite number greater than 0, got {self.snr!r}")
        one_of(self.target, TARGETS, "target")
        if not isinstance(self.size, Sequence) or len(self.size) != 2:
            raise ProbeError(f"size: expected (height, width), got {self.size!r}")
        for side in self.size:
            whole_number(side, "size", 1)
        if not 0 <= self.correlation < 1:
            raise ProbeError(
                f"correlation: expected a number from 0 up to but not 1, got {self.correlation!r}"
            )
        if np.ptp(self.map) == 0:
            raise ProbeError(
                f"the target {self.target} is the same at every one of {self.size[0]} × "
                f"{self.size[1]} places, and carries no position: choose a larger size"
            )

    @property
    def attainable(self) -> float:
        """R² of the best linear readout, ``λ / (1 + λ)``."""
        return self.snr / (1 + self.snr)

    @property
    def places(self) -> int:
        """Number P of places."""
        return self.size[0] * self.size[1]

    @cached_property
    def map(self) -> Array:
        """The target t, shape (h, w)."""
        return target_map(self.target, *self.size)

    def features(self, split: str, start: int, stop: int) -> Tensor:
        """Return the features of images ``start … stop − 1`` of a split, float32 (…, C, h, w).

        ``train`` and ``test`` have no images in common; each image is the same in any range.
        """
        one_of(split, _STREAMS[2:], "split")
        _, scale, offset = self._truth
        out = np.empty((stop - start, self.channels, self.places), np.float32)
        for row, image in enumerate(range(start, stop)):
            noise = self._rng(split, image).standard_normal((self.channels, self.places))
            standard = self._signal + self._correlated(noise)
            out[row] = offset[:, None] + scale[:, None] * standard
        return torch.from_numpy(out).unflatten(2, self.size)

    def moments(self, images: int, fold: int = 0) -> Moments:
        r"""Draw the position moments of n images from their own distribution, without the images.

        About the origin o, and but for the scales S, the sum of n images is
        :math:`M(p) = n s a \tilde t(p) + \sqrt n ε(p)`, and what is left of the second moment,
        :math:`W = G - \sum_p M(p) M(p)^T / n`, is independent of it and Wishart distributed
        with :math:`ν = P (n - 1)` degrees of freedom. With :math:`Σ = L L^T` it is drawn as
        :math:`W = L A A^T L^T` (Bartlett), A lower triangular with independent entries,
        :math:`A_{cc}^2 \sim χ^2_{ν - c}` for c = 0, 1, … and :math:`A_{cd} \sim N(0, 1)` below;
        where ν < C, only its first ν columns are there. The cost, :math:`O(C^3 + C^2 P)`, does not
        depend on n; ``fold`` tells apart independent draws.
        """
        whole_number(images, "images", 1)
        rng = self._rng("moments", whole_number(fold, "fold", 0))
        _, scales, offsets = self._truth
        noise = rng.standard_normal((self.channels, self.places))
        first = images * self._signal + math.sqrt(images) * self._correlated(noise)
        freedom = self.places * (images - 1)
        rank = min(self.channels, freedom)
        factor = np.tril(rng.standard_normal((self.channels, rank)), -1)
        np.fill_diagonal(factor, np.sqrt(rng.chisquare(freedom - np.arange(rank))))
        scale, origin = torch.from_numpy(scales), torch.from_numpy(offsets)
        sums = torch.from_numpy(first) * scale[:, None]
        root = torch.from_numpy(self._correlated(factor)) * scale[:, None]
        second = sums @ sums.T / images
        for start in range(0, self.channels, _BLOCK):  # a triangle times its transpose
            stop = start + _BLOCK
            second[start:stop, :stop] += root[start:stop, :stop] @ root[:stop, :stop].T
        return Moments(origin.to(torch.float32), images, sums, second)

    @cached_property
    def _truth(self) -> tuple[Array, Array, Array]:
        """Direction a, scales and offsets of the channels, each of shape (C,)."""
        rng = self._rng("truth", 0)
        direction = rng.standard_normal(self.channels)
        direction /= np.linalg.norm(direction)
        scale = np.exp(rng.standard_normal(self.channels))
        # float32, so that features and moments are about the very same origin.
        offset = (3 * scale * rng.standard_normal(self.channels)).astype(np.float32)
        return direction, scale, offset.astype(np.float64)

    @cached_property
    def _signal(self) -> Array:
        """``s a t̃(p)``, shape (C, P)."""
        direction = self._truth[0]
        # aᵀ Σ⁻¹ a = ‖L⁻¹ a‖²: L⁻¹ takes from each channel what the one before it foretells.
        whitened = direction.copy()
        whitened[1:] -= self.correlation * direction[:-1]
        whitened[1:] /= math.sqrt(1 - self.correlation**2)
        wave = (self.map - self.map.mean()).ravel()
        gain = math.sqrt(self.snr / ((wave**2).mean() * (whitened**2).sum()))
        return gain * np.outer(direction, wave)

    def _correlated(self, noise: Array) -> Array:
        """``L noise`` for noise of shape (C, …): a first-order autoregression over channels."""
        if self.correlation == 0:
            return noise
        fresh = noise * math.sqrt(1 - self.correlation**2)
        fresh[0] = noise[0]
        return lfilter([1.0], [1.0, -self.correlation], fresh, axis=0)

    def _rng(self, stream: str, index: int) -> np.random.Generator:
        number = (_STREAMS.index(stream) << 48) + index
        return np.random.Generator(np.random.Philox(key=[self.seed % 2**64, number]))
