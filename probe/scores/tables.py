"""Tables: from predictions on test images to rows with intervals, chance levels and differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .intervals import bootstrap_interval, bootstrap_share
from .metrics import METRICS, localisation_error, per_image, spearman

POSITION = "position"
"""Target of the localisation error: both coordinates together."""

LOWER_IS_BETTER: tuple[str, ...] = ("mae", "error_px")
"""Metrics that are errors."""

RANGES: dict[str, tuple[float, float]] = {
    "spc": (-1, 1),
    "control": (-1, 1),
    "selectivity": (-2, 2),
    "mae": (0, np.inf),
    "error_px": (0, np.inf),
    "r2": (-np.inf, 1),
    "top1": (0, 1),
    "follows": (-1, 1),
    "stays": (-1, 1),
}
"""Least and greatest value of metrics that have one."""

_EFFECTS = [
    *("difference", "difference_low", "difference_high"),
    *("share", "share_low", "share_high"),
]

SCORE_COLUMNS = ["target", "metric", "value", "low", "high", "chance", *_EFFECTS]
"""Columns of :func:`score_rows`."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Truth:
    """What a readout should predict at one layer.

    Attributes
    ----------
    targets : tuple of str
    maps : ndarray, shape (T, h, w), in [0, 1]
        Target maps at the places that are predicted.
    order : ndarray of int, shape (h · w,), or None
        The permutation of places of the control task, if there is one.
    image_size : (int, int)
        Pixels.
    border_distance : ndarray, shape (h, w)
        Pixels from each place to the nearest border.
    """

    targets: tuple[str, ...]
    maps: Array
    order: NDArray[np.int64] | None
    image_size: tuple[int, int]
    border_distance: Array

    @property
    def flat(self) -> Array:
        """Target maps, shape (T, P)."""
        return self.maps.reshape(len(self.maps), -1)

    @property
    def controls(self) -> Array:
        """The control task's maps, shape (T, P)."""
        return self.flat[:, self.order]


@dataclass(frozen=True)
class Scored:
    """Scores of one layer under one weights and variant, by test image.

    Attributes
    ----------
    columns : list of (str, str)
        Target and metric.
    values : ndarray, shape (N, K)
        By image and column.
    chance : ndarray, shape (K,)
        Score of a constant predictor (the target's mean).
    """

    columns: list[tuple[str, str]]
    values: Array
    chance: Array


def control_order(places: int, seed: int) -> NDArray[np.int64]:
    """The permutation of places of the control task, the same for all targets of a layer.

    References
    ----------
    Hewitt, Liang (2019), "Designing and interpreting probes with control tasks", arXiv 1909.03368.
    """
    rng = np.random.Generator(np.random.Philox(key=[seed % 2**64, 2**61 + places]))
    return rng.permutation(places)


def score_layer(
    predictions: Array,
    truth: Truth,
    extra: Mapping[tuple[str, str], tuple[Array, float]] | None = None,
) -> Scored:
    """Score the predictions of a layer's readout (N, 2 T, h, w), targets then controls.

    ``spc``, ``mae`` and ``r2`` of each target, see :mod:`probe.scores`; ``control``, the SPC of
    the same readout on the control task, and ``selectivity = spc − control``, if there is one;
    ``error_px``, the median distance between predicted and true place, from the horizontal and the
    vertical readout if there are both; ``extra``, what the readout alone is scored on (N,), with
    what one scores by chance.
    """
    count = len(truth.targets)
    flat = predictions.reshape(*predictions.shape[:2], -1)
    scores = per_image(flat[:, :count], truth.flat)
    columns: list[tuple[str, str]] = []
    values: list[Array] = []
    chance: list[float] = []

    def add(target: str, metric: str, score: Array, level: float) -> None:
        columns.append((target, metric))
        values.append(score)
        chance.append(level)

    for t, target in enumerate(truth.targets):
        spread = float(np.abs(truth.flat[t] - truth.flat[t].mean()).mean())
        levels = {"spc": 0.0, "mae": spread, "r2": 0.0}
        for metric in METRICS:
            add(target, metric, scores[metric][:, t], levels[metric])
        if truth.order is not None:
            control = spearman(flat[:, count + t], truth.controls[t])
            add(target, "control", control, 0.0)
            add(target, "selectivity", scores["spc"][:, t] - control, 0.0)
    axes = [truth.targets.index(n) for n in ("horizontal", "vertical") if n in truth.targets]
    if len(axes) == 2:
        pixels = np.array([truth.image_size[1] - 1, truth.image_size[0] - 1.0])[:, None]
        true = truth.flat[axes] * pixels
        error = localisation_error(flat[:, axes] * pixels, true)
        blind = float(localisation_error(true.mean(1, keepdims=True), true))
        add(POSITION, "error_px", error, blind)
    for (target, metric), (score, level) in (extra or {}).items():
        add(target, metric, score, level)
    return Scored(columns, np.stack(values, 1), np.array(chance))


def score_rows(
    scored: Scored,
    original: Scored | None,
    removes: bool,
    seed: int,
    scenes: NDArray[np.int64],
) -> pd.DataFrame:
    """One row for each target and metric, with columns :data:`SCORE_COLUMNS`.

    The difference is ``original − variant``, its interval paired over images (of which ``scenes``
    (N,) tells the scenes); defined where both are scored over the same part of the image. Over its
    middle alone, which is what ``valid`` leaves, all scores are others, position or not. The share
    of what the variant took away is ``(original − variant) / (original − chance)``, where it
    ``removes`` a source of position and does not only change it; defined if the interval bound
    nearer chance keeps at least half of (original − chance). A ratio over less is any number
    (Fieller 1954, "Some problems in interval estimation", JRSS B 16).
    """
    low, high = bootstrap_interval(scored.values, seed, scenes=scenes)
    metrics = [metric for _, metric in scored.columns]
    low, high = within_range(metrics, low, high)
    nothing = np.full(len(scored.columns), np.nan)
    effects = [nothing] * 6
    if original is not None:
        alike = same_places(scored, original)
        paired = original.values - scored.values
        bounds = bootstrap_interval(paired, seed, scenes=scenes)
        bounds = within_range(metrics, *bounds, of_differences=True)
        effects[:3] = [np.where(alike, v, np.nan) for v in (paired.mean(0), *bounds)]
        if removes:
            beyond = original.values - original.chance
            below, above = bootstrap_interval(beyond, seed, scenes=scenes)
            half = beyond.mean(0) / 2
            errors = np.isin(metrics, LOWER_IS_BETTER)
            knows = np.where(errors, above <= half, below >= half) & (errors == (half < 0))
            knows &= (np.array(metrics) != "control") & (half != 0) & alike
            share = bootstrap_share(paired, beyond, seed, scenes=scenes)
            effects[3:] = [np.where(knows, v, np.nan) for v in share]
    values = np.round(scored.values.mean(0), 12)
    columns = [[t for t, _ in scored.columns], metrics, values, low, high, scored.chance, *effects]
    return pd.DataFrame(dict(zip(SCORE_COLUMNS, columns, strict=True)))


def within_range(
    metrics: Sequence[str], low: Array, high: Array, of_differences: bool = False
) -> tuple[Array, Array]:
    """Cut intervals, or those of differences, to the values that their metrics can take."""
    least, most = np.array([RANGES.get(m, (-np.inf, np.inf)) for m in metrics]).T
    if of_differences:
        least, most = least - most, most - least
    return np.clip(low, least, most), np.clip(high, least, most)


def same_places(scored: Scored, other: Scored) -> NDArray[np.bool_]:
    """Tell for each column whether two conditions are scored over the same part of the image.

    They are taken to be if the spread of what is predicted, which is the chance level of ``mae``,
    ``error_px`` or ``top1``, is the same to within 5 %.
    """
    spreads = [
        {t: c for (t, m), c in zip(s.columns, s.chance, strict=True) if m in _SPREADS}
        for s in (scored, other)
    ]
    # What only some readout is scored on may have none: then any other's counts.
    one, another = ([s.get(t, next(iter(s.values()))) for t, _ in scored.columns] for s in spreads)
    return np.isclose(one, another, rtol=0.05, atol=0)


_SPREADS = ("mae", "error_px", "top1")


def profile_rows(
    predictions: Array, truth: Truth, seed: int, scenes: NDArray[np.int64]
) -> pd.DataFrame:
    """Readout error by distance to the nearest border: how far padding reaches.

    Of predictions (N, ≥ T, h, w) as for :func:`score_layer`. Columns: ``target``; ``distance`` of
    the places' centres to the border, in pixels of the input; ``places``, how many there are;
    ``error``, the mean absolute error at them, with ``low`` and ``high``; ``chance``, the error of
    the target's mean.
    """
    count = len(truth.targets)
    distance = np.round(truth.border_distance.ravel(), 3)
    rings, member = np.unique(distance, return_inverse=True)
    places = np.bincount(member)
    average = np.zeros((len(distance), len(rings)))
    average[np.arange(len(distance)), member] = 1 / places[member]
    flat = predictions[:, :count].reshape(len(predictions), count, -1)
    errors = np.abs(flat - truth.flat) @ average
    low, high = bootstrap_interval(errors, seed, scenes=scenes)
    blind = np.abs(truth.flat - truth.flat.mean(1, keepdims=True)) @ average
    index = pd.MultiIndex.from_product([truth.targets, rings], names=["target", "distance"])
    return pd.DataFrame(
        {
            "places": np.tile(places, count),
            "error": errors.mean(0).ravel(),
            "low": low.ravel(),
            "high": high.ravel(),
            "chance": blind.ravel(),
        },
        index=index,
    ).reset_index()


def as_dicts(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table as dictionaries."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def joined(tables: Sequence[pd.DataFrame], **common: Any) -> pd.DataFrame:
    """Put tables one below the other, with columns that all rows have in common."""
    return pd.concat(tables, ignore_index=True).assign(**common)
