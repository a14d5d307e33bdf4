"""Places read from pooled vectors, and the channels that tell them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...scores.intervals import bootstrap_interval

Array = NDArray[np.float64]

_ALPHAS = (1e-6, 1e-4, 1e-2, 1.0)

_SHARES = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2)

COLUMNS = [
    *("channels", "ablated", "reader", "value", "low", "high"),
    *("difference", "difference_low", "difference_high"),
]
"""Columns of a table of accuracies."""


@dataclass(frozen=True)
class PlaceReader:
    """A linear classifier of places, in closed form: ridge regression of indicators.

    Attributes
    ----------
    mean, scale : ndarray, shape (C,)
        Of the vectors that it was fitted to.
    weights : ndarray, shape (C, K)
    alpha : float
        Regularisation of standardised channels.
    """

    mean: Array
    scale: Array
    weights: Array
    alpha: float

    @classmethod
    def fit(cls, vectors: Array, alpha: float | None = None) -> PlaceReader:
        """Fit to vectors (N, K, C) of N patches at each of K places.

        Without ``alpha``, that is taken which reads most on the last quarter of the patches.
        """
        if alpha is None:
            first = max(1, 3 * len(vectors) // 4)
            right = [
                cls.fit(vectors[:first], value).hits(vectors[first:]).mean() for value in _ALPHAS
            ]
            alpha = _ALPHAS[len(_ALPHAS) - 1 - int(np.argmax(right[::-1]))]
        patches, places, channels = vectors.shape
        flat = vectors.reshape(-1, channels)
        mean, scale = flat.mean(0), flat.std(0)
        scale = np.where(scale > 1e-9 * scale.max(initial=0), scale, np.inf)
        x = (flat - mean) / scale
        wanted = np.tile(np.eye(places) - 1 / places, (patches, 1))
        level = alpha * len(x)
        if len(x) < channels:
            weights = x.T @ np.linalg.solve(x @ x.T + level * np.eye(len(x)), wanted)
        else:
            weights = np.linalg.solve(x.T @ x + level * np.eye(channels), x.T @ wanted)
        return cls(mean, scale, weights, alpha)

    def hits(self, vectors: Array) -> Array:
        """Whether the place is read right, shape (N, K), of vectors (N, K, C)."""
        read = ((vectors - self.mean) / self.scale @ self.weights).argmax(2)
        return (read == np.arange(vectors.shape[1])).astype(np.float64)


def channel_shares(vectors: Array) -> Array:
    """Share of each channel's variance that the place explains, shape (C,), of (N, K, C)."""
    total = vectors.reshape(-1, vectors.shape[2]).var(0)
    between = vectors.mean(0).var(0)
    known = total > 1e-12 * total.max(initial=0)
    return np.where(known, between / np.where(known, total, 1), 0.0)


def permuted(vectors: Array, rng: np.random.Generator) -> Array:
    """Return the vectors, the channels of each in an order of its own."""
    return rng.permuted(vectors, axis=2)


def accuracies(train: Array, test: Array, seed: int, seeds: int) -> list[tuple[Any, ...]]:
    """Rows of :data:`COLUMNS`: all channels, permuted, without the first n, without n at random.

    An ablated channel holds its mean. A ``fixed`` reader was fitted to all channels, a
    ``refitted`` one to what is left; the difference is paired, first n less n at random.
    """
    reader = PlaceReader.fit(train)
    rng = np.random.default_rng(seed)
    rows = [("all", 0, "fixed", *_interval(reader.hits(test).mean(1), seed), *_NONE)]
    shuffled = []
    for _ in range(seeds):
        fitted = PlaceReader.fit(permuted(train, rng))
        shuffled.append(fitted.hits(permuted(test, rng)).mean(1))
    rows.append(("permuted", 0, "refitted", *_interval(np.mean(shuffled, 0), seed), *_NONE))
    order = np.argsort(-channel_shares(train), kind="stable")
    channels = len(order)
    for count in dict.fromkeys(max(1, round(share * channels)) for share in _SHARES):
        draws = [rng.choice(channels, count, replace=False) for _ in range(seeds)]
        first = list(_ablated(reader, train, test, [order[:count]]))
        random = list(_ablated(reader, train, test, draws))
        for kind in ("fixed", "refitted"):
            without = [np.mean([h[kind] for h in part], 0) for part in (first, random)]
            apart = _interval(without[0] - without[1], seed, least=-1)
            rows.append(("without first", count, kind, *_interval(without[0], seed), *apart))
            rows.append(("without random", count, kind, *_interval(without[1], seed), *_NONE))
    return rows


_NONE = (float("nan"),) * 3


def _ablated(
    reader: PlaceReader, train: Array, test: Array, draws: Sequence[NDArray[np.int64]]
) -> Iterator[dict[str, Array]]:
    """Hits of each test patch, mean over places, by kind of reader, for each set of channels."""
    for gone in draws:
        held = [part.copy() for part in (train, test)]
        for part in held:
            part[..., gone] = reader.mean[gone]
        again = PlaceReader.fit(held[0], reader.alpha)
        yield {"fixed": reader.hits(held[1]).mean(1), "refitted": again.hits(held[1]).mean(1)}


def _interval(values: Array, seed: int, least: float = 0) -> tuple[float, float, float]:
    """Mean over patches with its 95 % interval, within the least and 1."""
    low, high = np.clip(bootstrap_interval(values[:, None], seed), least, 1)
    return float(values.mean()), float(low[0]), float(high[0])
