"""Error by distance to the border."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...errors import ProbeError, chosen, one_of
from ..style import (
    INPUT,
    PaperFigure,
    evenly,
    legend_columns,
    new_figure,
    plain_text,
    shown_once,
    style,
)
from .conditions import conditions_of, handles, layers_of, rows_of
from .depth import draw_chance, draw_line

_MAX_PANELS = 12


def plot_profile(
    profile: pd.DataFrame,
    target: str | None = None,
    layers: str | Sequence[str] | None = None,
    *,
    ax: Axes | None = None,
) -> Figure | Axes:
    """Plot the readout's error by distance to the nearest border, a panel for each layer.

    Parameters
    ----------
    profile : DataFrame
        Tidy, with the columns of :attr:`probe.Result.profile`.
    target : str, optional
        Which target; the first by default.
    layers : str or sequence of str, optional
        Which layers, a panel each; all by default, of many so many spread evenly.
    ax : Axes, optional
        Where to draw, of one layer; ``ax.legend()`` then names the lines.

    Returns
    -------
    Figure, or Axes if ``ax`` was given

    Raises
    ------
    ProbeError
        If the profile is empty or has no such target or layer, or ``ax`` is given for several
        layers.
    """
    rows = _rows(profile, target)
    known = [name for name in layers_of(rows) if name != INPUT]
    shown = known if layers is None else chosen(layers, known, "layer")
    if ax is not None:
        if len(shown) != 1:
            raise ProbeError(f"ax: expected one layer, got {len(shown)}; name it in layers")
        with style():
            _draw_layer(rows, shown[0], ax)
        return ax
    if layers is not None:
        rows = rows[rows["layer"].isin(shown)]
    with style():
        figure = new_figure()
        _draw(rows, figure, _MAX_PANELS if layers is None else len(shown))
    return shown_once(figure)


def profile_figure(profile: pd.DataFrame, target: str, most: int) -> Figure:
    """:func:`plot_profile` of so many layers, apart from pyplot, for a report."""
    with style(always=True):
        figure = PaperFigure(layout="constrained")
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
