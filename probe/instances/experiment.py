"""The instance experiment: what segmentation asks of position, border by border."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..backbones import pick_device
from ..errors import ProbeError, one_of, whole_number
from ..files import write_files
from ..results import number_text
from ..runner import device_name, versions
from ..studies import Cell, Outcome, Study, over_seeds, pick_workers, run_cells
from .clusters import cluster
from .losses import discriminative_loss, discriminative_terms
from .networks import BORDERS, SegmentationNetwork
from .scenes import CLASSES, STUFF, OrdinaryScenes, Scene, Scenes, TwinScenes
from .scores import (
    average_precision,
    chance_pair_f1,
    count_difference,
    mean_iou,
    pair_f1,
    panoptic_quality,
    symmetric_best_dice,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TASKS: dict[str, str] = {
    "semantic": "a class for every pixel, by cross-entropy",
    "instance": "an embedding for every pixel, by the discriminative loss; clusters of it, on the "
    "true foreground, are the objects",
    "panoptic": "both heads trained together; clusters on the predicted foreground, each of the "
    "class that most of its pixels have",
}
"""Tasks, and what they are."""

SCENES: dict[str, str] = {
    "twins": "2 × 2 exact copies of one thing on a torus",
    "ordinary": "three to six things of several classes at random places",
    "large": "8 copies in a row, on a canvas four times as wide as the receptive field",
}
"""Kinds of scenes, and what they are."""

KEYS = ["scenes", "task", "borders", "seed"]
"""Columns that tell cells apart."""

LEADING: dict[str, str] = {"semantic": "mean_iou", "instance": "pair_f1", "panoptic": "quality"}
"""Leading score of each task."""

FLOOR = 9.0
"""Distance term of copies that coincide: (2 δ_dist)²."""

SHOWN = 4
"""Test scenes whose pictures are kept."""

_THINGS = range(len(STUFF), len(CLASSES))


@dataclass(frozen=True)
class Profile:
    """How networks are trained.

    Attributes
    ----------
    steps : int
        Of Adam, with a one-cycle learning rate.
    batch : int
        Scenes of a step.
    train_scenes, test_scenes : int
        How many there are.
    learning_rate : float
        At its peak.
    clip : float
        Largest norm of a gradient.
    """

    steps: int
    batch: int = 8
    train_scenes: int = 1024
    test_scenes: int = 64
    learning_rate: float = 0.01
    clip: float = 0.3


@dataclass(frozen=True)
class Setting:
    """Scenes and the network for them.

    Attributes
    ----------
    image_size : (int, int)
        Height and width in pixels.
    shifts : tuple of (int, int) or None
        Of twin scenes.
    dilations : tuple of int
        Of the network's convolutions.
    """

    image_size: tuple[int, int]
    dilations: tuple[int, ...]
    shifts: tuple[tuple[int, int], ...] | None = None

    def source(self, kind: str, seed: int) -> Scenes:
        """Return the scenes."""
        if kind == "ordinary":
            return OrdinaryScenes(self.image_size, seed)
        return TwinScenes(self.image_size, seed, shifts=self.shifts)


SETTINGS: dict[str, Setting] = {
    "twins": Setting((24, 24), (1, 2, 4, 8, 4, 2)),
    "ordinary": Setting((40, 40), (1, 2, 4, 8, 4, 2)),
    "large": Setting((16, 128), (1, 1, 2, 4, 4, 2), ((0, 16),)),
}
"""The setting of each kind of scenes."""

QUICK: dict[str, Profile] = {
    "twins": Profile(steps=600),
    "ordinary": Profile(steps=400, train_scenes=512),
    "large": Profile(steps=400, batch=4, train_scenes=256),
}
"""Under 10 minutes on 2 cores, with three seeds; ordinary and large scenes with one."""

FULL: dict[str, Profile] = {
    "twins": Profile(steps=2000, train_scenes=4096, test_scenes=256),
    "ordinary": Profile(steps=4000, train_scenes=4096, test_scenes=256),
    "large": Profile(steps=1500, train_scenes=1024, test_scenes=128),
}
"""Longer, with all seeds on all scenes."""


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
        from ..report.instances import plot_losses

        return plot_losses(self, scenes)

    def plot_distance(self) -> Figure:
        """Draw which copies are told apart, by distance from the edge."""
        from ..report.instances import plot_distance

        return plot_distance(self)

    def plot_scenes(self, scenes: str = "twins", task: str = "instance") -> Figure:
        """Draw test scenes: image, truth, and each border's embedding and clusters."""
        from ..report.instances import plot_scenes

        return plot_scenes(self, scenes, task)

    def to_html(self, path: str | Path) -> Path:
        """Write a page that needs nothing else.

        Raises
        ------
        ProbeError
            If the file can't be written.
        """
        from ..report.instances import page

        path = Path(path)
        write_files(path.parent, {path.name: page(self).encode()})
        return path


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
    r"""Train one small network to segment scenes, with every border and for every task.

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
        Take the profiles :data:`QUICK` in place of :data:`FULL`: all seeds on twin scenes, one on
        the others.
    steps : int, optional
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
    InstanceStudy

    Raises
    ------
    ProbeError
        If there are no such scenes, borders or task, or a number is not what it should be.

    References
    ----------
    De Brabandere, Neven, Van Gool (2017), arXiv 1708.02551, for the loss; Kirillov et al. (2019),
    arXiv 1801.00868, for the panoptic task.
    """
    started, clock = datetime.datetime.now(datetime.UTC), time.perf_counter()
    scenes = _chosen(scenes, SCENES, "scenes")
    borders, tasks = _chosen(borders, BORDERS, "borders"), _chosen(tasks, TASKS, "tasks")
    whole_number(seeds, "seeds", 1)
    whole_number(seed, "seed", 0)
    if steps is not None:
        whole_number(steps, "steps", 2)
    profiles = QUICK if quick else FULL
    where = pick_device(device)
    workers = pick_workers(workers, where)
    cells = [
        {
            "scenes": kind,
            "task": task,
            "borders": border,
            "seed": seed + number,
            **asdict(SETTINGS[kind]),
            **asdict(profiles[kind]),
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
    made = {"device": device_name(where, threads=1), "versions": versions()}
    outcomes = run_cells(
        cells,
        partial(_train, device=where),
        folder,
        made=made,
        workers=workers,
        description="instances",
        progress=progress,
    )
    provenance = {
        "profile": "quick" if quick else "full",
        "options": {
            "scenes": scenes,
            "borders": borders,
            "tasks": tasks,
            "seeds": seeds,
            "seed": seed,
            "steps": steps,
        },
        "profiles": {kind: asdict(profiles[kind]) for kind in scenes},
        "settings": {kind: asdict(SETTINGS[kind]) for kind in scenes},
        "reach": {kind: sum(SETTINGS[kind].dilations) for kind in scenes},
        **made,
        "workers": workers,
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - clock, 1),
        "training_seconds": round(sum(outcome.seconds for outcome in outcomes), 1),
    }
    return InstanceStudy.of(cells, outcomes, KEYS, provenance)


def _chosen(names: str | Sequence[str], known: Iterable[str], what: str) -> list[str]:
    listed = [names] if isinstance(names, str) else list(names)
    if not listed:
        raise ProbeError(f"{what}: expected at least one of {', '.join(known)}")
    return [one_of(name, known, what) for name in dict.fromkeys(listed)]


# ---------------------------------------------------------------- one network


@lru_cache(maxsize=4)
def _scenes(kind: str, setting: Setting, seed: int, split: str, count: int) -> Scene:
    return setting.source(kind, seed).labelled(split, 0, count)


def _train(cell: Cell, device: torch.device) -> Outcome:
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
        rows, arrays = _score(task, test, embedding, classes.argmax(1), network.reach)
    return Outcome(rows, curve, arrays, seconds)


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
    found: dict[str, float] = {}
    arrays = {
        "image": (test.images[:SHOWN].permute(0, 2, 3, 1).cpu().numpy() * 255).astype(np.uint8),
        "truth": true[:SHOWN].astype(np.int16),
        "true_classes": kinds[:SHOWN].astype(np.int16),
    }
    if task != "instance":
        found["mean_iou"] = mean_iou(guessed, kinds, range(len(CLASSES)))
        arrays["classes"] = guessed[:SHOWN].astype(np.int16)
    many = int(test.instances.amax((1, 2)).sum())
    if task == "semantic":
        return _rows(found, many), arrays
    foreground = true > 0 if task == "instance" else guessed >= len(STUFF)
    objects = np.stack(
        [cluster(e, mask) for e, mask in zip(embedding.cpu(), foreground, strict=True)]
    )
    variance, distance, regularisation = discriminative_terms(embedding, test.instances)
    found["loss"] = float(discriminative_loss(embedding, test.instances))
    for name, term in (
        ("variance", variance), ("distance", distance), ("regularisation", regularisation)
    ):  # fmt: skip
        found[name] = float(term.mean())
    pairs = list(zip(objects, true, strict=True))
    found["pair_f1"] = float(np.nanmean([pair_f1(p, t) for p, t in pairs]))
    found["chance_pair_f1"] = float(np.nanmean([chance_pair_f1(t) for _, t in pairs]))
    found["best_dice"] = float(np.mean([symmetric_best_dice(p, t) for p, t in pairs]))
    found["count_difference"] = float(np.mean([abs(count_difference(p, t)) for p, t in pairs]))
    found["average_precision"] = float(np.mean([average_precision(p, t) for p, t in pairs]))
    if task == "panoptic":
        named = np.stack([_majority(p, g) for p, g in zip(objects, guessed, strict=True)])
        images = zip(named, objects, kinds, true, strict=True)
        quality = panoptic_quality(images, range(len(CLASSES)), _THINGS)
        found |= {
            "quality": quality.quality,
            "segmentation": quality.segmentation,
            "recognition": quality.recognition,
        }
    arrays["embedding"] = _colours(embedding[:SHOWN].cpu().numpy(), foreground[:SHOWN])
    arrays["objects"] = objects[:SHOWN].astype(np.int16)
    return _rows(found, many) + _found_by_distance(objects, true, reach / 2), arrays


def _rows(found: dict[str, float], objects: int) -> list[dict[str, Any]]:
    none = {"distance": float("nan"), "objects": objects}
    return [{"metric": k, **none, "value": v} for k, v in found.items()]


def _majority(objects: NDArray[np.int64], classes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Give each cluster the class that most of its pixels have."""
    named = classes.copy()
    for number in range(1, objects.max() + 1):
        here = objects == number
        named[here] = np.bincount(classes[here]).argmax()
    return named


def _found_by_distance(
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
        {
            "metric": "found",
            "distance": distance,
            "objects": len(found),
            "value": float(np.mean(found)),
        }
        for distance, found in sorted(hits.items())
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


# ---------------------------------------------------------------- words


BORDER_WORDS: dict[str, str] = {
    "circular": "circular padding",
    "canvas": "a canvas",
    "zeros": "zero padding",
    "reflect": "reflect padding",
    "coordconv": "coordinates",
}
"""What borders are called."""


def _summary(study: InstanceStudy) -> Iterator[str]:
    means = study.means.set_index(["scenes", "task", "borders", "metric"]).sort_index()

    def said(scenes: str, task: str, metric: str, form: str = ".2f") -> str:
        values = [
            f"{number_text(means.loc[(scenes, task, b, metric), 'value'], form)} with {words}"
            for b, words in BORDER_WORDS.items()
            if (scenes, task, b, metric) in means.index
        ]
        return ", ".join(values)

    kinds = [kind for kind in SCENES if kind in set(study.table["scenes"])]
    for kind in kinds:
        tasks = [t for t in TASKS if t in set(study.table[study.table["scenes"] == kind]["task"])]
        name = {"twins": "Twin scenes", "ordinary": "Ordinary scenes", "large": "Large scenes"}
        if "instance" in tasks:
            chance = study.table[
                (study.table["scenes"] == kind) & (study.table["metric"] == "chance_pair_f1")
            ]["value"].mean()
            yield (
                f"{name[kind]}, objects: pairwise F1 {said(kind, 'instance', 'pair_f1')}; one "
                f"cluster for all scores {number_text(chance)}."
            )
            if kind == "twins":
                yield (
                    f"Their loss ends at {said(kind, 'instance', 'loss', '.3f')}; copies of one "
                    f"embedding cost (2 δ_dist)² = {FLOOR:.0f}."
                )
        if "semantic" in tasks:
            yield (f"{name[kind]}, classes: mean IoU {said(kind, 'semantic', 'mean_iou', '.3f')}.")
        if "panoptic" in tasks:
            yield f"{name[kind]}, both: panoptic quality {said(kind, 'panoptic', 'quality')}."
    if "large" in kinds:
        yield from _reach_sentences(study)


def _reach_sentences(study: InstanceStudy) -> Iterator[str]:
    reach = study.provenance["reach"]["large"]
    rows = study.table[study.table["distance"].notna()]
    rows = rows[(rows["scenes"] == "large") & (rows["task"] == "instance")]
    said = []
    for border, words in BORDER_WORDS.items():
        mine = rows[rows["borders"] == border]
        parts = mine[mine["distance"] < reach], mine[mine["distance"] >= reach]
        if all(map(len, parts)):
            shares = (np.average(part["value"], weights=part["objects"]) for part in parts)
            said.append("{:.0f} and {:.0f} % with {}".format(*(100 * s for s in shares), words))
    if said:
        yield (
            f"Of copies nearer to the edge than the reach of {reach} px, and of those farther, "
            f"are found {', '.join(said)}."
        )
