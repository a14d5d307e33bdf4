"""Training one network on one coordinate task."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..borders.mode import padding
from ..studies.cells import Cell, Outcome
from .networks import build_network
from .tasks import (
    METRICS,
    PLACES,
    SIDE,
    centres,
    one_hot,
    pixels,
    positions,
    split_centres,
    squares,
)

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


def training_cell(
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


def train_network(cell: Cell, device: torch.device) -> Outcome:
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
