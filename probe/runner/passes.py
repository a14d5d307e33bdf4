"""The two passes: training images into readouts, test images through them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..backbones.layer import Layer, single_precision
from ..machine import memory_explained
from ..readouts.base import FOLDS
from ..readouts.moments import pilot_origin
from ..readouts.posenet import PoseNet
from ..readouts.ridge import Ridge
from ..readouts.softmax import Softmax
from ..scores.patterns import PlaceSums
from ..scores.tables import score_layer
from ..stimuli.scenes import antithetic_batch
from ..stimuli.source import stretch
from ..targets import layer_targets
from .job import CONCAT, FIRST_TEST_IMAGE, INPUT, Condition, Job, check_finite

Receive = Callable[[Condition, Layer, Tensor, int], None]
"""Takes condition, layer, features as the readout sees them, and number of the first image."""


def stream(
    job: Job,
    group: Sequence[Condition],
    batch: Callable[[int, int, int], Tensor],
    count: int,
    bar: tqdm,
    receive: Receive,
    first: int = 0,
) -> None:
    """Run every batch through every condition; hand over features as the readout sees them."""
    for start in range(0, count, job.batch_size):
        stop = min(start + job.batch_size, count)
        with memory_explained(stop - start):
            images = batch(start, stop, job.margin)
        for condition in group:
            with memory_explained(stop - start):
                shown = stretch(images, condition.view.margin - job.margin)
                named = {"seed": job.seed, "first": first + start}
                hand_over = partial(receive, condition, start=start)
                _features(job, condition, shown, hand_over, **named)
            bar.update(stop - start)


def _features(
    job: Job,
    condition: Condition,
    images: Tensor,
    receive: Callable[..., None],
    **named: int,
) -> None:
    seen = {layer.name: layer for layer in condition.layers}
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

    condition.view.run(condition.backbone, images, take, **named)


def train(job: Job, group: Sequence[Condition], bar: tqdm) -> None:
    """Stream the training images into the readouts and the sums of each place."""
    folds = min(FOLDS, job.train_images)
    bounds = [fold * job.train_images // folds for fold in range(folds + 1)]
    # Ridge moments of single places hold these sums already.
    separate = job.head.readout != "ridge" or job.head.kernel != 1

    def receive(condition: Condition, layer: Layer, features: Tensor, start: int) -> None:
        name = layer.name
        if name not in condition.readouts:
            origin = pilot_origin(features)
            check_finite(origin, layer, condition)
            condition.readouts[name] = job.head.make()
            places = features.shape[2] * features.shape[3]
            if separate:
                condition.sums[name] = [PlaceSums.empty(origin, places) for _ in range(folds)]
        for fold in range(folds):
            low = max(bounds[fold] - start, 0)
            high = min(bounds[fold + 1] - start, len(features))
            if low < high:
                readout, part = condition.readouts[name], features[low:high]
                readout.partial_fit(part, fold)
                if separate:
                    condition.sums[name][fold].update(part)
                held = condition.sums[name] if separate else readout.moments
                check_finite(held[fold].first, layer, condition)

    stream(job, group, partial(job.source.batch, "train"), job.train_images, bar, receive)


def fit(job: Job, condition: Condition) -> None:
    """Solve every layer's readout, for the targets and for their controls."""
    for layer in condition.layers:
        readout, truth = condition.readouts[layer.name], condition.truths[layer.name]
        targets = truth.maps
        if isinstance(readout, Ridge):
            if layer.name not in condition.sums:
                moments = [readout.moments[fold] for fold in sorted(readout.moments)]
                condition.sums[layer.name] = [PlaceSums.of(fold) for fold in moments]
            for fold in readout.moments.values():
                check_finite(fold.second.diagonal(), layer, condition)
        elif isinstance(readout, PoseNet):
            height, width = layer.image_size
            targets = layer_targets(truth.targets, layer.image_size, np.eye(height), np.eye(width))
        readout.solve(targets, truth.order)
        if isinstance(readout, Ridge):
            condition.alphas[layer.name] = readout.map.alphas[: len(truth.targets)].tolist()


def test(job: Job, group: Sequence[Condition], bar: tqdm) -> None:
    """Stream the test images through the readouts."""

    def receive(condition: Condition, layer: Layer, features: Tensor, start: int) -> None:
        readout = condition.readouts[layer.name]
        if isinstance(readout, Softmax):
            probabilities = readout.predict_proba(features)
            right = readout.accuracy(probabilities).cpu().numpy()
            condition.accuracies.setdefault(layer.name, []).append(right)
            predictions = readout.expectation(probabilities).cpu()
        else:
            predictions = readout.predict(features).cpu()
        check_finite(predictions, layer, condition)
        condition.predictions.setdefault(layer.name, []).append(predictions.numpy())

    batch = partial(antithetic_batch, job.source, stride=job.stride)
    stream(job, group, batch, job.test_images, bar, receive, first=FIRST_TEST_IMAGE)


def score(condition: Condition) -> None:
    """Score each layer's predictions on every test image."""
    for layer in condition.layers:
        name = layer.name
        right = condition.accuracies.get(name)
        condition.scored[name] = score_layer(
            np.concatenate(condition.predictions[name]),
            condition.truths[name],
            None if right is None else np.concatenate(right),
        )
