"""Clusters of embeddings: from what a network says of each pixel to objects."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ..errors import ProbeError

BANDWIDTH = 0.75
"""Radius of the mean shift: pixels lie within δ_v = 0.5 of their centre, centres 3 apart."""

_SEEDS = 32  # kernels to start; a scene has fewer objects


def cluster(
    embedding: ArrayLike | torch.Tensor,
    foreground: ArrayLike | torch.Tensor,
    bandwidth: float = BANDWIDTH,
    *,
    most: int = 1000,
    seed: int = 0,
) -> NDArray[np.int64]:
    """Cluster the pixels of the foreground by their embeddings, by mean shift.

    A flat kernel of radius ``bandwidth`` moves to the mean of what it covers until it stays, from
    the cells of a grid of that width that hold most pixels; each pixel then goes to the nearest
    mode.

    Parameters
    ----------
    embedding : array, shape (D, H, W)
        Of each pixel.
    foreground : array of bool, shape (H, W)
        Pixels that belong to objects.
    bandwidth : float
        Above 0; of the order of δ_v and below δ_d of
        :func:`~probe.instances.discriminative_loss`.
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
        modes = _modes(pixels, bandwidth, most, seed)
        nearest = ((pixels[:, None] - modes[None]) ** 2).sum(2).argmin(1)
        _, inverse, sizes = np.unique(nearest, return_inverse=True, return_counts=True)
        rank = np.empty(len(sizes), np.int64)
        rank[np.argsort(-sizes, kind="stable")] = np.arange(1, len(sizes) + 1)
        labels[mask] = rank[inverse]
    return labels


def _modes(
    pixels: NDArray[np.float64], bandwidth: float, most: int, seed: int
) -> NDArray[np.float64]:
    try:
        from sklearn.cluster import MeanShift
    except ImportError as error:
        raise ProbeError("mean shift needs scikit-learn: pip install scikit-learn") from error
    if len(pixels) > most:
        rng = np.random.default_rng(seed)
        pixels = pixels[np.sort(rng.choice(len(pixels), most, replace=False))]
    cells, counts = np.unique(np.round(pixels / bandwidth), axis=0, return_counts=True)
    seeds = bandwidth * cells[np.argsort(-counts, kind="stable")[:_SEEDS]]
    nearest = ((pixels[:, None] - seeds[None]) ** 2).sum(2).argmin(0)  # a kernel covers its seed
    shift = MeanShift(bandwidth=bandwidth, seeds=pixels[nearest], max_iter=100)
    return shift.fit(pixels).cluster_centers_


def _numpy(values: Any) -> NDArray[Any]:
    if isinstance(values, torch.Tensor):
        return values.detach().cpu().numpy()
    return np.asarray(values)
