"""The figure and the page of what a pooled vector tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ...report.parts import svg, templates
from ...report.style import CMAP, PALETTE, SOFT, new_figure, shown_once, style
from ...scores.tables import as_dicts
from ...text import interval, number_text

_SHOWN = 16


def plot_pooled(table: pd.DataFrame, places: NDArray[np.float64]) -> Figure:
    """Draw accuracy at each place, and by how many channels are ablated, first or at random.

    Parameters
    ----------
    table : DataFrame
        As :attr:`probe.Pooled.table`.
    places : ndarray, shape (k, k)
        Share read right at each place.
    """
    with style():
        figure = new_figure(figsize=(8.2, 3.2))
        left, right = figure.subplots(1, 2, width_ratios=[1, 2])
        shown = left.imshow(places, cmap=CMAP, vmin=0, vmax=1)
        figure.colorbar(shown, ax=left, label="read right", shrink=0.8)
        left.set(xticks=[], yticks=[])
        _draw_ablations(table, right)
        right.axhline(1 / places.size, color=SOFT, linewidth=1, linestyle=(0, (2, 2)))
        figure.legend(loc="outside lower center", ncols=2, fontsize="small")
    return shown_once(figure)


def _draw_ablations(table: pd.DataFrame, axes: Axes) -> None:
    whole = table[table["channels"] == "all"].iloc[0]
    axes.axhline(float(whole["value"]), color=SOFT, linewidth=0.8)
    looks = [
        (kind, reader, PALETTE[place], "-" if reader == "fixed" else (0, (4, 2)))
        for place, kind in enumerate(("without first", "without random"))
        for reader in ("fixed", "refitted")
    ]
    for kind, reader, colour, dashes in looks:
        rows = table[(table["channels"] == kind) & (table["reader"] == reader)]
        label = f"{kind} n, {reader} reader"
        axes.plot(
            rows["ablated"], rows["value"], "o", linestyle=dashes, color=colour,
            markersize=3.5, label=label,
        )  # fmt: skip
        band: dict[str, Any] = {"color": colour, "alpha": 0.15, "linewidth": 0}
        axes.fill_between(rows["ablated"], rows["low"], rows["high"], **band)
    axes.set_ylim(0, 1.03)
    axes.set(xlabel="channels ablated", ylabel="places read right")


def page(
    table: pd.DataFrame,
    ranking: pd.DataFrame,
    places: NDArray[np.float64],
    record: Mapping[str, Any],
    sentences: Sequence[str],
) -> str:
    """Render what a pooled vector tells: one HTML document that loads nothing from elsewhere."""
    figure = plot_pooled(table, places)
    plt.close(figure)
    told = f"Places read right from the pooled vector of {record['layer']}"
    rows = [
        row | {"apart": interval(*(row[f"difference{end}"] for end in ("", "_low", "_high")))}
        if np.isfinite(row["difference"])
        else row | {"apart": ""}
        for row in as_dicts(table)
    ]
    channels = [
        {"channel": int(row["channel"]), "share": number_text(row["share"])}
        for row in as_dicts(ranking.head(_SHOWN))
    ]
    template = templates().get_template("pooled.html")
    return template.render(
        record=record,
        sentences=sentences,
        figure=svg(figure, "pooled", told),
        rows=rows,
        channels=channels,
        chance=number_text(1 / places.size),
    )
