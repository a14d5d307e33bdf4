"""The coordinate tasks as a study: many trainings, one table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from ..errors import ProbeError, chosen, whole_number
from ..studies.cells import Cell, Outcome
from ..studies.study import Study, over_seeds, train_cells
from .names import PADDINGS, SPLITS, TASKS
from .page import page, plot_curves, plot_maps
from .tasks import KEYS, METRICS, NETWORKS, network_words, score_text
from .training import FULL, QUICK, train_network, training_cell


class CoordConvStudy(Study):
    """What the coordinate tasks found: a :class:`probe.studies.Study`.

    ``table`` has the columns :data:`KEYS`, ``parameters``, ``subset`` (train, test), ``metric`` and
    ``value``; ``curves`` the columns :data:`KEYS`, ``step``, ``seconds``, ``subset``, ``metric``
    and ``value``; ``arrays`` a map (56, 56) for each cell, the leading metric at every centre.
    """

    @property
    def means(self) -> pd.DataFrame:
        """Leading metric of each task, averaged over seeds; see :func:`over_seeds`."""
        leading = self.table["metric"] == self.table["task"].map(lambda t: METRICS[t][0])
        return over_seeds(self.table[leading], [*KEYS[:-1], "subset", "metric"])

    def summary(self) -> list[str]:
        """Say it in sentences."""
        return list(_summary(self.means))

    def plot_curves(self, task: str = "classification") -> Figure:
        """Draw train and test scores of a task over steps and over wall time."""
        return plot_curves(self.curves, task)

    def plot_maps(self, task: str = "classification", seed: int | None = None) -> Figure:
        """Draw the score at every centre: where a network generalises to."""
        return plot_maps(self.table, self.arrays, task, seed)

    def page(self) -> str:
        """Render a page that loads nothing from elsewhere."""
        return page(self, self.means, self.summary())


def run_tasks(
    tasks: str | Sequence[str] = tuple(TASKS),
    splits: str | Sequence[str] = tuple(SPLITS),
    networks: str | Sequence[str] = NETWORKS,
    paddings: str | Sequence[str] = PADDINGS,
    *,
    seeds: int = 3,
    quick: bool = False,
    epochs: float | None = None,
    seed: int = 0,
    device: str = "auto",
    workers: int | None = None,
    progress: bool = True,
    folder: str | Path | None = None,
) -> CoordConvStudy:
    """Train CoordConv and plain networks on the coordinate tasks of Not-so-Clevr.

    Parameters
    ----------
    tasks, splits, networks : str or sequence of str
        Any of :data:`~probe.coordconv.tasks.TASKS`, :data:`~probe.coordconv.tasks.SPLITS` and
        :data:`NETWORKS`.
    paddings : str or sequence of str
        Of plain networks, any of :data:`~probe.coordconv.networks.PADDINGS`: as published, as a
        torus, or none. A plain network that paints starts from a single place, on which the last
        two are the same function; it is trained once for both.
    seeds : int
        How many, of weights, batches and uniform splits.
    quick : bool
        Take the settings :data:`QUICK` in place of :data:`FULL`: all seeds with CoordConv and with
        zero padding, one with ``circular`` and ``valid``.
    epochs : float, optional
        In place of the settings'.
    seed, device, workers, progress, folder
        As for :func:`probe.instances.run_instances`.

    Notes
    -----
    It differs from the paper in this: batches are small, training is short and one-cycle, plain
    networks are one architecture each in place of a search over many; the paper trains up to
    4,000 seconds on a GPU. Steps are equal for all networks of a task and split.

    References
    ----------
    Liu et al. (2018), arXiv 1807.03247, sections 2 and 4.
    """
    tasks, splits = chosen(tasks, TASKS, "tasks"), chosen(splits, SPLITS, "splits")
    networks = chosen(networks, NETWORKS, "networks")
    paddings = chosen(paddings, PADDINGS, "paddings")
    whole_number(seeds, "seeds", 1)
    whole_number(seed, "seed", 0)
    if epochs is not None and not (isinstance(epochs, int | float) and 0 < epochs < math.inf):
        raise ProbeError(f"epochs: expected a number above 0, got {epochs!r}")
    settings = QUICK if quick else FULL
    if epochs is not None:
        settings = {task: replace(usual, epochs=epochs) for task, usual in settings.items()}
    cells = [
        training_cell(settings[task], task, split, network, rule, seed + number)
        for number in range(seeds)
        for task in tasks
        for split in splits
        for network, rule in _variants(task, networks, paddings)
        if number == 0 or not quick or rule in ("none", "zeros")
    ]
    options: dict[str, Any] = {"tasks": tasks, "splits": splits, "networks": networks}
    options |= {"paddings": paddings, "seeds": seeds, "seed": seed, "epochs": epochs}
    outcomes, provenance = train_cells(
        cells,
        train_network,
        quick=quick,
        options=options,
        device=device,
        workers=workers,
        progress=progress,
        folder=folder,
        description="coordconv",
        profiles={task: asdict(settings[task]) for task in tasks},
    )
    every, outcomes = _with_copies(cells, outcomes, paddings)
    return CoordConvStudy.of(every, outcomes, KEYS, provenance)


def _variants(
    task: str, networks: Sequence[str], paddings: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """Networks of a task and their paddings, leaving out what would be trained twice."""
    if "coordconv" in networks:
        yield "coordconv", "none"
    if "plain" in networks:
        for rule in paddings:
            if rule != "valid" or task == "regression":
                yield "plain", rule
            elif "circular" not in paddings:
                yield "plain", "circular"


def _with_copies(
    cells: Sequence[Cell], outcomes: Sequence[Outcome], paddings: Sequence[str]
) -> tuple[list[Cell], list[Outcome]]:
    """Put in what a plain painter is without padding: what it is on a torus."""
    every: list[tuple[Cell, Outcome]] = []
    for cell, outcome in zip(cells, outcomes, strict=True):
        on_torus = cell["network"] == "plain" and cell["padding"] == "circular"
        painter = on_torus and cell["task"] != "regression"
        if not painter or "circular" in paddings:
            every.append((cell, outcome))
        if painter and "valid" in paddings:
            every.append(({**cell, "padding": "valid"}, outcome))
    return [cell for cell, _ in every], [outcome for _, outcome in every]


def _summary(means: pd.DataFrame) -> Iterator[str]:
    groups: Any = means.groupby(["task", "network", "padding"], sort=False)
    for (task, network, rule), rows in groups:
        metric = METRICS[task][0]
        parts = []
        for split, both in rows.set_index("subset").groupby("split", sort=False):
            train, test = both.loc["train"], both.loc["test"]
            worst = test["most" if metric == "error_px" else "least"]
            seeds = f" (worst seed {score_text(metric, worst)})" if test["seeds"] > 1 else ""
            parts.append(
                f"{split}: {score_text(metric, train['value'])} in training, "
                f"{score_text(metric, test['value'])} in test{seeds}"
            )
        yield f"{task.capitalize()}, {network_words(network, rule)}: {'; '.join(parts)}."
