"""The coordinate tasks as a study: every task, split and network, over several seeds."""

from __future__ import annotations

import datetime
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbones import pick_device
from ..borders import padding
from ..errors import ProbeError, one_of, whole_number
from ..files import write_files
from ..results import number_text
from ..runner import device_name, versions
from ..studies import Cell, Outcome, Study, over_seeds, pick_workers, run_cells
from .networks import PADDINGS, build_network
from .tasks import (
    METRICS,
    PLACES,
    SIDE,
    SPLITS,
    TASKS,
    centres,
    one_hot,
    pixels,
    positions,
    split_centres,
    squares,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NETWORKS: tuple[str, ...] = ("coordconv", "plain")
"""Networks of each task."""

KEYS = ["task", "split", "network", "padding", "seed"]
"""Columns that tell cells apart; ``padding`` is ``none`` for CoordConv, whose kernels are 1 × 1."""

_LOOKS = 5  # at the scores, on the way
_LOOKED_AT = 64  # centres of each subset


@dataclass(frozen=True)
class Profile:
    """How the networks of a task are trained: by Adam and a one-cycle schedule (Smith and Topin
    2019).

    Attributes
    ----------
    epochs : float
        Of CoordConv; a plain network takes as many steps, of ``plain_batch`` centres each.
    batch, plain_batch : int
        Centres of a step.
    learning_rate, plain_learning_rate : float
        At its peak.
    weight_decay, plain_weight_decay : float
        Of Adam. The regression network of CoordConv takes none: its weights have to grow.
    decoupled : bool
        Whether CoordConv's is apart from the gradient (AdamW; Loshchilov and Hutter 2019). A strong
        one leaves the classifier few ways to be right where it trains and wrong in a quadrant that
        it has not seen, which one seed in ten otherwise finds.
    width : int
        Of the plain network, see :mod:`probe.coordconv.networks`.
    """

    epochs: float
    batch: int = 16
    learning_rate: float = 0.01
    weight_decay: float = 1e-4
    decoupled: bool = False
    width: int = 32
    plain_batch: int = 16
    plain_learning_rate: float = 0.01
    plain_weight_decay: float = 1e-4


QUICK: dict[str, Profile] = {
    "classification": Profile(
        3, batch=4, learning_rate=0.02, weight_decay=0.3, decoupled=True, width=8
    ),
    "rendering": Profile(2, batch=4, width=8),
    "regression": Profile(2, batch=4, weight_decay=0, width=8),
}
"""Under 10 minutes on 2 cores, with three seeds; circular and no padding with one."""

FULL: dict[str, Profile] = {
    "classification": Profile(12, learning_rate=0.02, weight_decay=0.3, decoupled=True),
    "rendering": Profile(12),
    "regression": Profile(12, weight_decay=0),
}
"""Longer, with all seeds, and with plain networks of 0.7 and 0.1 million parameters."""

PUBLISHED: dict[str, str] = {
    "classification": "CoordConv perfect on both splits, trained 150 times faster and with 10 to "
    "100 times fewer parameters; deconvolution at most about 86 % on the uniform test centres and "
    "near 0 on the quadrant's",
    "rendering": "CoordConv generalises on both splits, deconvolution fails on the quadrant",
    "regression": "CoordConv near 0 on both splits, convolution fails on the quadrant",
}
"""What Liu et al. (2018) found, sections 4.1 to 4.3."""


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
        from ..report.coordconv import plot_curves

        return plot_curves(self, task)

    def plot_maps(self, task: str = "classification", seed: int | None = None) -> Figure:
        """Draw the score at every centre: where a network generalises to."""
        from ..report.coordconv import plot_maps

        return plot_maps(self, task, seed)

    def to_html(self, path: str | Path) -> Path:
        """Write a page that needs nothing else.

        Raises
        ------
        ProbeError
            If the file can't be written.
        """
        from ..report.coordconv import page

        path = Path(path)
        write_files(path.parent, {path.name: page(self).encode()})
        return path


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
        Take the profiles :data:`QUICK` in place of :data:`FULL`: all seeds with CoordConv and with
        zero padding, one with ``circular`` and ``valid``.
    epochs : float, optional
        In place of the profiles'.
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
        that lies there is gone on with.

    Returns
    -------
    CoordConvStudy

    Raises
    ------
    ProbeError
        If there is no such task, split, network or padding, or a number is not what it should be.

    Notes
    -----
    It differs from the paper in this: batches are small, training is short and one-cycle, plain
    networks are one architecture each in place of a search over many; the paper trains up to
    4,000 seconds on a GPU. Steps are equal for all networks of a task and split.

    References
    ----------
    Liu et al. (2018), arXiv 1807.03247, sections 2 and 4.
    """
    started, clock = datetime.datetime.now(datetime.UTC), time.perf_counter()
    tasks, splits = _chosen(tasks, TASKS, "task"), _chosen(splits, SPLITS, "split")
    networks = _chosen(networks, NETWORKS, "network")
    paddings = _chosen(paddings, PADDINGS, "padding")
    whole_number(seeds, "seeds", 1)
    whole_number(seed, "seed", 0)
    if epochs is not None and not (isinstance(epochs, int | float) and 0 < epochs < math.inf):
        raise ProbeError(f"epochs: expected a number above 0, got {epochs!r}")
    profiles = QUICK if quick else FULL
    if epochs is not None:
        profiles = {task: replace(profile, epochs=epochs) for task, profile in profiles.items()}
    where = pick_device(device)
    workers = pick_workers(workers, where)
    cells = [
        _cell(profiles[task], task, split, network, rule, seed + number)
        for number in range(seeds)
        for task in tasks
        for split in splits
        for network, rule in _variants(task, networks, paddings)
        if number == 0 or not quick or rule in ("none", "zeros")
    ]
    made = {"device": device_name(where, threads=1), "versions": versions()}
    outcomes = run_cells(
        cells,
        partial(_train, device=where),
        folder,
        made=made,
        workers=workers,
        description="coordconv",
        progress=progress,
    )
    cells, outcomes = _with_copies(cells, outcomes, paddings)
    provenance = {
        "profile": "quick" if quick else "full",
        "options": {
            "tasks": tasks,
            "splits": splits,
            "networks": networks,
            "paddings": paddings,
            "seeds": seeds,
            "seed": seed,
            "epochs": epochs,
        },
        "profiles": {task: asdict(profiles[task]) for task in tasks},
        **made,
        "workers": workers,
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - clock, 1),
        "training_seconds": round(sum(outcome.seconds for outcome in outcomes), 1),
    }
    return CoordConvStudy.of(cells, outcomes, KEYS, provenance)


def _chosen(names: str | Sequence[str], known: Iterable[str], what: str) -> list[str]:
    listed = [names] if isinstance(names, str) else list(names)
    if not listed:
        raise ProbeError(f"{what}s: expected at least one of {', '.join(known)}")
    return [one_of(name, known, what) for name in dict.fromkeys(listed)]


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


def _cell(
    profile: Profile, task: str, split: str, network: str, rule: str, seed: int
) -> dict[str, Any]:
    train, _ = split_centres(split, seed)
    given = network == "coordconv"
    return {
        "task": task,
        "split": split,
        "network": network,
        "padding": rule,
        "seed": seed,
        "steps": max(1, round(profile.epochs * len(train) / profile.batch)),
        "batch": profile.batch if given else profile.plain_batch,
        "width": None if given else profile.width,
        "learning_rate": profile.learning_rate if given else profile.plain_learning_rate,
        "weight_decay": profile.weight_decay if given else profile.plain_weight_decay,
        "decoupled": given and profile.decoupled,
    }


def _with_copies(
    cells: Sequence[Cell], outcomes: Sequence[Outcome], paddings: Sequence[str]
) -> tuple[list[Cell], list[Outcome]]:
    """Put in what a plain painter is without padding: what it is on a torus."""
    every = []
    for cell, outcome in zip(cells, outcomes, strict=True):
        own = cell["network"] == "plain" and cell["padding"] == "circular"
        painter = own and cell["task"] != "regression"
        if not painter or "circular" in paddings:
            every.append((cell, outcome))
        if painter and "valid" in paddings:
            every.append(({**cell, "padding": "valid"}, outcome))
    return [cell for cell, _ in every], [outcome for _, outcome in every]


# ---------------------------------------------------------------- one network


def _train(cell: Cell, device: torch.device) -> Outcome:
    """Train one network and score it on every centre."""
    task, seed = cell["task"], cell["seed"]
    network = build_network(task, cell["network"], cell["width"] or 0, seed).to(device)
    train, test = split_centres(cell["split"], seed)
    places = centres().to(device)
    generator = torch.Generator().manual_seed(seed)
    adam = torch.optim.AdamW if cell["decoupled"] else torch.optim.Adam
    optimiser = adam(
        network.parameters(),
        lr=cell["learning_rate"],
        weight_decay=cell["weight_decay"],
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, cell["learning_rate"], total_steps=max(cell["steps"], 2)
    )
    subsets = {"train": train, "test": test}
    looked_at = {
        name: numbers[torch.randperm(len(numbers), generator=generator)[:_LOOKED_AT]]
        for name, numbers in subsets.items()
    }
    looks = {round(cell["steps"] * (k + 1) / _LOOKS) for k in range(_LOOKS)}
    as_built = cell["padding"] in ("none", "zeros")
    border = nullcontext() if as_built else padding(cell["padding"])
    curve: list[dict[str, Any]] = []
    batches = _batches(train, cell["batch"], generator)
    seconds, clock = 0.0, time.perf_counter()
    with border:
        for step in range(1, cell["steps"] + 1):
            batch = places[next(batches).to(device)]
            loss = _loss(task, network, batch)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            if step in looks:
                seconds += time.perf_counter() - clock
                for subset, numbers in looked_at.items():
                    found = score_centres(task, network, places[numbers.to(device)])
                    curve += [
                        {"step": step, "seconds": seconds, "subset": subset, **row}
                        for row in _rows(found)
                    ]
                clock = time.perf_counter()
        everywhere = score_centres(task, network, places)
    parameters = sum(p.numel() for p in network.parameters())
    scores = [
        {"parameters": parameters, "subset": subset, **row}
        for subset, numbers in subsets.items()
        for row in _rows({name: values[numbers] for name, values in everywhere.items()})
    ]
    picture = everywhere[METRICS[task][0]].reshape(PLACES, PLACES).numpy().astype(np.float32)
    return Outcome(scores, curve, {"map": picture}, seconds)


def _batches(train: Tensor, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Numbers of training centres, whole batches of one shuffle after another."""
    while True:
        order = train[torch.randperm(len(train), generator=generator)]
        yield from order[: len(order) // size * size].split(size)


def _loss(task: str, network: nn.Module, places: Tensor) -> Tensor:
    if task == "regression":
        return F.mse_loss(network(one_hot(places)), positions(places))
    scores = network(positions(places))
    if task == "classification":
        return F.cross_entropy(scores.flatten(1), pixels(places))
    return F.binary_cross_entropy_with_logits(scores, squares(places))


def score_centres(
    task: str, network: nn.Module, places: Tensor, batch: int = 16
) -> dict[str, Tensor]:
    """Score a network at every centre given.

    Parameters
    ----------
    task : str
        One of :data:`~probe.coordconv.tasks.TASKS`.
    network : Module
        Evaluated as it is padded; its mode is put back.
    places : Tensor of int64, shape (N, 2)
        Rows and columns.
    batch : int
        Centres at a time.

    Returns
    -------
    dict of str to Tensor of float64, shape (N,)
        ``accuracy`` and ``error_px`` (classification), ``iou`` (rendering), ``error_px``
        (regression).
    """
    mode = network.training
    found: dict[str, list[Tensor]] = {}
    try:
        network.eval()
        with torch.no_grad():
            for part in places.split(batch):
                for name, values in _scores(task, network, part).items():
                    found.setdefault(name, []).append(values.to("cpu", torch.float64))
    finally:
        network.train(mode)
    return {name: torch.cat(values) for name, values in found.items()}


def _scores(task: str, network: nn.Module, places: Tensor) -> dict[str, Tensor]:
    if task == "regression":
        apart = (network(one_hot(places)) - positions(places)) * (SIDE - 1) / 2
        return {"error_px": apart.norm(dim=1)}
    scores = network(positions(places))
    if task == "rendering":
        painted, square = scores > 0, squares(places) > 0
        both, either = (painted & square).sum((1, 2)), (painted | square).sum((1, 2))
        return {"iou": both / either}
    best = scores.flatten(1).argmax(1)
    apart = torch.stack([best // SIDE, best % SIDE], 1) - places
    return {
        "accuracy": (best == pixels(places)).to(torch.float64),
        "error_px": apart.to(torch.float64).norm(dim=1),
    }


def _rows(found: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    return [{"metric": name, "value": float(values.mean())} for name, values in found.items()]


# ---------------------------------------------------------------- words


def score_text(metric: str, value: float) -> str:
    """Write a score as sentences and tables do: percent, or pixels."""
    if metric == "error_px":
        return f"{number_text(value, '.1f' if value >= 1 else '.2f')} px"
    if metric == "accuracy":
        shown = number_text(100 * value, ".1f")
        return f"{shown.removesuffix('.0')} %"
    return number_text(value, ".3f")


def _summary(means: pd.DataFrame) -> Iterator[str]:
    rows = means.set_index(["task", "network", "padding", "split", "subset"]).sort_index()
    for task, found in means.groupby("task", sort=False):
        metric = METRICS[task][0]
        for network, rule in dict.fromkeys(zip(found["network"], found["padding"], strict=True)):
            said = []
            for split in dict.fromkeys(found["split"]):
                both = rows.loc[(task, network, rule, split)]
                train, test = (score_text(metric, both.loc[s, "value"]) for s in ("train", "test"))
                worst = both.loc["test", "most" if metric == "error_px" else "least"]
                many = both.loc["test", "seeds"] > 1
                seeds = f" (worst seed {score_text(metric, worst)})" * bool(many)
                said.append(f"{split}: {train} in training, {test} in test{seeds}")
            name = "CoordConv" if network == "coordconv" else f"plain, {PADDING_WORDS[rule]}"
            yield f"{task.capitalize()}, {name}: {'; '.join(said)}."


PADDING_WORDS: dict[str, str] = {
    "none": "",
    "zeros": "zero padding",
    "circular": "circular padding",
    "valid": "no padding",
}
"""What paddings are called."""
