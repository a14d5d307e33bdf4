"""Moments that erasers are made of: those of a layer, and its mean map in each fold of scenes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from ..readouts.base import check_memory
from ..readouts.moments import Moments, pilot_origin, symmetric
from .closed import FOLDS


@dataclass
class PositionMoments:
    """Position moments of one layer at all its cells, and sums over images of each fold.

    Attributes
    ----------
    height, width : int
        Cells.
    total : Moments, or None
        Of all images; None before the first.
    folds : list of Tensor, shape (C, P), float64
        Sums about the origin of ``total``.
    images : list of int
        How many each fold has.
    """

    height: int
    width: int
    total: Moments | None = None
    folds: list[Tensor] = field(default_factory=list)
    images: list[int] = field(default_factory=list)

    def update(self, features: Tensor, scenes: Tensor) -> Self:
        """Add a batch (B, C, h, w), whose images show these scenes (B,)."""
        places = self.height * self.width
        if self.total is None:
            channels = features.shape[1]
            check_memory(
                8 * channels * (channels + (FOLDS + 1) * places),
                features.device,
                f"the moments of {channels} channels at {self.height} × {self.width} cells",
                "choose a later layer or a smaller image size",
            )
            self.total = Moments.empty(pilot_origin(features), places)
            self.folds = [torch.zeros_like(self.total.first) for _ in range(FOLDS)]
            self.images = [0] * FOLDS
        self.total.update(features)
        for fold in set((scenes % FOLDS).tolist()):
            part = features[(scenes % FOLDS == fold).to(features.device)]
            self.folds[fold] += (
                part.sum(0) - len(part) * self.total.origin[:, None, None]
            ).flatten(1)
            self.images[fold] += len(part)
        return self

    @property
    def moments(self) -> Moments:
        assert self.total is not None
        return self.total

    @property
    def samples(self) -> int:
        """Images times places."""
        return self.moments.images * self.moments.places

    @property
    def mean(self) -> Tensor:
        """Mean over images and places, shape (C,)."""
        return self.moments.origin.double() + self.moments.first.sum(1) / self.samples

    @property
    def covariance(self) -> Tensor:
        """Covariance over images and places, shape (C, C)."""
        apart = self.moments.first.sum(1) / self.samples
        return symmetric(self.moments.second) / self.samples - torch.outer(apart, apart)

    @property
    def position_map(self) -> Tensor:
        """Mean map less its mean over places, shape (C, h, w)."""
        mean = self.moments.first / self.moments.images
        return (mean - mean.mean(1, keepdim=True)).unflatten(1, (self.height, self.width))

    @property
    def fold_maps(self) -> Tensor:
        """What each fold adds to the position map, shape (K, C, h, w); their mean is the map."""
        kept = [s for s, n in zip(self.folds, self.images, strict=True) if n]
        maps = torch.stack(kept) * (len(kept) / self.moments.images)
        return (maps - maps.mean(2, keepdim=True)).unflatten(2, (self.height, self.width))
