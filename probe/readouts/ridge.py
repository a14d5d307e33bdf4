"""Ridge regression from position moments, regularised by cross-validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from ..errors import ProbeError
from .base import (
    FOLDS,
    Readout,
    Values,
    as_features,
    as_given,
    as_targets,
    check_fitted,
    check_memory,
    check_seen,
    choose_alphas,
    with_controls,
)
from .moments import Moments, centred, pilot_origin, symmetric

ALPHAS: tuple[float, ...] = (1e-4, 1e-2, 1.0, 1e2)
"""Regularisation values that cross-validation chooses from, per standardised sample.

The held-out error is flat in log α: with nine values, 1e-5 … 1e3, no SPC of the reference network
changes by more than 0.002.
"""

_PARTS = ("origin", "weights", "intercept", "alphas")

_START = 1  # where the search over ALPHAS begins


class Ridge(Readout):
    """Linear readout of each place, or of its 3 × 3 neighbourhood, in closed form.

    Parameters
    ----------
    kernel : int
        1: from a place's features. 3: from those of its neighbourhood, without padding.
    alphas : sequence of float
        Cross-validation over folds chooses one for each target.

    Attributes
    ----------
    moments : dict of int to Moments
        Of each fold; empty once solved.
    map : LinearMap
        The solution, see :func:`fit_ridge`.

    Examples
    --------
    >>> readout = Ridge(kernel=3).fit(features, targets)  # (N, C, h, w), (T, h − 2, w − 2)
    >>> readout.predict(features)  # (N, T, h − 2, w − 2)
    """

    name = "ridge"
    kernels = (1, 3)

    def __init__(self, kernel: int = 1, alphas: Sequence[float] = ALPHAS) -> None:
        if kernel not in (1, 3):
            raise ProbeError(f"kernel: expected 1 or 3, got {kernel!r}")
        self.kernel = kernel
        self.alphas = choose_alphas(alphas)
        self.reset()

    def reset(self) -> Self:
        self.moments: dict[int, Moments] = {}
        self.map: LinearMap | None = None
        self._origin: Tensor | None = None
        return self

    @property
    def needs_sums(self) -> bool:
        return self.kernel != 1  # moments of single places hold these sums

    @classmethod
    def describe(cls, kernel: int = 1) -> str:
        seeing = ", seeing its neighbourhood of 3 × 3" if kernel == 3 else ""
        return (
            f"A readout is linear and the same at every place{seeing}, so that it can only read "
            "position which the features carry themselves. It is fitted in closed form to the "
            "moments of the training images' features, its regularisation chosen by "
            "cross-validation over folds of images,"
        )

    def bytes_held(self, channels: int, places: int, images: int) -> int:
        size = channels * self.kernel**2
        return 8 * FOLDS * size * (size + places)

    def chosen_alphas(self) -> list[float]:
        return check_fitted(self.map).alphas.tolist()

    def check(self, channels: int, height: int, width: int, device: torch.device) -> None:
        super().check(channels, height, width, device)
        size = channels * self.kernel**2
        check_memory(
            8 * size * (2 * (FOLDS + 2) * size + FOLDS * height * width),
            device,
            f"a ridge readout of {size:,} dimensions ({channels:,} channels, kernel {self.kernel})",
            "choose kernel 1, fewer layers, or the readout posenet",
        )

    def partial_fit(self, features: Values, fold: int = 0) -> Self:
        features = as_features(features)
        height, width = self.places(*features.shape[2:])
        if self._origin is None:
            channels, rows, columns = features.shape[1:]
            self.check(channels, rows, columns, features.device)
            self._origin, self._shape = pilot_origin(features), features.shape[1:]
        as_given(features, self._shape)
        if fold not in self.moments:
            self.moments[fold] = Moments.empty(self._origin, height * width, self.kernel)
        self.moments[fold].update(features)
        self._size = height, width
        return self

    def solve(self, targets: Values, order: ArrayLike | None = None) -> Self:
        folds = check_seen([self.moments[fold] for fold in sorted(self.moments)])
        wanted = with_controls(as_targets(targets, self._size), order)
        self.map = fit_ridge(folds, wanted.flatten(1), self.alphas)
        self.moments = {}
        return self

    def kept(self, targets: int) -> Self:
        linear = check_fitted(self.map)
        kept = type(self)(**self.get_params())
        kept.map = LinearMap(
            linear.origin.cpu(),
            linear.weights[:targets].cpu(),
            linear.intercept[:targets].cpu(),
            linear.alphas[:targets].cpu(),
            linear.kernel,
        )
        return kept

    def arrays(self) -> dict[str, np.ndarray]:
        linear = check_fitted(self.map)
        return {name: np.asarray(getattr(linear, name)) for name in _PARTS} | {
            "kernel": np.array(self.kernel)
        }

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        readout = cls(int(arrays["kernel"]))
        parts = {name: torch.from_numpy(arrays[name]) for name in _PARTS}
        readout.map = LinearMap(**parts, kernel=readout.kernel)
        return readout

    def predict(self, features: Values) -> Tensor:
        linear, features = check_fitted(self.map), as_features(features)
        return linear(features).unflatten(2, self.places(*features.shape[2:]))


@dataclass(frozen=True)
class LinearMap:
    """A linear map from features to targets, the same at every place.

    ``prediction_t(p) = weights_t · (f(p) − origin) + intercept_t``

    Attributes
    ----------
    origin : Tensor, shape (D,)
    weights : Tensor of float64, shape (T, D)
    intercept, alphas : Tensor of float64, shape (T,)
    kernel : int
        1, or 3 for neighbourhoods: D = 9 C, see :class:`~probe.moments.Moments`.
    """

    origin: Tensor
    weights: Tensor
    intercept: Tensor
    alphas: Tensor
    kernel: int = 1

    def __call__(self, features: Tensor) -> Tensor:
        """Predict the targets of features (B, C, h, w): float64, shape (B, T, P)."""
        channels = features.shape[1]
        # Constant targets have all weights 0: their scale is left alone.
        scale = self.weights.abs().amax(1).clamp_min(torch.finfo(torch.float64).tiny)
        unit = (self.weights / scale[:, None]).to(features.dtype)
        samples = centred(features, self.origin[:channels])
        if self.kernel == 1:
            values = (samples @ unit.T).transpose(1, 2)
        else:
            # Each cell's share in each neighbourhood it belongs to, then summed: 9 T maps.
            k = self.kernel
            height, width = features.shape[2:]
            parts = unit.unflatten(1, (k * k, channels)).flatten(0, 1)
            shares = (samples @ parts.T).transpose(1, 2)
            shares = shares.reshape(len(features), len(unit), k, k, height, width)
            rows, columns = height - k + 1, width - k + 1
            values = sum(
                shares[:, :, y, x, y : y + rows, x : x + columns]
                for y, x in product(range(k), repeat=2)
            ).flatten(2)
        return values.to(torch.float64) * scale[:, None] + self.intercept[:, None]


@dataclass(frozen=True)
class Statistics:
    """Means and covariances over images and places, of features and targets.

    Attributes
    ----------
    mean : Tensor, shape (C,)
        Of the features, about the moments' origin.
    covariance : Tensor, shape (C, C)
        Of the features; the lower triangle counts.
    cross : Tensor, shape (C, T)
        Covariance of features and targets.
    """

    mean: Tensor
    covariance: Tensor
    cross: Tensor

    @classmethod
    def of(cls, moments: Moments, targets: Tensor) -> Statistics:
        """Compute them from moments and targets of shape (T, P)."""
        mean = whole_mean(moments)
        second = moments.second / (moments.images * moments.places)
        return cls(mean, second.addr_(mean, mean, alpha=-1), _cross(moments, targets))


def fit_ridge(
    folds: Sequence[Moments], targets: Tensor, alphas: Sequence[float] = ALPHAS
) -> LinearMap:
    """Fit a ridge readout to targets (T, P), regularised for each by cross-validation over folds.

    The search starts at the second of ``alphas`` (0.01 by default) and walks downhill along them to
    the nearest minimum of the held-out error; one fold alone leaves nothing to validate on, and the
    largest is taken. Channels without variance (standard deviation ≤ 1e-5 of the mean, or ≤ 1e-6 of
    the layer's root mean square) get weight 0.

    References
    ----------
    Hoerl, Kennard (1970), "Ridge regression", Technometrics 12; Stone (1974), "Cross-validatory
    choice and assessment of statistical predictions", JRSS B 36.
    """
    alphas = sorted(alphas)
    total = sum(folds[1:], folds[0])
    targets = targets.to(total.first)
    whole = Statistics.of(total, targets)
    scale = _standardisation(whole, total.origin)
    whole = _scaled(whole, scale)
    chosen = torch.full((len(targets),), alphas[-1], dtype=torch.float64)
    if len(folds) > 1:
        chosen = _cross_validate(folds, total, targets, scale, alphas)
    standard = whole.cross.new_zeros(len(targets), len(scale))
    for alpha in chosen.unique().tolist():
        chose = (chosen == alpha).to(targets.device)
        solved, _ = solve_ridge(whole.covariance, whole.cross[:, chose], alpha)
        standard[chose] = solved.T
    weights = standard * scale
    intercept = targets.mean(1) - weights @ whole_mean(total)
    return LinearMap(total.origin, weights, intercept, chosen, total.kernel)


def solve_ridge(covariance: Tensor, cross: Tensor, alpha: float) -> tuple[Tensor, bool]:
    """Solve ``(R + α I) v = c`` for every column of c by Cholesky decomposition.

    Only the lower triangle of R (C, C) is read; c and v are of shape (C, T). Returns also whether
    ``R + α I`` was positive definite; if not, v is 0.
    """
    diagonal = covariance.diagonal()
    before = diagonal.clone()
    try:
        diagonal.add_(alpha)
        factor, fault = torch.linalg.cholesky_ex(covariance)
    finally:
        diagonal.copy_(before)
    if int(fault):
        return torch.zeros_like(cross), False
    return torch.cholesky_solve(cross, factor), True


def whole_mean(moments: Moments) -> Tensor:
    """Mean feature over images and places, about the moments' origin, shape (C,)."""
    return moments.first.sum(1) / (moments.images * moments.places)


def _cross(moments: Moments, targets: Tensor) -> Tensor:
    """Covariance of features and targets, shape (C, T)."""
    centred_targets = targets - targets.mean(1, keepdim=True)
    return moments.first @ centred_targets.T / (moments.images * moments.places)


def _standardisation(statistics: Statistics, origin: Tensor) -> Tensor:
    """One over the standard deviation of each channel; 0 where there is none to speak of."""
    variance = statistics.covariance.diagonal().clamp_min(0)
    deviation = variance.sqrt()
    mean = statistics.mean + origin.to(torch.float64)
    rms = (variance + mean**2).mean().sqrt()
    alive = (deviation > 1e-5 * mean.abs()) & (deviation > 1e-6 * rms)
    return torch.where(alive, 1 / torch.where(alive, deviation, 1.0), 0.0)


def _scaled(statistics: Statistics, scale: Tensor) -> Statistics:
    """Standardise the features; the covariance, a large matrix, is scaled in place."""
    return Statistics(
        statistics.mean * scale,
        statistics.covariance.mul_(scale).mul_(scale[:, None]),
        statistics.cross * scale[:, None],
    )


def _cross_validate(
    folds: Sequence[Moments],
    total: Moments,
    targets: Tensor,
    scale: Tensor,
    alphas: Sequence[float],
) -> Tensor:
    # About the moments' origin o, with standardised z: E[z zᵀ] over all images, and for each fold
    # the covariance of the others. E over a fold is what the others leave of E over all.
    whole = symmetric(total.second) * scale * scale[:, None] / (total.images * total.places)
    splits = []
    for fold in folds:
        train = _scaled(Statistics.of(total - fold, targets), scale)
        share = fold.images / total.images
        held_out_mean = whole_mean(fold) * scale
        held_out_cross = _cross(fold, targets) * scale[:, None]
        splits.append((train, share, held_out_mean, held_out_cross))
    errors: dict[int, Tensor] = {}

    def error(place: int) -> Tensor:
        """Held-out mean squared error of each target, less the target's variance."""
        if place not in errors:
            sums = torch.zeros(len(targets), dtype=torch.float64)
            for train, share, held_out_mean, held_out_cross in splits:
                v, definite = solve_ridge(train.covariance, train.cross, alphas[place])
                if not definite:
                    sums += torch.inf
                    continue
                inside = train.mean @ v
                # R v = c − α v, so that vᵀ R v needs no second pass over R.
                explained = (v * (train.cross - alphas[place] * v)).sum(0)
                all_images = (v * (whole @ v)).sum(0)
                square = (all_images - (1 - share) * (explained + inside**2)) / share
                square = square - 2 * inside * (held_out_mean @ v) + inside**2
                sums += (share * (square - 2 * (v * held_out_cross).sum(0))).cpu()
            errors[place] = sums
        return errors[place]

    chosen = []
    for target in range(len(targets)):
        place = min(_START, len(alphas) - 1)
        while True:
            near = [p for p in (place + 1, place, place - 1) if 0 <= p < len(alphas)]
            best = min(near, key=lambda p: float(error(p)[target]))
            if best == place:
                break
            place = best
        chosen.append(alphas[place])
    return torch.tensor(chosen, dtype=torch.float64)
