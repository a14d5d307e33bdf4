"""Position moments: all that a ridge readout of any position target needs to know of a layer.

For features ``f_i(p)`` (image i, place p) they are the number of images, the sum over images
``M(p) = Σ_i f_i(p)`` and the second moment ``G = Σ_i Σ_p f_i(p) f_i(p)ᵀ``. A position target t is
the same on every image, so that its cross moment ``Σ_i Σ_p f_i(p) t(p) = Σ_p M(p) t(p)`` follows
from M for targets that need not be known while images stream by. Moments add: over batches,
folds, devices and machines.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_BLOCK = 256  # channels whose products are taken at once; skips most of the upper triangle


@dataclass
class Moments:
    """Sums over images of a layer's features, taken about an origin near their mean.

    Sums are float64; the products of one batch are in the features' own precision, about the
    origin, which keeps a large mean from drowning a small variance.

    Attributes
    ----------
    origin : Tensor, shape (C,)
        What is subtracted from the features first.
    images : int
        How many images n were summed.
    first : Tensor of float64, shape (C, P)
        ``Σ_i f_i(p) − origin``.
    second : Tensor of float64, shape (C, C)
        ``Σ_i Σ_p (f_i(p) − origin)(f_i(p) − origin)ᵀ``; the lower triangle counts.
    """

    origin: Tensor
    images: int
    first: Tensor
    second: Tensor

    @classmethod
    def empty(cls, origin: Tensor, places: int) -> Moments:
        """Moments of no images.

        Parameters
        ----------
        origin : Tensor, shape (C,)
            What to subtract from the features.
        places : int
            Number P of places.
        """
        channels = len(origin)
        double = {"dtype": torch.float64, "device": origin.device}
        return cls(
            origin,
            0,
            torch.zeros(channels, places, **double),
            torch.zeros(channels, channels, **double),
        )

    @property
    def places(self) -> int:
        """Number P of places."""
        return self.first.shape[1]

    def update(self, features: Tensor) -> None:
        """Add a batch in place.

        Parameters
        ----------
        features : Tensor, shape (B, C, h, w)
            With ``h · w = P``.
        """
        samples = centred(features, self.origin)
        channels = samples.shape[-1]
        self.images += len(samples)
        self.first += samples.sum(0).T
        samples = samples.reshape(-1, channels)
        for start in range(0, channels, _BLOCK):
            stop = min(start + _BLOCK, channels)
            product = samples[:, start:stop].T @ samples[:, :stop]
            self.second[start:stop, :stop] += product

    def about(self, origin: Tensor) -> Moments:
        """Return the same moments about another origin."""
        shift = (self.origin.to(torch.float64) - origin.to(torch.float64))[:, None]
        total = self.first.sum(1, keepdim=True)
        first = self.first + self.images * shift
        cross = total @ shift.T
        count = self.images * self.places
        second = self.second + cross + cross.T + count * (shift @ shift.T)
        return Moments(origin, self.images, first, second)

    def __add__(self, other: Moments) -> Moments:
        other = self._like(other)
        return Moments(
            self.origin,
            self.images + other.images,
            self.first + other.first,
            self.second + other.second,
        )

    def __sub__(self, other: Moments) -> Moments:
        other = self._like(other)
        return Moments(
            self.origin,
            self.images - other.images,
            self.first - other.first,
            self.second - other.second,
        )

    def _like(self, other: Moments) -> Moments:
        if not isinstance(other, Moments):
            return NotImplemented
        if self.first.shape != other.first.shape:
            raise ValueError(
                f"moments of {tuple(other.first.shape)} channels × places can't join those of "
                f"{tuple(self.first.shape)}"
            )
        return other if torch.equal(self.origin, other.origin) else other.about(self.origin)


def centred(features: Tensor, origin: Tensor) -> Tensor:
    """Turn a map (B, C, h, w) into samples (B, P, C) about an origin (C,)."""
    batch, channels, height, width = features.shape
    samples = features.permute(0, 2, 3, 1) - origin
    return samples.reshape(batch, height * width, channels)


def symmetric(lower: Tensor) -> Tensor:
    """Fill in the upper triangle of a matrix (C, C) of which the lower one counts."""
    triangle = lower.tril(-1)
    return triangle + triangle.T + lower.diagonal().diag()


def pilot_origin(features: Tensor) -> Tensor:
    """Mean by channel of a first batch (B, C, h, w), an origin for :class:`Moments`."""
    return features.mean((0, 2, 3))
