"""Scores of a readout on each test image, and their intervals over test images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

METRICS: tuple[str, ...] = ("spc", "mae", "r2")
"""Spearman correlation, mean absolute error, coefficient of determination."""

RESAMPLES = 2000

Array = NDArray[np.float64]


def spearman(predictions: Array, target: Array) -> Array:
    """Spearman correlation of each predicted map with the target, over places.

    The Pearson correlation of the ranks, ties at their mean rank. A prediction that is constant
    to within rounding (8 float32 epsilons of its greatest absolute value) scores 0: it orders no
    two places.

    Parameters
    ----------
    predictions : ndarray, shape (..., P)
        Maps, flattened to P places.
    target : ndarray, shape (P,)
        The true map.

    Returns
    -------
    ndarray, shape (...), in [-1, 1]

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

    0 is what the mean of the target scores; shapes as in :func:`spearman`.
    """
    total = ((target - target.mean()) ** 2).sum()
    residual = ((predictions - target) ** 2).sum(-1)
    return 1 - residual / total if total > 0 else np.where(residual > 0, -np.inf, 0.0)


def per_image(predictions: Array, targets: Array) -> dict[str, Array]:
    """Score every test image.

    Parameters
    ----------
    predictions : ndarray, shape (N, T, P)
        Of N images and T targets.
    targets : ndarray, shape (T, P)
        The true maps.

    Returns
    -------
    dict of str to ndarray, shape (N, T)
        By metric, see :data:`METRICS`.
    """
    scores = {"spc": spearman, "mae": mean_absolute_error, "r2": r_squared}
    return {
        metric: np.stack([score(predictions[:, t], targets[t]) for t in range(len(targets))], 1)
        for metric, score in scores.items()
    }


def bootstrap_interval(
    values: Array,
    seed: int = 0,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    scene: int = 1,
) -> tuple[Array, Array]:
    r"""Bootstrap interval of the mean over images.

    Percentiles of the means of ``resamples`` resamples of the N images, the percentiles widened
    for small N: instead of α/2 is taken :math:`Φ(-\sqrt{N/(N-1)}\, t_{1-α/2, N-1})`.

    Where several images show one scene, whole scenes are resampled as well, and the wider bound
    on each side is kept. Neither likeness nor antithesis within a scene makes it too narrow;
    where the images of a scene cancel, as for a network without position, it is conservative:
    there it covers the mean more often than ``level``, and the mean itself, of about a third of
    the noise of as many independent images, is the sharper evidence.

    Parameters
    ----------
    values : ndarray, shape (N, ...)
        Scores by image. All columns share the resamples.
    seed : int
        Seed of the resamples.
    level : float
        Nominal coverage, in (0, 1).
    resamples : int
        How many.
    scene : int
        How many consecutive images show the same scene.

    Returns
    -------
    low, high : ndarray, shape (...)
        NaN for N = 1, which says nothing of the spread over images.

    References
    ----------
    Hesterberg (2015), "What teachers should know about the bootstrap", The American Statistician
    69(4), section 3.3: the expanded percentile interval. Davison, Hinkley (1997), "Bootstrap
    methods and their application", section 3.8, for resampling groups.
    """
    n = len(values)
    flat = values.reshape(n, -1)
    middle = flat.mean(0)
    low, high = np.full_like(middle, np.nan), np.full_like(middle, np.nan)
    for size in dict.fromkeys((1, scene)):
        starts = np.arange(0, n, size)
        groups = len(starts)
        if groups < 2:
            continue
        rng = np.random.Generator(np.random.Philox(key=[seed % 2**64, 2**62 + size]))
        counts = rng.multinomial(groups, np.full(groups, 1 / groups), size=resamples)
        sums = np.add.reduceat(flat - middle, starts)
        images = counts @ np.diff(starts, append=n)
        means = (counts @ sums) / images[:, None] + middle
        t = stats.t.ppf((1 + level) / 2, groups - 1)
        tail = stats.norm.cdf(-np.sqrt(groups / (groups - 1)) * t)
        bounds = np.quantile(means, [tail, 1 - tail], axis=0)
        low, high = np.fmin(low, bounds[0]), np.fmax(high, bounds[1])
    return low.reshape(values.shape[1:]), high.reshape(values.shape[1:])
