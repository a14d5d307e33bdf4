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

from .moments import Moments, centred

ALPHAS: tuple[float, ...] = tuple(10.0**k for k in range(-5, 4))
"""Regularisation values that cross-validation chooses from, per standardised sample."""

_START = 3  # where the search over ALPHAS begins: 10⁻²


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
        count = moments.images * moments.places
        mean = moments.first.sum(1) / count
        centred_targets = targets - targets.mean(1, keepdim=True)
        return cls(
            mean,
            torch.addr(moments.second / count, mean, mean, alpha=-1),
            moments.first @ centred_targets.T / count,
        )


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
    shifted = covariance.clone()
    shifted.diagonal().add_(alpha)
    factor, fault = torch.linalg.cholesky_ex(shifted)
    if int(fault):
        return torch.zeros_like(cross), False
    return torch.cholesky_solve(cross, factor), True


def whole_mean(moments: Moments) -> Tensor:
    """Mean feature over images and places, about the moments' origin, shape (C,)."""
    return moments.first.sum(1) / (moments.images * moments.places)


def _standardisation(statistics: Statistics, origin: Tensor) -> Tensor:
    """One over the standard deviation of each channel; 0 where there is none to speak of."""
    variance = statistics.covariance.diagonal().clamp_min(0)
    deviation = variance.sqrt()
    mean = statistics.mean + origin.to(torch.float64)
    rms = (variance + mean**2).mean().sqrt()
    alive = (deviation > 1e-5 * mean.abs()) & (deviation > 1e-6 * rms)
    return torch.where(alive, 1 / torch.where(alive, deviation, 1.0), 0.0)


def _scaled(statistics: Statistics, scale: Tensor) -> Statistics:
    return Statistics(
        statistics.mean * scale,
        statistics.covariance * scale * scale[:, None],
        statistics.cross * scale[:, None],
    )


def _cross_validate(
    folds: Sequence[Moments],
    total: Moments,
    targets: Tensor,
    scale: Tensor,
    alphas: Sequence[float],
) -> Tensor:
    pairs = []
    for fold in folds:
        train = _scaled(Statistics.of(total - fold, targets), scale)
        pairs.append((train, _scaled(Statistics.of(fold, targets), scale), fold.images))
    errors: dict[int, Tensor] = {}

    def error(place: int) -> Tensor:
        """Held-out mean squared error of each target, less the target's variance."""
        if place not in errors:
            sums = torch.zeros(len(targets), dtype=torch.float64)
            for train, held_out, images in pairs:
                v, definite = solve_ridge(train.covariance, train.cross, alphas[place])
                if not definite:
                    sums += torch.inf
                    continue
                offset = (held_out.mean - train.mean) @ v
                quadratic = (v * _symmetric_product(held_out.covariance, v)).sum(0)
                linear = (v * held_out.cross).sum(0)
                sums += images * (quadratic + offset**2 - 2 * linear).cpu()
            errors[place] = sums / total.images
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


def _symmetric_product(lower: Tensor, v: Tensor) -> Tensor:
    """Product of a symmetric matrix, of which the lower triangle is given, with v (C, T)."""
    triangle = lower.tril()
    return triangle @ v + triangle.T @ v - lower.diagonal()[:, None] * v
