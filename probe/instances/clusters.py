"""Clusters of embeddings: from what a network says of each pixel to objects."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ..errors import ProbeError

BANDWIDTH = 0.75
"""Radius of the mean shift: pixels lie within δ_v = 0.5 of their centre, centres 3 apart."""


def cluster(
    embedding: ArrayLike | torch.Tensor,
    foreground: ArrayLike | torch.Tensor,
    bandwidth: float = BANDWIDTH,
    *,
    least: int = 4,
    most: int = 1000,
    seed: int = 0,
) -> NDArray[np.int64]:
    """Cluster the pixels of the foreground by their embeddings, by mean shift.

    A flat kernel of radius ``bandwidth`` moves to the mean of what it covers until it stays.
    Kernels start at pixels that cover all of them: the one in the fullest cell of a grid of that
    width, then the one in the fullest cell with a pixel that no kernel covers yet, and so on. Each
    pixel then goes to the nearest mode that covers ``least`` pixels.

    Parameters
    ----------
    embedding, foreground : array, shapes (D, H, W) and (H, W)
        Of each pixel, and whether it belongs to an object.
    bandwidth : float
        Above 0; of the order of δ_v and below δ_d of
        :func:`~probe.instances.discriminative_loss`.
    least : int
        Pixels that a mode has to cover; fewer are stragglers of other clusters. Where no mode
        covers so many, the fullest ones count.
    most : int
        Pixels that modes are sought on; of more, a seeded sample.
    seed : int
        Of the sample.

    Returns
    -------
    ndarray of int64, shape (H, W)
        0 for background, clusters from 1, the largest first.

    Raises
    ------
    ProbeError
        If shapes don't fit, an embedding of the foreground is not finite, or scikit-learn is not
        installed.

    References
    ----------
    De Brabandere, Neven, Van Gool (2017), arXiv 1708.02551, section 3.2; Comaniciu, Meer (2002),
    "Mean shift: a robust approach toward feature space analysis", IEEE TPAMI 24(5).
    """
    points, mask = _numpy(embedding), _numpy(foreground).astype(bool)
    if points.ndim != 3 or points.shape[1:] != mask.shape:
        raise ProbeError(
            f"embedding and foreground: expected shapes (D, H, W) and (H, W), got {points.shape} "
            f"and {mask.shape}"
        )
    if not bandwidth > 0:
        raise ProbeError(f"bandwidth: expected a number above 0, got {bandwidth!r}")
    labels = np.zeros(mask.shape, np.int64)
    pixels = points[:, mask].T.astype(np.float64)
    if not np.isfinite(pixels).all():
        raise ProbeError("embedding: not finite at some pixels of the foreground")
    if len(pixels):
        modes = _modes(pixels, bandwidth, least, most, seed)
        nearest = _squares(pixels, modes).argmin(1)
        _, inverse, sizes = np.unique(nearest, return_inverse=True, return_counts=True)
        rank = np.empty(len(sizes), np.int64)
        rank[np.argsort(-sizes, kind="stable")] = np.arange(1, len(sizes) + 1)
        labels[mask] = rank[inverse]
    return labels


def _modes(
    pixels: NDArray[np.float64], bandwidth: float, least: int, most: int, seed: int
) -> NDArray[np.float64]:
    try:
        from sklearn.cluster import MeanShift
    except ImportError as error:
        raise ProbeError("mean shift needs scikit-learn: pip install scikit-learn") from error
    if len(pixels) > most:
        rng = np.random.default_rng(seed)
        pixels = pixels[np.sort(rng.choice(len(pixels), most, replace=False))]
    shift = MeanShift(bandwidth=bandwidth, seeds=_seeds(pixels, bandwidth), max_iter=100)
    modes = shift.fit(pixels).cluster_centers_
    covered = (_squares(pixels, modes) <= bandwidth**2).sum(0)
    return modes[covered >= min(least, covered.max())]


def _seeds(pixels: NDArray[np.float64], bandwidth: float) -> NDArray[np.float64]:
    """Pixels within ``bandwidth`` of which all others lie, those of full cells of a grid first."""
    _, cell, counts = np.unique(
        np.round(pixels / bandwidth), axis=0, return_inverse=True, return_counts=True
    )
    fullness = counts[cell.ravel()]
    free, seeds = np.ones(len(pixels), bool), []
    while free.any():
        place = int(np.argmax(np.where(free, fullness, 0)))
        seeds.append(pixels[place])
        free &= _squares(pixels, pixels[place : place + 1])[:, 0] > bandwidth**2
        free[place] = False
    return np.array(seeds)


def _squares(points: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared distances, shape (points, others)."""
    return ((points[:, None] - others[None]) ** 2).sum(2)


def _numpy(values: Any) -> NDArray[Any]:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    return np.asarray(values)
