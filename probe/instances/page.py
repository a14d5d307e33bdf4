"""Figures and the page of the instance experiment."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from markupsafe import Markup
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from ..errors import ProbeError
from ..report.parts import svg, templates
from ..report.style import shown_once, style
from ..studies.study import Study, over_seeds
from ..text import number_text
from .names import SCENES, TASKS
from .settings import BORDER_WORDS, FLOOR, LEADING, SHOWN

_COLOURS = dict(zip(BORDER_WORDS, (1, 8, 0, 4, 2), strict=True))  # of "colorblind"

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

_LABELS_CMAP = ["#f2f3f5", *sns.color_palette("colorblind", 10).as_hex()]


def plot_losses(curves: pd.DataFrame, scenes: str) -> Figure:
    """Draw the loss of the instance task over steps, a line for each border."""
    rows = _of(curves, scenes, "instance")
    with style():
        figure = plt.figure(figsize=(6.4, 3.2), layout="constrained")
        axes = figure.subplots()
        for border in _borders(rows):
            mine = rows[rows["borders"] == border]
            for seed, one in mine.groupby("seed"):
                label = BORDER_WORDS[border] if seed == mine["seed"].min() else None
                axes.plot(
                    one["step"], one["loss"].clip(lower=1e-3), color=_colour(border), label=label,
                    linestyle=_STYLES[border], linewidth=1.4,
                )  # fmt: skip
        axes.axhline(FLOOR, color="#777777", linewidth=1, linestyle=(0, (2, 2)))
        axes.set(yscale="log", xlabel="steps", ylabel="discriminative loss")
        axes.text(rows["step"].max(), FLOOR * 1.15, "(2 δ)² = 9", ha="right", fontsize="small")
        figure.legend(fontsize="small", loc="outside right center")
    return shown_once(figure)


def plot_distance(table: pd.DataFrame, reach: int) -> Figure:
    """Draw which copies are told apart, by distance from the edge, and the network's reach."""
    table = table[table["distance"].notna()]
    rows = over_seeds(_of(table, "large", "instance"), ["borders", "distance"])
    with style():
        figure = plt.figure(figsize=(5.2, 3.0), layout="constrained")
        axes = figure.subplots()
        for border in _borders(rows):
            mine = rows[rows["borders"] == border].sort_values("distance")
            axes.plot(
                mine["distance"], mine["value"], color=_colour(border), linewidth=1.8,
                linestyle=_STYLES[border], marker="o", markersize=4, markeredgewidth=0,
                label=BORDER_WORDS[border],
            )  # fmt: skip
        axes.axvspan(0, reach, color="#f2f3f5", linewidth=0, zorder=0)
        axes.text(reach / 2, 1.06, "reach", ha="center", fontsize="small")
        axes.set(ylim=(-0.04, 1.13), xlim=(0, None))
        axes.set(xlabel="distance of the copy from the edge (px)", ylabel="copies found")
        axes.legend(fontsize="small", loc="center right")
    return shown_once(figure)


def plot_scenes(
    table: pd.DataFrame,
    arrays: Mapping[str, NDArray[Any]],
    scenes: str,
    task: str,
    count: int = 2,
) -> Figure:
    """Draw test scenes: image, truth, and each border's embedding and clusters."""
    rows = _of(table, scenes, task)
    borders, seed = _borders(rows), int(rows["seed"].min())
    layers = ["classes"] if task == "semantic" else ["embedding", "objects"]
    first = "/".join([scenes, task, borders[0], str(seed)])
    truth = "true_classes" if task == "semantic" else "truth"
    count = min(count, len(arrays[f"{first}/image"]))
    wide = arrays[f"{first}/image"].shape[2] / arrays[f"{first}/image"].shape[1]
    columns: list[tuple[str, str | None]] = [("image", None), ("truth", None)]
    columns += [(part, border) for border in borders for part in layers]
    with style():
        lines = count * len(layers) if wide > 2 else count
        if wide > 2:  # one picture below the other
            figure = plt.figure(figsize=(8, 0.62 * len(columns)), layout="constrained")
            grid = figure.subplots(len(columns), 1, squeeze=False).T
        else:
            size = (1.1 * len(columns), 1.3 * lines + 0.3)
            figure = plt.figure(figsize=size, layout="constrained")
            grid = figure.subplots(lines, len(columns), squeeze=False)
        for number, line in enumerate(grid):
            for axes, (part, border) in zip(line, columns, strict=True):
                name = truth if part == "truth" else part
                where = "/".join([scenes, task, border or borders[0], str(seed), name])
                axes.imshow(_picture(arrays[where][number]), interpolation="nearest")
                axes.set(xticks=[], yticks=[])
                sns.despine(ax=axes, left=True, bottom=True)
                words = {"objects": "clusters"}.get(part, part)
                title = words if border is None else f"{BORDER_WORDS[border]}\n{words}"
                if wide > 2:
                    axes.set_ylabel(
                        title.replace("\n", ", "),
                        rotation=0,
                        ha="right",
                        va="center",
                        fontsize="x-small",
                    )
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
    there = set(rows["borders"])
    return [border for border in BORDER_WORDS if border in there]


def _colour(border: str) -> Any:
    return sns.color_palette("colorblind")[_COLOURS[border]]


def page(study: Study, means: pd.DataFrame, sentences: Sequence[str]) -> str:
    """Render a study: one HTML document that loads nothing from elsewhere."""
    kinds = [kind for kind in SCENES if kind in set(study.table["scenes"])]
    tasks = dict.fromkeys(study.table["task"])
    return (
        templates()
        .get_template("instances.html")
        .render(
            sentences=sentences,
            sections=[_section(study, means, kind) for kind in kinds],
            tasks={task: about for task, about in TASKS.items() if task in tasks},
            borders=[BORDER_WORDS[border] for border in _borders(study.table)],
            provenance=study.provenance,
            options=study.provenance["options"],
        )
    )


def _section(study: Study, means: pd.DataFrame, kind: str) -> dict[str, Any]:
    rows = study.table[study.table["scenes"] == kind]
    tasks = [task for task in TASKS if task in set(rows["task"])]
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
        figures[f"pictures-{task}"] = (
            plot_scenes(
                study.table, study.arrays, kind, task, 1 if kind == "large" else min(2, SHOWN)
            ),
            f"Test scenes, {task} task, first seed"
            + (
                ": embeddings as colours (three principal components) and their clusters."
                if task != "semantic"
                else ": predicted classes."
            ),
        )
    drawn = {}
    for name, (figure, caption) in figures.items():
        plt.close(figure)
        label = f"{kind}: {name}"
        pictures = name.startswith("pictures")
        shown = _png(figure, label) if pictures else svg(figure, f"{kind}-{name}", label)
        drawn[name] = {"figure": shown, "caption": caption}
    return {
        "name": kind,
        "title": f"{kind.removesuffix('s').capitalize()} scenes",
        "about": SCENES[kind],
        "tables": [_table(means, kind, task) for task in tasks],
        "figures": drawn,
        "seeds": rows["seed"].nunique(),
        "size": study.provenance["settings"][kind]["image_size"],
        "reach": study.provenance["reach"][kind],
    }


def _table(means: pd.DataFrame, kind: str, task: str) -> dict[str, Any]:
    means = means[(means["scenes"] == kind) & (means["task"] == task)]
    lines = []
    for border in _borders(means):
        mine = means[means["borders"] == border].set_index("metric")
        cells = []
        for metric, (_, form) in _COLUMNS[task].items():
            row = mine.loc[metric]
            least, most = (number_text(row[name], form) for name in ("least", "most"))
            spread = f"{least} … {most}" if row["seeds"] > 1 else ""
            cells.append({"value": number_text(row["value"], form), "spread": spread})
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
