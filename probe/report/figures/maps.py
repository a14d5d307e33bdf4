"""Predicted maps beside true ones, and mean maps of channels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ...errors import ProbeError, one_of
from ...records.record import Condition, MapKey, PatternKey
from ...scores.patterns import Pattern
from ...text import families, number_text
from ..style import CMAP, DIVERGING, bare_axes, new_figure, plain_text, row_label, shown_once, style
from .conditions import condition_label, leading


@dataclass(frozen=True)
class PatternCell:
    """A channel's mean map as pictures show it.

    Attributes
    ----------
    channel : int
        Its number.
    eta2 : float
        Share of its variance that place explains.
    relative : ndarray, shape (h, w)
        Mean map less its average, over the largest such value under any variant: in [−1, 1].
    """

    channel: int
    eta2: float
    relative: NDArray[np.float64]


@dataclass(frozen=True)
class PatternRow:
    """The mean maps of one condition; the one that ``leads`` was asked which channels to show."""

    condition: Condition
    leads: bool
    snr: float
    cells: list[PatternCell]


def plot_maps(
    maps: Mapping[MapKey, NDArray[Any]],
    truth: Mapping[str, NDArray[Any]],
    layer: str,
    title: str = "",
) -> Figure:
    """Plot mean predicted maps of a layer below the true ones.

    Parameters
    ----------
    maps : mapping
        Predicted maps in [0, 1] by (weights, variant, layer, target), as
        :attr:`probe.Result.maps`.
    truth : mapping
        The true map of each target; a column each.
    layer : str
        Which layer.
    title : str
        What stands before the layer's name.

    Returns
    -------
    Figure
        Of random weights the first draw is shown.

    Raises
    ------
    ProbeError
        If there is no such layer.
    """
    one_of(layer, dict.fromkeys(name for _, _, name, _ in maps), "layer")
    targets = list(truth)
    conditions = leading(list(dict.fromkeys((w, v) for w, v, _, _ in maps)))
    with style(), matplotlib.rc_context({"axes.grid": False}):
        figure = new_figure(figsize=(1.45 * len(targets) + 1.4, 1.45 * len(conditions) + 2.0))
        grid = figure.subplots(1 + len(conditions), len(targets), squeeze=False)
        picture: Any = None
        for column, target in enumerate(targets):
            shown = [truth[target], *(maps[(*c, layer, target)] for c in conditions)]
            for axes, values in zip(grid[:, column], shown, strict=True):
                picture = axes.imshow(values, cmap=CMAP, vmin=0, vmax=1)
                bare_axes(axes)
            grid[0, column].set_title(target.replace("_", "\n"), fontsize="medium")
        for axes, words in zip(
            grid[:, 0], ["true", *(condition_label(c) for c in conditions)], strict=True
        ):
            row_label(axes, words.replace(", ", "\n"))
        figure.colorbar(picture, ax=grid, shrink=0.5, label="predicted value")
        figure.suptitle(plain_text(f"{title}{layer}: mean predicted maps"))
    return shown_once(figure)


def plot_pattern(
    patterns: Mapping[PatternKey, Pattern], layer: str, channels: int = 8, title: str = ""
) -> Figure:
    """Plot the mean maps of a layer's most position-tuned channels under each variant.

    Parameters
    ----------
    patterns : mapping
        Patterns by (weights, variant, layer), as :attr:`probe.Result.pattern`.
    layer : str
        Which layer.
    channels : int
        How many.
    title : str
        What stands before the layer's name.

    Returns
    -------
    Figure

    Raises
    ------
    ProbeError
        If there is no pattern, no such layer or no channel.
    """
    if not patterns:
        raise ProbeError(
            "the result has no pattern: it was saved by a version before 0.3; run it again"
        )
    one_of(layer, dict.fromkeys(name for _, _, name in patterns), "layer")
    if channels < 1:
        raise ProbeError(f"channels: expected at least 1, got {channels}")
    rows = pattern_rows(patterns, layer, channels)
    columns = max(len(row.cells) for row in rows)
    with style(), matplotlib.rc_context({"axes.grid": False}):
        figure = new_figure(figsize=(1.15 * columns + 1.7, 1.5 * len(rows) + 0.8))
        grid = figure.subplots(len(rows), columns, squeeze=False)
        picture: Any = None
        for line, row in zip(grid, rows, strict=True):
            for axes in line:
                bare_axes(axes)
            for axes, cell in zip(line, row.cells, strict=False):
                picture = axes.imshow(cell.relative, cmap=DIVERGING, vmin=-1, vmax=1)
                number = f"channel {cell.channel}\n" if row.leads else ""
                axes.set_title(f"{number}η² {number_text(cell.eta2)}", fontsize="small")
            label = condition_label(row.condition).replace(", ", "\n")
            row_label(line[0], f"{label}\nSNR {number_text(row.snr)}")
        bar = figure.colorbar(picture, ax=grid, shrink=0.5, ticks=[-1, 0, 1])
        bar.set_label("mean feature less its average,\nover the channel's largest")
        figure.suptitle(plain_text(f"{title}{layer}: channels most tuned to position"))
    return shown_once(figure)


def pattern_rows(
    patterns: Mapping[PatternKey, Pattern], layer: str, channels: int
) -> list[PatternRow]:
    """Mean maps of a layer as pictures show them.

    For each weights (of random ones the first draw) the channels most tuned under the first
    variant, then the same channels under the other ones, to the same scale. A saved result may not
    hold these: such a variant has no row.
    """
    found = []
    variants = list(dict.fromkeys(variant for _, variant, _ in patterns))
    for weights in (members[0] for members in families(w for w, _, _ in patterns).values()):
        by_variant = {v: patterns.get((weights, v, layer)) for v in variants}
        first = by_variant[variants[0]]
        if first is None:
            continue
        kept = set(first.channels.tolist())
        chosen = [int(c) for c in first.tuned(len(first.eta2)) if c in kept][:channels]
        held = {
            v: p for v, p in by_variant.items() if p and set(chosen) <= set(p.channels.tolist())
        }
        maps = {v: [_centred(p, c) for c in chosen] for v, p in held.items()}
        largest = [
            max(float(np.abs(m[k]).max()) for m in maps.values()) for k in range(len(chosen))
        ]
        for variant, pattern in held.items():
            cells = [
                PatternCell(c, float(pattern.eta2[c]), values / (scale or 1))
                for c, values, scale in zip(chosen, maps[variant], largest, strict=True)
            ]
            leads = variant == variants[0]
            found.append(PatternRow((weights, variant), leads, pattern.snr, cells))
    return found


def _centred(pattern: Pattern, channel: int) -> NDArray[np.float64]:
    values = pattern.map_of(channel).astype(np.float64)
    return values - values.mean()
