"""From moments to erasers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from torch import Tensor

from ..errors import ProbeError, one_of
from ..readouts.base import Values, as_features
from ..targets import TARGETS, layer_targets, read_targets
from .closed import (
    SIGNIFICANCE,
    chance_of,
    constant_directions,
    is_position,
    leace,
    shrunk,
    whitening,
)
from .eraser import Eraser, MeanEraser, ProjectEraser
from .moments import PositionMoments

HOWS: tuple[str, ...] = ("mean", "project", "constant")
"""Ways of erasing position, see :func:`probe.erase`."""


def mean_eraser(
    moments: PositionMoments, significance: float | None = SIGNIFICANCE, **layout: Any
) -> MeanEraser:
    """Return what subtracts the mean map, or nothing where that is no more than chance."""
    deviation = moments.covariance.diagonal().clamp(min=0).sqrt()
    scale = torch.where(deviation > 0, 1 / deviation, 0.0)[:, None, None]
    folds = (moments.fold_maps * scale).flatten(1)
    offset, chance = moments.position_map, chance_of(folds)
    if not is_position(chance, len(folds), significance):
        offset = torch.zeros_like(offset)
    eraser = MeanEraser(offset, **layout)
    flat = offset.flatten(1) * scale[:, 0]
    kept = float((offset**2).sum((1, 2)).sum() / offset[0].numel())
    rank = int(torch.linalg.matrix_rank(flat, rtol=1e-6))
    _describe(eraser, moments, rank, kept, chance)
    return eraser


def project_eraser(
    moments: PositionMoments,
    targets: Tensor,
    significance: float | None = SIGNIFICANCE,
    *,
    shrinkage: bool = True,
    reduce: Callable[[Tensor], Tensor] = lambda maps: maps,
    **layout: Any,
) -> ProjectEraser:
    """Return LEACE for targets (T, h', w'), at the places that ``reduce`` makes of maps.

    It is the identity where no target's covariance with the features is more than chance.
    """
    covariance = moments.covariance
    if shrinkage:
        covariance = shrunk(covariance, moments.samples)
    apart = targets.to(covariance).flatten(1)
    apart = (apart - apart.mean(1, keepdim=True)) / apart.shape[1]
    folds = reduce(moments.fold_maps).flatten(2) @ apart.T
    chance = chance_of((whitening(covariance)[0] @ folds).flatten(1))
    left, right = leace(covariance, folds.mean(0))
    if not is_position(chance, len(folds), significance):
        left, right = left[:, :0], right[:0]
    return _projection("project", moments, left, right, chance, **layout)


def constant_eraser(
    moments: PositionMoments, features: Tensor, rank: int | None = None, **layout: Any
) -> ProjectEraser:
    """Return what projects out the leading directions of a constant image's features (C, P)."""
    basis = constant_directions(features.to(moments.covariance), rank=rank)
    return _projection("constant", moments, basis, basis.T, 0.0 if basis.numel() else 1.0, **layout)


def _projection(
    how: str, moments: PositionMoments, left: Tensor, right: Tensor, chance: float, **layout: Any
) -> ProjectEraser:
    size = {"height": moments.height, "width": moments.width}
    eraser = ProjectEraser(left, right, moments.mean, **size, how=how, **layout)
    removed = right @ moments.covariance @ right.T
    _describe(eraser, moments, left.shape[1], float((left @ removed * left).sum()), chance)
    return eraser


def _describe(
    eraser: Eraser, moments: PositionMoments, rank: int, removed: float, chance: float
) -> None:
    total = float(moments.covariance.trace())
    eraser.record |= {
        "rank": rank,
        "share": removed / total if total > 0 else 0.0,
        "chance": chance,
        "images": moments.moments.images,
    }


class PositionEraser(TransformerMixin, BaseEstimator):
    """An eraser in the style of scikit-learn, for features at hand.

    Parameters
    ----------
    how : str
        ``mean`` or ``project``, see :func:`probe.erase`.
    targets : str or sequence of str
        What ``project`` erases.
    significance : float or None
        Features whose position is no more than chance at this level stay as they are; None takes
        whatever there is.
    shrinkage : bool
        Whether ``project`` shrinks the covariance, as ``concept-erasure`` does by default.

    Attributes
    ----------
    eraser_ : Eraser
        The module, once fitted.
    """

    def __init__(
        self,
        how: str = "project",
        targets: str | Sequence[str] = tuple(TARGETS),
        significance: float | None = SIGNIFICANCE,
        shrinkage: bool = True,
    ) -> None:
        self.how, self.targets = how, targets
        self.significance, self.shrinkage = significance, shrinkage

    def fit(self, features: Values, y: Any = None) -> Self:
        """Fit to features (N, C, h, w) of images that show no position of their own.

        Raises
        ------
        ProbeError
            If they have another shape, or ``how`` needs a network.
        """
        if one_of(self.how, HOWS, "how") == "constant":
            raise ProbeError("how='constant' needs a network to show a constant image: probe.erase")
        maps = as_features(features).detach()
        height, width = maps.shape[2:]
        moments = PositionMoments(height, width).update(maps, torch.arange(len(maps)))
        if self.how == "mean":
            self.eraser_: Eraser = mean_eraser(moments, self.significance)
            return self
        eyes = np.eye(height), np.eye(width)
        targets = list(read_targets(self.targets))
        truth = torch.from_numpy(layer_targets(targets, (height, width), *eyes))
        self.eraser_ = project_eraser(moments, truth, self.significance, shrinkage=self.shrinkage)
        self.eraser_.record["targets"] = targets
        return self

    def transform(self, features: Values) -> Any:
        """Return features (N, C, h, w) without position, of the kind that was given."""
        if not hasattr(self, "eraser_"):
            raise ProbeError("the eraser is not fitted: call fit first")
        maps = as_features(features)
        with torch.no_grad():
            cleaned = self.eraser_.to(maps.device)(maps)
        return cleaned if isinstance(features, Tensor) else cleaned.numpy()
