"""Shifts of images and maps by whole places, and what is left of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..backbones.layer import Layer


def residual_of(features: Tensor, shift: tuple[int, int], layer: Layer, original: Layer) -> float:
    """``max |f(roll x) − roll f(x)| / max |f(x)|`` for features of x and of roll x.

    Without padding there is no ring: what has moved out of sight is left out.
    """
    before, after = features[:1], features[1:]
    scale = float(before.abs().max())
    height, width = layer.image_size
    if layer.inset != (0.0, 0.0):
        down, right = shift[0] * original.height // height, shift[1] * original.width // width
        if down >= layer.height or right >= layer.width:
            return math.nan
        before = before[..., : layer.height - down, : layer.width - right]
        after = after[..., down:, right:]
    else:
        moves = (shift[0] * layer.height // height, shift[1] * layer.width // width)
        before = torch.roll(before, moves, (2, 3))
    apart = float((after - before).abs().max())
    return apart / scale if scale else apart


def whole_places(layer: Layer, shift: tuple[int, int]) -> bool:
    sides = zip(shift, (layer.height, layer.width), layer.image_size, strict=True)
    return all((s * cells) % pixels == 0 for s, cells, pixels in sides)


def smallest_shift(
    layers: Sequence[Layer], original: Sequence[Layer], size: tuple[int, int], stride: int
) -> tuple[tuple[int, int], str]:
    """Smallest shift in pixels that is a whole number of places in every layer."""
    steps = []
    for axis, word in enumerate(("rows", "columns")):
        pixels = size[axis]
        # A network may go through larger strides than its probed layers show.
        step = stride if pixels % stride == 0 and pixels > stride else 1
        for layer, before in zip(layers, original, strict=True):
            shown = before if layer.inset != (0.0, 0.0) else layer
            cells = (shown.height, shown.width)[axis]
            if pixels % cells:
                return (0, 0), (
                    f"not defined: the {cells} {word} of {layer.name} do not divide the image's "
                    f"{pixels}, so that no shift moves it by whole places"
                )
            step = math.lcm(step, pixels // cells)
        if step >= pixels:
            return (0, 0), (
                f"not defined: the probed layers have a common stride of {step} pixels and the "
                f"image only {pixels} {word}; choose a larger image size"
            )
        steps.append(step)
    return (steps[0], steps[1]), ""
