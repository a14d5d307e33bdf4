"""The instance experiment as a study: many trainings, one table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..errors import ProbeError, chosen, whole_number
from ..studies.study import Study, over_seeds, train_cells
from ..text import number_text
from .names import BORDERS, SCENES, TASKS
from .page import page, plot_distance, plot_losses, plot_scenes, scenes_of
from .settings import BORDER_WORDS, FLOOR, FULL, KEYS, QUICK, SETTINGS
from .training import train_network


class InstanceStudy(Study):
    """What the instance experiment found: a :class:`probe.studies.Study`.

    ``table`` has the columns :data:`KEYS`, ``metric``, ``distance`` (pixels from the nearest edge
    on the left or right; NaN for scores of whole scenes), ``objects`` (how many lie at that
    distance; of whole scenes, in all) and ``value``; ``curves`` the columns
    :data:`KEYS`, ``step``, ``seconds`` and ``loss``; ``arrays`` pictures of some test scenes.
    """

    @property
    def means(self) -> pd.DataFrame:
        """Scores of whole scenes, averaged over seeds; see :func:`probe.studies.over_seeds`."""
        whole = self.table[self.table["distance"].isna()]
        return over_seeds(whole, [*KEYS[:-1], "metric"])

    @property
    def by_distance(self) -> pd.DataFrame:
        """Share of objects that are found, by distance from the nearest edge, over seeds."""
        rows = self.table[self.table["distance"].notna()]
        return over_seeds(rows, [*KEYS[:-1], "metric", "distance"])

    def summary(self) -> list[str]:
        """Say it in sentences."""
        return list(_summary(self))

    def plot_losses(self, scenes: str = "twins") -> Figure:
        """Draw the loss of the instance task over steps, a line for each border."""
        return plot_losses(self.curves, scenes)

    def plot_distance(self) -> Figure:
        """Draw which copies are told apart, by distance from the edge."""
        return plot_distance(self.table, self.provenance["reach"]["large"])

    def plot_scenes(self, scenes: str = "twins", task: str = "instance") -> Figure:
        """Draw test scenes: image, truth, and each border's embedding and clusters."""
        return plot_scenes(self.table, self.arrays, scenes, task)

    def page(self) -> str:
        """Render a page that loads nothing from elsewhere."""
        return page(self, self.means, self.summary())


def run_instances(
    scenes: str | Sequence[str] = tuple(SCENES),
    borders: str | Sequence[str] = BORDERS,
    tasks: str | Sequence[str] = tuple(TASKS),
    *,
    seeds: int = 3,
    quick: bool = False,
    steps: int | None = None,
    seed: int = 0,
    device: str = "auto",
    workers: int | None = None,
    progress: bool = True,
    folder: str | Path | None = None,
) -> InstanceStudy:
    """Train one small network to segment scenes, with every border and for every task.

    Objects that are exact copies of one another, on a sub-lattice of a torus, look the same to an
    equivariant network: it gives them one embedding, and the distance term of its loss stays at
    :math:`(2 δ_{dist})^2 = 9`. Telling them apart takes position; their class doesn't.

    Parameters
    ----------
    scenes, borders, tasks : str or sequence of str
        Any of :data:`SCENES`, :data:`~probe.instances.networks.BORDERS` and :data:`TASKS`. On
        large scenes there is the instance task alone.
    seeds : int
        How many, of scenes, weights and batches.
    quick : bool
        Take the settings :data:`QUICK` in place of :data:`FULL`: all seeds on twin scenes, one on
        the others.
    steps : int, optional
        In place of the settings'.
    seed : int
        The first one.
    device : str
        ``auto``: CUDA where there is one, else the CPU.
    workers : int, optional
        How many networks are trained side by side, each on one thread; outcomes don't depend on it.
        By default as many as there are cores, and one on a GPU.
    progress : bool
        Show a bar.
    folder : str or Path, optional
        Where each network's outcome is kept as soon as it is there; a study with the same options
        that lies there is resumed.

    References
    ----------
    De Brabandere, Neven, Van Gool (2017), arXiv 1708.02551, for the loss; Kirillov et al. (2019),
    arXiv 1801.00868, for the panoptic task.
    """
    scenes = chosen(scenes, SCENES, "scenes")
    borders, tasks = chosen(borders, BORDERS, "borders"), chosen(tasks, TASKS, "tasks")
    whole_number(seeds, "seeds", 1)
    whole_number(seed, "seed", 0)
    if steps is not None:
        whole_number(steps, "steps", 2)
    training = QUICK if quick else FULL
    cells = [
        {
            "scenes": kind,
            "task": task,
            "borders": border,
            "seed": seed + number,
            **asdict(SETTINGS[kind]),
            **asdict(training[kind]),
            **({} if steps is None else {"steps": steps}),
        }
        for kind in scenes
        for number in range(seeds if kind == "twins" or not quick else 1)
        for task in tasks
        if kind != "large" or task == "instance"
        for border in borders
    ]
    if not cells:
        raise ProbeError("tasks: large scenes have the task instance alone")
    options: dict[str, Any] = {"scenes": scenes, "borders": borders, "tasks": tasks}
    outcomes, provenance = train_cells(
        cells,
        train_network,
        quick=quick,
        options=options | {"seeds": seeds, "seed": seed, "steps": steps},
        device=device,
        workers=workers,
        progress=progress,
        folder=folder,
        description="instances",
        profiles={kind: asdict(training[kind]) for kind in scenes},
        settings={kind: asdict(SETTINGS[kind]) for kind in scenes},
        reach={kind: sum(SETTINGS[kind].dilations) for kind in scenes},
    )
    return InstanceStudy.of(cells, outcomes, KEYS, provenance)


def _summary(study: InstanceStudy) -> Iterator[str]:
    means = study.means.set_index(["scenes", "task", "borders", "metric"]).sort_index()

    def by_border(scenes: str, task: str, metric: str, form: str = ".2f") -> str:
        return ", ".join(
            f"{number_text(means.loc[(scenes, task, b, metric), 'value'], form)} with {words}"
            for b, words in BORDER_WORDS.items()
            if (scenes, task, b, metric) in means.index
        )

    for kind, title, tasks in scenes_of(study.table):
        if "instance" in tasks:
            rows = study.table[study.table["scenes"] == kind]
            chance = rows[rows["metric"] == "chance_pair_f1"]["value"].mean()
            yield (
                f"{title}, objects: pairwise F1 {by_border(kind, 'instance', 'pair_f1')}; one "
                f"cluster for all scores {number_text(chance)}."
            )
            if kind == "twins":
                yield (
                    f"Their loss ends at {by_border(kind, 'instance', 'loss', '.3f')}; copies of "
                    f"one embedding cost (2 δ_dist)² = {FLOOR:.0f}."
                )
        if "semantic" in tasks:
            yield f"{title}, classes: mean IoU {by_border(kind, 'semantic', 'mean_iou', '.3f')}."
        if "panoptic" in tasks:
            yield f"{title}, both: panoptic quality {by_border(kind, 'panoptic', 'quality')}."
    if "large" in study.provenance["reach"]:
        yield from _reach_sentence(study)


def _reach_sentence(study: InstanceStudy) -> Iterator[str]:
    reach = study.provenance["reach"]["large"]
    rows = study.table[study.table["distance"].notna()]
    rows = rows[(rows["scenes"] == "large") & (rows["task"] == "instance")]
    shares = []
    for border, words in BORDER_WORDS.items():
        copies = rows[rows["borders"] == border]
        parts = [copies[copies["distance"] < reach], copies[copies["distance"] >= reach]]
        if all(map(len, parts)):
            near, far = (100 * np.average(part["value"], weights=part["objects"]) for part in parts)
            shares.append(f"{near:.0f} and {far:.0f} % with {words}")
    if shares:
        yield (
            f"Of copies nearer to the edge than the reach of {reach} px, and of those farther, "
            f"are found {', '.join(shares)}."
        )
