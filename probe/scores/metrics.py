"""Scores of a readout on each test image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

METRICS: tuple[str, ...] = ("spc", "mae", "r2")
"""Spearman correlation, mean absolute error, coefficient of determination."""

Array = NDArray[np.float64]


def spearman(predictions: Array, target: Array) -> Array:
    """Spearman correlation of each predicted map (..., P) with the target (P,), over places.

    The Pearson correlation of the ranks, ties at their mean rank. A prediction that is constant
    to within rounding (8 float32 epsilons of its greatest absolute value) scores 0: it orders no
    two places.

    References
    ----------
    Spearman (1904); as a score of position readouts: Islam, Jia, Bruce (2020), section 3.2.
    """
    ranks = stats.rankdata(predictions, axis=-1)
    ranks -= ranks.mean(-1, keepdims=True)
    wanted = stats.rankdata(target)
    wanted -= wanted.mean()
    norms = np.sqrt((ranks**2).sum(-1) * (wanted**2).sum())
    tolerance = 8 * np.finfo(np.float32).eps * np.abs(predictions).max(-1)
    constant = (np.ptp(predictions, axis=-1) <= tolerance) | (norms == 0)
    return np.where(constant, 0.0, ranks @ wanted / np.where(norms == 0, 1, norms))


def mean_absolute_error(predictions: Array, target: Array) -> Array:
    """Mean of ``|prediction − target|`` over places; shapes as in :func:`spearman`."""
    return np.abs(predictions - target).mean(-1)


def r_squared(predictions: Array, target: Array) -> Array:
    """``1 − Σ (prediction − target)² / Σ (target − mean target)²`` over places, at most 1.

    0 is what the mean of the target scores, and by definition any prediction of a target that is
    the same at every place; shapes as in :func:`spearman`.
    """
    total = ((target - target.mean()) ** 2).sum()
    residual = ((predictions - target) ** 2).sum(-1)
    return 1 - residual / total if total > 0 else np.zeros_like(residual)


def localisation_error(predictions: Array, truth: Array) -> Array:
    """Median Euclidean distance between predicted (..., 2, P) and true (2, P) place of each image.

    In the unit of the coordinates: in pixels of the input, the error is in pixels too.
    """
    return np.median(np.hypot(*np.moveaxis(predictions - truth, -2, 0)), axis=-1)


def per_image(predictions: Array, targets: Array) -> dict[str, Array]:
    """Score every test image, by metric (:data:`METRICS`) an array (N, T).

    ``predictions`` (N, T, P) are of N images and T targets, whose true maps are ``targets`` (T, P).
    """
    scores = {"spc": spearman, "mae": mean_absolute_error, "r2": r_squared}
    return {
        metric: np.stack([score(predictions[:, t], targets[t]) for t in range(len(targets))], 1)
        for metric, score in scores.items()
    }
