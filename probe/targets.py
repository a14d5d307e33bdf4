"""The position maps that a readout predicts: functions of place alone, never of an image.

The five targets are those of Islam, Jia and Bruce (2020, arXiv 2001.08248, section 3.1): each is a
map over the image in [0, 1]. A layer's target is the image's target averaged over the pixels that
each of the layer's places covers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .errors import one_of

PERIODS = 2.56
"""Periods of the stripes across the image (Islam et al. 2020, section 3.1)."""

SIGMA = 0.5
"""Standard deviation of the gaussian, as a share of the image's side (ibid.)."""

_Map = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]


@dataclass(frozen=True)
class Target:
    """A map over the image that depends on position alone.

    Attributes
    ----------
    map : callable
        Takes v, shape (H, 1), and u, shape (1, W), which run from 0 to 1 downwards and to the
        right; returns values of shape (H, W), which are shifted and scaled to [0, 1].
    words : str
        What a layer knows that predicts it: "its vertical position".
    """

    map: _Map
    words: str


TARGETS: dict[str, Target] = {
    "horizontal": Target(lambda v, u: u + 0 * v, "its horizontal position"),
    "vertical": Target(lambda v, u: v + 0 * u, "its vertical position"),
    "gaussian": Target(
        lambda v, u: np.exp(-((u - 0.5) ** 2 + (v - 0.5) ** 2) / (2 * SIGMA**2)),
        "its distance from the centre",
    ),
    "horizontal_stripes": Target(
        lambda v, u: np.sin(2 * np.pi * PERIODS * u) + 0 * v, "the horizontal stripes"
    ),
    "vertical_stripes": Target(
        lambda v, u: np.sin(2 * np.pi * PERIODS * v) + 0 * u, "the vertical stripes"
    ),
}
"""Targets in the order in which reports show them. One more: ``TARGETS["mine"] = Target(…)``."""


def knowledge(target: str) -> str:
    """What a layer knows that predicts a target, also where a record has one that is not here."""
    return TARGETS[target].words if target in TARGETS else f"the target {target}"


def target_map(name: str, height: int, width: int) -> NDArray[np.float64]:
    r"""Return one target over an image.

    With :math:`u = x / (W - 1)` and :math:`v = y / (H - 1)`:

    - ``horizontal``: :math:`u`, growing from left to right; ``vertical``: :math:`v`, downwards;
    - ``gaussian``: :math:`\exp(-((u - ½)^2 + (v - ½)^2) / (2 σ^2))` with σ = 0.5, shifted and
      scaled to [0, 1];
    - ``horizontal_stripes``: :math:`\sin(2π · 2.56 · u)` shifted and scaled to [0, 1], a stripe
      pattern along the horizontal axis; ``vertical_stripes``: the same along the vertical one.

    Parameters
    ----------
    name : str
        One of :data:`TARGETS`.
    height, width : int
        Size of the image in pixels.

    Returns
    -------
    ndarray of float64, shape (height, width), in [0, 1]

    Raises
    ------
    ProbeError
        If there is no such target.

    References
    ----------
    Islam, Jia, Bruce (2020), "How much position information do convolutional neural networks
    encode?", arXiv 2001.08248, section 3.1.
    """
    one_of(name, TARGETS, "target")
    v, u = (np.linspace(0, 1, n) if n > 1 else np.array([0.5]) for n in (height, width))
    values = TARGETS[name].map(v[:, None], u[None, :])
    span = np.ptp(values)
    return (values - values.min()) / span if span > 0 else np.full_like(values, 0.5)


def layer_targets(
    names: Sequence[str],
    image_size: tuple[int, int],
    rows: NDArray[np.float64],
    columns: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Average targets over the pixels that each place of a layer covers.

    ``t(i, j) = Σ_y Σ_x rows[i, y] T(y, x) columns[j, x]``

    Parameters
    ----------
    names : sequence of str
        Which targets.
    image_size : (int, int)
        Height H and width W of the image in pixels.
    rows : ndarray, shape (h, H)
        Weight of every image row in every row of places; each row sums to 1.
    columns : ndarray, shape (w, W)
        The same for columns.

    Returns
    -------
    ndarray of float64, shape (len(names), h, w), in [0, 1]
    """
    return np.stack([rows @ target_map(name, *image_size) @ columns.T for name in names])
