"""The figure of an attribution."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ...errors import one_of
from ...scores.metrics import METRICS
from ..style import LABELS, PALETTE, new_figure, plain_text, shown_once, style

_ROW = 0.19  # inches

_SHIFT = 0.16  # of a row, between the dots of one unit

_ONLY, _ALL_BUT = "only this keeps its padding", "all but this keep theirs"


def plot_attribution(table: pd.DataFrame, metric: str = "spc") -> Figure:
    """Draw an attribution; see :meth:`probe.Attribution.plot`.

    Parameters
    ----------
    table : DataFrame
        See :class:`probe.Attribution`.
    metric : str
        ``spc``, ``mae`` or ``r2``.

    Returns
    -------
    Figure
        A column for each target; above the units in order of execution, below the sides.
    """
    one_of(metric, METRICS, "metric")
    rows = table[table["metric"] == metric]
    targets = list(dict.fromkeys(rows["target"]))
    kind = next(k for k in rows["kind"] if k not in ("network", "side"))
    shown = [k for k in (kind, "side") if (rows["kind"] == k).any()]
    heights = [rows.loc[rows["kind"] == k, "unit"].nunique() for k in shown]
    with style():
        figure = new_figure(figsize=(3.4 * len(targets) + 1.6, _ROW * (sum(heights) + 2) + 1.9))
        grid = figure.subplots(
            len(shown),
            len(targets),
            sharex="col",
            sharey="row",
            squeeze=False,
            height_ratios=[n + 1 for n in heights],
        )
        for column, target in zip(grid.T, targets, strict=True):
            mine = rows[rows["target"] == target]
            for axes, part in zip(column, shown, strict=True):
                _draw(mine, part, axes)
            column[0].set_title(target.replace("_", " "), loc="left", fontweight="bold")
            column[-1].set_xlabel(LABELS[metric])
        of_sources = kind == "source"
        grid[0, 0].set_ylabel("sources" if of_sources else f"padded {kind}s, in order")
        if len(shown) > 1:
            grid[1, 0].set_ylabel("sides")
        first = rows.iloc[0]
        figure.suptitle(plain_text(f"{first['model']}, {first['layer']}"))
        figure.legend(handles=_handles(of_sources), loc="outside lower center", ncols=2)
    return shown_once(figure)


def _colours() -> dict[str, str]:
    return dict(zip(("all", "none", "only", "all but"), PALETTE, strict=False))


def _draw(rows: pd.DataFrame, kind: str, axes: Axes) -> None:
    """Draw one panel: dots with intervals over bands of the network as trained and circular."""
    colours = _colours()
    for _, row in rows[rows["kind"] == "network"].iterrows():
        colour = colours[row["keeps"]]
        axes.axvline(row["value"], color=colour, linewidth=1, linestyle=(0, (4, 2)), zorder=1)
        if np.isfinite(row["low"]):
            axes.axvspan(row["low"], row["high"], color=colour, alpha=0.15, linewidth=0, zorder=0)
    units = rows[rows["kind"] == kind]
    for keeps, marker, shift in (("only", "o", -_SHIFT), ("all but", "D", _SHIFT)):
        mine = units[units["keeps"] == keeps]
        places = mine["order"] + shift
        axes.hlines(places, mine["low"], mine["high"], color=colours[keeps], linewidth=1.2)
        axes.plot(
            mine["value"], places,
            color=colours[keeps], marker=marker, markersize=4, markeredgewidth=0, linestyle="none",
        )  # fmt: skip
    first = units[units["keeps"] == "only"]
    plain = kind == "source"
    labels = [
        plain_text(unit if plain or function in ("", "conv2d") else f"{unit} ({function})")
        for unit, function in zip(first["unit"], first["function"], strict=True)
    ]
    axes.set_yticks(first["order"], labels, fontsize="small")
    axes.set_ylim(len(first) + 0.7, 0.3)


def _handles(of_sources: bool) -> list[Line2D | Patch]:
    colours = _colours()
    only, all_but, none = _ONLY, _ALL_BUT, "circular: none does"
    if of_sources:
        only, all_but = "this source alone", "all but this source"
        none = "no_position: none is left"
    dots: dict[str, Any] = {"markersize": 4.5, "markeredgewidth": 0, "linewidth": 1.2}
    return [
        Line2D([], [], color=colours["only"], marker="o", label=only, **dots),
        Line2D([], [], color=colours["all but"], marker="D", label=all_but, **dots),
        Line2D([], [], color=colours["all"], linestyle=(0, (4, 2)), label="original: all of them"),
        Line2D([], [], color=colours["none"], linestyle=(0, (4, 2)), label=none),
    ]
