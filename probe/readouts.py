r"""Readouts: heads that predict position targets from a layer's features.

The ridge readout is solved in closed form from position moments. With standardised features
:math:`z` (mean 0, variance 1 by channel), correlation matrix :math:`R = E[z z^T]` and
:math:`c = E[z (t - \bar t)]`,

.. math:: v = (R + α I)^{-1} c,

the minimiser of :math:`E[(v^T z + \bar t - t)^2] + α \|v\|^2`, means being taken over images and
places. α is chosen for each target by cross-validation over folds of images; the held-out error
of a fold follows from that fold's own moments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .moments import Moments, centred, symmetric

ALPHAS: tuple[float, ...] = (1e-4, 1e-2, 1.0, 1e2)
"""Regularisation values that cross-validation chooses from, per standardised sample.

The held-out error is flat in log α: with nine values, 1e-5 … 1e3, no SPC of the reference network
changes by more than 0.002.
"""

_START = 1  # where the search over ALPHAS begins


@dataclass(frozen=True)
class Readout:
    """A linear map from features to targets, the same at every place.

    ``prediction_t(p) = weights_t · (f(p) − origin) + intercept_t``

    Attributes
    ----------
    origin : Tensor, shape (C,)
    weights : Tensor of float64, shape (T, C)
    intercept : Tensor of float64, shape (T,)
    alphas : Tensor of float64, shape (T,)
        The regularisation of each target.
    """

    origin: Tensor
    weights: Tensor
    intercept: Tensor
    alphas: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Predict the targets of a batch.

        Parameters
        ----------
        features : Tensor, shape (B, C, h, w)
            Reduced as those that it was fitted to.

        Returns
        -------
        Tensor of float64, shape (B, T, h · w)
        """
        samples = centred(features, self.origin)
        # Constant targets have all weights 0: their scale is left alone.
        scale = self.weights.abs().amax(1).clamp_min(torch.finfo(torch.float64).tiny)
        unit = (self.weights / scale[:, None]).to(samples.dtype)
        values = (samples @ unit.T).to(torch.float64) * scale + self.intercept
        return values.transpose(1, 2)


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
) -> Readout:
    """Fit a ridge readout for each target, its regularisation chosen by cross-validation.

    The search starts at α = 0.01 and walks downhill along ``alphas`` to the nearest minimum of
    the held-out error. Channels without variance (standard deviation ≤ 1e-5 of the mean, or
    ≤ 1e-6 of the layer's root mean square) get weight 0.

    Parameters
    ----------
    folds : sequence of Moments
        Of disjoint folds of images. One fold alone leaves nothing to validate on: then the
        largest α is taken.
    targets : Tensor of float64, shape (T, P)
        One row for each target.
    alphas : sequence of float
        In increasing order.

    Returns
    -------
    Readout

    References
    ----------
    Hoerl, Kennard (1970), "Ridge regression", Technometrics 12; Stone (1974), "Cross-validatory
    choice and assessment of statistical predictions", JRSS B 36.
    """
    total = folds[0]
    for fold in folds[1:]:
        total = total + fold
    targets = targets.to(total.first)
    whole = Statistics.of(total, targets)
    scale = _standardisation(whole, total.origin)
    whole = _scaled(whole, scale)
    chosen = torch.full((len(targets),), alphas[-1], dtype=torch.float64)
    if len(folds) > 1:
        chosen = _cross_validate(folds, total, targets, scale, alphas)
    standard = whole.cross.new_zeros(len(targets), len(scale))
    for alpha in chosen.unique().tolist():
        mine = (chosen == alpha).to(targets.device)
        solved, _ = solve_ridge(whole.covariance, whole.cross[:, mine], alpha)
        standard[mine] = solved.T
    weights = standard * scale
    intercept = targets.mean(1) - weights @ whole_mean(total)
    return Readout(total.origin, weights, intercept, chosen)


def solve_ridge(covariance: Tensor, cross: Tensor, alpha: float) -> tuple[Tensor, bool]:
    """Solve ``(R + α I) v = c`` for every column of c by Cholesky decomposition.

    Parameters
    ----------
    covariance : Tensor, shape (C, C)
        R; only its lower triangle is read.
    cross : Tensor, shape (C, T)
        c.
    alpha : float
        α ≥ 0.

    Returns
    -------
    Tensor, shape (C, T)
        v, and whether ``R + α I`` was positive definite; if not, v is 0.
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
