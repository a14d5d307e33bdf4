"""Bootstrap intervals over scenes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from .metrics import Array

RESAMPLES = 2000

_FEW = 8  # scenes below which percentiles of resampled means say too little
_FEW_AT_ONCE = 24  # and below which the largest of many does: its tails are too short


def bootstrap_interval(
    values: Array,
    seed: int = 0,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    scenes: NDArray[np.int64] | None = None,
) -> tuple[Array, Array]:
    r"""Bootstrap interval of the mean over images, whole scenes being resampled.

    Percentiles of the means of ``resamples`` resamples of the n scenes, the percentiles widened
    for small n: instead of α/2 is taken :math:`Φ(-\sqrt{n/(n-1)}\, t_{1-α/2, n-1})`. Of fewer
    than 8 scenes the percentiles are those of Student's distribution, with the scenes' standard
    error.

    Images of one scene are not independent: shifted copies cancel part of one another's noise,
    crops of one photograph repeat it. Scenes are, so that intervals over them cover the mean as
    often as ``level`` says; ``probe calibrate`` measures it.

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
    scenes : ndarray of int, shape (N,), optional
        Number of the scene that each image shows; by default each shows one of its own.

    Returns
    -------
    low, high : ndarray, shape (...)
        NaN for one scene, which says nothing of the spread over scenes.

    References
    ----------
    Hesterberg (2015), "What teachers should know about the bootstrap", The American Statistician
    69(4), section 3.3: the expanded percentile interval. Davison, Hinkley (1997), "Bootstrap
    methods and their application", section 3.8, for resampling groups.
    """
    flat = values.reshape(len(values), -1)
    sums, sizes = _by_scene(flat - flat.mean(0), scenes)
    shape, middle = values.shape[1:], flat.mean(0)
    n = len(sizes)
    if n < 2:
        return np.full(shape, np.nan), np.full(shape, np.nan)
    if n < _FEW:
        error = np.sqrt((sums**2).sum(0) * n / (n - 1)) / sizes.sum()
        half = stats.t.ppf((1 + level) / 2, n - 1) * error
        return _bound(middle - half, shape), _bound(middle + half, shape)
    counts = _resamples(n, seed, resamples)
    means = (counts @ sums) / (counts @ sizes)[:, None] + middle
    low, high = np.quantile(means, _percentiles(n, level), axis=0)
    return _bound(low, shape), _bound(high, shape)


def simultaneous_interval(
    values: Array,
    seed: int = 0,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    scenes: NDArray[np.int64] | None = None,
) -> tuple[Array, Array]:
    r"""Bootstrap intervals of several means that all hold at once with probability ``level``.

    They are :math:`m_k ± c\, s_k`: :math:`s_k` is the standard deviation of column k over the
    resamples of :func:`bootstrap_interval`, and c the critical value of
    :math:`\max_k |m^*_k - m_k| / s_k` over them, widened for few scenes like the percentiles there.
    Whoever reports the greatest of K scores, or counts the intervals that exclude 0, needs these:
    of 60 intervals of 95 % each, three exclude a true 0 by chance. Of fewer than 24 scenes they
    are Student's, at Šidák's level :math:`1 - \mathrm{level}^{1/K}` each.

    Parameters
    ----------
    values : ndarray, shape (N, K)
        Scores by image. All columns share the resamples.
    seed, level, resamples, scenes
        See :func:`bootstrap_interval`.

    Returns
    -------
    low, high : ndarray, shape (K,)
        NaN for one scene.

    References
    ----------
    Davison, Hinkley (1997), "Bootstrap methods and their application", section 4.2.4; Romano, Wolf
    (2005), "Exact and approximate stepdown methods for multiple hypothesis testing", JASA 100.
    """
    middle = values.mean(0)
    sums, sizes = _by_scene(values - middle, scenes)
    n, columns = len(sizes), values.shape[1]
    if n < 2:
        return np.full(columns, np.nan), np.full(columns, np.nan)
    if n < _FEW_AT_ONCE:
        spread = np.sqrt((sums**2).sum(0) * n / (n - 1)) / sizes.sum()
        critical = stats.t.ppf((1 + level ** (1 / columns)) / 2, n - 1)
    else:
        counts = _resamples(n, seed, resamples)
        means = (counts @ sums) / (counts @ sizes)[:, None]
        spread = means.std(0)
        apart = np.abs(means) / np.where(spread > 0, spread, np.inf)
        critical = np.quantile(apart.max(1), level)
        share = 1 - stats.norm.cdf(critical)
        critical = np.sqrt(n / (n - 1)) * stats.t.ppf(1 - share, n - 1)
    half = critical * spread
    return _bound(middle - half, (columns,)), _bound(middle + half, (columns,))


def bootstrap_share(
    part: Array,
    whole: Array,
    seed: int = 0,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    scenes: NDArray[np.int64] | None = None,
) -> tuple[Array, Array, Array]:
    """Ratio of two means over the same images, with its bootstrap interval.

    Parameters
    ----------
    part, whole : ndarray, shape (N, ...)
        By image; the share is ``mean part / mean whole``.
    seed, level, resamples, scenes
        See :func:`bootstrap_interval`.

    Returns
    -------
    share, low, high : ndarray, shape (...)
        The bounds are NaN for fewer than 8 scenes. Where the whole is not clearly above 0, none of
        them means anything.
    """
    shape = part.shape[1:]
    flat = [values.reshape(len(values), -1) for values in (part, whole)]
    with np.errstate(divide="ignore", invalid="ignore"):
        share = flat[0].mean(0) / flat[1].mean(0)
        (parts, sizes), (wholes, _) = (_by_scene(values, scenes) for values in flat)
        n = len(sizes)
        low = high = np.full(share.shape, np.nan)
        if n >= _FEW:
            counts = _resamples(n, seed, resamples)
            ratios = (counts @ parts) / (counts @ wholes)
            low, high = np.quantile(ratios, _percentiles(n, level), axis=0)
    return share.reshape(shape), low.reshape(shape), high.reshape(shape)


def _bound(values: Array, shape: tuple[int, ...]) -> Array:
    # Where shifted copies of a scene cancel exactly, rounding must not exclude 0.
    return np.round(values, 12).reshape(shape)


def _by_scene(values: Array, scenes: NDArray[np.int64] | None) -> tuple[Array, NDArray[np.int64]]:
    """Sums (n, K) of values (N, K) over the images of each scene, and how many these are."""
    if scenes is None:
        return values, np.ones(len(values), np.int64)
    _, member = np.unique(scenes, return_inverse=True)
    sums = np.zeros((member.max() + 1, values.shape[1]))
    np.add.at(sums, member, values)
    return sums, np.bincount(member)


def _resamples(n: int, seed: int, resamples: int) -> NDArray[np.int64]:
    """How often each of n scenes is drawn in each resample, shape (resamples, n)."""
    rng = np.random.Generator(np.random.Philox(key=[seed % 2**64, 2**62]))
    return rng.multinomial(n, np.full(n, 1 / n), size=resamples)


def _percentiles(n: int, level: float) -> tuple[float, float]:
    t = stats.t.ppf((1 + level) / 2, n - 1)
    tail = float(stats.norm.cdf(-np.sqrt(n / (n - 1)) * t))
    return tail, 1 - tail
