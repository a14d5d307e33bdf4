"""Error by distance to the border."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...errors import ProbeError, one_of
from ..style import INPUT, PaperFigure, evenly, legend_columns, plain_text, shown_once, style
from .conditions import conditions_of, handles, layers_of, rows_of
from .depth import draw_chance, draw_line

_MAX_PANELS = 12


def plot_profile(
    profile: pd.DataFrame, target: str | None = None, *, ax: Axes | None = None
) -> Figure | Axes:
    """Plot the readout's error by distance to the nearest border, a panel for each layer.

    Parameters
    ----------
    profile : DataFrame
        Tidy, with the columns of :attr:`probe.Result.profile`.
    target : str, optional
        Which target; the first by default.
    ax : Axes, optional
        Where to draw, if the profile is of one layer; its legend is left to you.

    Returns
    -------
    Figure, or Axes if ``ax`` was given

    Raises
    ------
    ProbeError
        If the profile is empty or has no such target, or ``ax`` is given for several layers.
    """
    rows = _rows(profile, target)
    if ax is not None:
        layers = [name for name in layers_of(rows) if name != INPUT]
        if len(layers) != 1:
            raise ProbeError(f"ax: expected the profile of one layer, got {len(layers)}")
        with style():
            _draw_layer(rows, layers[0], ax)
        return ax
    with style():
        figure = plt.figure(FigureClass=PaperFigure, layout="constrained")
        _draw(rows, figure)
    return shown_once(figure)


def profile_figure(profile: pd.DataFrame, target: str, most: int) -> Figure:
    """:func:`plot_profile` of so many layers, apart from pyplot, for a report."""
    with style(always=True):
        figure = Figure(layout="constrained")
        _draw(_rows(profile, target), figure, most)
    return figure


def _rows(profile: pd.DataFrame, target: str | None) -> pd.DataFrame:
    if profile.empty:
        raise ProbeError(
            "the result has no profile: it was saved by a version before 0.3; run it again"
        )
    targets = list(dict.fromkeys(profile["target"]))
    return profile[profile["target"] == one_of(target or targets[0], targets, "target")]


def _draw_layer(rows: pd.DataFrame, layer: str, axes: Axes) -> None:
    conditions = conditions_of(rows)
    rows = rows[rows["layer"] == layer].sort_values("distance")
    for condition in conditions:
        lines = rows_of(rows, condition)
        draw_line(conditions, condition, lines, "distance", "error", axes, len(lines) <= 8)
    draw_chance(conditions, rows, "distance", axes)
    axes.set(xlabel="Distance to border (px)", ylabel="Mean absolute error")
    axes.set_title(plain_text(layer), loc="left", fontweight="bold")


def _draw(table: pd.DataFrame, figure: Figure, most: int = _MAX_PANELS) -> None:
    """Draw a panel for each layer, of many so many spread evenly, and set the figure's size."""
    names = evenly([name for name in layers_of(table) if name != INPUT], most)
    rows = -(-len(names) // 5)
    columns = -(-len(names) // rows)
    figure.set_size_inches(max(2.6 * columns, 5.2), 2.2 * rows + 1.2)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes, layer in zip(grid.flat, names, strict=False):
        _draw_layer(table, layer, axes)
        axes.set(xlabel="", ylabel="")
    for axes in grid.flat[len(names) :]:
        axes.set_axis_off()
    for axes in grid.flat[max(len(names) - columns, 0) : len(names)]:
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("Distance to border (px)")
    grid[0, 0].set_ylim(bottom=0)
    grid[0, 0].set_xlim(left=0)
    for axes in grid[:, 0]:
        axes.set_ylabel("Mean absolute error")
    model, target = (str(table[name].iloc[0]) for name in ("model", "target"))
    figure.suptitle(f"{plain_text(model)}: {target.replace('_', ' ')}")
    entries = handles(conditions_of(table), chance=True)
    count = legend_columns(entries, figure.get_figwidth())
    figure.legend(handles=entries, loc="outside lower center", ncols=count)
