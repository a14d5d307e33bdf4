"""Position moments: all that a ridge readout of any position target needs to know of a layer.

For features ``f_i(p)`` (image i, place p) they are the number of images, the sum over images
``M(p) = Σ_i f_i(p)`` and the second moment ``G = Σ_i Σ_p f_i(p) f_i(p)ᵀ``. A position target t is
the same on every image, so that its cross moment ``Σ_i Σ_p f_i(p) t(p) = Σ_p M(p) t(p)`` follows
from M for targets that need not be known while images stream by. Moments add: over batches,
folds, devices and machines.

The features of a 3 × 3 neighbourhood are those of its nine cells, one after another. Their second
moment is a set of lagged correlations ``Σ_p f(p + a) f(p + b)ᵀ``, of which only 13 lags a − b
differ in more than the window that p runs over: far cheaper than products of 9 C columns.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import Any

import torch
from torch import Tensor

_BLOCK = 256  # channels whose products are taken at once; skips most of the upper triangle
_DIRECT = 4  # places a side below which neighbourhoods are formed and not assembled from lags


@dataclass
class Moments:
    """Sums over images of a layer's features, taken about an origin near their mean.

    Sums are float64; the products of one batch are in the features' own precision, about the
    origin, which keeps a large mean from drowning a small variance.

    Attributes
    ----------
    origin : Tensor, shape (D,)
        What is subtracted from the features first.
    images : int
    first : Tensor of float64, shape (D, P)
        ``Σ_i f_i(p) − origin``.
    second : Tensor of float64, shape (D, D)
        ``Σ_i Σ_p (f_i(p) − origin)(f_i(p) − origin)ᵀ``; the lower triangle counts.
    kernel : int
        1: a place's features are its C channels, D = C. 3: those of its neighbourhood, row by row,
        D = 9 C; places are the cells that have a whole one.
    """

    origin: Tensor
    images: int
    first: Tensor
    second: Tensor
    kernel: int = 1

    @classmethod
    def empty(cls, origin: Tensor, places: int, kernel: int = 1) -> Moments:
        """Moments of no images, at so many places, about an origin (C,)."""
        origin = origin.repeat(kernel * kernel)
        size = len(origin)
        first, second = (
            torch.zeros(size, columns, dtype=torch.float64, device=origin.device)
            for columns in (places, size)
        )
        return cls(origin, 0, first, second, kernel)

    @property
    def places(self) -> int:
        """Number P of places."""
        return self.first.shape[1]

    def update(self, features: Tensor) -> None:
        """Add a batch (B, C, h, w) in place, with ``(h − kernel + 1)(w − kernel + 1) = P``."""
        height, width = (side - self.kernel + 1 for side in features.shape[2:])
        if height < 1 or width < 1 or height * width != self.places:
            raise ValueError(
                f"features of {features.shape[2]} × {features.shape[3]} cells do not have the "
                f"{self.places} places of these moments"
            )
        channels = features.shape[1]
        samples = centred(features, self.origin[:channels])
        self.images += len(samples)
        if self.kernel == 1:
            self.first += samples.sum(0).T
            self._add_products(samples.reshape(-1, channels))
            return
        # Places lead, so that a window of them is a slice.
        cells = samples.reshape(len(samples), *features.shape[2:], channels).permute(1, 2, 0, 3)
        cells = cells.contiguous()
        sums = cells.sum(2).permute(2, 0, 1)
        windows = list(product(range(self.kernel), repeat=2))
        self.first += torch.cat(
            [sums[:, y : y + height, x : x + width].flatten(1) for y, x in windows]
        )
        if min(height, width) < _DIRECT:
            columns = [cells[y : y + height, x : x + width].flatten(0, 2) for y, x in windows]
            self._add_products(torch.cat(columns, 1))
        else:
            self._add_lags(cells)

    def _add_products(self, samples: Tensor) -> None:
        """Add the lower triangle of the products of samples (n, D)."""
        for start in range(0, samples.shape[1], _BLOCK):
            stop = min(start + _BLOCK, samples.shape[1])
            self.second[start:stop, :stop] += samples[:, start:stop].T @ samples[:, :stop]

    def _add_lags(self, cells: Tensor) -> None:
        """Add the products of neighbourhoods of cells (h, w, B, C), one lag at a time.

        For cells a = b + lag of the neighbourhood, the block (a, b) sums
        ``f(q + lag) f(q)ᵀ`` over the window b ≤ q < b + places. Windows of one lag have most of
        their rows and columns in common: products are taken of the common part and of each row
        and column beside it, and added up.
        """
        kernel, channels = self.kernel, cells.shape[-1]
        height, width = (side - kernel + 1 for side in cells.shape[:2])
        for down, right in product(range(kernel), range(1 - kernel, kernel)):
            if down == 0 and right < 0:
                continue
            left = max(0, -right)
            rows, columns = kernel - down, kernel - abs(right)
            parts = {}
            for (i, (y0, y1)), (j, (x0, x1)) in product(
                enumerate(_parts(height, rows)), enumerate(_parts(width, columns))
            ):
                lower = cells[y0:y1, left + x0 : left + x1].reshape(-1, channels)
                upper = cells[y0 + down : y1 + down, left + right + x0 : left + right + x1]
                parts[i, j] = upper.reshape(-1, channels).T @ lower
            for y, x in product(range(rows), range(columns)):
                window = product(range(y, y + rows), range(x, x + columns))
                total = torch.stack([parts[key] for key in window]).sum(0)
                b = y * kernel + left + x
                a = b + down * kernel + right
                self.second[a * channels :, b * channels :][:channels, :channels] += total

    def about(self, origin: Tensor) -> Moments:
        """Return the same moments about another origin."""
        shift = (self.origin.to(torch.float64) - origin.to(torch.float64))[:, None]
        total = self.first.sum(1, keepdim=True)
        first = self.first + self.images * shift
        cross = total @ shift.T
        count = self.images * self.places
        second = self.second + cross + cross.T + count * (shift @ shift.T)
        return replace(self, origin=origin, first=first, second=second)

    def __add__(self, other: Moments) -> Moments:
        return self._joined(other, operator.add)

    def __sub__(self, other: Moments) -> Moments:
        return self._joined(other, operator.sub)

    def _joined(self, other: Moments, join: Callable[[Any, Any], Any]) -> Moments:
        if not isinstance(other, Moments):
            return NotImplemented
        if self.first.shape != other.first.shape:
            raise ValueError(
                f"moments of {tuple(other.first.shape)} channels × places can't join those of "
                f"{tuple(self.first.shape)}"
            )
        if not torch.equal(self.origin, other.origin):
            other = other.about(self.origin)
        sums = ("images", "first", "second")
        return replace(
            self, **{name: join(getattr(self, name), getattr(other, name)) for name in sums}
        )


def _parts(places: int, windows: int) -> list[tuple[int, int]]:
    """Split what windows 0 … windows − 1 of so many places cover: what all of them have in common,
    and each row before and after it.
    """
    cuts = [*range(windows), *range(places, places + windows)]
    return list(pairwise(cuts))


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
