r"""Certificates: a measured proof that a variant left no padding-made position behind.

On a torus a network without borders is translation equivariant: shifting a periodic image by a
multiple of every layer's stride shifts every feature map and changes nothing else. The residual

.. math:: \max_{layers} \frac{\|f(\mathrm{roll}\,x) - \mathrm{roll}\,f(x)\|_∞}{\|f(x)\|_∞}

is then rounding alone. Any source of position (padding, position embeddings, windows that do not
divide the shift) makes it large.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .backbones import Backbone
from .layers import Layer, Taps, total_stride
from .variants import running

THRESHOLD = 1e-4
"""Greatest residual that passes."""


@dataclass(frozen=True)
class Certificate:
    """Equivariance of one backbone under one variant, over the probed layers.

    Attributes
    ----------
    residual : float
        Greatest over the layers; NaN where it is not defined, see ``reason``.
    passes : bool
        Whether ``residual ≤ threshold``.
    reason : str
        What the residual says, in words.
    layers : mapping of str to float
        Residual of each layer.
    shift : (int, int)
        Shift in pixels, down and to the right.
    threshold : float
    """

    residual: float
    passes: bool
    reason: str
    layers: Mapping[str, float] = field(default_factory=dict)
    shift: tuple[int, int] = (0, 0)
    threshold: float = THRESHOLD


def certify(
    backbone: Backbone,
    variant: str,
    taps: Taps,
    images: Tensor,
    threshold: float = THRESHOLD,
) -> Certificate:
    """Measure the equivariance residual of a backbone under a variant.

    Parameters
    ----------
    backbone : Backbone
        In eval mode.
    variant : str
        See :data:`probe.variants.VARIANTS`.
    taps : Taps
        The layers to look at.
    images : Tensor, shape (B, 3, H, W), in [0, 1]
        Tileable; a few will do.
    threshold : float
        Greatest residual that passes.

    Returns
    -------
    Certificate
    """
    size = (int(images.shape[-2]), int(images.shape[-1]))
    stride = total_stride(backbone.model)
    shift = []
    for axis in (0, 1):
        step, fault = _step(taps.layers, size[axis], axis, stride)
        if fault:
            return Certificate(math.nan, False, fault, threshold=threshold)
        steps = size[axis] // step
        shift.append(step * max(1, steps // (3 - axis)))
    down, right = shift

    x = backbone.normalise(images)
    plain: dict[str, Tensor] = {}
    residuals: dict[str, float] = {}

    def keep(layer: Layer, features: Tensor) -> None:
        plain[layer.name] = features.clone()

    def compare(layer: Layer, features: Tensor) -> None:
        before = plain.pop(layer.name)
        moves = (down * layer.height // size[0], right * layer.width // size[1])
        size_of = float(before.abs().max())
        apart = float((features - torch.roll(before, moves, (2, 3))).abs().max())
        residuals[layer.name] = apart / size_of if size_of else apart

    with running(variant):
        taps.run(backbone.model, x, keep)
        taps.run(backbone.model, torch.roll(x, (down, right), (2, 3)), compare)
    ordered = {layer.name: residuals[layer.name] for layer in taps.layers}
    values = list(ordered.values())
    residual = math.nan if any(map(math.isnan, values)) else max(values)
    passes = residual <= threshold
    reason = "every probed layer is translation equivariant"
    if not passes:
        first = next(name for name, value in ordered.items() if not value <= threshold)
        reason = f"position enters at or before {first}"
    return Certificate(residual, passes, reason, ordered, (down, right), threshold)


def _step(layers: Sequence[Layer], pixels: int, axis: int, stride: int) -> tuple[int, str]:
    """Smallest shift in pixels that is a whole number of places in every layer."""
    # A network may go through larger strides than its probed layers show.
    step = stride if pixels % stride == 0 and pixels > stride else 1
    word = ("rows", "columns")[axis]
    for layer in layers:
        cells = (layer.height, layer.width)[axis]
        if pixels % cells:
            return 0, (
                f"not defined: the {cells} {word} of {layer.name} do not divide the image's "
                f"{pixels}, so that no shift moves it by whole places"
            )
        step = math.lcm(step, pixels // cells)
    if step >= pixels:
        return 0, (
            f"not defined: the probed layers have a common stride of {step} pixels and the image "
            f"only {pixels} {word}; choose a larger image size"
        )
    return step, ""
