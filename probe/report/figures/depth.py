"""Scores by depth."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from ...errors import ProbeError, chosen, one_of
from ...records.record import Condition
from ...scores.tables import LOWER_IS_BETTER
from ..style import (
    INPUT,
    LABELS,
    PAPER,
    SOFT,
    TINT,
    legend_columns,
    new_figure,
    panel,
    plain_text,
    shown_once,
    style,
)
from .conditions import (
    CHANCE,
    conditions_of,
    family_label,
    family_members,
    handles,
    layers_of,
    leading,
    look,
    rows_of,
)

_CORRELATIONS = ("spc", "control", "selectivity", "follows", "stays")

_MAX_TICKS = 14


def plot_layers(
    table: pd.DataFrame,
    metric: str = "spc",
    targets: str | Sequence[str] | None = None,
    *,
    width: float | None = None,
    ax: Axes | None = None,
) -> Figure | Axes:
    """Plot scores by depth, with their intervals as bands.

    Parameters
    ----------
    table : DataFrame
        Tidy scores with the columns of :attr:`probe.Result.table`.
    metric : str
        ``spc``, ``mae``, ``r2``, ``control``, ``selectivity``, ``error_px``,
        ``top1``, ``follows`` or ``stays``.
    targets : str or sequence of str, optional
        Which targets, a panel each; all that have such a score by default.
    width : float, optional
        Of the figure, in inches: 3.3 is a column of most papers. As wide as its panels need by
        default.
    ax : Axes, optional
        Where to draw, of one target; ``ax.legend()`` then names the lines.

    Returns
    -------
    Figure, or Axes if ``ax`` was given

    Raises
    ------
    ProbeError
        If there is no such metric or target, the width is not above 0, or ``ax`` is given for
        several targets.
    """
    one_of(metric, LABELS, "metric")
    scored = scored_targets(table, metric)
    if not scored:
        raise ProbeError(f"metric: the result has no scores {metric!r}")
    shown = scored if targets is None else chosen(targets, scored, "target")
    if ax is not None:
        if len(shown) != 1:
            raise ProbeError(f"ax: expected one target, got {len(shown)}; name it in targets")
        with style():
            draw_layers(table, metric, shown[0], ax)
        return ax
    entries = handles(conditions_of(table), chance=_chance_shows(table, metric))
    with style():
        draw = partial(draw_layers, table, metric)
        figure = target_panels(shown, draw, entries, width, sharey=metric != "mae")
        figure.suptitle(plain_text(str(table["model"].iloc[0])))
    return shown_once(figure)


def target_panels(
    targets: Sequence[str],
    draw: Callable[[str, Axes], None],
    entries: Sequence[Line2D],
    width: float | None,
    *,
    sharey: bool,
) -> Figure:
    """A figure with a panel for each target, and their legend below."""
    if width is not None and not 0 < width < math.inf:
        raise ProbeError(f"width: expected inches above 0, got {width!r}")
    columns = min(3 if width is None else max(1, int(width / 2.6)), len(targets))
    rows = -(-len(targets) // columns)
    width = max(3.5 * columns, 5.2) if width is None else width
    height = 2.9 if width / columns > 3 else 2.3
    fitting = legend_columns(entries, width)
    legend = 0.2 * -(-len(entries) // fitting)
    figure = new_figure(figsize=(width, height * rows + 0.3 + legend))
    grid = figure.subplots(rows, columns, sharey=sharey, squeeze=False)
    for axes, target in zip(grid.flat, targets, strict=False):
        draw(target, axes)
    for axes in grid.flat[len(targets) :]:
        axes.set_axis_off()
    for axes in grid[:, 1:].flat:
        axes.set_ylabel("")
    figure.legend(handles=entries, loc="outside lower center", ncols=fitting)
    return figure


def layer_figure(table: pd.DataFrame, metric: str, target: str) -> Figure:
    """One panel of :func:`plot_layers` as a figure of its own, without legend, for a report."""
    return panel(partial(draw_layers, table, metric, target))


def scored_targets(table: pd.DataFrame, metric: str) -> list[str]:
    """Targets that have such a score: those of the run, or ``position`` or ``cells``."""
    return list(dict.fromkeys(table.loc[table["metric"] == metric, "target"]))


def draw_layers(table: pd.DataFrame, metric: str, target: str, axes: Axes) -> None:
    """Draw one target's scores by depth with their interval bands.

    The input stands apart on the left: it is no layer of the network.
    """
    conditions, names = conditions_of(table), [n for n in layers_of(table) if n != INPUT]
    table = table[(table["metric"] == metric) & (table["target"] == target)]
    step = -(-len(names) // _MAX_TICKS)
    place = {INPUT: 1 - step} | {name: order for order, name in enumerate(names, 1)}
    table = table.assign(place=table["layer"].map(place)).sort_values("place", kind="stable")
    pixels, table = table[table["layer"] == INPUT], table[table["layer"] != INPUT]
    for condition in conditions:
        rows = rows_of(table, condition)
        draw_line(conditions, condition, rows, "place", "value", axes, len(rows) <= _MAX_TICKS)
    if metric in ("mae", "error_px", "top1") and table["chance"].notna().any():
        draw_chance(conditions, table, "place", axes)
    if metric in ("r2", *_CORRELATIONS):
        axes.axhline(0, color=SOFT, linewidth=0.8, zorder=0.5)

    ticks = {place[name]: name for name in names[::step]}
    if len(pixels):
        _draw_input(pixels, step, axes)
        ticks = {place[INPUT]: INPUT} | ticks
    labels = [plain_text(name) for name in ticks.values()]
    crowded = sum(map(len, labels)) > 36
    axes.set_xticks(
        list(ticks),
        labels,
        rotation=40 if crowded else 0,
        ha="right" if crowded else "center",
        rotation_mode="anchor",
    )
    edge = 0.04 * max(len(names) - 1, 8)
    axes.set_xlim(1 - 1.55 * step if len(pixels) else 1 - edge, len(names) + edge)
    if metric in _CORRELATIONS:
        low = float(np.nanmin(table[["low", "value"]].to_numpy(float), initial=0))
        axes.set_ylim(min(-0.12, low - 0.05), 1.03)
    elif metric == "r2":
        low = float(np.nanmin(table[["low", "value"]].to_numpy(float), initial=0))
        axes.set_ylim(max(min(-0.12, low - 0.05), -0.5), 1.03)
    elif metric in LOWER_IS_BETTER:
        axes.set_ylim(bottom=0)
    else:
        axes.set_ylim(0, 1.03)
    axes.set(xlabel="", ylabel=LABELS[metric])
    title = "localisation" if metric == "error_px" else target.replace("_", " ")
    axes.set_title(title, loc="left", fontweight="bold")


def _draw_input(pixels: pd.DataFrame, step: int, axes: Axes) -> None:
    """Draw the input's scores hollow; most conditions see the same pixels."""
    distinct = pixels.assign(rounded=pixels["value"].round(3)).drop_duplicates("rounded")
    axes.axvspan(1 - 1.55 * step, 1 - 0.5 * step, color=TINT, linewidth=0, zorder=0)
    axes.vlines(distinct["place"], distinct["low"], distinct["high"], color=SOFT, linewidth=1)
    axes.plot(
        distinct["place"], distinct["value"],
        linestyle="none", marker="o", markersize=4.5,
        markerfacecolor=PAPER, markeredgecolor=SOFT, markeredgewidth=1, zorder=3,
    )  # fmt: skip


def draw_line(
    conditions: Sequence[Condition],
    condition: Condition,
    rows: pd.DataFrame,
    x: str,
    y: str,
    axes: Axes,
    marked: bool = True,
) -> None:
    """Draw a condition's line over its interval band; several random draws thinly."""
    colour, dashes, marker = look(conditions, condition)
    named = plain_text(family_label(conditions, condition))
    thin = len(family_members(conditions, condition[0])) > 1
    places, low, high = (rows[name].to_numpy(float) for name in (x, "low", "high"))
    axes.fill_between(places, low, high, color=colour, alpha=0.08 if thin else 0.18, linewidth=0)
    known = rows.dropna(subset=[x, y])
    axes.plot(
        known[x],
        known[y],
        color=colour,
        linestyle=dashes,
        linewidth=0.8 if thin else 1.5,
        marker=marker,
        markersize=(3 if thin else 4.5) if marked else 0,
        markeredgewidth=0,
        label=named if condition in leading(conditions) else "_",
    )


def draw_chance(conditions: Sequence[Condition], rows: pd.DataFrame, x: str, axes: Axes) -> None:
    """Draw what knows nothing; where a variant leaves other places (``valid``), its own line."""
    drawn: list[NDArray[np.float64]] = []
    for condition in leading(conditions):
        line = rows_of(rows, condition)[[x, "chance"]].to_numpy(float)
        if any(line.shape == other.shape and np.allclose(line, other, 0.02) for other in drawn):
            continue
        axes.plot(*line.T, zorder=2.5, label="_" if drawn else "chance", **CHANCE)
        drawn.append(line)


def _chance_shows(table: pd.DataFrame, metric: str) -> bool:
    rows = table[table["metric"] == metric]
    return metric in ("mae", "error_px", "top1") and bool(rows["chance"].notna().any())
