"""Conditions that need not be run: random draws in which a certificate leaves nothing to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..certificates.certificate import Certificate
from ..scores.tables import score_layer
from ..text import is_random
from .job import Condition, Job

Key = tuple[str, str]


def proven(
    job: Job, conditions: Sequence[Condition], certificates: Mapping[Key, Certificate]
) -> set[Key]:
    """Return which conditions are proven to hold no position, as others that are run.

    Those of random weights under a variant whose certificate passes for them, and for other
    weights that are run under it, on stimuli that show no place either. A certificate of a shift
    by more than the total stride bounds position to a window and proves no zero; nor does one with
    silent branches.
    """
    null = job.source.stationary and job.source.tileable
    run: set[str] = set()
    found: set[Key] = set()
    for condition in conditions:
        weights, name = condition.key
        certificate, variant = certificates[condition.key], condition.view.variant
        shows = certificate.passed and not certificate.silent and variant.torus
        shows = shows and not variant.canvas and max(certificate.shift) <= job.stride
        if not (null and shows):
            continue
        if name in run and is_random(weights):
            found.add(condition.key)
        run.add(name)
    return found


def fill_with_chance(job: Job, condition: Condition) -> None:
    """Give a condition the predictions and scores of chance: each target's mean, SPC and R² 0."""
    for layer in condition.layers:
        name, truth = layer.name, condition.truths[layer.name]
        mean = truth.maps.mean((1, 2), keepdims=True)
        if truth.order is not None:  # of the control task, the targets in another order
            mean = np.concatenate([mean, mean])
        predictions = np.broadcast_to(mean, (job.test_images, len(mean), *truth.maps.shape[1:]))
        chance = job.head.make().extra_chance(*truth.maps.shape[1:])
        extra = {key: (np.full(job.test_images, level), level) for key, level in chance.items()}
        condition.predictions[name] = [predictions]
        condition.scored[name] = score_layer(predictions, truth, extra)
