"""The position maps that a readout predicts: functions of place alone, never of an image.

The five targets are those of Islam, Jia and Bruce (2020, arXiv 2001.08248, section 3.1, and the
maps that came with their code): each is a map over the image in [0, 1]. A layer's target is the
image's target averaged over the pixels that each of the layer's places covers.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import ProbeWarning, one_of

PERIODS = 2.5
"""Periods of the stripes across the image, white first, as in the authors' own maps."""

SIGMA = 0.5
"""Standard deviation of the gaussian, as a share of the image's side (ibid., section 3.1)."""

_Map = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]


@dataclass(frozen=True)
class Target:
    """A map over the image that depends on position alone.

    Attributes
    ----------
    map : callable
        Takes v, shape (H, 1), and u, shape (1, W), which run from 0 to 1 downwards and to the
        right; returns values that broadcast to (H, W).
    words : str
        What a layer knows that predicts it: "its vertical position".
    formula : str
        What saved results say of the map; of one without, they keep the map itself.
    scaled : bool
        Whether the values are shifted and scaled to [0, 1].
    """

    map: _Map
    words: str
    formula: str = ""
    scaled: bool = True


TARGETS: dict[str, Target] = {
    "horizontal": Target(lambda v, u: u, "its horizontal position", "u"),
    "vertical": Target(lambda v, u: v, "its vertical position", "v"),
    "gaussian": Target(
        lambda v, u: np.exp(-((u - 0.5) ** 2 + (v - 0.5) ** 2) / (2 * SIGMA**2)),
        "its distance from the centre",
        "exp(-((u - 0.5)² + (v - 0.5)²) / 0.5), scaled to [0, 1]",
    ),
    "horizontal_stripes": Target(
        lambda v, u: _stripes(v), "the horizontal stripes", "(1 + cos(5 π v)) / 2", scaled=False
    ),
    "vertical_stripes": Target(
        lambda v, u: _stripes(u), "the vertical stripes", "(1 + cos(5 π u)) / 2", scaled=False
    ),
}
"""Targets in the order in which reports show them. One more: ``TARGETS["mine"] = Target(…)``."""

_EARLIER: dict[str, Target] = {
    "horizontal_stripes": Target(
        lambda v, u: np.sin(2 * np.pi * 2.56 * u), TARGETS["horizontal_stripes"].words
    ),
    "vertical_stripes": Target(
        lambda v, u: np.sin(2 * np.pi * 2.56 * v), TARGETS["vertical_stripes"].words
    ),
}
"""Maps of 0.4.0 and before that are others today."""

EARLIER_STRIPES = (
    "the stripes are those of version 0.4.0 and before, 2.56 periods of a sine, horizontal ones "
    "along the horizontal axis; the published ones are 2.5 periods of a cosine, and horizontal "
    "stripes lie horizontally: run it again for scores of these"
)
"""What is said of results that were saved with earlier maps."""


def _stripes(across: NDArray[np.float64]) -> NDArray[np.float64]:
    return (1 + np.cos(2 * np.pi * PERIODS * across)) / 2


def formulas(names: Iterable[str]) -> dict[str, str]:
    """Return the formula of each target, for provenance."""
    return {name: TARGETS[name].formula for name in names}


def recorded_target(name: str, record: Mapping[str, str] | None) -> Target:
    """Return a target as it was when a result was saved.

    Parameters
    ----------
    name : str
        Which.
    record : mapping of str to str, optional
        What :func:`formulas` returned then; results of 0.4.0 and before have none.
    """
    one_of(name, TARGETS, "target")
    return _EARLIER.get(name, TARGETS[name]) if record is None else TARGETS[name]


def note_earlier_targets(provenance: dict[str, Any], names: Iterable[str], path: Path) -> None:
    """Warn of a saved result with targets whose maps are others today; its cautions say so too."""
    if "maps" in provenance or _EARLIER.keys().isdisjoint(names):
        return
    cautions = provenance.setdefault("warnings", [])
    if EARLIER_STRIPES not in cautions:
        cautions.append(EARLIER_STRIPES)
    warnings.warn(f"{path}: {EARLIER_STRIPES}", ProbeWarning, stacklevel=4)


def knowledge(target: str) -> str:
    """What a layer knows that predicts a target, also where a record has one that is not here."""
    return TARGETS[target].words if target in TARGETS else f"the target {target}"


def target_map(target: str | Target, height: int, width: int) -> NDArray[np.float64]:
    r"""Return one target over an image.

    With :math:`u = x / (W - 1)` and :math:`v = y / (H - 1)`:

    - ``horizontal``: :math:`u`, growing from left to right; ``vertical``: :math:`v`, downwards;
    - ``gaussian``: :math:`\exp(-((u - ½)^2 + (v - ½)^2) / (2 σ^2))` with σ = 0.5, shifted and
      scaled to [0, 1];
    - ``horizontal_stripes``: :math:`(1 + \cos(5π v)) / 2`, stripes that lie horizontally, white
      at the top; ``vertical_stripes``: the same in :math:`u`, white on the left.

    Parameters
    ----------
    target : str or Target
        One of :data:`TARGETS`, by name, or one's own.
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
    if isinstance(target, str):
        one_of(target, TARGETS, "target")
        target = TARGETS[target]
    v, u = (np.linspace(0, 1, n) if n > 1 else np.array([0.5]) for n in (height, width))
    values = target.map(v[:, None], u[None, :]) + np.zeros((height, width))
    if not target.scaled:
        return values
    span = np.ptp(values)
    return (values - values.min()) / span if span > 0 else np.full_like(values, 0.5)


def layer_targets(
    targets: Sequence[str | Target],
    image_size: tuple[int, int],
    rows: NDArray[np.float64],
    columns: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Average targets over the pixels that each place of a layer covers.

    ``t(i, j) = Σ_y Σ_x rows[i, y] T(y, x) columns[j, x]``

    Parameters
    ----------
    targets : sequence of str or Target
        Which, see :func:`target_map`.
    image_size : (int, int)
        Height H and width W of the image in pixels.
    rows : ndarray, shape (h, H)
        Weight of every image row in every row of places; each row sums to 1.
    columns : ndarray, shape (w, W)
        The same for columns.

    Returns
    -------
    ndarray of float64, shape (len(targets), h, w), in [0, 1]
    """
    return np.stack([rows @ target_map(target, *image_size) @ columns.T for target in targets])
