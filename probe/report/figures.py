"""Figures of a result, in seaborn, as they would stand in a paper."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from ..errors import ProbeError, one_of
from ..results import Condition, families, number_text, short_name
from ..tables import LOWER_IS_BETTER

if TYPE_CHECKING:
    from ..patterns import Pattern
    from ..results import Result

CMAP = "viridis"
"""Colour map of position maps, over [0, 1]."""

DIVERGING = "RdBu_r"
"""Colour map of mean maps about their mean."""

INPUT = "input"
"""The control layer: the pixels themselves."""

LABELS = {
    "spc": "SPC",
    "mae": "Mean absolute error",
    "r2": "R²",
    "control": "SPC on the control task",
    "selectivity": "SPC less control task",
    "error_px": "Localisation error (px)",
    "top1": "Share of cells found",
}
_CORRELATIONS = ("spc", "control", "selectivity")
_ORDER = ("original", "circular", "reflect", "replicate", "zeros")
_PALETTE = (0, 1, 2, 3, 4, 6, 8, 5, 9)  # of "colorblind": like ones late, grey is for chance
_DASHES = ("-", (0, (4, 2)), (0, (1, 1.5)), (0, (4, 1.5, 1, 1.5)))
_MARKERS = ("o", "s", "D", "^")
_CHANCE: dict[str, Any] = {"color": "#777777", "linewidth": 1.0, "linestyle": (0, (2, 2))}
_MAX_TICKS = 14
_MAX_PANELS = 12


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


@contextmanager
def style() -> Iterator[None]:
    """Draw in Probe's style; matplotlib's settings are put back afterwards."""
    settings = {
        **sns.axes_style("ticks"),
        **sns.plotting_context("paper", font_scale=1.1),
        "font.family": "sans-serif",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "grid.color": "#e6e6e6",
        "legend.frameon": False,
        "svg.fonttype": "none",
    }
    with matplotlib.rc_context(settings):
        yield


# ---------------------------------------------------------------- score by depth


def plot_layers(result: Result, metric: str = "spc") -> Figure:
    """Draw the score by depth; see :meth:`probe.Result.plot_layers`."""
    one_of(metric, LABELS, "metric")
    targets = scored_targets(result, metric)
    if not targets:
        raise ProbeError(f"metric: the result has no scores {metric!r}")
    columns = min(3, len(targets))
    rows = -(-len(targets) // columns)
    entries = handles(result, chance=_chance_shows(result, metric))
    with style():
        width = max(3.5 * columns, 5.2)
        figure = plt.figure(figsize=(width, 2.9 * rows + 0.5), layout="constrained")
        grid = figure.subplots(rows, columns, sharey=metric != "mae", squeeze=False)
        for axes, target in zip(grid.flat, targets, strict=False):
            draw_layers(result, metric, target, axes)
        for axes in grid.flat[len(targets) :]:
            axes.set_axis_off()
        for axes in grid[:, 1:].flat:
            axes.set_ylabel("")
        figure.legend(
            handles=entries, loc="outside lower center", ncols=_legend_columns(entries, width)
        )
        figure.suptitle(plain_text(result.model))
    return shown_once(figure)


def layer_figure(result: Result, metric: str, target: str) -> Figure:
    """One panel of :func:`plot_layers` as a figure of its own, without legend, for a report."""
    with style():
        figure = Figure(figsize=(4.0, 2.9), layout="constrained")
        draw_layers(result, metric, target, figure.subplots())
    return figure


def scored_targets(result: Result, metric: str) -> list[str]:
    """Targets that have such a score: those of the run, or ``position`` or ``cells``."""
    table = result.table
    return list(dict.fromkeys(table.loc[table["metric"] == metric, "target"]))


def draw_layers(result: Result, metric: str, target: str, axes: Axes) -> None:
    """Draw one target's scores by depth with their interval bands.

    The input stands apart on the left: it is no layer of the network.
    """
    table = result.table[(result.table["metric"] == metric) & (result.table["target"] == target)]
    names = [name for name in result.layers if name != INPUT]
    step = -(-len(names) // _MAX_TICKS)
    place = {INPUT: 1 - step} | {name: order for order, name in enumerate(names, 1)}
    table = table.assign(place=table["layer"].map(place)).sort_values("place", kind="stable")
    pixels, table = table[table["layer"] == INPUT], table[table["layer"] != INPUT]
    for condition in result.conditions:
        rows = _of(table, condition)
        _draw_line(result, condition, rows, "place", "value", axes, len(rows) <= _MAX_TICKS)
    if metric in ("mae", "error_px", "top1") and table["chance"].notna().any():
        _draw_chance(result, table, "place", axes)
    if metric in ("r2", *_CORRELATIONS):
        axes.axhline(0, color="#444444", linewidth=0.8, zorder=0.5)

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
    axes.axvspan(1 - 1.55 * step, 1 - 0.5 * step, color="#f2f3f5", linewidth=0, zorder=0)
    axes.vlines(distinct["place"], distinct["low"], distinct["high"], color="#555555", linewidth=1)
    axes.plot(
        distinct["place"], distinct["value"],
        linestyle="none", marker="o", markersize=4.5,
        markerfacecolor="white", markeredgecolor="#555555", markeredgewidth=1, zorder=3,
    )  # fmt: skip


def _draw_line(
    result: Result,
    condition: Condition,
    rows: pd.DataFrame,
    x: str,
    y: str,
    axes: Axes,
    marked: bool = True,
) -> None:
    """Draw a condition's line over its interval band; several random draws thinly."""
    colour, dashes, marker = look(result, condition)
    thin = len(_members(result, condition[0])) > 1
    places, low, high = (rows[name].to_numpy(float) for name in (x, "low", "high"))
    axes.fill_between(places, low, high, color=colour, alpha=0.08 if thin else 0.18, linewidth=0)
    sns.lineplot(
        rows,
        x=x,
        y=y,
        ax=axes,
        color=colour,
        linestyle=dashes,
        linewidth=0.8 if thin else 1.5,
        marker=marker,
        markersize=(3 if thin else 4.5) if marked else 0,
        markeredgewidth=0,
        errorbar=None,
        legend=False,
    )


def _draw_chance(result: Result, rows: pd.DataFrame, x: str, axes: Axes) -> None:
    """Draw what knows nothing; where a variant leaves other places (``valid``), its own line."""
    drawn: list[NDArray[np.float64]] = []
    for condition in leading(result):
        line = _of(rows, condition)[[x, "chance"]].to_numpy(float)
        if any(line.shape == other.shape and np.allclose(line, other, 0.02) for other in drawn):
            continue
        drawn.append(line)
        axes.plot(*line.T, zorder=2.5, **_CHANCE)


def _chance_shows(result: Result, metric: str) -> bool:
    rows = result.table[result.table["metric"] == metric]
    return metric in ("mae", "error_px", "top1") and bool(rows["chance"].notna().any())


# ---------------------------------------------------------------- maps


def plot_maps(result: Result, layer: str | None = None) -> Figure:
    """Draw the mean predicted maps of a layer; see :meth:`probe.Result.plot_maps`."""
    layer = layer or best_layer(result)
    one_of(layer, result.layers, "layer")
    targets, conditions = result.targets, leading(result)
    with style(), matplotlib.rc_context({"axes.grid": False}):
        figure = plt.figure(
            figsize=(1.45 * len(targets) + 1.4, 1.45 * len(conditions) + 2.0), layout="constrained"
        )
        grid = figure.subplots(1 + len(conditions), len(targets), squeeze=False)
        picture = None
        for column, target in enumerate(targets):
            maps = [result.true_map(layer, target)]
            maps += [result.maps[(*condition, layer, target)] for condition in conditions]
            for axes, values in zip(grid[:, column], maps, strict=True):
                picture = axes.imshow(values, cmap=CMAP, vmin=0, vmax=1)
                _bare(axes)
            grid[0, column].set_title(target.replace("_", "\n"), fontsize="medium")
        for axes, words in zip(
            grid[:, 0], ["true", *(condition_label(c) for c in conditions)], strict=True
        ):
            _row_label(axes, words.replace(", ", "\n"))
        figure.colorbar(picture, ax=grid, shrink=0.5, label="predicted value")
        figure.suptitle(f"{plain_text(result.model)}, {plain_text(layer)}: mean predicted maps")
    return shown_once(figure)


# ---------------------------------------------------------------- profile


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
            lines = _of(mine, condition)
            _draw_line(result, condition, lines, "distance", "error", axes, len(lines) <= 8)
        _draw_chance(result, mine, "distance", axes)
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
    count = _legend_columns(entries, figure.get_figwidth())
    figure.legend(handles=entries, loc="outside lower center", ncols=count)


# ---------------------------------------------------------------- pattern


def plot_pattern(result: Result, layer: str | None = None, channels: int = 8) -> Figure:
    """Draw the mean maps of the most tuned channels; see :meth:`probe.Result.plot_pattern`."""
    if not result.pattern:
        raise ProbeError(
            "the result has no pattern: it was saved by a version before 0.3; run it again"
        )
    layer = layer or best_layer(result)
    one_of(layer, result.layers, "layer")
    if channels < 1:
        raise ProbeError(f"channels: expected at least 1, got {channels}")
    rows = pattern_rows(result, layer, channels)
    columns = max(len(row.cells) for row in rows)
    with style(), matplotlib.rc_context({"axes.grid": False}):
        figure = plt.figure(
            figsize=(1.15 * columns + 1.7, 1.5 * len(rows) + 0.8), layout="constrained"
        )
        grid = figure.subplots(len(rows), columns, squeeze=False)
        picture = None
        for line, row in zip(grid, rows, strict=True):
            for axes in line:
                _bare(axes)
            for axes, cell in zip(line, row.cells, strict=False):
                picture = axes.imshow(cell.relative, cmap=DIVERGING, vmin=-1, vmax=1)
                number = f"channel {cell.channel}\n" if row.leads else ""
                axes.set_title(f"{number}η² {number_text(cell.eta2)}", fontsize="small")
            label = condition_label(row.condition).replace(", ", "\n")
            _row_label(line[0], f"{label}\nSNR {number_text(row.snr)}")
        bar = figure.colorbar(picture, ax=grid, shrink=0.5, ticks=[-1, 0, 1])
        bar.set_label("mean feature less its average,\nover the channel's largest")
        figure.suptitle(
            f"{plain_text(result.model)}, {plain_text(layer)}: channels most tuned to position"
        )
    return shown_once(figure)


def pattern_rows(result: Result, layer: str, channels: int) -> list[PatternRow]:
    """Mean maps of a layer as pictures show them.

    For each weights (of random ones the first draw) the channels most tuned under the first
    variant, then the same channels under the other ones, to the same scale. A saved result may not
    hold these: such a variant has no row.
    """
    found = []
    variants = list(dict.fromkeys(variant for _, variant in result.conditions))
    for weights in (members[0] for members in families(w for w, _ in result.conditions).values()):
        mine = {v: result.pattern.get((weights, v, layer)) for v in variants}
        first = mine[variants[0]]
        if first is None:
            continue
        kept = set(first.channels.tolist())
        chosen = [int(c) for c in first.tuned(len(first.eta2)) if c in kept][:channels]
        held = {v: p for v, p in mine.items() if p and set(chosen) <= set(p.channels.tolist())}
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


# ---------------------------------------------------------------- how conditions look


def leading(result: Result) -> list[Condition]:
    """Conditions that pictures show: of several random draws the first alone."""
    first = {members[0] for members in families(w for w, _ in result.conditions).values()}
    return [condition for condition in result.conditions if condition[0] in first]


def handles(result: Result, *, chance: bool = False) -> list[Line2D]:
    """Legend entries, one for each family of weights × variant, and one for chance."""
    entries = []
    for condition in leading(result):
        colour, dashes, marker = look(result, condition)
        entries.append(
            Line2D(
                [], [],
                color=colour,
                linestyle=dashes,
                marker=marker,
                markersize=4.5,
                markeredgewidth=0,
                label=plain_text(family_label(result, condition)),
            )
        )  # fmt: skip
    if chance:
        entries.append(Line2D([], [], label="chance", **_CHANCE))
    return entries


def look(result: Result, condition: Condition) -> tuple[str, Any, str]:
    """Colour (by variant), dashes and marker (by family of weights) of a condition."""
    palette = sns.color_palette("colorblind").as_hex()
    colours = [palette[k] for k in _PALETTE]
    groups = list(families(w for w, _ in result.conditions).values())
    kind = next(k for k, members in enumerate(groups) if condition[0] in members) % len(_DASHES)
    order = list(dict.fromkeys((*_ORDER, *(variant for _, variant in result.conditions))))
    colour = colours[order.index(condition[1]) % len(colours)]
    return colour, _DASHES[kind], _MARKERS[kind]


def condition_label(condition: Condition) -> str:
    """``pretrained, circular``."""
    return f"{short_name(condition[0])}, {condition[1]}"


def family_label(result: Result, condition: Condition) -> str:
    """``random (3 seeds), circular``."""
    seeds = len(_members(result, condition[0]))
    return f"random ({seeds} seeds), {condition[1]}" if seeds > 1 else condition_label(condition)


def best_layer(result: Result) -> str:
    """Layer with the highest SPC under the first weights and variant."""
    return best_score(result)[0]


def best_score(result: Result) -> tuple[str, str]:
    """Layer and target of the highest SPC under the first weights and variant."""
    rows = _of(result.table, result.conditions[0])
    rows = rows[(rows["metric"] == "spc") & (rows["layer"] != INPUT)]
    best = rows.loc[rows["value"].idxmax()]
    return str(best["layer"]), str(best["target"])


def _members(result: Result, weights: str) -> list[str]:
    """All weights of the same family."""
    groups = families(w for w, _ in result.conditions).values()
    return next(members for members in groups if weights in members)


def _of(table: pd.DataFrame, condition: Condition) -> pd.DataFrame:
    return table[(table["weights"] == condition[0]) & (table["variant"] == condition[1])]


# ---------------------------------------------------------------- small things


def plain_text(text: str) -> str:
    """Keep matplotlib from reading a name as mathematics."""
    return text.replace("$", r"\$")


def evenly(names: Sequence[str], most: int) -> list[str]:
    """At most so many of the names, spread evenly, first and last among them."""
    if len(names) <= most:
        return list(names)
    return [names[i] for i in np.unique(np.linspace(0, len(names) - 1, most).round().astype(int))]


def _legend_columns(entries: Sequence[Line2D], width: float) -> int:
    """How many entries fit beside each other in so many inches."""
    widest = max(len(str(entry.get_label())) for entry in entries)
    fitting = max(1, int(width / (0.55 + 0.078 * widest)))
    lines = -(-len(entries) // fitting)
    return -(-len(entries) // lines)


def _bare(axes: Axes) -> None:
    axes.set(xticks=[], yticks=[])
    sns.despine(ax=axes, left=True, bottom=True)


def _row_label(axes: Axes, words: str) -> None:
    axes.set_ylabel(plain_text(words), rotation=0, ha="right", va="center", labelpad=8)


def shown_once(figure: Figure) -> Figure:
    """In a notebook the returned figure is what shows; pyplot must not show it again."""
    if "inline" in matplotlib.get_backend().lower():
        plt.close(figure)
    return figure
