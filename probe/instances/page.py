"""Figures and the page of the instance experiment."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from ..errors import ProbeError
from ..report.parts import svg, templates
from ..report.style import PALETTE, SOFT, TINT, bare_axes, new_figure, shown_once, style
from ..studies.study import Study, over_seeds, seeds_text
from ..text import number_text
from .names import SCENES, TASKS
from .settings import BORDER_WORDS, FLOOR, LEADING

_COLOURS = dict(zip(BORDER_WORDS, (1, 3, 0, 4, 2), strict=True))  # of the palette

_STYLES = dict(zip(BORDER_WORDS, ("-", (0, (1, 1.5)), "-", (0, (4, 1.5)), "-"), strict=True))

_COLUMNS: dict[str, dict[str, tuple[str, str]]] = {
    "semantic": {"mean_iou": ("mean IoU", ".3f")},
    "instance": {
        "loss": ("loss", ".3f"),
        "pair_f1": ("pairwise F1", ".2f"),
        "best_dice": ("best Dice", ".2f"),
        "average_precision": ("AP at ½", ".2f"),
        "count_difference": ("|count difference|", ".2f"),
    },
    "panoptic": {
        "quality": ("PQ", ".2f"),
        "segmentation": ("SQ", ".2f"),
        "recognition": ("RQ", ".2f"),
        "mean_iou": ("mean IoU", ".3f"),
        "pair_f1": ("pairwise F1", ".2f"),
    },
}

_LABELS_CMAP = [TINT, *PALETTE]


def plot_losses(curves: pd.DataFrame, scenes: str) -> Figure:
    """Draw the loss of the instance task over steps, a line for each border."""
    rows = _of(curves, scenes, "instance")
    with style():
        figure = new_figure(figsize=(6.4, 3.2))
        axes = figure.subplots()
        for border in _borders(rows):
            labels = iter([BORDER_WORDS[border]])  # once for all seeds
            for _, one in rows[rows["borders"] == border].groupby("seed"):
                axes.plot(
                    one["step"], one["loss"].clip(lower=1e-3), **_look(border), linewidth=1.4,
                    label=next(labels, None),
                )  # fmt: skip
        axes.axhline(FLOOR, color=SOFT, linewidth=1, linestyle=(0, (2, 2)))
        axes.set(yscale="log", xlabel="steps", ylabel="discriminative loss")
        axes.text(rows["step"].max(), FLOOR * 1.15, "(2 δ)² = 9", ha="right", fontsize="small")
        figure.legend(fontsize="small", loc="outside right center")
    return shown_once(figure)


def plot_distance(table: pd.DataFrame, reach: int) -> Figure:
    """Draw which copies are told apart, by distance from the edge, and the network's reach."""
    table = table[table["distance"].notna()]
    rows = over_seeds(_of(table, "large", "instance"), ["borders", "distance"])
    with style():
        figure = new_figure(figsize=(5.2, 3.0))
        axes = figure.subplots()
        for border in _borders(rows):
            line = rows[rows["borders"] == border].sort_values("distance")
            axes.plot(
                line["distance"], line["value"], **_look(border), linewidth=1.8, marker="o",
                markersize=4, markeredgewidth=0, label=BORDER_WORDS[border],
            )  # fmt: skip
        axes.axvspan(0, reach, color=TINT, linewidth=0, zorder=0)
        axes.text(reach / 2, 1.06, "reach", ha="center", fontsize="small")
        axes.set(ylim=(-0.04, 1.13), xlim=(0, None))
        axes.set(xlabel="distance of the copy from the edge (px)", ylabel="copies found")
        axes.legend(fontsize="small", loc="center right")
    return shown_once(figure)


def plot_scenes(
    table: pd.DataFrame, arrays: Mapping[str, NDArray[Any]], scenes: str, task: str, count: int = 2
) -> Figure:
    """Draw test scenes: image, truth, and each border's embedding and clusters."""
    rows = _of(table, scenes, task)
    borders, seed = _borders(rows), int(rows["seed"].min())
    parts = {"classes": "classes"}
    if task != "semantic":
        parts = {"embedding": "embedding", "objects": "clusters"}
    truth = "true_classes" if task == "semantic" else "truth"
    columns = [("image", borders[0], "image"), (truth, borders[0], "truth")]
    columns += [
        (part, border, f"{BORDER_WORDS[border]}\n{words}")
        for border in borders
        for part, words in parts.items()
    ]
    images = arrays["/".join([scenes, task, borders[0], str(seed), "image"])]
    count, wide = min(count, len(images)), images.shape[2] > 2 * images.shape[1]
    with style():
        size = (8, 0.62 * len(columns)) if wide else (1.1 * len(columns), 1.3 * count + 0.3)
        figure = new_figure(figsize=size)
        if wide:  # one picture below the other
            grid = figure.subplots(len(columns), 1, squeeze=False).T
        else:
            grid = figure.subplots(count, len(columns), squeeze=False)
        for number, line in enumerate(grid):
            for axes, (part, border, title) in zip(line, columns, strict=True):
                values = arrays["/".join([scenes, task, border, str(seed), part])][number]
                axes.imshow(_picture(values), interpolation="nearest")
                bare_axes(axes)
                if wide:
                    beside: dict[str, Any] = {"rotation": 0, "ha": "right", "va": "center"}
                    axes.set_ylabel(title.replace("\n", ", "), **beside, fontsize="x-small")
                elif number == 0:
                    axes.set_title(title, fontsize=6.5)
    return shown_once(figure)


def _picture(values: NDArray[Any]) -> NDArray[np.uint8]:
    """An image as it is, labels in colours of their own."""
    if values.ndim == 3:
        return values
    colours = np.array([[int(c[k : k + 2], 16) for k in (1, 3, 5)] for c in _LABELS_CMAP], np.uint8)
    numbers = np.where(values > 0, (values - 1) % (len(colours) - 1) + 1, 0)
    return colours[numbers]


def _of(table: pd.DataFrame, scenes: str, task: str) -> pd.DataFrame:
    rows = table[(table["scenes"] == scenes) & (table["task"] == task)]
    if rows.empty:
        raise ProbeError(f"the study has no {task} task on scenes {scenes!r}")
    return rows


def _borders(rows: pd.DataFrame) -> list[str]:
    return [border for border in BORDER_WORDS if border in set(rows["borders"])]


def scenes_of(table: pd.DataFrame) -> Iterator[tuple[str, str, list[str]]]:
    """Kinds of scenes in a table, what they are called, and the tasks on them."""
    for kind in SCENES:
        tasks = set(table[table["scenes"] == kind]["task"])
        if tasks:
            title = f"{kind.removesuffix('s').capitalize()} scenes"
            yield kind, title, [task for task in TASKS if task in tasks]


def _look(border: str) -> dict[str, Any]:
    return {"color": PALETTE[_COLOURS[border]], "linestyle": _STYLES[border]}


def page(study: Study, means: pd.DataFrame, sentences: Sequence[str]) -> str:
    """Render a study: one HTML document that loads nothing from elsewhere."""
    tasks = set(study.table["task"])
    template = templates().get_template("instances.html")
    return template.render(
        sentences=sentences,
        sections=[_section(study, means, *scenes) for scenes in scenes_of(study.table)],
        tasks={task: about for task, about in TASKS.items() if task in tasks},
        borders=[BORDER_WORDS[border] for border in _borders(study.table)],
        provenance=study.provenance,
        options=study.provenance["options"],
    )


def _section(
    study: Study, means: pd.DataFrame, kind: str, title: str, tasks: Sequence[str]
) -> dict[str, Any]:
    figures: dict[str, tuple[Figure, str]] = {}
    if "instance" in tasks:
        figures["losses"] = (
            plot_losses(study.curves, kind),
            "Discriminative loss over training, a line for each seed; dashed, where copies of one "
            "embedding keep it.",
        )
    if kind == "large":
        figures["distance"] = (
            plot_distance(study.table, study.provenance["reach"]["large"]),
            "Share of the copies that a cluster has for itself, by distance from the left or right "
            "edge. Grey: the reach of the network.",
        )
    for task in tasks:
        shown = "embeddings as colours (three principal components) and their clusters"
        if task == "semantic":
            shown = "predicted classes"
        count = 1 if kind == "large" else 2
        figures[f"pictures-{task}"] = (
            plot_scenes(study.table, study.arrays, kind, task, count),
            f"Test scenes, {task} task, first seed: {shown}.",
        )
    drawn = {}
    for name, (figure, caption) in figures.items():
        plt.close(figure)
        label = f"{kind}: {name}"
        pictures = name.startswith("pictures")
        element = _png(figure, label) if pictures else svg(figure, f"{kind}-{name}", label)
        drawn[name] = {"figure": element, "caption": caption}
    return {
        "name": kind,
        "title": title,
        "about": SCENES[kind],
        "tables": [_table(means, kind, task) for task in tasks],
        "figures": drawn,
        "seeds": study.table[study.table["scenes"] == kind]["seed"].nunique(),
        "size": study.provenance["settings"][kind]["image_size"],
        "reach": study.provenance["reach"][kind],
    }


def _table(means: pd.DataFrame, kind: str, task: str) -> dict[str, Any]:
    means = means[(means["scenes"] == kind) & (means["task"] == task)]
    lines = []
    for border in _borders(means):
        rows = means[means["borders"] == border].set_index("metric")
        cells = [
            seeds_text(rows.loc[[metric]].iloc[0], partial(number_text, form=form))
            for metric, (_, form) in _COLUMNS[task].items()
        ]
        lines.append({"name": BORDER_WORDS[border], "cells": cells})
    return {
        "task": task,
        "columns": [label for label, _ in _COLUMNS[task].values()],
        "leading": _COLUMNS[task][LEADING[task]][0],
        "rows": lines,
    }


def _png(figure: Figure, label: str) -> Markup:
    """A figure of pictures as an image element that carries its own data."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=170)
    with Image.open(file) as image:
        small = io.BytesIO()
        image.convert("RGB").quantize(128).save(small, "PNG", optimize=True)
    data = base64.b64encode(small.getvalue()).decode()
    return Markup('<img alt="{}" src="data:image/png;base64,{}">').format(label, Markup(data))
