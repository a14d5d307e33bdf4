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
class TrainingSettings:
    """How the networks of a task are trained: Adam and a one-cycle schedule (Smith and Topin 2019).

    A plain network takes as many steps as CoordConv, of ``plain_batch`` centres each. CoordConv's
    regression takes no weight decay: its weights have to grow. ``decoupled`` (AdamW; Loshchilov and
    Hutter 2019) takes it apart from the gradient; a strong one leaves the classifier few ways to be
    right where it trains and wrong in a quadrant that it has not seen, which one seed in ten
    otherwise finds.
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


QUICK: dict[str, TrainingSettings] = {
    "classification": TrainingSettings(
        3, batch=4, learning_rate=0.02, weight_decay=0.3, decoupled=True, width=8
    ),
    "rendering": TrainingSettings(2, batch=4, width=8),
    "regression": TrainingSettings(2, batch=4, weight_decay=0, width=8),
}
"""Under 10 minutes on 2 cores, with three seeds; circular and no padding with one."""

FULL: dict[str, TrainingSettings] = {
    "classification": TrainingSettings(12, learning_rate=0.02, weight_decay=0.3, decoupled=True),
    "rendering": TrainingSettings(12),
    "regression": TrainingSettings(12, weight_decay=0),
}
"""Longer, with all seeds, and with plain networks of 0.7 and 0.1 million parameters."""


def training_cell(
    settings: TrainingSettings, task: str, split: str, network: str, rule: str, seed: int
) -> dict[str, Any]:
    train, _ = split_centres(split, seed)
    given = network == "coordconv"
    return {
        "task": task,
        "split": split,
        "network": network,
        "padding": rule,
        "seed": seed,
        "steps": max(1, round(settings.epochs * len(train) / settings.batch)),
        "batch": settings.batch if given else settings.plain_batch,
        "width": None if given else settings.width,
        "learning_rate": settings.learning_rate if given else settings.plain_learning_rate,
        "weight_decay": settings.weight_decay if given else settings.plain_weight_decay,
        "decoupled": given and settings.decoupled,
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
                    scores = score_centres(task, network, places[numbers.to(device)])
                    curve += _rows(scores, step=step, seconds=seconds, subset=subset)
                clock = time.perf_counter()
        everywhere = score_centres(task, network, places)
    parameters = sum(p.numel() for p in network.parameters())
    rows: list[dict[str, Any]] = []
    for subset, numbers in subsets.items():
        scores = {name: values[numbers] for name, values in everywhere.items()}
        rows += _rows(scores, parameters=parameters, subset=subset)
    picture = everywhere[METRICS[task][0]].reshape(PLACES, PLACES).numpy().astype(np.float32)
    return Outcome(rows, curve, {"map": picture}, seconds)


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
    """Score a network at centres (N, 2), by metric of the task, each float64 of shape (N,).

    The network is evaluated as it is padded; its mode is put back.
    """
    mode = network.training
    try:
        network.eval()
        with torch.no_grad():
            parts = [_scores(task, network, part) for part in places.split(batch)]
    finally:
        network.train(mode)
    return {
        name: torch.cat([part[name].to("cpu", torch.float64) for part in parts])
        for name in parts[0]
    }


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


def _rows(scores: Mapping[str, Tensor], **about: Any) -> list[dict[str, Any]]:
    return [{**about, "metric": name, "value": float(v.mean())} for name, v in scores.items()]
