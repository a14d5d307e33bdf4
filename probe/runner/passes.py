"""The two passes: training images into readouts, test images through them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..backbones.layer import Layer, single_precision
from ..errors import ProbeError
from ..machine import memory_explained
from ..readouts.base import FOLDS
from ..readouts.moments import pilot_origin
from ..scores.patterns import PlaceSums
from ..scores.tables import score_layer
from ..stimuli.scenes import antithetic_batch
from ..stimuli.source import stretch
from ..targets import layer_targets
from ..text import first_line
from ..variants.canvas import canvas_batch
from .follow import note_following
from .job import CONCAT, FIRST_TEST_IMAGE, INPUT, Condition, Job, check_finite

Receive = Callable[[Condition, int, Layer, Tensor], None]
"""Takes condition, number of the first image, layer, and features as the readout sees them."""


def stream(
    job: Job,
    group: Sequence[Condition],
    batch: Callable[[int, int, int], Tensor],
    count: int,
    bar: tqdm,
    receive: Receive,
    first: int = 0,
    begin: int = 0,
) -> None:
    """Run every batch through every condition; hand over features as the readout sees them.

    Conditions see the same tensor of images, but for those with another margin. A canvas is run in
    smaller batches, of as many pixels as a batch of images has. Images are ``begin … count − 1``.
    """
    for start in range(begin, count, job.batch_size):
        stop = min(start + job.batch_size, count)
        with memory_explained(stop - start):
            images = batch(start, stop, job.margin)
        for condition in group:
            with _failure_explained(condition, start, stop), memory_explained(stop - start):
                margin = condition.view.margin - job.margin
                step = canvas_batch(job.batch_size, job.source.image_size, condition.view.margin)
                for low in range(0, len(images), step):
                    part = images[low : low + step]
                    shown = stretch(part, margin) if margin else part
                    hand_over = partial(receive, condition, start + low)
                    _features(job, condition, shown, hand_over, first + start + low)
            bar.update(stop - start)


@contextmanager
def _failure_explained(condition: Condition, start: int, stop: int) -> Iterator[None]:
    """Say where a network failed that ran before, in its own words."""
    try:
        yield
    except ProbeError:
        raise
    except Exception as error:  # whatever the network's author chose to raise
        raise ProbeError(
            f"{condition.title} failed on images {start} to {stop - 1}: {type(error).__name__}: "
            f"{first_line(error)}"
        ) from error


def _features(
    job: Job,
    condition: Condition,
    images: Tensor,
    receive: Callable[[Layer, Tensor], None],
    first: int,
) -> None:
    seen = {layer.name: layer for layer in condition.layers}
    if job.controls:
        pixels = stretch(images, -condition.view.margin).to(condition.backbone.device)
        receive(seen[INPUT], seen[INPUT].reduce(pixels))
    pieces: dict[str, Tensor] = {}

    def take(layer: Layer, features: Tensor) -> None:
        features = single_precision(features)
        if not job.head.concat:
            receive(seen[layer.name], seen[layer.name].reduce(features))
            return
        pieces[layer.name] = seen[CONCAT].reduce(features)
        if len(pieces) == len(condition.view.layers):
            ordered = [pieces[layer.name] for layer in condition.view.layers]
            receive(seen[CONCAT], torch.cat(ordered, 1))

    condition.view.run(condition.backbone, images, take, seed=job.seed, first=first)


def train(job: Job, group: Sequence[Condition], bar: tqdm) -> None:
    """Stream the training images into the readouts and the sums of each place."""
    folds = min(FOLDS, job.train_images)
    bounds = [fold * job.train_images // folds for fold in range(folds + 1)]

    def receive(condition: Condition, start: int, layer: Layer, features: Tensor) -> None:
        name = layer.name
        if name not in condition.readouts:
            origin = pilot_origin(features)
            check_finite(origin, layer, condition)
            readout = condition.readouts[name] = job.head.make()
            places = features.shape[2] * features.shape[3]
            if readout.needs_sums:
                condition.sums[name] = [PlaceSums.empty(origin, places) for _ in range(folds)]
        readout = condition.readouts[name]
        for fold in range(folds):
            low = max(bounds[fold] - start, 0)
            high = min(bounds[fold + 1] - start, len(features))
            if low < high:
                part = features[low:high]
                readout.partial_fit(part, fold)
                if readout.needs_sums:
                    condition.sums[name][fold].update(part)
                    check_finite(condition.sums[name][fold].first, layer, condition)
                else:
                    check_finite(readout.moments[fold].first, layer, condition)

    stream(job, group, partial(job.source.batch, "train"), job.train_images, bar, receive)


def fit(job: Job, condition: Condition) -> None:
    """Solve every layer's readout, for the targets and for their controls."""
    for layer in condition.layers:
        readout, truth = condition.readouts[layer.name], condition.truths[layer.name]
        moments = [readout.moments[fold] for fold in sorted(readout.moments)]
        for fold in moments:
            check_finite(fold.second.diagonal(), layer, condition)
        if not readout.needs_sums:
            condition.sums[layer.name] = [PlaceSums.of(fold) for fold in moments]
        targets = truth.maps
        if readout.pixel_targets:
            height, width = layer.image_size
            targets = layer_targets(job.targets, layer.image_size, np.eye(height), np.eye(width))
        readout.solve(targets, truth.order)
        if alphas := readout.chosen_alphas():
            condition.alphas[layer.name] = alphas[: len(truth.targets)]


def test(job: Job, group: Sequence[Condition], bar: tqdm, begin: int = 0) -> None:
    """Stream test images from ``begin`` on through the readouts; predictions of others go."""
    for condition in group:
        condition.predictions.clear()
        condition.extra.clear()

    def receive(condition: Condition, start: int, layer: Layer, features: Tensor) -> None:
        predictions, scores = condition.readouts[layer.name].predict_and_score(features)
        predictions = predictions.cpu()
        check_finite(predictions, layer, condition)
        note_following(job, condition, layer, features)
        condition.predictions.setdefault(layer.name, []).append(predictions.numpy())
        extra = {key: values.cpu().numpy() for key, values in scores.items()}
        condition.extra.setdefault(layer.name, []).append(extra)

    batch = partial(antithetic_batch, job.source, stride=job.stride)
    stream(job, group, batch, job.test_images, bar, receive, FIRST_TEST_IMAGE, begin)


def score(condition: Condition) -> None:
    """Score each layer's predictions on every test image."""
    for layer in condition.layers:
        name, truth = layer.name, condition.truths[layer.name]
        chance = condition.readouts[name].extra_chance(*truth.maps.shape[1:])
        extra = {
            key: (np.concatenate([batch[key] for batch in condition.extra[name]]), level)
            for key, level in chance.items()
        }
        predictions = np.concatenate(condition.predictions[name])
        condition.scored[name] = score_layer(predictions, truth, extra)


def measure(job: Job, group: Sequence[Condition], bar: tqdm) -> None:
    """Take conditions through both passes: train, fit, test, score."""
    train(job, group, bar)
    for condition in group:
        fit(job, condition)
    test(job, group, bar)
    for condition in group:
        score(condition)
