"""Training one network on scenes of identical objects, and scoring it."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..studies.cells import Cell, Outcome
from .clusters import cluster
from .losses import discriminative_loss, discriminative_terms
from .networks import SegmentationNetwork
from .scenes import CLASSES, STUFF, Scene
from .scores import (
    average_precision,
    chance_pair_f1,
    count_difference,
    mean_iou,
    pair_f1,
    panoptic_quality,
    symmetric_best_dice,
)
from .settings import SHOWN, THINGS, Setting


@lru_cache(maxsize=4)
def _scenes(kind: str, setting: Setting, seed: int, split: str, count: int) -> Scene:
    return setting.source(kind, seed).labelled(split, 0, count)


def train_network(cell: Cell, device: torch.device) -> Outcome:
    """Train one network and score it on test scenes."""
    kind, task, seed = cell["scenes"], cell["task"], cell["seed"]
    setting = Setting(cell["image_size"], cell["dilations"], cell["shifts"])
    train = _scenes(kind, setting, seed, "train", cell["train_scenes"]).to(device)
    test = _scenes(kind, setting, seed, "test", cell["test_scenes"]).to(device)
    network = SegmentationNetwork(cell["borders"], dilations=setting.dilations, seed=seed)
    network = network.to(device)
    optimiser = torch.optim.Adam(network.parameters(), lr=cell["learning_rate"])
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, cell["learning_rate"], total_steps=cell["steps"], pct_start=0.2
    )
    generator = torch.Generator().manual_seed(seed)
    curve, recent, clock = [], [], time.perf_counter()
    every = max(1, cell["steps"] // 20)
    for step in range(1, cell["steps"] + 1):
        rows = torch.randint(len(train), (cell["batch"],), generator=generator).to(device)
        loss = _loss(task, network, train[rows])
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), cell["clip"])
        optimiser.step()
        schedule.step()
        recent.append(loss.detach())
        if step % every == 0 or step == cell["steps"]:
            mean = float(torch.stack(recent).mean())
            seconds = time.perf_counter() - clock
            curve.append({"step": step, "seconds": seconds, "loss": mean})
            recent = []
    seconds = time.perf_counter() - clock
    with torch.no_grad():
        parts = [network(images) for images in test.images.split(16)]
        embedding, classes = (torch.cat(part) for part in zip(*parts, strict=True))
        scores, arrays = _score(task, test, embedding, classes.argmax(1), network.reach)
    return Outcome(scores, curve, arrays, seconds)


def _loss(task: str, network: SegmentationNetwork, scene: Scene) -> Tensor:
    embedding, classes = network(scene.images)
    terms = []
    if task != "semantic":
        terms.append(discriminative_loss(embedding, scene.instances))
    if task != "instance":
        terms.append(F.cross_entropy(classes, scene.classes))
    return sum(terms[1:], terms[0])


def _score(
    task: str, test: Scene, embedding: Tensor, classes: Tensor, reach: int
) -> tuple[list[dict[str, Any]], dict[str, NDArray[Any]]]:
    """Rows of the table, and pictures of the first scenes."""
    true, kinds = test.instances.cpu().numpy(), test.classes.cpu().numpy()
    guessed = classes.cpu().numpy()
    scores: dict[str, float] = {}
    arrays: dict[str, NDArray[Any]] = {
        "image": (test.images[:SHOWN].permute(0, 2, 3, 1).cpu().numpy() * 255).astype(np.uint8),
        "truth": true[:SHOWN].astype(np.int16),
        "true_classes": kinds[:SHOWN].astype(np.int16),
    }
    if task != "instance":
        scores["mean_iou"] = mean_iou(guessed, kinds, range(len(CLASSES)))
        arrays["classes"] = guessed[:SHOWN].astype(np.int16)
    many = int(test.instances.amax((1, 2)).sum())
    if task == "semantic":
        return _rows(scores, many), arrays
    foreground = true > 0 if task == "instance" else guessed >= len(STUFF)
    objects = np.stack(
        [cluster(e, mask) for e, mask in zip(embedding.cpu(), foreground, strict=True)]
    )
    scores["loss"] = float(discriminative_loss(embedding, test.instances))
    terms = discriminative_terms(embedding, test.instances)
    scores |= {name: float(term.mean()) for name, term in terms._asdict().items()}
    pairs = list(zip(objects, true, strict=True))
    scores["pair_f1"] = float(np.nanmean([pair_f1(p, t) for p, t in pairs]))
    scores["chance_pair_f1"] = float(np.nanmean([chance_pair_f1(t) for _, t in pairs]))
    scores["best_dice"] = float(np.mean([symmetric_best_dice(p, t) for p, t in pairs]))
    scores["count_difference"] = float(np.mean([abs(count_difference(p, t)) for p, t in pairs]))
    scores["average_precision"] = float(np.mean([average_precision(p, t) for p, t in pairs]))
    if task == "panoptic":
        voted = np.stack([_majority(p, g) for p, g in zip(objects, guessed, strict=True)])
        images = zip(voted, objects, kinds, true, strict=True)
        quality = panoptic_quality(images, range(len(CLASSES)), THINGS)
        parts = ("quality", "segmentation", "recognition")
        scores |= {name: getattr(quality, name) for name in parts}
    arrays["embedding"] = _colours(embedding[:SHOWN].cpu().numpy(), foreground[:SHOWN])
    arrays["objects"] = objects[:SHOWN].astype(np.int16)
    return _rows(scores, many) + found_by_distance(objects, true, reach / 2), arrays


def _rows(scores: dict[str, float], objects: int) -> list[dict[str, Any]]:
    none = {"distance": float("nan"), "objects": objects}
    return [{"metric": k, **none, "value": v} for k, v in scores.items()]


def _majority(objects: NDArray[np.int64], classes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Give each cluster the class that most of its pixels have."""
    voted = classes.copy()
    for number in range(1, objects.max() + 1):
        pixels = objects == number
        voted[pixels] = np.bincount(classes[pixels]).argmax()
    return voted


def found_by_distance(
    objects: NDArray[np.int64], true: NDArray[np.int64], step: float
) -> list[dict[str, Any]]:
    """Share of the objects of which a cluster has more than half, by distance from the edge.

    Distance is how many pixels lie between an object and the left or right edge of the image, in
    steps (the middle of each); intersection over union above ½ counts as found.
    """
    width = true.shape[2]
    hits: dict[float, list[bool]] = {}
    for predicted, scene in zip(objects, true, strict=True):
        for number in range(1, scene.max() + 1):
            here = scene == number
            if not here.any():
                continue
            columns = np.flatnonzero(here.any(0))
            distance = min(int(columns[0]), width - 1 - int(columns[-1]))
            inside = np.bincount(predicted[here])
            inside[0] = 0
            best = int(inside.argmax())
            either = (predicted == best).sum() + here.sum() - inside[best]
            hit = best > 0 and inside[best] / either > 0.5
            hits.setdefault(step * (distance // step + 0.5), []).append(bool(hit))
    return [
        {"metric": "found", "distance": d, "objects": len(one), "value": float(np.mean(one))}
        for d, one in sorted(hits.items())
    ]


def _colours(embedding: NDArray[Any], foreground: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """First three principal components of the foreground's embeddings, as colours."""
    pixels = embedding.transpose(0, 2, 3, 1)
    inside = pixels[foreground].astype(np.float64)
    colours = np.full((*foreground.shape, 3), 255, np.uint8)
    if len(inside):
        away = inside - inside.mean(0)
        _, scales, axes = np.linalg.svd(away, full_matrices=False)
        spread = max(float(scales[0]) / np.sqrt(len(inside)), 0.25)  # noise stays grey
        shown = np.clip(0.5 + away @ axes[:3].T / (3.5 * spread), 0, 1)
        colours[foreground] = (shown * 255).round().astype(np.uint8)
    return colours
