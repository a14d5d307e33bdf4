"""The main job: one backbone, every weights × variant × layer × target, in two passes."""

from __future__ import annotations

import datetime
import operator
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

from . import scores
from .backbones import Backbone, input_size, known_model, load_backbone, pick_device
from .certificates import prepare
from .errors import ProbeError, ProbeWarning, one_of
from .layers import Layer, evaluating, tap, total_stride
from .moments import Moments, pilot_origin
from .readouts import Readout, fit_ridge
from .results import COLUMNS, MapKey, Result
from .stimuli import Leaves, Stimuli, antithetic_batch, open_stimuli, scene_size, stretch
from .targets import TARGETS, layer_targets
from .variants import View, find_margin, parse_variant, view

READOUTS: tuple[str, ...] = ("ridge",)
"""Names of the readouts."""

FOLDS = 4
"""Folds of training images for cross-validation."""

CERTIFICATE_IMAGES = 2

_DEFAULT_WEIGHTS = ("pretrained", "random")
_TEST = 2**32  # number of the first test image, for noise of its own
_MOMENTS_BYTES = 2 * 2**30  # of float64 sums held at a time


@dataclass(frozen=True)
class _Job:
    """What all weights × variants of a run have in common."""

    source: Stimuli
    targets: list[str]
    stride: int
    margin: int
    batch_size: int
    seed: int
    train_images: int
    test_images: int


@dataclass
class _Condition:
    """One weights × variant on its way through the run."""

    backbone: Backbone
    view: View
    wanted: dict[str, np.ndarray]  # target maps (T, h, w) by layer
    moments: dict[str, list[Moments]] = field(default_factory=dict)
    readouts: dict[str, Readout] = field(default_factory=dict)
    predictions: dict[str, list[np.ndarray]] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str]:
        return self.backbone.weights, self.view.variant.name

    @property
    def layers(self) -> tuple[Layer, ...]:
        return self.view.layers

    @property
    def title(self) -> str:
        return f"{self.backbone.name}, {self.backbone.weights} weights, {self.view.variant.name}"


def run(
    model: str | nn.Module,
    weights: str | Path | Sequence[str | Path] = _DEFAULT_WEIGHTS,
    variants: str | Sequence[str] = ("original", "circular"),
    layers: str | Sequence[str] = "stages",
    targets: str | Sequence[str] = TARGETS,
    stimuli: str | Path | Tensor | Stimuli = "leaves",
    train_images: int = 256,
    test_images: int = 64,
    image_size: int | tuple[int, int] | None = None,
    batch_size: int = 32,
    readout: str = "ridge",
    seed: int = 0,
    device: str | torch.device = "auto",
    progress: bool = True,
    *,
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

    The model comes back as it was: hooks, train/eval modes, weights and random generators.

    Parameters
    ----------
    model : str or Module
        A timm name, or any module that maps images (B, 3, H, W).
    weights : str or sequence of str
        ``pretrained``, ``random``, or paths of ``.safetensors`` or ``.pth`` files. The weights of
        a module are its own, called ``given``.
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
    train_images, test_images : int
        How many images to fit the readouts on (at least 2) and to score them on (at least 1; an
        interval takes 2).
    image_size : int or (int, int), optional
        Pixels, one number or height and width. By default timm's size for the model, rounded up
        to a multiple of its total stride, without which no torus of its layers closes.
    batch_size : int
        Images per forward pass. Changes nothing but rounding, speed and memory.
    readout : str
        ``ridge``: a linear readout at each place, regularised by cross-validation over images.
    seed : int
        Of random weights, images and bootstrap.
    device : str or torch.device
        ``auto``: CUDA where there is one, else the CPU; a module stays where it is.
    progress : bool
        Show progress bars.
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
    variants, targets = check_options(
        variants, targets, readout, train_images, test_images, batch_size, seed
    )
    parsed = [parse_variant(v) for v in variants]
    if margin is not None and not any(v.canvas for v in parsed):
        raise ProbeError("margin: it is for the variant canvas, which was not asked for")
    size = _size(image_size)
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
        stack.enter_context(_exact_float32())
        for module in {id(b.model): b.model for b in backbones}.values():
            stack.enter_context(evaluating(module))
        with _memory_explained(CERTIFICATE_IMAGES):
            leaves = Leaves(size, seed).batch("certificate", 0, CERTIFICATE_IMAGES)
            taps = tap(first.model, layers, first.normalise(leaves), first.name)
        if not any(v.canvas for v in parsed):
            margin = 0
        elif margin is None:
            margin, _ = find_margin(first, taps, stride)
        elif _count(margin, "margin", 1) % stride:
            raise ProbeError(
                f"margin: expected a multiple of the network's stride of {stride}, got {margin}"
            )
        source = open_stimuli(stimuli, size, seed, **shares, margin=margin)
        if margin:
            source.batch("test", 0, 1, margin)  # has one, or says so before the long part
        job = _Job(source, targets, stride, margin, batch_size, seed, **shares)
        conditions = []
        for backbone in backbones:
            for variant in parsed:
                with _memory_explained(CERTIFICATE_IMAGES):
                    seen = view(backbone, variant, taps, leaves, margin)
                wanted = {
                    layer.name: layer_targets(targets, size, layer.rows, layer.columns)
                    for layer in seen.layers
                }
                conditions.append(_Condition(backbone, seen, wanted))
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
        certificates = {}
        for backbone in backbones:
            subject = prepare(backbone, layers=taps, image_size=size, seed=seed)
            for variant in parsed:
                found = subject.certify(variant, margin or None)
                certificates[backbone.weights, variant.name] = found
        tables: list[pd.DataFrame] = []
        maps: dict[MapKey, np.ndarray] = {}
        alphas: list[dict[str, Any]] = []
        for group in _groups(conditions):
            _train(job, group, bar)
            for condition in group:
                _fit(job, condition)
            _test(job, group, bar)
            for condition in group:
                tables.append(_score(job, condition))
                maps.update(_mean_maps(job, condition))
                alphas.extend(_alphas(job, condition))
                condition.predictions.clear()

    for message in source.cautions:  # known once the images were read
        cautions.append(message)
        warnings.warn(message, ProbeWarning, stacklevel=2)
    table = pd.concat(tables, ignore_index=True).assign(
        model=first.name, stimuli=source.name, readout=readout
    )[COLUMNS]
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
        "alphas": alphas,
        "warnings": cautions,
        "device": _device_name(first.device),
        "versions": versions(),
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - clock, 1),
    }
    return Result(table, maps, certificates, provenance)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    from . import __version__

    found = {"position-probe": __version__, "python": platform.python_version()}
    return found | {m.__name__: str(m.__version__) for m in (torch, timm, np, scipy, pd)}


# ---------------------------------------------------------------- the two passes


def _stream(
    job: _Job,
    group: Sequence[_Condition],
    batch: Callable[[int, int, int], Tensor],
    count: int,
    bar: tqdm,
    receive: Callable[[_Condition, Layer, Tensor, int], None],
    first: int = 0,
) -> None:
    """Run every batch through every condition; hand over each layer's reduced features."""
    for start in range(0, count, job.batch_size):
        stop = min(start + job.batch_size, count)
        with _memory_explained(stop - start):
            images = batch(start, stop, job.margin)
        for condition in group:

            def take(
                layer: Layer,
                features: Tensor,
                condition: _Condition = condition,
                start: int = start,
            ) -> None:
                receive(condition, layer, layer.reduce(_single(features)), start)

            with _memory_explained(stop - start):
                shown = stretch(images, condition.view.margin - job.margin)
                named = {"seed": job.seed, "first": first + start}
                condition.view.run(condition.backbone, shown, take, **named)
            bar.update(stop - start)


def _single(features: Tensor) -> Tensor:
    """Half-precision features in float32; sums of their products would overflow."""
    wide = features.dtype in (torch.float32, torch.float64)
    return features if wide else features.to(torch.float32)


def _train(job: _Job, group: Sequence[_Condition], bar: tqdm) -> None:
    folds = min(FOLDS, job.train_images)
    bounds = [fold * job.train_images // folds for fold in range(folds + 1)]

    def receive(condition: _Condition, layer: Layer, features: Tensor, start: int) -> None:
        if layer.name not in condition.moments:
            origin = pilot_origin(features)
            _finite(origin, layer, condition)
            places = features.shape[2] * features.shape[3]
            condition.moments[layer.name] = [Moments.empty(origin, places) for _ in range(folds)]
        for fold, moments in enumerate(condition.moments[layer.name]):
            low = max(bounds[fold] - start, 0)
            high = min(bounds[fold + 1] - start, len(features))
            if low < high:
                moments.update(features[low:high])
                _finite(moments.first, layer, condition)

    _stream(job, group, partial(job.source.batch, "train"), job.train_images, bar, receive)


def _fit(job: _Job, condition: _Condition) -> None:
    for layer in condition.layers:
        folds = condition.moments.pop(layer.name)
        for moments in folds:
            _finite(moments.second.diagonal(), layer, condition)
        truth = torch.from_numpy(condition.wanted[layer.name]).flatten(1)
        condition.readouts[layer.name] = fit_ridge(folds, truth)


def _test(job: _Job, group: Sequence[_Condition], bar: tqdm) -> None:
    def receive(condition: _Condition, layer: Layer, features: Tensor, start: int) -> None:
        predictions = condition.readouts[layer.name](features).cpu()
        _finite(predictions, layer, condition)
        condition.predictions.setdefault(layer.name, []).append(predictions.numpy())

    batch = partial(antithetic_batch, job.source, stride=job.stride)
    _stream(job, group, batch, job.test_images, bar, receive, first=_TEST)


def _score(job: _Job, condition: _Condition) -> pd.DataFrame:
    """One row for each layer, target and metric, with its interval over test images."""
    index = pd.MultiIndex.from_product([job.targets, scores.METRICS], names=["target", "metric"])
    tables = []
    for layer in condition.layers:
        predictions = np.concatenate(condition.predictions[layer.name])
        values = scores.per_image(
            predictions, condition.wanted[layer.name].reshape(len(job.targets), -1)
        )
        stacked = np.stack([values[m] for m in scores.METRICS], -1)
        low, high = scores.bootstrap_interval(stacked, job.seed, scene=scene_size(job.source))
        columns = {"value": stacked.mean(0).ravel(), "low": low.ravel(), "high": high.ravel()}
        tables.append(
            pd.DataFrame(columns, index=index)
            .reset_index()
            .assign(
                layer=layer.name,
                depth=layer.depth,
                channels=layer.channels,
                height=layer.height,
                width=layer.width,
            )
        )
    weights, variant = condition.key
    return pd.concat(tables).assign(weights=weights, variant=variant)


def _mean_maps(job: _Job, condition: _Condition) -> Iterator[tuple[MapKey, np.ndarray]]:
    """The mean prediction over test images of each layer and target."""
    for layer in condition.layers:
        mean = np.concatenate(condition.predictions[layer.name]).mean(0).astype(np.float32)
        for target, values in zip(job.targets, mean, strict=True):
            yield (*condition.key, layer.name, target), values.reshape(layer.places)


def _alphas(job: _Job, condition: _Condition) -> Iterator[dict[str, Any]]:
    weights, variant = condition.key
    for layer in condition.layers:
        chosen = condition.readouts[layer.name].alphas.tolist()
        for target, alpha in zip(job.targets, chosen, strict=True):
            yield {
                "weights": weights,
                "variant": variant,
                "layer": layer.name,
                "target": target,
                "alpha": alpha,
            }


def _cautions(job: _Job, conditions: Sequence[_Condition]) -> list[str]:
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
    elif job.test_images <= scene_size(source):
        found.append(
            f"the {job.test_images} test images show one scene: their intervals say nothing of "
            "other scenes"
        )
    for layer, maps in conditions[0].wanted.items():
        flat = [t for t, values in zip(job.targets, maps, strict=True) if np.ptp(values) < 1e-9]
        if flat:
            found.append(
                f"at {layer} the target {', '.join(flat)} is the same at every place: its scores "
                "there are 0 by definition; choose a larger image size"
            )
    return found


def _finite(values: Tensor, layer: Layer, condition: _Condition) -> None:
    if not bool(torch.isfinite(values).all()):
        raise ProbeError(
            f"features are not finite (NaN or infinity, or too large to square): first at layer "
            f"{layer.name} of {condition.title}; check the weights, or probe layers before it"
        )


def _groups(conditions: Sequence[_Condition]) -> Iterator[list[_Condition]]:
    """Split conditions so that the moments held at a time stay within a budget."""
    each = max(
        sum(
            FOLDS * 8 * layer.channels * (layer.channels + layer.places[0] * layer.places[1])
            for layer in condition.layers
        )
        for condition in conditions
    )
    together = max(1, _MOMENTS_BYTES // max(each, 1))
    queue = iter(conditions)
    while group := list(islice(queue, together)):
        yield group


@contextmanager
def _exact_float32() -> Iterator[None]:
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
def _memory_explained(images: int) -> Iterator[None]:
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
        _count(value, what, least)
    return variants, targets


def _weights(model: str | nn.Module, weights: Any) -> list[str]:
    if isinstance(model, nn.Module):
        if not isinstance(weights, str | Path) and tuple(weights or ()) == _DEFAULT_WEIGHTS:
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


def _count(value: Any, what: str, least: int) -> int:
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < least:
        raise ProbeError(f"{what}: expected a whole number of at least {least}, got {value!r}")
    return number


def _size(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    sides = tuple(value) if isinstance(value, Sequence) else (value, value)
    if len(sides) != 2:
        raise ProbeError(f"image_size: expected one number or (height, width), got {value!r}")
    height, width = (_count(side, "image_size", 1) for side in sides)
    return height, width


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({torch.get_num_threads()} threads)"
