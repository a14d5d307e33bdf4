"""The figure and the page of a ladder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ...report.parts import legend_entry, svg, templates
from ...report.style import (
    INK,
    INPUT,
    LABELS,
    PALETTE,
    SOFT,
    new_figure,
    panel,
    plain_text,
    shown_once,
    style,
)
from ...text import number_text
from .rungs import RUNGS, STEPS

_COLOURS = dict(zip(RUNGS, (1, 0, 2, 2), strict=True))  # of the palette

_MARKERS = dict(zip(RUNGS, ("s", "o", "D", None), strict=True))
_NUMBERS = dict(zip(STEPS, ("0", "80", "100"), strict=True))

_LONG = {
    "no border": "no border: circular on the torus",
    "as trained": "as trained",
    "coordinates": "coordinates given: CoordConv",
    "coordinates, no border": "coordinates, no border",
}

_BORDERS = dict(zip(("circular", "zeros", "coordconv"), STEPS, strict=True))
_MAX_TICKS = 9


def plot_ladder(table: pd.DataFrame, instances: pd.DataFrame | None = None) -> Figure:
    """Draw SPC by depth on each rung, a panel for each target, with bands of 95 % intervals.

    Where the instance experiment has been run, one more panel has its pairwise F1.
    """
    rows = table[table["metric"] == "spc"]
    targets = list(dict.fromkeys(rows["target"]))
    panels = len(targets) + (instances is not None)
    columns = min(4, panels)
    height = -(-panels // columns)
    with style():
        size = (2.75 * columns + 0.4, 2.75 * height + 0.6)
        figure = new_figure(figsize=size)
        grid = figure.subplots(height, columns, squeeze=False)
        for axes, target in zip(grid.flat, targets, strict=False):
            _draw(rows[rows["target"] == target], axes)
            if axes not in grid[:, 0]:
                axes.set_ylabel("")
        for axes in grid.flat[panels:]:
            axes.set_axis_off()
        if instances is not None:
            _draw_instances(instances, grid.flat[len(targets)])
        figure.legend(handles=_handles(rows), loc="outside lower center", ncols=2)
        figure.suptitle(plain_text(str(table["model"].iloc[0])))
    return shown_once(figure)


def _draw(rows: pd.DataFrame, axes: Axes) -> None:
    """Draw one target's SPC by depth on each rung."""
    layers = _layers(rows)
    place = {name: order for order, name in enumerate(layers)}
    for rung in reversed(RUNGS):
        line = rows[(rows["rung"] == rung) & rows["layer"].isin(place)]
        if line.empty:
            continue
        x, step = line["layer"].map(place), rung in STEPS
        axes.plot(x, line["value"], **_look(rung), markersize=4, zorder=3 if step else 2)
        if step:
            band: dict[str, Any] = {"color": _colour(rung), "alpha": 0.18, "linewidth": 0}
            axes.fill_between(x, line["low"], line["high"], **band)
    axes.axhline(0, color=SOFT, linewidth=0.8, zorder=0.5)
    every = -(-len(layers) // _MAX_TICKS)
    labels = [plain_text(name) for name in layers[::every]]
    crowded = sum(map(len, labels)) > 24
    axes.set_xticks(
        range(0, len(layers), every), labels, rotation=40 if crowded else 0,
        ha="right" if crowded else "center", rotation_mode="anchor",
    )  # fmt: skip
    low = float(np.nanmin(rows[["low", "value"]].to_numpy(float), initial=0))
    axes.set_ylim(min(-0.12, low - 0.05), 1.03)
    axes.set_ylabel(LABELS["spc"])
    axes.set_title(str(rows["target"].iloc[0]).replace("_", " "), loc="left", fontweight="bold")


def _draw_instances(instances: pd.DataFrame, axes: Axes) -> None:
    """Draw the pairwise F1 of twin scenes as bars from chance, seeds as a range."""
    rows = instances.set_index("border")
    chance = float(rows["chance"].iloc[0])
    shown = [border for border in _BORDERS if border in rows.index]
    for x, border in enumerate(shown):
        row: Any = rows.loc[border]
        bar: dict[str, Any] = {"width": 0.62, "color": _colour(_BORDERS[border]), "alpha": 0.9}
        axes.bar(x, row["value"] - chance, bottom=chance, **bar)
        axes.vlines(x, row["least"], row["most"], color=INK, linewidth=1.2)
        axes.text(
            x, max(row["most"], chance) + 0.015, number_text(row["value"]), ha="center",
            va="bottom", fontsize="small",
        )  # fmt: skip
    axes.axhline(chance, color=SOFT, linewidth=1.0, linestyle=(0, (2, 2)))
    axes.text(len(shown) - 0.45, chance - 0.02, "chance", ha="right", va="top", fontsize="small")
    axes.set_xticks(range(len(shown)), ["no border", "zeros", "coordinates"][: len(shown)])
    axes.set_ylim(min(0.0, chance - 0.1), 1.12)
    axes.set_ylabel("pairwise F1")
    axes.set_title("telling copies apart", loc="left", fontweight="bold")


def _colour(rung: str) -> Any:
    return PALETTE[_COLOURS[rung]]


def _dashes(rung: str) -> Any:
    return "-" if rung in STEPS else (0, (2, 2))


def _look(rung: str) -> dict[str, Any]:
    width = 1.8 if rung in STEPS else 1.0
    look = {"color": _colour(rung), "linewidth": width, "linestyle": _dashes(rung)}
    return {**look, "marker": _MARKERS[rung], "markeredgewidth": 0}


def _handles(rows: pd.DataFrame) -> list[Line2D]:
    drawn = [rung for rung in RUNGS if rung in set(rows["rung"])]
    return [Line2D([], [], label=_LONG[r], markersize=4.5, **_look(r)) for r in drawn]


def page(
    table: pd.DataFrame,
    instances: pd.DataFrame | None,
    provenance: Mapping[str, Any],
    sentences: Sequence[str],
) -> str:
    """Render a ladder: one HTML document that loads nothing from elsewhere."""
    scores = table[table["metric"] == "spc"]
    rows = scores.set_index(["layer", "target", "rung"])
    targets = list(dict.fromkeys(scores["target"]))
    rungs = [rung for rung in RUNGS if rung in set(table["rung"])]
    grid = [
        {
            "layer": layer,
            "cells": [[_cell(rows, (layer, target, rung)) for target in targets] for rung in rungs],
        }
        for layer in _layers(table)
    ]
    figures = [
        svg(
            panel(partial(_draw, scores[scores["target"] == target])),
            f"ladder-{target}",
            f"SPC by depth of {provenance['name']} on each rung, {target.replace('_', ' ')}",
        )
        for target in targets
    ]
    if instances is not None:
        figure = panel(partial(_draw_instances, instances))
        figures.append(svg(figure, "ladder-instances", "Pairwise F1 of copies on each rung"))
    template = templates().get_template("ladder.html")
    return template.render(
        provenance=provenance,
        options=provenance["options"],
        sentences=sentences,
        figures=figures,
        legend=[
            legend_entry(_LONG[rung], _colour(rung), _dashes(rung), _MARKERS[rung] or "")
            for rung in rungs
        ],
        targets=targets,
        rungs=rungs,
        numbers=_NUMBERS,
        grid=grid,
        instances=None if instances is None else instances.to_dict("records"),
    )


def _layers(table: pd.DataFrame) -> list[str]:
    return [name for name in dict.fromkeys(table["layer"]) if name != INPUT]


def _cell(rows: pd.DataFrame, key: tuple[str, ...]) -> dict[str, str]:
    row: Any = rows.loc[cast(Any, key)]
    value, low, high = (number_text(row[name]) for name in ("value", "low", "high"))
    return {"value": value, "bounds": "" if np.isnan(row["low"]) else f"[{low}, {high}]"}
