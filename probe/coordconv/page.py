"""Figures and the page of the coordinate tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from ..errors import ProbeError
from ..report.parts import svg, templates
from ..report.style import shown_once, style
from ..studies.study import Study
from .names import SPLITS, TASKS
from .tasks import METRICS, PADDING_WORDS, PLACES, PUBLISHED, score_text, split_centres

Kind = tuple[str, str]
"""Network and padding."""

_COLOURS = {"none": 2, "zeros": 0, "circular": 1, "valid": 4}  # of "colorblind"

_LABELS = {"accuracy": "accuracy", "iou": "IoU", "error_px": "error (px)"}

_WORST_PX = 20.0


def plot_curves(curves: pd.DataFrame, task: str) -> Figure:
    """Draw train and test scores of a task over steps and over wall time.

    Returns
    -------
    Figure
        A column for each split; above over steps, below over wall time.
    """
    rows = _of(curves, task)
    splits = list(dict.fromkeys(rows["split"]))
    with style():
        size = (3.6 * len(splits) + 0.6, 5.6)
        figure = plt.figure(figsize=size, layout="constrained")
        grid = figure.subplots(2, len(splits), sharey=True, squeeze=False)
        for column, split in zip(grid.T, splits, strict=True):
            mine = rows[rows["split"] == split]
            for axes, x in zip(column, ("step", "seconds"), strict=True):
                for kind in _kinds(mine):
                    _draw_curve(mine, kind, x, axes)
                axes.set_xlabel("steps" if x == "step" else "seconds")
            column[0].set_title(split, loc="left", fontweight="bold")
        metric = METRICS[task][0]
        for axes in grid.flat:
            if metric == "error_px":
                axes.set_ylim(0, None)
            else:
                axes.set_ylim(-0.03, 1.03)
        for axes in grid[:, 0]:
            axes.set_ylabel(_LABELS[metric])
        figure.legend(handles=_handles(rows), loc="outside lower center", ncols=3)
    return shown_once(figure)


def _draw_curve(rows: pd.DataFrame, kind: Kind, x: str, axes: Axes) -> None:
    mine = rows[(rows["network"] == kind[0]) & (rows["padding"] == kind[1])]
    for subset, dashes in (("train", (0, (3, 2))), ("test", "-")):
        means = mine[mine["subset"] == subset].groupby("step")[["seconds", "value"]].mean()
        at = means.index if x == "step" else means["seconds"]
        axes.plot(
            at, means["value"], color=_colour(kind), linestyle=dashes,
            linewidth=1.8 if subset == "test" else 1.1, marker="o", markersize=3,
            markeredgewidth=0,
        )  # fmt: skip


def plot_maps(
    table: pd.DataFrame, arrays: Mapping[str, NDArray[Any]], task: str, seed: int | None = None
) -> Figure:
    """Draw the score at every centre: where a network generalises to.

    Returns
    -------
    Figure
        A row for each split and a column for each network. Bright is right; centres that test are
        framed (quadrant), or all that training left out (uniform).
    """
    rows = _of(table, task)
    seed = int(rows["seed"].min()) if seed is None else seed
    rows = rows[rows["seed"] == seed]
    if rows.empty:
        known = ", ".join(map(str, sorted(set(table["seed"]))))
        raise ProbeError(f"seed: the study has {known}, got {seed!r}")
    splits, kinds = list(dict.fromkeys(rows["split"])), _kinds(rows)
    metric = METRICS[task][0]
    with style():
        size = (1.75 * len(kinds) + 0.9, 1.85 * len(splits) + 0.5)
        figure = plt.figure(figsize=size, layout="constrained")
        grid = figure.subplots(len(splits), len(kinds), squeeze=False)
        for line, split in zip(grid, splits, strict=True):
            for axes, kind in zip(line, kinds, strict=True):
                values = arrays["/".join([task, split, *kind, str(seed), "map"])]
                top = _WORST_PX if metric == "error_px" else 1.0
                colours = "viridis_r" if metric == "error_px" else "viridis"
                drawn = axes.imshow(values, cmap=colours, vmin=0, vmax=top)
                if split == "quadrant":
                    _, test = split_centres(split)
                    first = np.unravel_index(int(test[0]), (PLACES, PLACES))[0] - 0.5
                    frame = [first, PLACES - 0.5]
                    for a in frame:
                        axes.plot([a, a], frame, color="#d62728", linewidth=1)
                        axes.plot(frame, [a, a], color="#d62728", linewidth=1)
                axes.set(xticks=[], yticks=[])
                sns.despine(ax=axes, left=True, bottom=True)
                if split == splits[0]:
                    axes.set_title(_label(kind), fontsize="small")
            line[0].set_ylabel(split)
        bar = figure.colorbar(drawn, ax=grid, shrink=0.7)
        bar.set_label(_LABELS[metric])
    return shown_once(figure)


def _of(table: pd.DataFrame, task: str) -> pd.DataFrame:
    if task not in set(table["task"]):
        known = ", ".join(dict.fromkeys(table["task"]))
        raise ProbeError(f"task: the study has {known}, got {task!r}")
    return table[(table["task"] == task) & (table["metric"] == METRICS[task][0])]


def _kinds(rows: pd.DataFrame) -> list[Kind]:
    return list(dict.fromkeys(zip(rows["network"], rows["padding"], strict=True)))


def _colour(kind: Kind) -> Any:
    return sns.color_palette("colorblind")[_COLOURS[kind[1]]]


def _label(kind: Kind) -> str:
    return "CoordConv" if kind[0] == "coordconv" else f"plain, {PADDING_WORDS[kind[1]]}"


def _handles(rows: pd.DataFrame) -> list[Line2D]:
    lines = [Line2D([], [], color=_colour(k), linewidth=1.8, label=_label(k)) for k in _kinds(rows)]
    grey: dict[str, Any] = {"color": "#555555"}
    return [
        *lines,
        Line2D([], [], **grey, linewidth=1.8, label="test"),
        Line2D([], [], **grey, linewidth=1.1, linestyle=(0, (3, 2)), label="train"),
    ]


def page(study: Study, means: pd.DataFrame, sentences: Sequence[str]) -> str:
    """Render a study: one HTML document that loads nothing from elsewhere."""
    tasks = list(dict.fromkeys(study.table["task"]))
    return (
        templates()
        .get_template("coordconv.html")
        .render(
            sentences=sentences,
            tasks=[_section(study, means, task) for task in tasks],
            splits={name: SPLITS[name] for name in dict.fromkeys(study.table["split"])},
            provenance=study.provenance,
            options=study.provenance["options"],
        )
    )


def _section(study: Study, means: pd.DataFrame, task: str) -> dict[str, Any]:
    means = means[means["task"] == task]
    metric = METRICS[task][0]
    figures = {
        "curves": plot_curves(study.curves, task),
        "maps": plot_maps(study.table, study.arrays, task),
    }
    for figure in figures.values():
        plt.close(figure)
    rows = []
    for kind in _kinds(means):
        mine = means[(means["network"] == kind[0]) & (means["padding"] == kind[1])]
        cells = []
        for split in dict.fromkeys(means["split"]):
            for subset in ("train", "test"):
                found = mine[(mine["split"] == split) & (mine["subset"] == subset)].iloc[0]
                least, most = (score_text(metric, found[name]) for name in ("least", "most"))
                spread = f"{least} … {most}" if found["seeds"] > 1 else ""
                cells.append({"value": score_text(metric, found["value"]), "spread": spread})
        where = (
            (study.table["task"] == task)
            & (study.table["network"] == kind[0])
            & (study.table["padding"] == kind[1])
        )
        parameters = int(study.table[where]["parameters"].iloc[0])
        same = (
            (study.curves["task"] == task)
            & (study.curves["network"] == kind[0])
            & (study.curves["padding"] == kind[1])
        )
        last = study.curves[same].groupby(["split", "seed"], sort=False)[["step", "seconds"]].max()
        last = last.groupby("split", sort=False).mean()
        rows.append(
            {
                "name": _label(kind),
                "cells": cells,
                "parameters": f"{parameters:,}",
                "seeds": int(mine["seeds"].max()),
                "steps": " / ".join(f"{steps:,.0f}" for steps in last["step"]),
                "seconds": " / ".join(f"{seconds:.0f}" for seconds in last["seconds"]),
            }
        )
    return {
        "name": task,
        "about": TASKS[task],
        "metric": METRICS[task][1],
        "published": PUBLISHED[task],
        "splits": list(dict.fromkeys(means["split"])),
        "rows": rows,
        "figures": {
            name: svg(figure, f"{task}-{name}", f"{name} of {task}")
            for name, figure in figures.items()
        },
    }
