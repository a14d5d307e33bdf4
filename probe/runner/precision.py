"""More test images, until differences are as precise as was asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ..scores.intervals import bootstrap_interval
from ..scores.tables import Scored, same_places, within_range
from ..stimuli.scenes import scene_size
from .job import Condition, Job
from .passes import score, test

MOST = 4096
"""Test images at most."""

_GROWTH = 2.0  # at most, from one look to the next
_SPARE = 1.1  # over what the width so far calls for


@dataclass(frozen=True)
class Widest:
    """The widest 95 % interval of SPC differences; of SPC where nothing was taken away."""

    width: float
    where: str


def grow(
    first: int,
    most: int,
    multiple: int,
    precision: float,
    width: Callable[[int], float],
    add: Callable[[int, int], None],
) -> list[int]:
    r"""Add images in steps until an interval is no wider than asked for; return all counts.

    The width goes with :math:`1/\sqrt{n}`. A step goes a tenth beyond what the width so far calls
    for, and at most doubles the images: the fewer looks, the less the stopping rule picks images
    whose spread is small by chance.

    Parameters
    ----------
    first, most : int
        Images at the start, and at most.
    multiple : int
        Counts are multiples of it: images of one scene stay together.
    precision : float
        Width asked for.
    width : callable
        Of so many images.
    add : callable
        Adds images ``start … stop − 1``.

    References
    ----------
    Chow, Robbins (1965), "On the asymptotic theory of fixed-width sequential confidence intervals
    for the mean", Annals of Mathematical Statistics 36: coverage is the nominal one as the width
    goes to 0.
    """
    counts = [first]
    while counts[-1] < most and (now := width(counts[-1])) > precision:
        needed = counts[-1] * min(_SPARE * (now / precision) ** 2, _GROWTH)
        count = min(multiple * math.ceil(needed / multiple), most)
        add(counts[-1], count)
        counts.append(count)
    return counts


def refine(job: Job, conditions: Sequence[Condition], precision: float, bar: tqdm) -> Job:
    """Score conditions on more test images; return the job with as many as were taken.

    Every image runs once through every condition, and its scores join those before. Predictions
    are not kept: mean maps and the error by distance are of the first images.
    """
    per_scene = scene_size(job.source)

    def add(start: int, stop: int) -> None:
        bar.total = (bar.total or 0) + (stop - start) * len(conditions)
        for low in range(start, stop, job.batch_size):
            _add_images(replace(job, test_images=min(low + job.batch_size, stop)), low)

    def _add_images(upto: Job, low: int) -> None:
        before = [condition.scored for condition in conditions]
        test(upto, conditions, bar, low)
        for condition, scored in zip(conditions, before, strict=True):
            condition.scored = {}
            score(condition)
            condition.scored = {
                layer: _joined(scored[layer], added) for layer, added in condition.scored.items()
            }
            condition.predictions.clear()

    most = min(MOST, job.source.scenes * per_scene)
    width = partial(_width, job, conditions)
    counts = grow(job.test_images, most, per_scene, precision, width, add)
    return replace(job, test_images=counts[-1], steps=tuple(counts))


def _joined(scored: Scored, added: Scored) -> Scored:
    return replace(scored, values=np.concatenate([scored.values, added.values]))


def _width(job: Job, conditions: Sequence[Condition], count: int) -> float:
    return widest(replace(job, test_images=count), conditions).width


def widest(job: Job, conditions: Sequence[Condition]) -> Widest:
    """Find the widest interval."""
    trained = {c.backbone.weights: c for c in conditions if c.view.variant.name == "original"}
    pairs = [(c, trained[c.backbone.weights]) for c in conditions if c.backbone.weights in trained]
    columns = [column for c, t in pairs if c is not t for column in _columns(c, t)]
    columns = columns or [column for c in conditions for column in _columns(c, None)]
    words, values = zip(*columns, strict=True)
    bounds = bootstrap_interval(np.stack(values, 1), job.seed, scenes=job.scenes)
    low, high = within_range(["spc"] * len(words), *bounds, of_differences=True)
    widths = np.nan_to_num(high - low, nan=np.inf)  # one scene gives none
    return Widest(float(widths.max()), words[int(widths.argmax())])


def _columns(condition: Condition, trained: Condition | None) -> list[tuple[str, Any]]:
    """SPC by image of each layer and target, or its differences where they are defined."""
    columns = []
    for layer, scored in condition.scored.items():
        other = trained.scored[layer] if trained else None
        alike = same_places(scored, other) if other else np.ones(len(scored.columns), bool)
        for k, (target, metric) in enumerate(scored.columns):
            if metric == "spc" and alike[k]:
                values = scored.values[:, k]
                values = other.values[:, k] - values if other else values
                columns.append((f"{layer}, {target} ({condition.title})", values))
    return columns


def precision_record(job: Job, conditions: Sequence[Condition], precision: float) -> dict[str, Any]:
    """What provenance keeps: what was asked for, what was reached, and the test images by step."""
    reached = widest(job, conditions)
    return {
        "asked": precision,
        "reached": reached.width,
        "widest": reached.where,
        "steps": list(job.steps),
        "met": reached.width <= precision,
    }
