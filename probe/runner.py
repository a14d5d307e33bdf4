"""The main job: one backbone, every weights × variant × layer × target, in two passes."""

from __future__ import annotations

import datetime
import platform
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy
import timm
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from .backbones import Backbone, input_size, known_model, load_backbone, pick_device
from .certificates import Certificate, prepare
from .errors import ProbeError, ProbeWarning, one_of, whole_number
from .layers import GridLayer, Layer, evaluating, grid_size, single_precision, tap, total_stride
from .moments import pilot_origin
from .patterns import Pattern, PlaceSums, find_pattern
from .readouts import FOLDS, READOUTS, PoseNet, Readout, Ridge, Softmax, check_memory
from .results import COLUMNS, PROFILE_COLUMNS, MapKey, PatternKey, Result, readout_label
from .stimuli import Leaves, Stimuli, antithetic_batch, open_stimuli, scene_size, scenes, stretch
from .tables import Scored, Truth, control_order, joined, profile_rows, score_layer, score_rows
from .targets import TARGETS, layer_targets
from .variants import View, find_margin, parse_variant, view

INPUT = "input"
"""The control layer: the pixels themselves."""

CONCAT = "concat"
"""What several layers resized to a common grid are called together."""

CERTIFICATE_IMAGES = 2

DEFAULT_WEIGHTS = ("pretrained", "random", "random:1", "random:2")
"""Pretrained ones, and three draws of random ones as a control."""

_TEST = 2**32  # number of the first test image, for noise of its own
_ROOM = 2 * 2**30  # bytes that readouts hold at a time, but for a single condition


@dataclass(frozen=True)
class Head:
    """Which readout, on what.

    Attributes
    ----------
    readout : str
        One of :data:`~probe.readouts.READOUTS`.
    kernel : int
        1, or 3 for neighbourhoods of 3 × 3 places.
    concat : bool
        On all layers together, resized to a common grid.
    seed : int
        Of readouts that draw random numbers.
    progress : bool
        Whether slow ones show a bar.
    """

    readout: str = "ridge"
    kernel: int = 1
    concat: bool = False
    seed: int = 0
    progress: bool = False

    @property
    def label(self) -> str:
        """What tables call it."""
        return readout_label(self.readout, self.kernel)

    @property
    def gridded(self) -> bool:
        """Whether layers are resized to the common grid."""
        return self.concat or self.readout == "posenet"

    def make(self) -> Readout:
        """Return a readout that has seen nothing yet."""
        if self.readout == "posenet":
            return PoseNet(seed=self.seed, progress=self.progress)
        return Softmax() if self.readout == "softmax" else Ridge(self.kernel)

    def see(self, layers: Sequence[Layer]) -> tuple[Layer, ...]:
        """Return layers as the readout sees them: the input, then each layer or all together.

        Raises
        ------
        ProbeError
            If a layer is called like the input.
        """
        if any(layer.name == INPUT for layer in layers):
            raise ProbeError(
                f"layers: {INPUT!r} is what the control on the pixels is called; rename that module"
            )
        size, last = layers[0].image_size, layers[-1].depth
        shown = [Layer(INPUT, 0, 3, *size, "NCHW", 0, size)]
        if self.concat:
            channels = sum(layer.channels for layer in layers)
            shown.append(Layer(CONCAT, last + 1, channels, *grid_size(size), "NCHW", 0, size))
        else:
            shown.extend(layers)
        return tuple(GridLayer.like(layer) if self.gridded else layer for layer in shown)

    def truth(self, targets: Sequence[str], layer: Layer, seed: int) -> Truth:
        """Return what the readout should predict at a layer as it sees it."""
        maps = layer_targets(targets, layer.image_size, *layer.windows(self.kernel))
        order = control_order(maps[0].size, seed)
        distance = layer.border_distance(self.kernel)
        return Truth(tuple(targets), maps, order, layer.image_size, distance)


@dataclass(frozen=True)
class Job:
    """What all weights × variants of a run have in common."""

    source: Stimuli
    targets: list[str]
    stride: int
    margin: int
    batch_size: int
    seed: int
    train_images: int
    test_images: int
    head: Head

    @property
    def scenes(self) -> np.ndarray:
        """Number of the scene that each test image shows."""
        return scenes(self.source, self.test_images)


@dataclass
class Condition:
    """One weights × variant on its way through the run."""

    backbone: Backbone
    view: View
    layers: tuple[Layer, ...]  # as the readout sees them
    truths: dict[str, Truth]
    readouts: dict[str, Readout] = field(default_factory=dict)
    sums: dict[str, list[PlaceSums]] = field(default_factory=dict)
    alphas: dict[str, list[float]] = field(default_factory=dict)
    predictions: dict[str, list[np.ndarray]] = field(default_factory=dict)
    accuracies: dict[str, list[np.ndarray]] = field(default_factory=dict)
    scored: dict[str, Scored] = field(default_factory=dict)

    @classmethod
    def of(cls, job: Job, backbone: Backbone, seen: View) -> Condition:
        """Prepare one."""
        layers = job.head.see(seen.layers)
        truths = {layer.name: job.head.truth(job.targets, layer, job.seed) for layer in layers}
        return cls(backbone, seen, layers, truths)

    @property
    def key(self) -> tuple[str, str]:
        return self.backbone.weights, self.view.variant.name

    @property
    def title(self) -> str:
        return f"{self.backbone.name}, {self.backbone.weights} weights, {self.view.variant.name}"


def run(
    model: str | nn.Module,
    weights: str | Path | Sequence[str | Path] = DEFAULT_WEIGHTS,
    variants: str | Sequence[str] = ("original", "circular"),
    layers: str | Sequence[str] = "stages",
    targets: str | Sequence[str] = TARGETS,
    stimuli: str | Path | Tensor | Stimuli = "leaves",
    train_images: int | None = None,
    test_images: int = 64,
    image_size: int | tuple[int, int] | None = None,
    batch_size: int = 32,
    readout: str = "ridge",
    seed: int = 0,
    device: str | torch.device = "auto",
    progress: bool = True,
    *,
    kernel: int | None = None,
    concat: bool | None = None,
    margin: int | None = None,
    name: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Result:
    """Measure how much absolute position each layer of a backbone encodes.

    Images stream once through every weights × variant; each layer's features are reduced to
    position moments at once, from which a readout is fitted for every target. A second, smaller
    set of images scores the readouts. A certificate measures for each weights × variant whether
    the network is translation equivariant, so that it has no position to give.

    Every result has its controls: the same readout on the ``input``, random weights, and the
    control task (targets with their places permuted).

    The model comes back as it was: hooks, train/eval modes, weights and random generators.

    Parameters
    ----------
    model : str or Module
        A timm name, or any module that maps images (B, 3, H, W).
    weights : str or sequence of str
        ``pretrained``, ``random``, or paths of ``.safetensors`` or ``.pth`` files. ``random:1``,
        ``random:2``, … are drawn with seeds 1, 2, … above the run's. The weights of a module are
        its own, called ``given``.
    variants : str or sequence of str
        How to run the backbone: a border rule of :func:`probe.padding`; ``canvas``, where the
        network sees a larger stretch of the stimulus and only its middle is probed;
        ``no_pos_embed`` and ``shuffled_pos_embed``, with absolute position embeddings at their
        mean or permuted; a border and an embedding part joined by ``+``.
    layers : str or sequence of str
        ``stages``, ``blocks``, ``convs``, or module names and globs, see
        :func:`probe.layers.choose_layers`.
    targets : str or sequence of str
        Any of :data:`probe.TARGETS`.
    stimuli : str, Path, Tensor, ndarray or Stimuli
        ``leaves``, ``noise``, ``pink``, ``black``, ``white``, a folder of photographs, or a
        tensor (N, 3, H, W) in [0, 1], of which the first are for training, the next for testing.
    train_images : int, optional
        How many images to fit the readouts on, at least 2. By default 256; 2,048 for ``posenet``,
        whose gradient descent takes so many steps.
    test_images : int
        How many images to score the readouts on, at least 1. An interval takes two scenes, which
        are four images each on leaves.
    image_size : int or (int, int), optional
        Pixels, one number or height and width. By default timm's size for the model, rounded up
        to a multiple of its total stride, without which no torus of its layers closes.
    batch_size : int
        Images per forward pass. Changes nothing but rounding, speed and memory.
    readout : str
        ``ridge``: a linear readout at each place, regularised by cross-validation over images.
        ``posenet``: the published protocol, trained by gradient descent on all layers together;
        with ``concat=False`` on each alone. ``softmax``: classification of the cells of a grid.
        See :mod:`probe.readouts`.
    seed : int
        Of random weights, images, bootstrap, control task and gradient descent.
    device : str or torch.device
        ``auto``: CUDA where there is one, else the CPU; a module stays where it is.
    progress : bool
        Show progress bars.
    kernel : int, optional
        Of ``ridge``: 1, or 3 to read neighbourhoods of 3 × 3 places, without padding.
    concat : bool, optional
        Read all layers together, resized to a grid of 28 × 28 places and concatenated, as a layer
        called ``concat``. By default so for ``posenet`` alone.
    margin : int, optional
        Pixels that a ``canvas`` shows on each side of the image, a multiple of the total stride.
        By default the smallest that keeps the image out of padding's reach, see
        :func:`probe.variants.find_margin`.
    name : str, optional
        What to call the model.
    mean, std : sequence of 3 float, optional
        Its normalisation, if not what timm's config says (a module without one: 0 and 1).

    Returns
    -------
    Result

    Raises
    ------
    ProbeError
        If something asked for does not exist, can't be had or doesn't fit, or if a layer's
        features are not finite; one sentence says what and what to do.

    Examples
    --------
    >>> result = probe.run("tf_efficientnet_lite0", layers=["blocks.3", "blocks.5"])
    >>> result.table.query("metric == 'spc' and target == 'vertical'")
    """
    started, clock = datetime.datetime.now(datetime.UTC), time.perf_counter()
    weights = _weights(model, weights)
    head = make_head(readout, kernel, concat, seed, progress)
    if train_images is None:
        train_images = head.make().train_images
    variants, targets = check_options(
        variants, targets, readout, train_images, test_images, batch_size, seed
    )
    parsed = [parse_variant(v) for v in variants]
    if margin is not None and not any(v.canvas for v in parsed):
        raise ProbeError("margin: it is for the variant canvas, which was not asked for")
    size = image_sides(image_size)
    if isinstance(stimuli, np.ndarray):
        stimuli = torch.from_numpy(stimuli)
    if isinstance(stimuli, Tensor) and size is None and stimuli.ndim == 4:
        size = (int(stimuli.shape[2]), int(stimuli.shape[3]))
    elif isinstance(stimuli, Stimuli) and size is None:
        size = stimuli.image_size
    if isinstance(model, str):
        known_model(model)
    pick_device(device)

    # What needs no weights is checked first: loading them may be a long download.
    shares = {"train_images": train_images, "test_images": test_images}
    source = open_stimuli(stimuli, size or (32, 32), seed, **shares)
    named = {"seed": seed, "device": device, "name": name, "mean": mean, "std": std}
    backbones = [load_backbone(model, w, image_size=size, **named) for w in weights]
    first = backbones[0]
    stride = total_stride(first.model)
    size = size or input_size(first.config, stride)

    with ExitStack() as stack:
        stack.enter_context(exact_float32())
        for module in {id(b.model): b.model for b in backbones}.values():
            stack.enter_context(evaluating(module))
        with memory_explained(CERTIFICATE_IMAGES):
            leaves = Leaves(size, seed).batch("certificate", 0, CERTIFICATE_IMAGES)
            taps = tap(first.model, layers, first.normalise(leaves), first.name)
        if not any(v.canvas for v in parsed):
            margin = 0
        elif margin is None:
            margin, _ = find_margin(first, taps, stride)
        elif whole_number(margin, "margin", 1) % stride:
            raise ProbeError(
                f"margin: expected a multiple of the network's stride of {stride}, got {margin}"
            )
        source = open_stimuli(stimuli, size, seed, **shares, margin=margin)
        if margin:
            source.batch("test", 0, 1, margin)  # has one, or says so before the long part
        job = Job(source, targets, stride, margin, batch_size, seed, **shares, head=head)
        conditions = []
        for backbone in backbones:
            for variant in parsed:
                with memory_explained(CERTIFICATE_IMAGES):
                    seen = view(backbone, variant, taps, leaves, margin)
                conditions.append(Condition.of(job, backbone, seen))
        for condition in conditions:
            _check_room(job, condition)
        cautions = _cautions(job, conditions)
        for message in cautions:
            warnings.warn(message, ProbeWarning, stacklevel=2)
        bar = tqdm(
            total=(train_images + test_images) * len(conditions),
            desc=first.name,
            unit="img",
            disable=not progress,
            dynamic_ncols=True,
        )
        stack.enter_context(bar)
        certificates: dict[tuple[str, str], Certificate] = {}
        for backbone in backbones:
            subject = prepare(backbone, layers=taps, image_size=size, seed=seed)
            for variant in parsed:
                found = subject.certify(variant, margin or None)
                certificates[backbone.weights, variant.name] = found
        patterns: dict[PatternKey, Pattern] = {}
        as_trained: dict[str, Condition] = {}  # by weights, for what is paired with it
        tables: list[pd.DataFrame] = []
        profiles: list[pd.DataFrame] = []
        maps: dict[MapKey, np.ndarray] = {}
        waiting: list[Condition] = []  # for the other variants of their weights
        for group in _groups(job, conditions):
            train(job, group, bar)
            for condition in group:
                fit(job, condition)
            test(job, group, bar)
            for condition in group:
                score(condition)
                if condition.view.variant.name == "original":
                    as_trained[condition.backbone.weights] = condition
                profiles.extend(_profiles(job, condition))
                maps.update(_mean_maps(condition))
                condition.predictions.clear()
            waiting += group
            while len(waiting) >= len(parsed):
                together, waiting = waiting[: len(parsed)], waiting[len(parsed) :]
                for condition in together:
                    original = as_trained.get(condition.backbone.weights)
                    if original is condition:
                        original = None
                    tables.append(_rows(job, condition, original))
                    patterns.update(_patterns(condition, original))
                for condition in together:
                    condition.sums.clear()

    for message in source.cautions:  # known once the images were read
        cautions.append(message)
        warnings.warn(message, ProbeWarning, stacklevel=2)
    common = {"model": first.name, "stimuli": source.name, "readout": head.label}
    table = joined(tables, **common)[COLUMNS]
    profile = pd.DataFrame(columns=PROFILE_COLUMNS)
    if profiles:
        profile = joined(profiles, **common)[PROFILE_COLUMNS]
    provenance = {
        "name": first.name,
        "module": isinstance(model, nn.Module),
        "named_stimuli": isinstance(stimuli, str | Path),
        "options": {
            "model": model if isinstance(model, str) else type(model).__name__,
            "weights": weights,
            "variants": [v.name for v in parsed],
            "layers": layers if isinstance(layers, str) else list(layers),
            "targets": targets,
            "stimuli": source.name,
            "train_images": train_images,
            "test_images": test_images,
            "image_size": list(size),
            "batch_size": batch_size,
            "readout": readout,
            "kernel": head.kernel if readout == "ridge" else None,
            "concat": head.concat,
            "seed": seed,
            "device": str(device),
            "margin": margin or None,
            "name": name,
            "mean": None if mean is None else list(first.mean),
            "std": None if std is None else list(first.std),
        },
        "backbones": [
            {
                "weights": b.weights,
                "source": b.source,
                "sha256": b.sha256,
                "mean": list(b.mean),
                "std": list(b.std),
            }
            for b in backbones
        ],
        "stimuli": {
            "name": source.name,
            "tileable": source.tileable,
            "stationary": source.stationary,
            "images_per_scene": scene_size(source),
            "skipped": source.skipped,
        },
        "entry": taps.entry,
        "insets": {
            c.view.variant.name: {layer.name: list(layer.inset) for layer in c.layers}
            for c in conditions
            if any(any(layer.inset) for layer in c.layers)
        },
        "alphas": [row for condition in conditions for row in _alphas(condition)],
        "warnings": cautions,
        "device": device_name(first.device),
        "versions": versions(),
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - clock, 1),
    }
    return Result(table, maps, certificates, provenance, profile, patterns)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    from . import __version__

    found = {"position-probe": __version__, "python": platform.python_version()}
    return found | {m.__name__: str(m.__version__) for m in (torch, timm, np, scipy, pd)}


# ---------------------------------------------------------------- the two passes


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
            _finite(origin, layer, condition)
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
                _finite(held[fold].first, layer, condition)

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
                _finite(fold.second.diagonal(), layer, condition)
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
        _finite(predictions, layer, condition)
        condition.predictions.setdefault(layer.name, []).append(predictions.numpy())

    batch = partial(antithetic_batch, job.source, stride=job.stride)
    stream(job, group, batch, job.test_images, bar, receive, first=_TEST)


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


def _rows(job: Job, condition: Condition, original: Condition | None) -> pd.DataFrame:
    """One row for each layer, target and metric."""
    removes = condition.view.variant.removes_padding
    weights, variant = condition.key
    placed = _placed(job, condition)
    if not placed:  # nothing tells whether they lie over the same part of the image
        original = None
    tables = [
        score_rows(
            condition.scored[layer.name],
            original and original.scored[layer.name],
            removes,
            job.seed,
            job.scenes,
        ).assign(
            layer=layer.name,
            depth=layer.depth,
            channels=layer.channels,
            height=layer.height,
            width=layer.width,
        )
        for layer in condition.layers
    ]
    table = joined(tables, weights=weights, variant=variant)
    return table if placed else table[table["metric"] != "error_px"]


def _placed(job: Job, condition: Condition) -> bool:
    """Whether it is known which pixels the readouts' places lie over.

    As published, layers on a common grid are taken to cover the whole image, also where the
    variant has left only the middle of them.
    """
    return not (job.head.gridded and any(any(layer.inset) for layer in condition.view.layers))


def _profiles(job: Job, condition: Condition) -> Iterator[pd.DataFrame]:
    """Error by distance to the border, for each layer and target, where it is known."""
    weights, variant = condition.key
    if not _placed(job, condition):
        return
    tables = [
        profile_rows(
            np.concatenate(condition.predictions[layer.name]),
            condition.truths[layer.name],
            job.seed,
            job.scenes,
        ).assign(layer=layer.name, depth=layer.depth)
        for layer in condition.layers
    ]
    yield joined(tables, weights=weights, variant=variant)


def _patterns(
    condition: Condition, original: Condition | None
) -> Iterator[tuple[PatternKey, Pattern]]:
    """What the features of each layer are on average, place by place."""
    for layer in condition.layers:
        apart = original and original.sums[layer.name]
        pattern = find_pattern(condition.sums[layer.name], layer.places, apart)
        yield (*condition.key, layer.name), pattern


def _mean_maps(condition: Condition) -> Iterator[tuple[MapKey, np.ndarray]]:
    """The mean prediction over test images of each layer and target."""
    for layer in condition.layers:
        targets = condition.truths[layer.name].targets
        mean = np.concatenate(condition.predictions[layer.name]).mean(0).astype(np.float32)
        for target, values in zip(targets, mean[: len(targets)], strict=True):
            yield (*condition.key, layer.name, target), values


def _alphas(condition: Condition) -> Iterator[dict[str, Any]]:
    weights, variant = condition.key
    for layer, chosen in condition.alphas.items():
        for target, alpha in zip(condition.truths[layer].targets, chosen, strict=True):
            yield {
                "weights": weights,
                "variant": variant,
                "layer": layer,
                "target": target,
                "alpha": alpha,
            }


def _cautions(job: Job, conditions: Sequence[Condition]) -> list[str]:
    """What a reader of the result should know before reading it."""
    found = []
    source, size = job.source, job.source.image_size
    circular = any(c.view.variant.rule == "circular" for c in conditions)
    if circular and not source.tileable:
        found.append(
            f"circular padding on stimuli that do not tile ({source.name}): the seam where "
            "opposite borders meet is itself a landmark, so that the circular variant can show "
            "position that padding never made; use the variant canvas, or tileable stimuli such "
            "as leaves"
        )
    if circular and any(pixels % job.stride for pixels in size):
        found.append(
            f"images of {size[0]} × {size[1]} pixels are no multiple of the network's stride "
            f"of {job.stride}: the torus of some layer does not close, and circular padding "
            "leaves position behind"
        )
    if job.test_images == 1:
        found.append("one test image gives no interval: low and high are NaN")
    elif len(set(job.scenes)) == 1:
        found.append(
            f"the {job.test_images} test images show one scene, which gives no interval: low and "
            f"high are NaN; take "
            + ("more photographs" if scene_size(source) == 1 else "more than four test images")
        )
    for layer, truth in conditions[0].truths.items():
        flat = [t for t, m in zip(truth.targets, truth.maps, strict=True) if np.ptp(m) < 1e-9]
        if flat:
            found.append(
                f"at {layer} the target {', '.join(flat)} is the same at every place: its scores "
                "there are 0 by definition; choose a larger image size"
            )
    return found


def _finite(values: Tensor, layer: Layer, condition: Condition) -> None:
    if not bool(torch.isfinite(values).all()):
        raise ProbeError(
            f"features are not finite (NaN or infinity, or too large to square): first at layer "
            f"{layer.name} of {condition.title}; check the weights, or probe layers before it"
        )


def _room(job: Job, condition: Condition) -> int:
    """Bytes that the readouts of a condition hold while images stream."""
    total = 0
    for layer in condition.layers:
        readout, (height, width) = job.head.make(), layer.places
        if isinstance(readout, Ridge):
            size = layer.channels * readout.kernel**2
            total += 8 * FOLDS * size * (size + height * width)
            if readout.kernel > 1:
                total += 8 * FOLDS * layer.channels * height * width
        else:
            held = readout.copies * job.train_images + 2 * FOLDS
            total += 4 * held * layer.channels * height * width
    return total


def _check_room(job: Job, condition: Condition) -> None:
    """Refuse what can't fit before the long part."""
    for layer in condition.layers:
        readout, (height, width) = job.head.make(), layer.places
        try:
            readout.places(height, width)
        except ProbeError as error:
            raise ProbeError(f"layer {layer.name} of {condition.title}: {error}") from None
        if isinstance(readout, Ridge):
            readout.check(layer.channels, height * width, condition.backbone.device, layer.name)
    check_memory(
        _room(job, condition),
        condition.backbone.device,
        f"the readouts of {condition.title}",
        "choose fewer layers or images, or kernel 1",
    )


def _groups(job: Job, conditions: Sequence[Condition]) -> Iterator[list[Condition]]:
    """Split conditions so that what readouts hold at a time stays within a budget."""
    each = max(_room(job, condition) for condition in conditions)
    together = max(1, _ROOM // max(each, 1))
    queue = iter(conditions)
    while group := list(islice(queue, together)):
        yield group


@contextmanager
def exact_float32() -> Iterator[None]:
    """Keep float32 products from being rounded to TF32 or bfloat16; as before afterwards."""
    backends = torch.backends
    if not hasattr(backends.cuda.matmul, "fp32_precision"):  # torch < 2.9
        settings = [(backends.cuda.matmul, "allow_tf32"), (backends.cudnn, "allow_tf32")]
        exact: bool | str = False
    else:
        places = (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn)
        places += (backends.mkldnn.matmul, backends.mkldnn.conv)
        there = [place for place in places if hasattr(place, "fp32_precision")]
        settings, exact = [(place, "fp32_precision") for place in there], "ieee"
    before = [getattr(place, name) for place, name in settings]
    try:
        for place, name in settings:
            setattr(place, name, exact)
        yield
    finally:
        for (place, name), value in zip(settings, before, strict=True):
            setattr(place, name, value)


@contextmanager
def memory_explained(images: int) -> Iterator[None]:
    """Say what to do where memory runs out."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error).lower()
        if not isinstance(error, MemoryError) and "memory" not in text:
            raise
        raise ProbeError(
            f"out of memory on a batch of {images} images: choose a smaller batch size, a "
            "smaller image size or fewer layers"
        ) from error


# ---------------------------------------------------------------- checking what was asked for


def check_options(
    variants: str | Sequence[str],
    targets: str | Sequence[str],
    readout: str,
    train_images: int,
    test_images: int,
    batch_size: int,
    seed: int,
) -> tuple[list[str], list[str]]:
    """Check the options of :func:`run` that do not depend on the model.

    Returns
    -------
    variants, targets : list of str

    Raises
    ------
    ProbeError
        If one of them is not what it should be.
    """
    variants = [parse_variant(v).name for v in _listed(variants, "variants")]
    targets = [one_of(t, TARGETS, "target") for t in _listed(targets, "targets")]
    one_of(readout, READOUTS, "readout")
    for value, what, least in (
        (train_images, "train_images", 2),
        (test_images, "test_images", 1),
        (batch_size, "batch_size", 1),
        (seed, "seed", 0),
    ):
        whole_number(value, what, least)
    return variants, targets


def make_head(
    readout: str,
    kernel: int | None = None,
    concat: bool | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Head:
    """Check what is asked of the readout.

    Raises
    ------
    ProbeError
        If there is no such readout, or it has no such option.
    """
    one_of(readout, READOUTS, "readout")
    if kernel not in (None, 1, 3):
        raise ProbeError(f"kernel: expected 1 or 3, got {kernel!r}")
    own = {"ridge": kernel or 1, "posenet": 3, "softmax": 1}[readout]
    if kernel not in (None, own):
        raise ProbeError(f"kernel: the readout {readout} has kernel {own}, got {kernel}")
    if concat is None:
        concat = readout == "posenet"
    return Head(readout, own, bool(concat), seed, progress)


def _weights(model: str | nn.Module, weights: Any) -> list[str]:
    if isinstance(model, nn.Module):
        if not isinstance(weights, str | Path) and tuple(weights or ()) == DEFAULT_WEIGHTS:
            return ["given"]
    elif not isinstance(model, str):
        raise ProbeError(f"model: expected a timm name or a torch module, got {model!r}")
    return [str(w) for w in _listed(weights, "weights")]


def _listed(value: Any, what: str) -> list[Any]:
    single = isinstance(value, str | Path) or not isinstance(value, Sequence)
    items = [value] if single else list(value)
    if not items or not all(isinstance(item, str | Path) for item in items):
        raise ProbeError(f"{what}: expected one or several names, got {value!r}")
    return list(dict.fromkeys(items))


def image_sides(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    sides = tuple(value) if isinstance(value, Sequence) else (value, value)
    if len(sides) != 2:
        raise ProbeError(f"image_size: expected one number or (height, width), got {value!r}")
    height, width = (whole_number(side, "image_size", 1) for side in sides)
    return height, width


def device_name(device: torch.device, threads: int | None = None) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    threads = threads or torch.get_num_threads()
    return f"{device} ({threads} thread{'s' if threads > 1 else ''})"
