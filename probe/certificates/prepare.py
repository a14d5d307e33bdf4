"""A float64 copy of a network, prepared so that its borders show."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..backbones.backbone import Backbone, input_size, load_backbone
from ..backbones.catalogue import known_model
from ..backbones.choice import total_stride
from ..backbones.probed import ProbedLayers, evaluating, probe_layers
from ..errors import ProbeError
from ..stimuli.leaves import Leaves
from ..variants.canvas import exact_copy
from .precision import quietly
from .target import CertificationTarget

NORM_SCALE = 0.3
"""Scale of batch normalisations in networks built for certifying."""


def prepare(
    model: str | nn.Module | Backbone,
    *,
    weights: str = "random",
    layers: str | Sequence[str] | ProbedLayers = "stages",
    image_size: int | tuple[int, int] | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
) -> CertificationTarget:
    """Build what :func:`certify` measures; see there."""
    wanted = (image_size, image_size) if isinstance(image_size, int) else image_size
    options: dict[str, Any] = {"seed": seed, "device": device}
    if isinstance(model, nn.Module):
        model = load_backbone(model, "given", image_size=wanted, **options)
    if isinstance(model, Backbone):
        size = wanted or input_size(model.config, total_stride(model.model))
        return replace(_find_layers(model, layers, size, seed), fixed=wanted is not None)

    known_model(model)
    backbone = load_backbone(model, weights, image_size=wanted, **options)
    stride = total_stride(backbone.model)
    usual = input_size(backbone.config, stride)
    side = max(4, math.ceil(64 / stride)) * stride  # 4 × 4 places of the deepest layer at least
    sizes = [wanted] if wanted else list(dict.fromkeys([min((side, side), usual), usual]))
    del backbone  # before there is another

    def build(size: tuple[int, int]) -> CertificationTarget:
        backbone = load_backbone(model, weights, image_size=size, **options)
        if weights == "random":
            source = Leaves(size, seed).with_channels(backbone.channels)
            images = source.batch("certificate", 1, 5)
            calibrate_norms(backbone.model, backbone.normalise(images))
        return _find_layers(backbone, layers, size, seed, build)

    target: CertificationTarget | None = None
    failure: ProbeError | None = None
    for size in sizes:
        try:
            target = build(size)
        except ProbeError as error:
            failure = failure or error
            continue
        # Pooling to a fixed number of places may divide the network's own image size, and so may
        # windows.
        if not target.resampled_alone and not target.windowed:
            break
    if target is None:
        assert failure is not None
        raise failure
    return replace(target, fixed=wanted is not None)


_Build = Callable[[tuple[int, int]], CertificationTarget]

_MOST_PIXELS = 1024
"""Greatest side of the images on which another shift is looked for."""


def _find_layers(
    backbone: Backbone,
    layers: str | Sequence[str] | ProbedLayers,
    size: tuple[int, int],
    seed: int,
    build: _Build | None = None,
) -> CertificationTarget:
    images = Leaves(size, seed).with_channels(backbone.channels).batch("certificate", 0, 1)
    failure: ProbeError | None = None
    for candidate in (exact_copy(backbone), backbone):
        with quietly(candidate.model):
            x = candidate.normalise(images)
            try:
                if isinstance(layers, ProbedLayers):
                    probed = layers.again(candidate.model, x, backbone.name)
                else:
                    probed = probe_layers(candidate.model, layers, x, backbone.name)
                others = partial(_other_sizes, backbone, probed, size, seed, build)
                return CertificationTarget(candidate, backbone, probed, images, seed, others)
            except ProbeError as error:
                failure = failure or error
    assert failure is not None
    raise failure


def _other_sizes(
    backbone: Backbone,
    probed: ProbedLayers,
    size: tuple[int, int],
    seed: int,
    build: _Build | None,
    step: int,
) -> Iterator[CertificationTarget]:
    """Yield the same network for images of other sizes, on which another shift may fit.

    Twice the size first, with windows as large as they were; then sizes that halve evenly, and
    one of two ``step``, the least shift that moves every layer by whole places.
    """
    stride = total_stride(backbone.model)
    doubled = (2 * size[0], 2 * size[1])
    sides = (8 * stride, 2 * math.lcm(step, stride), 4 * stride)
    for other in dict.fromkeys([doubled, *((side, side) for side in sides)]):
        if other == size or max(other) > _MOST_PIXELS:
            continue
        target = _resized(backbone, probed, other, seed) if other == doubled or not build else None
        if target is None and build:
            with suppress(ProbeError):
                target = build(other)
        if target is not None:
            yield target


def _resized(
    backbone: Backbone, probed: ProbedLayers, size: tuple[int, int], seed: int
) -> CertificationTarget | None:
    """Set a copy of a network to images of another size, if it can see them."""
    try:
        return _find_layers(backbone, probed, size, seed)
    except Exception:  # whatever the model's author chose to raise
        model = copy.deepcopy(backbone.model)
    try:
        resize, options = cast(Any, model).set_input_size, {}
        if "window_size" in inspect.signature(resize).parameters:  # or it grows with the image
            stages: Any = model.layers
            options["window_size"] = [stage.blocks[0].window_size for stage in stages]
        resize(img_size=size, **options)
        return _find_layers(replace(backbone, model=model), probed, size, seed)
    except Exception:  # as above
        return None


def calibrate_norms(model: nn.Module, x: Tensor) -> None:
    """Give batch normalisations the statistics of normalised images, and a small scale, in place.

    With what they are initialised to, deep networks with random weights are chaotic: activations
    grow until gates saturate, and rounding grows with every block, beyond 1e-4 in float64 after
    some hundred of them. Scales that are all the same become :data:`NORM_SCALE`, so that residual
    branches add little to what they are added to. Statistics are set in the order of execution;
    channels that hardly vary get a variance of 1/1000 of the layer's mean, so that they are not
    blown up. A model that refuses the images stays as it is.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    before = [(m, copy.deepcopy(m.state_dict()), m.momentum, m.training) for m in norms]

    def floor(norm: _BatchNorm, *_: Any) -> None:
        if norm.running_var is not None:
            norm.running_var.clamp_(min=float(norm.running_var.mean()) / 1000)

    handles = [norm.register_forward_hook(floor) for norm in norms]
    entry = getattr(model, "forward_features", model)
    try:
        with evaluating(model):
            for norm in norms:
                norm.training, norm.momentum = True, 1.0
                if norm.weight is not None and bool((norm.weight == norm.weight[0]).all()):
                    norm.weight.fill_(NORM_SCALE)
            entry(x)
    except Exception:  # whatever the model's author chose to raise; measuring will say so
        for norm, state, _, _ in before:
            norm.load_state_dict(state)
    finally:
        for handle in handles:
            handle.remove()
        for norm, _, momentum, training in before:
            norm.momentum, norm.training = momentum, training
