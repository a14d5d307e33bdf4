"""Conditions that need not be run: random draws in which a certificate leaves nothing to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..certificates.certificate import Certificate
from ..scores.tables import score_layer
from ..text import is_random
from .job import INPUT, Condition, Job

Key = tuple[str, str]


def proven(
    job: Job, conditions: Sequence[Condition], certificates: Mapping[Key, Certificate]
) -> dict[Key, Condition]:
    """Return which conditions are proven to hold no position, each with its like that is run.

    Those of random weights under a variant whose certificate passes for them, and for other
    weights that are run under it, on stimuli that show no place either. A certificate of a shift
    by more than the total stride bounds position to a window and proves no zero; nor does one with
    silent branches.
    """
    null = job.source.stationary and job.source.tileable
    run: dict[str, Condition] = {}
    found: dict[Key, Condition] = {}
    for condition in conditions:
        weights, name = condition.key
        certificate, variant = certificates[condition.key], condition.view.variant
        shows = certificate.passed and not certificate.silent and variant.torus
        shows = shows and not variant.canvas and max(certificate.shift) <= job.stride
        if not (null and shows):
            continue
        if name in run and is_random(weights):
            found[condition.key] = run[name]
        run.setdefault(name, condition)
    return found


def fill_with_chance(job: Job, condition: Condition, like: Condition) -> None:
    """Give a condition the predictions and scores of chance: each target's mean, SPC and R² 0.

    The pixels are the same as those of its like, and so is what is read from them.
    """
    for layer in condition.layers:
        name, truth = layer.name, condition.truths[layer.name]
        if name == INPUT:
            condition.predictions[name], condition.scored[name] = like.pixels, like.scored[name]
            continue
        mean = truth.maps.mean((1, 2), keepdims=True)
        if truth.order is not None:  # of the control task, the targets in another order
            mean = np.concatenate([mean, mean])
        predictions = np.broadcast_to(mean, (job.test_images, len(mean), *truth.maps.shape[1:]))
        chance = job.head.make().extra_chance(*truth.maps.shape[1:])
        extra = {key: (np.full(job.test_images, level), level) for key, level in chance.items()}
        condition.predictions[name] = [predictions]
        condition.scored[name] = score_layer(predictions, truth, extra)
