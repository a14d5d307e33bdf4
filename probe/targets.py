"""The position maps that a readout predicts: functions of place alone, never of an image.

The five targets are those of Islam, Jia and Bruce (2020, arXiv 2001.08248, section 3.1, and the
maps that came with their code): each is a map over the image in [0, 1]. A layer's target is the
image's target averaged over the pixels that each of the layer's places covers.
"""

from __future__ import annotations

import hashlib
import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import ProbeError, ProbeWarning, one_of
from .text import first_line

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


class GivenTarget(str):
    """The name of a target of one's own, which knows its map."""

    target: Target

    @classmethod
    def of(cls, name: str, target: Target) -> GivenTarget:
        """Name a target; its map is tried.

        Raises
        ------
        ProbeError
            If it can't be had.
        """
        if name in TARGETS or not name or "/" in name:
            raise ProbeError(
                f"targets: {name!r} can't be the name of a target of one's own: choose one that "
                f"is not among {', '.join(TARGETS)} and has no slash"
            )
        given = cls(name)
        given.target = target
        try:
            target_map(given, 8, 12)
        except ProbeError:
            raise
        except Exception as error:  # whatever the function's author chose to raise
            raise ProbeError(
                f"target {name!r} can't be had: {type(error).__name__}: {first_line(error)}"
            ) from error
        return given

    @property
    def digest(self) -> str:
        """Hash of the map, to tell targets of one name apart."""
        return hashlib.sha256(target_map(self, 64, 64).tobytes()).hexdigest()


TargetMap = Callable[..., Any] | NDArray[Any] | Target
"""A target of one's own: a function of ``u`` and ``v``, a map (rows, columns), or a target."""


def read_targets(given: Any) -> tuple[str, ...]:
    """Return the names of targets that were asked for; those of one's own know their maps.

    Parameters
    ----------
    given : str, function, array, Target, a sequence or a mapping of them
        See :class:`probe.runner.Options`.

    Raises
    ------
    ProbeError
        If one is unknown or is no map.
    """
    if isinstance(given, Mapping):
        pairs = list(given.items())
    else:
        single = isinstance(given, str | Target) or callable(given) or hasattr(given, "ndim")
        items = [given] if single or not isinstance(given, Sequence) else given
        pairs = [(_name_of(item, n), item) for n, item in enumerate(items, 1)]
    if not pairs:
        raise ProbeError(f"targets: expected one or several, got {given!r}")
    names: dict[str, str] = {}
    for name, item in pairs:
        if isinstance(item, str) and not isinstance(item, GivenTarget):
            names[item] = one_of(item, TARGETS, "target")
            continue
        if not isinstance(item, GivenTarget):
            item = GivenTarget.of(str(name), _own_target(str(name), item))
        if item in names:
            raise ProbeError(
                f"targets: two are called {item!r}; give them names: targets={{name: map, …}}"
            )
        names[item] = item
    return tuple(names.values())


def _name_of(item: Any, number: int) -> str:
    if isinstance(item, str):
        return item
    name = getattr(item, "__name__", "")
    return name if name.isidentifier() else f"target {number}"


def _own_target(name: str, item: Any) -> Target:
    """Make a target of what was given: a function of u and v, or a map over the image."""
    if isinstance(item, Target):
        return item
    words = f"the target {name}"
    if callable(item):
        try:
            taken = set(inspect.signature(item).parameters)
        except (TypeError, ValueError):
            taken = set()
        if taken != {"u", "v"}:
            raise ProbeError(
                f"target {name!r}: expected a function of u and v, which run from 0 to 1 to the "
                "right and downwards, such as lambda u, v: u * v"
            )
        return Target(lambda v, u: np.asarray(item(u=u, v=v), dtype=float), words)
    try:
        values = np.asarray(item, dtype=float)
    except (TypeError, ValueError):
        values = np.zeros(0)
    if values.ndim != 2 or min(values.shape) < 2:
        raise ProbeError(
            f"target {name!r}: expected a name, a map of rows and columns or a function of u and "
            f"v, got {type(item).__name__} of shape {values.shape}"
        )
    return given_target(name, values)


def given_target(name: str, values: NDArray[np.float64]) -> Target:
    """Return the target of a map over the image, drawn through its values (rows, columns).

    The first row lies on the first row of pixels and the last on the last; between them it is
    linear. A map of the image's size is taken as it is.
    """

    def through(v: NDArray[np.float64], u: NDArray[np.float64]) -> NDArray[np.float64]:
        if values.shape == (v.size, u.size):
            return values
        rows, columns = (
            _between(at.ravel(), n) for at, n in zip((v, u), values.shape, strict=True)
        )
        return rows @ values @ columns.T

    return Target(through, f"the target {name}")


def _between(at: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Weights of linear interpolation at shares of the way, shape (places, count)."""
    return np.clip(1 - np.abs(at[:, None] * (count - 1) - np.arange(count)), 0, None)


def given_maps(names: Iterable[str], size: tuple[int, int]) -> dict[str, NDArray[np.float64]]:
    """Return the maps over the image of targets of one's own."""
    return {str(n): target_map(n, *size) for n in names if isinstance(n, GivenTarget)}


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
    return {str(name): _target(name).formula for name in names}


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
        If there is no such target, or its values are not finite.

    References
    ----------
    Islam, Jia, Bruce (2020), "How much position information do convolutional neural networks
    encode?", arXiv 2001.08248, section 3.1.
    """
    name, target = target, _target(target)
    v, u = (np.linspace(0, 1, n) if n > 1 else np.array([0.5]) for n in (height, width))
    values = target.map(v[:, None], u[None, :]) + np.zeros((height, width))
    if not np.isfinite(values).all():
        raise ProbeError(
            f"target {name!r}: expected finite numbers at every pixel, got NaN or infinity"
        )
    if not target.scaled:
        return values
    span = np.ptp(values)
    return (values - values.min()) / span if span > 0 else np.full_like(values, 0.5)


def _target(target: str | Target) -> Target:
    if isinstance(target, GivenTarget):
        return target.target
    if isinstance(target, str):
        one_of(target, TARGETS, "target")
        return TARGETS[target]
    return target


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
