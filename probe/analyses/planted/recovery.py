"""Whether readouts recover the position of a synthetic ground truth in the right amount."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from ...errors import ProbeError, whole_number
from ...readouts.base import FOLDS
from ...readouts.ridge import LinearMap, Ridge, fit_ridge
from ...scores.intervals import bootstrap_interval
from ...scores.metrics import r_squared
from ...targets import TARGETS
from .truth import CHANNELS, SNRS, Planted

_LOSS = 0.05  # of the interval's half width: what a finite training set may cost
_BATCH = 2**22  # values of features made at once


@dataclass(frozen=True)
class Recovery:
    """What the pipeline recovered of a synthetic ground truth.

    Attributes
    ----------
    channels, snr
        Of the ground truth.
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

    and the 95 % interval of its mean over m test images about ± :math:`2 d / \sqrt m`. The n
    returned keeps the loss within 5 % of that, hence a tenth of the standard error, and
    :math:`n P ≥ 20 C`.

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
    """Fit a readout to features of a ground truth as a run would, and score it on others.

    Ridge with its regularisation chosen by cross-validation, R² of every test image, bootstrap
    interval of their mean: all by the functions that :func:`probe.run` calls.

    Parameters
    ----------
    planted : Planted
        The ground truth.
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
    """Recover synthetic ground truths over a grid of channels and signal-to-noise ratios.

    Parameters
    ----------
    channels, snrs : sequence of int and of float
        Numbers of channels and signal-to-noise ratios.
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
    targets = list(TARGETS)
    truths = [
        Planted(c, snr, targets[number % len(targets)], correlation=correlation, seed=drawn)
        for number, ((c, snr, _), drawn) in enumerate(zip(cases, seeds, strict=True))
    ]
    rows = []
    bar = tqdm(truths, desc="synthetic ground truth", disable=not progress, dynamic_ncols=True)
    for truth in bar:
        recovery = recover(truth, test_images=test_images, seed=seed)
        rows.append({"target": truth.target, **asdict(recovery), "recovered": recovery.recovered})
    return pd.DataFrame(rows)


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
    fitted = readout.solve(targets).map
    assert fitted is not None
    return fitted


def _batches(planted: Planted, start: int, stop: int) -> list[tuple[int, int]]:
    step = max(1, _BATCH // (planted.channels * planted.places))
    return [(low, min(low + step, stop)) for low in range(start, stop, step)]
