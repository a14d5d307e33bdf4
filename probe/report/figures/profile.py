"""Error by distance to the border."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from ...errors import ProbeError, one_of
from ..style import INPUT, evenly, legend_columns, plain_text, shown_once, style
from .conditions import handles, rows_of
from .depth import draw_chance, draw_line

if TYPE_CHECKING:
    from ...results import Result

_MAX_PANELS = 12


def plot_profile(result: Result, target: str | None = None) -> Figure:
    """Draw the error by distance to the border; see :meth:`probe.Result.plot_profile`."""
    with style():
        figure = plt.figure(layout="constrained")
        try:
            draw_profile(result, target or result.targets[0], figure)
        except BaseException:
            plt.close(figure)
            raise
    return shown_once(figure)


def profile_figure(result: Result, target: str, most: int) -> Figure:
    """:func:`plot_profile` of so many layers, apart from pyplot, for a report."""
    with style():
        figure = Figure(layout="constrained")
        draw_profile(result, target, figure, most)
    return figure


def draw_profile(result: Result, target: str, figure: Figure, most: int = _MAX_PANELS) -> None:
    """Draw a panel for each layer, of many so many spread evenly, and set the figure's size."""
    if result.profile.empty:
        raise ProbeError(
            "the result has no profile: it was saved by a version before 0.3; run it again"
        )
    one_of(target, result.targets, "target")
    table = result.profile[result.profile["target"] == target]
    names = evenly([name for name in result.layers if name != INPUT], most)
    rows = -(-len(names) // 5)
    columns = -(-len(names) // rows)
    figure.set_size_inches(max(2.6 * columns, 5.2), 2.2 * rows + 1.2)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes, layer in zip(grid.flat, names, strict=False):
        mine = table[table["layer"] == layer].sort_values("distance")
        for condition in result.conditions:
            lines = rows_of(mine, condition)
            draw_line(result, condition, lines, "distance", "error", axes, len(lines) <= 8)
        draw_chance(result, mine, "distance", axes)
        axes.set(xlabel="", ylabel="")
        axes.set_title(plain_text(layer), loc="left", fontweight="bold")
    for axes in grid.flat[len(names) :]:
        axes.set_axis_off()
    for axes in grid.flat[max(len(names) - columns, 0) : len(names)]:
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("Distance to border (px)")
    grid[0, 0].set_ylim(bottom=0)
    grid[0, 0].set_xlim(left=0)
    for axes in grid[:, 0]:
        axes.set_ylabel("Mean absolute error")
    figure.suptitle(f"{plain_text(result.model)}: {target.replace('_', ' ')}")
    entries = handles(result, chance=True)
    count = legend_columns(entries, figure.get_figwidth())
    figure.legend(handles=entries, loc="outside lower center", ncols=count)
