"""The position-information pattern of a layer: what its features are at each place on average.

On stationary stimuli the mean map of a channel over images is flat unless the network knows where
it is. How much of a channel's variance the mean map explains is the share η²; over the whole layer
the signal-to-noise ratio follows. Both come from sums over images, without another pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ProbeError
from ..readouts.moments import Moments, centred

Array = NDArray[np.float64]


@dataclass
class PlaceSums:
    """Sums of a layer's features about an origin (C,), over the ``images`` of a fold.

    ``first`` (C, P) is the sum over images at each place, ``square`` (C,) the sum of squares over
    images and places, both float64.
    """

    origin: Tensor
    images: int
    first: Tensor
    square: Tensor

    @classmethod
    def empty(cls, origin: Tensor, places: int) -> PlaceSums:
        """Sums over no images."""
        double: dict[str, Any] = {"dtype": torch.float64, "device": origin.device}
        first = torch.zeros(len(origin), places, **double)
        return cls(origin, 0, first, torch.zeros(len(origin), **double))

    @classmethod
    def of(cls, moments: Moments) -> PlaceSums:
        """Take them from moments of kernel 1."""
        square = moments.second.diagonal().clone()
        return cls(moments.origin, moments.images, moments.first, square)

    def update(self, features: Tensor) -> None:
        """Add a batch (B, C, h, w) in place."""
        samples = centred(features, self.origin)
        self.images += len(samples)
        self.first += samples.sum(0).T
        self.square += samples.square().sum((0, 1))


@dataclass(frozen=True)
class Pattern:
    r"""The position-information pattern of one layer under one weights and variant.

    With f the feature of a channel, M(p) its mean over images at place p, and variances over
    images and places,

    .. math:: η^2 = \frac{\mathrm{Var}_p\, M(p)}{\mathrm{Var}\, f}, \qquad
              \mathrm{SNR} = \frac{\sum_c η_c^2}{\sum_c (1 - η_c^2)} .

    The variance of M is estimated without bias, from products of the mean maps of different folds
    of images, whose noise is independent: on features without position, η² and SNR are 0 on
    average, and single values may be a little below.

    Attributes
    ----------
    mean : ndarray of float32, shape (K, h, w)
        Mean maps of the channels kept.
    channels : ndarray of int, shape (K,)
        Their numbers: all of them after a run, of a saved one the most position-tuned.
    eta2 : ndarray, shape (C,)
        Share η² of every channel's variance that place explains, at most 1.
    snr : float
        Signal-to-noise ratio of the layer, all channels that vary counting alike.
    difference : ndarray of float32, shape (K, h, w), or None
        Mean map of the network as trained minus this one, over the same images: the part of the
        pattern that the variant took away. None for ``original`` itself, or without it.
    difference_snr : float or None
        Its signal-to-noise ratio, the noise being that of the network as trained.

    References
    ----------
    Lin et al. (2022), "Unveiling the mask of position-information pattern through the mist of image
    features", arXiv 2206.01202, for the pattern as a difference of mean features; Kelley (1935),
    "An unbiased correlation ratio measure", PNAS 21, for bias in η².
    """

    mean: NDArray[np.float32]
    channels: NDArray[np.int64]
    eta2: Array
    snr: float
    difference: NDArray[np.float32] | None = None
    difference_snr: float | None = None

    def tuned(self, count: int = 16) -> NDArray[np.int64]:
        """Numbers of the channels most tuned to position, by η², the most tuned first."""
        return np.argsort(-self.eta2, kind="stable")[:count]

    def map_of(self, channel: int) -> NDArray[np.float32]:
        """Mean map (h, w) of a channel that was kept."""
        place = np.flatnonzero(self.channels == channel)
        if not len(place):
            raise KeyError(f"channel {channel} is not among the {len(self.channels)} kept")
        return self.mean[place[0]]

    def keep(self, numbers: Sequence[int]) -> Pattern:
        """Return the pattern with the maps of these channels alone, in this order."""
        place = {int(channel): row for row, channel in enumerate(self.channels)}
        rows = [place[int(number)] for number in numbers]
        difference = None if self.difference is None else self.difference[rows]
        mean, channels = self.mean[rows], self.channels[rows]
        return replace(self, mean=mean, channels=channels, difference=difference)


def find_pattern(
    folds: Sequence[PlaceSums], places: tuple[int, int], original: Sequence[PlaceSums] | None = None
) -> Pattern:
    """Compute a pattern of h × w ``places`` from sums over folds of images.

    Two folds at least are needed for η² and SNR (else NaN). ``original`` are sums of the same layer
    and images in the network as trained.
    """
    if any(not torch.equal(fold.origin, folds[0].origin) for fold in folds):
        raise ProbeError("folds: expected sums about one origin, got several")
    maps = [_mean_map(fold) for fold in folds]
    total = _variance(folds)
    mean = _average(maps, folds)
    eta2, alive = _ratio(_signal(maps), total), _alive(total)
    difference = difference_snr = None
    if original is not None and all(
        a.first.shape == b.first.shape for a, b in zip(folds, original, strict=True)
    ):
        apart = [_mean_map(a) - b for a, b in zip(original, maps, strict=True)]
        difference = _average(apart, folds).astype(np.float32).reshape(-1, *places)
        signal = _signal(apart)
        as_trained = _variance(original)
        noise = as_trained - _signal([_mean_map(fold) for fold in original])
        difference_snr = _snr(_ratio(signal, as_trained), _ratio(noise, as_trained))
    return Pattern(
        mean=mean.astype(np.float32).reshape(-1, *places),
        channels=np.arange(len(mean)),
        eta2=eta2,
        snr=_snr(eta2, np.where(alive, 1 - eta2, 0)),
        difference=difference,
        difference_snr=difference_snr,
    )


def _mean_map(sums: PlaceSums) -> Array:
    """Mean over images, shape (C, P)."""
    return (sums.first / sums.images + sums.origin.to(torch.float64)[:, None]).cpu().numpy()


def _average(maps: Sequence[Array], folds: Sequence[PlaceSums]) -> Array:
    weights = np.array([fold.images for fold in folds], float)
    return sum(w * m for w, m in zip(weights / weights.sum(), maps, strict=True))


def _variance(folds: Sequence[PlaceSums]) -> Array:
    """Variance of each channel over images and places, shape (C,)."""
    count = sum(fold.images for fold in folds) * folds[0].first.shape[1]
    mean = sum(fold.first.sum(1) for fold in folds) / count
    square = sum(fold.square for fold in folds) / count
    return torch.as_tensor(square - mean**2).clamp_min(0).cpu().numpy()


def _signal(maps: Sequence[Array]) -> Array:
    """Variance over places of the maps' common part: products of different folds alone."""
    count = len(maps)
    if count < 2:
        return np.full(len(maps[0]), np.nan)
    flat = [m - m.mean(1, keepdims=True) for m in maps]
    products = sum(flat) ** 2 - sum(m**2 for m in flat)
    return products.mean(1) / (count * (count - 1))


def _ratio(part: Array, whole: Array) -> Array:
    """Share of a channel's variance; 0 for channels without any."""
    alive = _alive(whole)
    return np.where(alive, part / np.where(alive, whole, 1), 0.0)


def _alive(variance: Array) -> NDArray[np.bool_]:
    """Channels that vary at all."""
    return variance > 1e-12 * variance.max(initial=0)


def _snr(signal: Array, noise: Array) -> float:
    total = float(noise.sum())
    return float(signal.sum()) / total if total > 0 else float("inf")
