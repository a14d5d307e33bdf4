"""Closed forms: what an eraser takes out, from means and covariances alone."""

from __future__ import annotations

import math
from itertools import product

import torch
from torch import Tensor

FOLDS = 16
"""Folds of scenes whose mean maps tell position from chance."""

SIGNIFICANCE = 0.001
"""How often features without position may be taken to have some."""

TOLERANCE = 0.01
"""Covariance with a target in [0, 1] that is left; what ``concept-erasure`` leaves by default."""


def shrunk(covariance: Tensor, samples: int) -> Tensor:
    """Shrink a sample covariance (C, C) toward a multiple of the identity.

    References
    ----------
    Bodnar, Gupta, Parolya (2014), arXiv 1308.2608, eq. 2.5 to 2.7; what ``concept-erasure`` does.
    """
    size = len(covariance)
    level = covariance.trace() / size
    spread = covariance.square().sum() - size * level**2
    if not spread > 0:
        return covariance
    kept = (1 - covariance.trace() ** 2 / samples / spread).clamp(0, 1)
    eye = torch.eye(size, dtype=covariance.dtype, device=covariance.device)
    return kept * covariance + (1 - kept) * level * eye


def whitening(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``W = Σ^(-1/2)`` on the range of Σ (C, C), and its pseudoinverse."""
    values, vectors = torch.linalg.eigh(covariance)
    least = values[-1].clamp(min=0) * len(values) * torch.finfo(values.dtype).eps
    root = torch.where(values > least, values, 0.0).sqrt()
    inverse = torch.where(root > 0, 1 / root, 0.0)
    return (vectors * inverse) @ vectors.T, (vectors * root) @ vectors.T


def leace(covariance: Tensor, cross: Tensor, tolerance: float = TOLERANCE) -> tuple[Tensor, Tensor]:
    r"""Solve ``min E‖r(x) − x‖²`` over affine r whose values have no covariance with z.

    .. math:: r(x) = x - W^+ U U^T W (x - E x), \quad W = Σ^{-1/2}, \quad U = orth(W Σ_{xz})

    No linear readout of r(x) then beats a constant at any z. r is idempotent.

    Parameters
    ----------
    covariance : Tensor, shape (C, C)
        Of the features.
    cross : Tensor, shape (C, T)
        Covariance of features with what is erased.
    tolerance : float
        Directions whose covariance with it, of whitened features, is no greater are left.

    Returns
    -------
    left, right : Tensor, shapes (C, r) and (r, C)
        ``r(x) = x − left right (x − mean)``.

    References
    ----------
    Belrose et al. (2023), "LEACE: Perfect linear concept erasure in closed form",
    arXiv 2306.03819, theorem 4.3. Their code also bounds the trace; this does not.
    """
    white, coloured = whitening(covariance)
    directions, size, _ = torch.linalg.svd(white @ cross, full_matrices=False)
    basis = directions[:, size > tolerance]
    return coloured @ basis, basis.T @ white


def constant_directions(features: Tensor, share: float = 0.95, rank: int | None = None) -> Tensor:
    """Return the leading directions of the features of a constant image, orthonormal (C, r).

    Principal components over places.

    Parameters
    ----------
    features : Tensor, shape (C, P)
        Of one image.
    share : float
        As few as hold so much of the variance are taken.
    rank : int, optional
        How many, in place of that.
    """
    apart = features - features.mean(1, keepdim=True)
    left, size, _ = torch.linalg.svd(apart, full_matrices=False)
    energy = size**2
    if not energy.sum() > 1e-12 * features.square().sum():
        return left[:, :0]
    if rank is None:
        rank = int((energy.cumsum(0) < share * energy.sum()).sum()) + 1
    return left[:, : min(rank, int((size > 1e-6 * size[0]).sum()))]


def chance_of(folds: Tensor) -> float:
    """Probability that mean maps agree as well as these do where there is no position.

    Without position the mean maps of independent images, less their means over places, are as
    likely as their negatives. The statistic is the square of their sum; it is compared with those
    under all ``2^(K−1)`` choices of signs, which is exact for any dimensions and distribution.

    Parameters
    ----------
    folds : Tensor, shape (K, D)
        One map of each fold of images, flattened.

    Returns
    -------
    float
        At least ``2^(1−K)``; 1 for a single fold or where the sum is nothing.

    References
    ----------
    Fisher (1935), "The design of experiments", section 21: the randomisation test.
    """
    count = len(folds)
    gram = (folds @ folds.T).cpu()
    if count < 2 or not gram.sum() > 1e-10 * gram.trace():
        return 1.0
    signs = torch.tensor(list(product((1.0, -1.0), repeat=count - 1)), dtype=gram.dtype)
    signs = torch.cat([torch.ones(len(signs), 1, dtype=gram.dtype), signs], 1)
    sums = ((signs @ gram) * signs).sum(1)
    return float((sums >= sums[0] * (1 - 1e-9)).double().mean())


def is_position(chance: float, folds: int, significance: float | None = SIGNIFICANCE) -> bool:
    """Whether maps of so many folds are taken for position; without a significance, always.

    Of fewer than 12 folds the least probability there is counts as small enough.
    """
    return significance is None or chance <= max(significance, math.ldexp(1.0, 1 - folds))
