r"""Planted truth: synthetic features of known position information, to calibrate the pipeline by.

At place p of image i the C channels carry a target t behind gaussian noise,

.. math::
    f_i(p) = o + S \, (s \, a \, \tilde t(p) + ε_i(p)), \qquad
    \tilde t = t - \bar t, \qquad ε_i(p) \sim N(0, Σ),

with a unit vector a, offsets o and scales S (a diagonal) drawn at random, which a readout that
standardises its features should not notice. With :math:`\mathrm{var}(t)` the variance of t over
places, the signal-to-noise ratio of the best direction is
:math:`λ = s^2 \, \mathrm{var}(t) \, a^T Σ^{-1} a`. The covariance of the features over images and
places is :math:`K = Σ + s^2 \mathrm{var}(t) \, a a^T` (but for S), that of features and target
:math:`c = s \, \mathrm{var}(t) \, a`. The squared multiple correlation, the R² of the best linear
readout, follows by the formula of Sherman and Morrison for :math:`K^{-1}`:

.. math::
    R^2 = \frac{c^T K^{-1} c}{\mathrm{var}(t)}
        = s^2 \mathrm{var}(t) \left( a^T Σ^{-1} a
          - \frac{s^2 \mathrm{var}(t) (a^T Σ^{-1} a)^2}{1 + λ} \right)
        = λ - \frac{λ^2}{1 + λ} = \frac{λ}{1 + λ}.

It is also the expected R² of one image: that readout's squared error, averaged over the places of
an image, has the expectation :math:`\mathrm{var}(t) / (1 + λ)`.

References
----------
Anderson (2003), "An introduction to multivariate statistical analysis", 3rd edition, sections
2.5 (multiple correlation), 3.3 (mean and covariance of a normal sample are independent) and 7.2
(Wishart distribution and Bartlett's decomposition). Sherman, Morrison (1950), "Adjustment of an
inverse matrix corresponding to a change in one element of a given matrix", Annals of Mathematical
Statistics 21.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.signal import lfilter
from torch import Tensor
from tqdm.auto import tqdm

from .errors import ProbeError, one_of, whole_number
from .moments import Moments
from .readouts import FOLDS, LinearMap, Ridge, fit_ridge
from .scores import bootstrap_interval, r_squared
from .targets import TARGETS, target_map

Array = NDArray[np.float64]

CHANNELS: tuple[int, ...] = (8, 32, 128, 512, 2048)
SNRS: tuple[float, ...] = (1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3)

_STREAMS = ("truth", "moments", "train", "test")
_LOSS = 0.05  # of the interval's half width: what a finite training set may cost
_BLOCK = 256  # rows of moments whose products are taken at once
_BATCH = 2**22  # values of features made at once


@dataclass(frozen=True)
class Planted:
    r"""Features of one target at a known signal-to-noise ratio; see the module's text.

    Attributes
    ----------
    channels : int
        Number C of channels.
    snr : float
        λ > 0.
    target : str
        Which target is planted, one of :data:`probe.TARGETS`.
    size : (int, int)
        Height h and width w of the features.
    correlation : float
        ρ in [0, 1): noise of channels c and d correlates with :math:`Σ_{cd} = ρ^{|c - d|}`.
    seed : int
        Of the direction a, offsets, scales and noise.

    Raises
    ------
    ProbeError
        If one of them is not what it should be, or the target the same at every place.
    """

    channels: int
    snr: float
    target: str = "gaussian"
    size: tuple[int, int] = (7, 7)
    correlation: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        whole_number(self.channels, "channels", 1)
        whole_number(self.seed, "seed", 0)
        _positive(self.snr, "snr")
        one_of(self.target, TARGETS, "target")
        if not isinstance(self.size, Sequence) or len(self.size) != 2:
            raise ProbeError(f"size: expected (height, width), got {self.size!r}")
        for side in self.size:
            whole_number(side, "size", 1)
        if not 0 <= self.correlation < 1:
            raise ProbeError(
                f"correlation: expected a number from 0 up to but not 1, got {self.correlation!r}"
            )
        if np.ptp(self.map) == 0:
            raise ProbeError(
                f"the target {self.target} is the same at every one of {self.size[0]} × "
                f"{self.size[1]} places, and leaves nothing to plant: choose a larger size"
            )

    @property
    def attainable(self) -> float:
        """R² of the best linear readout, ``λ / (1 + λ)``."""
        return self.snr / (1 + self.snr)

    @property
    def places(self) -> int:
        """Number P of places."""
        return self.size[0] * self.size[1]

    @cached_property
    def map(self) -> Array:
        """The target t, shape (h, w)."""
        return target_map(self.target, *self.size)

    def features(self, split: str, start: int, stop: int) -> Tensor:
        """Return the features of images ``start … stop − 1`` of a split.

        Parameters
        ----------
        split : str
            ``train`` or ``test``: streams of images that have none in common.
        start, stop : int
            First image, and the one after the last. Each is the same in any range.

        Returns
        -------
        Tensor of float32, shape (stop − start, C, h, w)
        """
        one_of(split, _STREAMS[2:], "split")
        out = np.empty((stop - start, self.channels, self.places), np.float32)
        for row, image in enumerate(range(start, stop)):
            noise = self._rng(split, image).standard_normal((self.channels, self.places))
            standard = self._signal + self._correlated(noise)
            out[row] = self._offset[:, None] + self._scale[:, None] * standard
        return torch.from_numpy(out).unflatten(2, self.size)

    def moments(self, images: int, fold: int = 0) -> Moments:
        r"""Draw the position moments of n images from their own distribution, without the images.

        About the origin o, and but for the scales S, the sum of n images is
        :math:`M(p) = n s a \tilde t(p) + \sqrt n ε(p)`, and what is left of the second moment,
        :math:`W = G - \sum_p M(p) M(p)^T / n`, is independent of it and Wishart distributed
        with :math:`ν = P (n - 1)` degrees of freedom. With :math:`Σ = L L^T` it is drawn as
        :math:`W = L A A^T L^T` (Bartlett), A lower triangular with independent entries,
        :math:`A_{cc}^2 \sim χ^2_{ν - c}` for c = 0, 1, … and :math:`A_{cd} \sim N(0, 1)` below;
        where ν < C, only its first ν columns are there.

        The cost, :math:`O(C^3 + C^2 P)`, does not depend on n.

        Parameters
        ----------
        images : int
            Number n of images.
        fold : int
            Which of the independent draws.

        Returns
        -------
        Moments
        """
        whole_number(images, "images", 1)
        rng = self._rng("moments", whole_number(fold, "fold", 0))
        noise = rng.standard_normal((self.channels, self.places))
        first = images * self._signal + math.sqrt(images) * self._correlated(noise)
        freedom = self.places * (images - 1)
        rank = min(self.channels, freedom)
        factor = np.tril(rng.standard_normal((self.channels, rank)), -1)
        np.fill_diagonal(factor, np.sqrt(rng.chisquare(freedom - np.arange(rank))))
        scale, origin = torch.from_numpy(self._scale), torch.from_numpy(self._offset)
        sums = torch.from_numpy(first) * scale[:, None]
        root = torch.from_numpy(self._correlated(factor)) * scale[:, None]
        second = sums @ sums.T / images
        for start in range(0, self.channels, _BLOCK):  # a triangle times its transpose
            stop = start + _BLOCK
            second[start:stop, :stop] += root[start:stop, :stop] @ root[:stop, :stop].T
        return Moments(origin.to(torch.float32), images, sums, second)

    @cached_property
    def _truth(self) -> tuple[Array, Array, Array]:
        """Direction a, scales and offsets of the channels, each of shape (C,)."""
        rng = self._rng("truth", 0)
        direction = rng.standard_normal(self.channels)
        direction /= np.linalg.norm(direction)
        scale = np.exp(rng.standard_normal(self.channels))
        # float32, so that features and moments are about the very same origin.
        offset = (3 * scale * rng.standard_normal(self.channels)).astype(np.float32)
        return direction, scale, offset.astype(np.float64)

    @property
    def _scale(self) -> Array:
        return self._truth[1]

    @property
    def _offset(self) -> Array:
        return self._truth[2]

    @cached_property
    def _signal(self) -> Array:
        """``s a t̃(p)``, shape (C, P)."""
        direction = self._truth[0]
        # aᵀ Σ⁻¹ a = ‖L⁻¹ a‖²: L⁻¹ takes from each channel what the one before it foretells.
        whitened = direction.copy()
        whitened[1:] -= self.correlation * direction[:-1]
        whitened[1:] /= math.sqrt(1 - self.correlation**2)
        wave = (self.map - self.map.mean()).ravel()
        gain = math.sqrt(self.snr / ((wave**2).mean() * (whitened**2).sum()))
        return gain * np.outer(direction, wave)

    def _correlated(self, noise: Array) -> Array:
        """``L noise`` for noise of shape (C, …): a first-order autoregression over channels."""
        if self.correlation == 0:
            return noise
        fresh = noise * math.sqrt(1 - self.correlation**2)
        fresh[0] = noise[0]
        return lfilter([1.0], [1.0, -self.correlation], fresh, axis=0)

    def _rng(self, stream: str, index: int) -> np.random.Generator:
        number = (_STREAMS.index(stream) << 48) + index
        return np.random.Generator(np.random.Philox(key=[self.seed % 2**64, number]))


@dataclass(frozen=True)
class Recovery:
    """What the pipeline found of a planted truth.

    Attributes
    ----------
    channels, snr
        As planted.
    train_images : int
        How many images the readout was fitted to.
    alpha : float
        The regularisation that cross-validation chose.
    attainable : float
        R² of the best linear readout.
    value, low, high : float
        Mean R² of the fitted readout over test images, and its 95 % interval.
    """

    channels: int
    snr: float
    train_images: int
    alpha: float
    attainable: float
    value: float
    low: float
    high: float

    @property
    def recovered(self) -> bool:
        """Whether the truth lies within the interval."""
        return self.low <= self.attainable <= self.high


def enough_images(channels: int, snr: float, places: int, test_images: int) -> int:
    r"""How many training images make the readout's own error small against the interval.

    A readout fitted by least squares to n images has, beyond the best one's, the mean squared
    error :math:`C / (n P)` times that, so that it loses :math:`C / (n P (1 + λ))` of R². The
    squared errors of the best readout at P places have, over images, the variance that makes the
    standard deviation of an image's R²

    .. math:: d = \frac{\sqrt{(4 λ + 2 λ^2) / P}}{(1 + λ)^2},

    and the 95 % interval of its mean over m images about ± :math:`2 d / \sqrt m`. The n returned
    keeps the loss within 5 % of that, hence a tenth of the standard error, and
    :math:`n P ≥ 20 C`.

    Parameters
    ----------
    channels : int
        C.
    snr : float
        λ.
    places : int
        P.
    test_images : int
        m.

    Returns
    -------
    int

    References
    ----------
    Breiman, Freedman (1983), "How many variables should be entered in a regression equation?",
    JASA 78, for the error of prediction; here for n P much greater than C.
    """
    half_width = 2 * math.sqrt((4 * snr + 2 * snr**2) / (places * test_images)) / (1 + snr) ** 2
    samples = channels / ((1 + snr) * _LOSS * half_width)
    return max(2 * FOLDS, math.ceil(max(samples, 20 * channels) / places))


def recover(
    planted: Planted,
    train_images: int | None = None,
    test_images: int = 128,
    seed: int = 0,
    *,
    drawn: bool = True,
) -> Recovery:
    """Fit a readout to planted features as a run would, and score it on others.

    Ridge with its regularisation chosen by cross-validation, R² of every test image, bootstrap
    interval of their mean: all by the functions that :func:`probe.run` calls.

    Parameters
    ----------
    planted : Planted
        The truth.
    train_images : int, optional
        At least one for each fold; by default :func:`enough_images`.
    test_images : int
        At least 2. Their features are always made. With 128 of 7 × 7 places, the interval at
        λ = 0.01 reaches half as far as the truth, and so excludes 0; with few, it would not, and
        would be met by a readout that finds nothing.
    seed : int
        Of the bootstrap.
    drawn : bool
        Draw the training images' moments, see :meth:`Planted.moments`. If not, their features are
        made and streamed through :class:`probe.readouts.Ridge`, at a cost that grows with their
        number.

    Returns
    -------
    Recovery

    Raises
    ------
    ProbeError
        If there are too few images.
    """
    whole_number(test_images, "test_images", 2)
    if train_images is None:
        train_images = enough_images(planted.channels, planted.snr, planted.places, test_images)
    whole_number(train_images, "train_images", FOLDS)
    readout = _fit(planted, train_images, drawn)
    truth = planted.map.ravel()
    predictions = [
        readout(planted.features("test", start, stop)).numpy()
        for start, stop in _batches(planted, 0, test_images)
    ]
    values = r_squared(np.concatenate(predictions)[:, 0], truth)
    low, high = bootstrap_interval(values, seed)
    return Recovery(
        channels=planted.channels,
        snr=float(planted.snr),
        train_images=train_images,
        alpha=float(readout.alphas[0]),
        attainable=planted.attainable,
        value=float(values.mean()),
        low=float(low),
        high=float(high),
    )


def planted_truth(
    channels: Sequence[int] = CHANNELS,
    snrs: Sequence[float] = SNRS,
    repeats: int = 1,
    test_images: int = 128,
    correlation: float = 0.0,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Recover planted truths over a grid of channels and signal-to-noise ratios.

    Parameters
    ----------
    channels : sequence of int
        Numbers of channels.
    snrs : sequence of float
        Signal-to-noise ratios.
    repeats : int
        How many truths of each, drawn apart; the five targets take turns.
    test_images : int
        Images that each is scored on, at least 2.
    correlation : float
        Of the noise, see :class:`Planted`.
    seed : int
        The same seed gives the same table.
    progress : bool
        Show a progress bar.

    Returns
    -------
    DataFrame
        A row for each truth, with the columns ``target``, those of :class:`Recovery` and
        ``recovered``. By the nominal level, 95 % of them are.

    Examples
    --------
    >>> planted_truth(repeats=10).groupby(["channels", "snr"])["recovered"].mean()
    """
    whole_number(repeats, "repeats", 1)
    whole_number(seed, "seed", 0)
    cases = [(c, snr, r) for c in channels for snr in snrs for r in range(repeats)]
    if not cases:
        raise ProbeError("channels, snrs: expected at least one of each, got none")
    seeds = np.random.SeedSequence(seed).generate_state(len(cases), np.uint64).tolist()
    truths = [
        Planted(c, snr, TARGETS[number % len(TARGETS)], correlation=correlation, seed=own)
        for number, ((c, snr, _), own) in enumerate(zip(cases, seeds, strict=True))
    ]
    rows = []
    for truth in tqdm(truths, desc="planted truth", disable=not progress, dynamic_ncols=True):
        found = recover(truth, test_images=test_images, seed=seed)
        rows.append({"target": truth.target, **asdict(found), "recovered": found.recovered})
    return pd.DataFrame(rows)


def planted_summary(table: pd.DataFrame) -> str:
    """Say in a sentence how many of the truths of :func:`planted_truth` were recovered."""
    return (
        f"R² is recovered within its interval in {table['recovered'].mean():.0%} of {len(table)} "
        f"cases, {table['channels'].min()} to {table['channels'].max():,} channels, "
        f"signal-to-noise ratios {table['snr'].min():g} to {table['snr'].max():g}; 95 % should be."
    ).replace("% of", " % of")


def planted_by_snr(table: pd.DataFrame) -> pd.DataFrame:
    """Average the table of :func:`planted_truth` over channels and repeats.

    Returns
    -------
    DataFrame
        A row for each ``snr``: ``attainable``, the mean ``value``, the mean ``half_width`` of the
        intervals, how many truths were ``recovered``, and of how many ``cases``.
    """
    return (
        table.assign(half_width=(table["high"] - table["low"]) / 2, cases=1)
        .groupby("snr", as_index=False)
        .agg(
            attainable=("attainable", "first"),
            value=("value", "mean"),
            half_width=("half_width", "mean"),
            recovered=("recovered", "sum"),
            cases=("cases", "sum"),
        )
    )


def _fit(planted: Planted, images: int, drawn: bool) -> LinearMap:
    folds = list(pairwise(fold * images // FOLDS for fold in range(FOLDS + 1)))
    targets = torch.from_numpy(planted.map)[None]
    if drawn:
        moments = [planted.moments(stop - start, k) for k, (start, stop) in enumerate(folds)]
        return fit_ridge(moments, targets.flatten(1))
    readout = Ridge()
    for k, fold in enumerate(folds):
        for start, stop in _batches(planted, *fold):
            readout.partial_fit(planted.features("train", start, stop), fold=k)
    return readout.solve(targets).map


def _batches(planted: Planted, start: int, stop: int) -> list[tuple[int, int]]:
    step = max(1, _BATCH // (planted.channels * planted.places))
    return [(low, min(low + step, stop)) for low in range(start, stop, step)]


def _positive(value: Any, what: str) -> None:
    if not isinstance(value, int | float | np.number) or not 0 < value < math.inf:
        raise ProbeError(f"{what}: expected a finite number greater than 0, got {value!r}")
