"""Figures of a result, in seaborn, as they would stand in a paper."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..errors import one_of
from ..results import Condition, short_name
from ..scores import METRICS

if TYPE_CHECKING:
    from ..results import Result

CMAP = "viridis"
"""Colour map of position maps, over [0, 1]."""

_LABELS = {"spc": "SPC", "mae": "Mean absolute error", "r2": "R²"}
_ORDER = ("original", "circular", "reflect", "replicate", "zeros")
_DASHES = ("-", (0, (4, 2)), (0, (1, 1.5)), (0, (4, 1.5, 1, 1.5)))
_MARKERS = ("o", "s", "D", "^")
_MAX_TICKS = 14


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


def plot_layers(result: Result, metric: str = "spc") -> Figure:
    """Draw the score by depth; see :meth:`probe.Result.plot_layers`."""
    one_of(metric, METRICS, "metric")
    targets = result.targets
    columns = min(3, len(targets))
    rows = -(-len(targets) // columns)
    with style():
        figure = plt.figure(figsize=(3.5 * columns, 2.9 * rows + 0.5), layout="constrained")
        grid = figure.subplots(rows, columns, sharey=metric != "mae", squeeze=False)
        for axes, target in zip(grid.flat, targets, strict=False):
            draw_layers(result, metric, target, axes)
        for axes in grid.flat[len(targets) :]:
            axes.set_axis_off()
        for axes in grid[:, 1:].flat:
            axes.set_ylabel("")
        figure.legend(
            handles=handles(result),
            loc="outside lower center",
            ncols=min(4, len(result.conditions)),
        )
        figure.suptitle(plain_text(result.model))
    return _shown_once(figure)


def plot_maps(result: Result, layer: str | None = None) -> Figure:
    """Draw the mean predicted maps of a layer; see :meth:`probe.Result.plot_maps`."""
    layer = layer or best_layer(result)
    one_of(layer, result.layers, "layer")
    targets, conditions = result.targets, result.conditions
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
                axes.set(xticks=[], yticks=[])
                sns.despine(ax=axes, left=True, bottom=True)
            grid[0, column].set_title(target.replace("_", "\n"), fontsize="medium")
        for axes, words in zip(
            grid[:, 0], ["true", *(condition_label(c) for c in conditions)], strict=True
        ):
            axes.set_ylabel(
                plain_text(words.replace(", ", "\n")),
                rotation=0,
                ha="right",
                va="center",
                labelpad=8,
            )
        figure.colorbar(picture, ax=grid, shrink=0.5, label="predicted value")
        figure.suptitle(f"{plain_text(result.model)}, {plain_text(layer)}: mean predicted maps")
    return _shown_once(figure)


def layer_figure(result: Result, metric: str, target: str) -> Figure:
    """One panel of :func:`plot_layers` as a figure of its own, for a report."""
    with style():
        figure = Figure(figsize=(4.0, 3.2), layout="constrained")
        draw_layers(result, metric, target, figure.subplots())
        figure.legend(
            handles=handles(result),
            loc="outside lower center",
            ncols=min(2, len(result.conditions)),
        )
    return figure


def draw_layers(result: Result, metric: str, target: str, axes: Axes) -> None:
    """Draw one target's scores by depth with their interval bands."""
    table = result.table[(result.table["metric"] == metric) & (result.table["target"] == target)]
    table = table.sort_values("depth")
    for condition in result.conditions:
        weights, variant = condition
        rows = table[(table["weights"] == weights) & (table["variant"] == variant)]
        colour, dashes, marker = look(result, condition)
        axes.fill_between(
            rows["depth"].to_numpy(float),
            rows["low"].to_numpy(float),
            rows["high"].to_numpy(float),
            color=colour,
            alpha=0.18,
            linewidth=0,
        )
        sns.lineplot(
            rows,
            x="depth",
            y="value",
            ax=axes,
            color=colour,
            linestyle=dashes,
            marker=marker,
            markersize=4.5 if len(rows) <= _MAX_TICKS else 0,
            markeredgewidth=0,
            errorbar=None,
            legend=False,
        )
    names = result.layers
    step = -(-len(names) // _MAX_TICKS)
    places = list(range(1, len(names) + 1, step))
    labels = [plain_text(names[place - 1]) for place in places]
    crowded = sum(map(len, labels)) > 36
    axes.set_xticks(
        places,
        labels,
        rotation=40 if crowded else 0,
        ha="right" if crowded else "center",
        rotation_mode="anchor",
    )
    axes.margins(x=0.04)
    if metric == "spc":
        low = min(float(table["low"].min()), float(table["value"].min()))
        axes.set_ylim(min(-0.12, low - 0.05) if np.isfinite(low) else -0.12, 1.03)
    if metric == "r2":
        axes.set_ylim(-0.5, 1.03)
    if metric != "mae":
        axes.axhline(0, color="#444444", linewidth=0.8, zorder=0.5)
    axes.set(xlabel="", ylabel=_LABELS[metric])
    axes.set_title(target.replace("_", " "), loc="left", fontweight="bold")


def handles(result: Result) -> list[Line2D]:
    """Legend entries, one for each weights × variant."""
    entries = []
    for condition in result.conditions:
        colour, dashes, marker = look(result, condition)
        entries.append(
            Line2D(
                [], [],
                color=colour,
                linestyle=dashes,
                marker=marker,
                markersize=4.5,
                markeredgewidth=0,
                label=plain_text(condition_label(condition)),
            )
        )  # fmt: skip
    return entries


def look(result: Result, condition: Condition) -> tuple[str, object, str]:
    """Colour (by variant), dashes and marker (by weights) of a condition."""
    colours = sns.color_palette("colorblind", len(_ORDER)).as_hex()
    weights = list(dict.fromkeys(w for w, _ in result.conditions))
    kind = weights.index(condition[0]) % len(_DASHES)
    order = list(dict.fromkeys((*_ORDER, condition[1])))
    colour = colours[order.index(condition[1]) % len(colours)]
    return colour, _DASHES[kind], _MARKERS[kind]


def condition_label(condition: Condition) -> str:
    """``pretrained, circular``."""
    return f"{short_name(condition[0])}, {condition[1]}"


def best_layer(result: Result) -> str:
    """Layer with the highest SPC under the first weights and variant."""
    weights, variant = result.conditions[0]
    table = result.table[result.table["metric"] == "spc"]
    rows = table[(table["weights"] == weights) & (table["variant"] == variant)]
    return str(rows.loc[rows["value"].idxmax(), "layer"])


def plain_text(text: str) -> str:
    """Keep matplotlib from reading a name as mathematics."""
    return text.replace("$", r"\$")


def evenly(names: Sequence[str], most: int) -> list[str]:
    """At most so many of the names, spread evenly, first and last among them."""
    if len(names) <= most:
        return list(names)
    return [names[i] for i in np.unique(np.linspace(0, len(names) - 1, most).round().astype(int))]


def _shown_once(figure: Figure) -> Figure:
    """In a notebook the returned figure is what shows; pyplot must not show it again."""
    if "inline" in matplotlib.get_backend().lower():
        plt.close(figure)
    return figure
