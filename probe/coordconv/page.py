"""Figures and the page of the coordinate tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from ..errors import ProbeError
from ..report.parts import legend_entry, picture, svg, templates
from ..report.style import PALETTE, SOFT, bare_axes, new_figure, panel, shown_once, style
from ..studies.study import Study, seeds_text
from .names import SPLITS, TASKS
from .tasks import METRICS, PLACES, PUBLISHED, network_words, score_text, split_centres

Kind = tuple[str, str]
"""Network and padding."""

_COLOURS = {"none": 2, "zeros": 0, "circular": 1, "valid": 3}  # of the palette

_LABELS = {"accuracy": "accuracy", "iou": "IoU", "error_px": "error (px)"}

_LINES: dict[str, dict[str, Any]] = {
    "train": {"linewidth": 1.1, "linestyle": (0, (3, 2))},
    "test": {"linewidth": 1.8, "linestyle": "-"},
}

_WORST_PX = 20.0

_FRAME = "#d62728"


def plot_curves(curves: pd.DataFrame, task: str) -> Figure:
    """Draw train and test scores of a task over steps and over wall time.

    A column for each split; above over steps, below over wall time.
    """
    rows = _of(curves, task)
    splits = list(dict.fromkeys(rows["split"]))
    with style():
        size = (3.6 * len(splits) + 0.6, 5.6)
        figure = new_figure(figsize=size)
        grid = figure.subplots(2, len(splits), sharey=True, squeeze=False)
        for column, split in zip(grid.T, splits, strict=True):
            of_split = rows[rows["split"] == split]
            for axes, x in zip(column, ("step", "seconds"), strict=True):
                _draw_panel(of_split, axes, x)
        for axes in grid[:, 1:].flat:
            axes.set_ylabel("")
        for axes in grid[1]:
            axes.set_title("", loc="left")
        figure.legend(handles=_handles(rows), loc="outside lower center", ncols=3)
    return shown_once(figure)


def _draw_panel(rows: pd.DataFrame, axes: Axes, x: str) -> None:
    """Draw the curves of one split over steps or seconds."""
    for kind, line in _by_kind(rows):
        _draw_curve(line, kind, x, axes)
    axes.set(xlabel="steps" if x == "step" else "seconds")
    metric = str(rows["metric"].iloc[0])
    axes.set_ylim(*((0, None) if metric == "error_px" else (-0.03, 1.03)))
    axes.set_ylabel(_LABELS[metric])
    axes.set_title(rows["split"].iloc[0], loc="left", fontweight="bold")


def _draw_curve(rows: pd.DataFrame, kind: Kind, x: str, axes: Axes) -> None:
    for subset, look in _LINES.items():
        means = rows[rows["subset"] == subset].groupby("step")[["seconds", "value"]].mean()
        at = means.index if x == "step" else means["seconds"]
        dots: dict[str, Any] = {"marker": "o", "markersize": 3, "markeredgewidth": 0}
        axes.plot(at, means["value"], color=_colour(kind), **look, **dots)


def plot_maps(
    table: pd.DataFrame, arrays: Mapping[str, NDArray[Any]], task: str, seed: int | None = None
) -> Figure:
    """Draw the score at every centre: where a network generalises to.

    A row for each split and a column for each network. Bright is right; the quadrant that tests is
    framed.
    """
    rows = _of(table, task)
    seed = int(rows["seed"].min()) if seed is None else seed
    rows = rows[rows["seed"] == seed]
    if rows.empty:
        known = ", ".join(map(str, sorted(set(table["seed"]))))
        raise ProbeError(f"seed: the study has {known}, got {seed!r}")
    splits, kinds = list(dict.fromkeys(rows["split"])), [kind for kind, _ in _by_kind(rows)]
    metric, (top, colours) = METRICS[task][0], _scale(task)
    with style():
        size = (1.75 * len(kinds) + 0.9, 1.85 * len(splits) + 0.5)
        figure = new_figure(figsize=size)
        grid = figure.subplots(len(splits), len(kinds), squeeze=False)
        for line, split in zip(grid, splits, strict=True):
            for axes, kind in zip(line, kinds, strict=True):
                values = arrays["/".join([task, split, *kind, str(seed), "map"])]
                drawn = axes.imshow(values, cmap=colours, vmin=0, vmax=top)
                if split == "quadrant":
                    frame = [_first_tested(split) - 0.5, PLACES - 0.5]
                    for a in frame:
                        axes.plot([a, a], frame, color=_FRAME, linewidth=1)
                        axes.plot(frame, [a, a], color=_FRAME, linewidth=1)
                bare_axes(axes)
                if split == splits[0]:
                    axes.set_title(network_words(*kind), fontsize="small")
            line[0].set_ylabel(split)
        bar = figure.colorbar(drawn, ax=grid, shrink=0.7)
        bar.set_label(_LABELS[metric])
    return shown_once(figure)


def _of(table: pd.DataFrame, task: str) -> pd.DataFrame:
    if task not in set(table["task"]):
        known = ", ".join(dict.fromkeys(table["task"]))
        raise ProbeError(f"task: the study has {known}, got {task!r}")
    return table[(table["task"] == task) & (table["metric"] == METRICS[task][0])]


def _by_kind(rows: pd.DataFrame) -> Iterator[tuple[Any, pd.DataFrame]]:
    yield from rows.groupby(["network", "padding"], sort=False)


def _colour(kind: Kind) -> Any:
    return PALETTE[_COLOURS[kind[1]]]


def _handles(rows: pd.DataFrame) -> list[Line2D]:
    lines = [
        Line2D([], [], color=_colour(kind), linewidth=1.8, label=network_words(*kind))
        for kind, _ in _by_kind(rows)
    ]
    return lines + [
        Line2D([], [], color=SOFT, label=subset, **_LINES[subset]) for subset in ("test", "train")
    ]


def page(study: Study, means: pd.DataFrame, sentences: Sequence[str]) -> str:
    """Render a study: one HTML document that loads nothing from elsewhere."""
    template = templates().get_template("coordconv.html")
    return template.render(
        sentences=sentences,
        tasks=[_section(study, means, task) for task in dict.fromkeys(study.table["task"])],
        splits={name: SPLITS[name] for name in dict.fromkeys(study.table["split"])},
        provenance=study.provenance,
        options=study.provenance["options"],
    )


def _section(study: Study, means: pd.DataFrame, task: str) -> dict[str, Any]:
    means, table, curves = (t[t["task"] == task] for t in (means, study.table, study.curves))
    write = partial(score_text, METRICS[task][0])
    drawn = _of(study.curves, task)
    figures = [
        svg(
            panel(partial(_draw_panel, drawn[drawn["split"] == split], x=x)),
            f"{task}-{split}-{x}",
            f"{task}, {split} split, over {x}s",
        )
        for split in dict.fromkeys(drawn["split"])
        for x in ("step", "seconds")
    ]
    splits = list(dict.fromkeys(means["split"]))
    parameters = {kind: int(part["parameters"].iloc[0]) for kind, part in _by_kind(table)}
    trained = dict(_by_kind(curves))
    rows = []
    for kind, scores in _by_kind(means):
        last = trained[kind].groupby(["split", "seed"], sort=False)[["step", "seconds"]].max()
        last = last.groupby("split", sort=False).mean()
        by_subset = scores.set_index(["split", "subset"])
        subsets = product(splits, ("train", "test"))
        rows.append(
            {
                "name": network_words(*kind),
                "cells": [seeds_text(by_subset.loc[subset], write) for subset in subsets],
                "parameters": f"{parameters[kind]:,}",
                "seeds": int(scores["seeds"].max()),
                "steps": " / ".join(f"{steps:,.0f}" for steps in last["step"]),
                "seconds": " / ".join(f"{seconds:.0f}" for seconds in last["seconds"]),
            }
        )
    return {
        "name": task,
        "about": TASKS[task],
        "metric": METRICS[task][1],
        "published": PUBLISHED[task],
        "splits": splits,
        "rows": rows,
        "figures": figures,
        "legend": [
            *(legend_entry(network_words(*kind), _colour(kind)) for kind, _ in _by_kind(drawn)),
            *(
                legend_entry(subset, SOFT, _LINES[subset]["linestyle"])
                for subset in ("test", "train")
            ),
        ],
        "maps": _map_rows(study, task),
    }


def _map_rows(study: Study, task: str) -> list[dict[str, Any]]:
    """Score at every centre as pictures: a row for each network, a column for each split."""
    scores = _of(study.table, task)
    seed = scores["seed"].min()
    scores = scores[scores["seed"] == seed]
    rows = []
    for kind, _ in _by_kind(scores):
        keys = ["/".join([task, split, *kind, str(seed), "map"]) for split in _splits(scores)]
        pictures = [_map_picture(study.arrays[key], task, key.split("/")[1]) for key in keys]
        rows.append({"name": network_words(*kind), "pictures": pictures})
    return rows


def _map_picture(values: NDArray[Any], task: str, split: str) -> Markup:
    top, colours = _scale(task)
    pixels = colormaps[colours](np.nan_to_num(values) / top, bytes=True)[..., :3]
    pixels = pixels.repeat(3, 0).repeat(3, 1)
    if split == "quadrant":
        first = 3 * _first_tested(split)
        for line in (pixels[first], pixels[-1], pixels[:, first], pixels[:, -1]):
            line[first:] = [int(_FRAME[k : k + 2], 16) for k in (1, 3, 5)]
    return picture(pixels)


def _first_tested(split: str) -> int:
    """Row, and column, at which the quadrant begins that training leaves out."""
    _, test = split_centres(split)
    return int(np.unravel_index(int(test[0]), (PLACES, PLACES))[0])


def _scale(task: str) -> tuple[float, str]:
    """Greatest value that is told apart, and the colour map in which bright is right."""
    return (_WORST_PX, "viridis_r") if METRICS[task][0] == "error_px" else (1.0, "viridis")


def _splits(rows: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(rows["split"]))
