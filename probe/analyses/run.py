"""The main job: one backbone, every weights × variant × layer × target, in two passes."""

from __future__ import annotations

import datetime
import time
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..backbones.backbone import input_size, load_backbone
from ..backbones.catalogue import known_model
from ..backbones.choice import total_stride
from ..backbones.probed import evaluating, probe_layers
from ..certificates.certificate import Certificate
from ..certificates.prepare import prepare
from ..errors import ProbeError, ProbeWarning, whole_number
from ..machine import device_name, exact_float32, memory_explained, pick_device, versions
from ..records.record import COLUMNS, PROFILE_COLUMNS, MapKey, PatternKey
from ..results import Result
from ..runner.job import CERTIFICATE_IMAGES, Condition, Job, check_room, groups_that_fit
from ..runner.options import DEFAULT_WEIGHTS, check_options, image_sides, make_head, weights_asked
from ..runner.passes import fit, score, test, train
from ..runner.rows import (
    alpha_rows,
    condition_rows,
    find_cautions,
    find_patterns,
    mean_maps,
    profile_tables,
)
from ..scores.patterns import Pattern
from ..scores.tables import joined
from ..stimuli.leaves import Leaves
from ..stimuli.opening import open_stimuli
from ..stimuli.scenes import scene_size
from ..stimuli.source import Stimuli
from ..targets import TARGETS
from ..variants.canvas import find_margin
from ..variants.run import open_variant
from ..variants.variant import parse_variant


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
    weights = weights_asked(model, weights)
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
            taps = probe_layers(first.model, layers, first.normalise(leaves), first.name)
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
                    seen = open_variant(backbone, variant, taps, leaves, margin)
                conditions.append(Condition.of(job, backbone, seen))
        for condition in conditions:
            check_room(job, condition)
        cautions = find_cautions(job, conditions)
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
        for group in groups_that_fit(job, conditions):
            train(job, group, bar)
            for condition in group:
                fit(job, condition)
            test(job, group, bar)
            for condition in group:
                score(condition)
                if condition.view.variant.name == "original":
                    as_trained[condition.backbone.weights] = condition
                profiles.extend(profile_tables(job, condition))
                maps.update(mean_maps(condition))
                condition.predictions.clear()
            waiting += group
            while len(waiting) >= len(parsed):
                together, waiting = waiting[: len(parsed)], waiting[len(parsed) :]
                for condition in together:
                    original = as_trained.get(condition.backbone.weights)
                    if original is condition:
                        original = None
                    tables.append(condition_rows(job, condition, original))
                    patterns.update(find_patterns(condition, original))
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
        "alphas": [row for condition in conditions for row in alpha_rows(condition)],
        "warnings": cautions,
        "device": device_name(first.device),
        "versions": versions(),
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - clock, 1),
    }
    return Result(table, maps, certificates, provenance, profile, patterns)
