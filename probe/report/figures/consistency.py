"""What shifts below the stride change, by shift."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...errors import ProbeError
from ..style import CMAP, PALETTE, evenly, new_figure, plain_text, shown_once, style

_MOST_LINES = 9


def plot_consistency(
    table: pd.DataFrame, *, title: str = "", ax: Axes | None = None
) -> Figure | Axes:
    """Plot how features change with shifts of the image below the stride.

    Parameters
    ----------
    table : DataFrame
        Tidy, with the columns of :attr:`probe.Consistency.table`.
    title : str
        Above the figure.
    ax : Axes, optional
        Where to draw the residuals alone, a line for each layer.

    Returns
    -------
    Figure, or Axes if ``ax`` was given
        Residuals at the left; at the right pooled features and the top class, where there are any.

    Raises
    ------
    ProbeError
        If the table holds no residuals.
    """
    residuals = table[table["metric"] == "residual"]
    if residuals.empty:
        raise ProbeError("the table holds no residuals; expected that of a probe.Consistency")
    if ax is not None:
        with style():
            _draw_layers(residuals, ax)
        return ax
    ends = table[table["metric"] != "residual"]
    with style():
        figure = new_figure(figsize=(8.2, 3.4))
        left, right = figure.subplots(1, 2, width_ratios=[3, 2])
        _draw_layers(residuals, left)
        figure.legend(loc="outside lower center", ncols=5, fontsize="small")
        for colour, (metric, rows) in zip(PALETTE, ends.groupby("metric", sort=True), strict=False):
            label = {"cosine": "cosine, pooled", "agreement": "same top class"}[str(metric)]
            _draw(rows, right, colour, label)
        right.set(xlabel="Shift (px)", ylabel="Cosine; share of images")
        right.legend(fontsize="small")
        if title:
            figure.suptitle(plain_text(title))
    return shown_once(figure)


def _draw_layers(rows: pd.DataFrame, axes: Axes) -> None:
    ordered = rows.sort_values("depth", kind="stable")["layer"]
    layers = evenly(list(dict.fromkeys(ordered)), _MOST_LINES)
    shades = plt.get_cmap(CMAP)(np.linspace(0.05, 0.85, len(layers)))
    for layer, colour in zip(layers, shades, strict=True):
        _draw(rows[rows["layer"] == layer], axes, colour, plain_text(layer))
    axes.set(xlabel="Shift (px)", ylabel="Change (share of the features' norm)")
    axes.set_ylim(bottom=0)


def _draw(rows: pd.DataFrame, axes: Axes, colour: Any, label: str) -> None:
    rows = rows.sort_values("shift")
    axes.plot(rows["shift"], rows["value"], color=colour, label=label, linewidth=1.4, marker=".")
    look: dict[str, Any] = {"color": colour, "alpha": 0.15, "linewidth": 0}
    axes.fill_between(rows["shift"], rows["low"], rows["high"], **look)
