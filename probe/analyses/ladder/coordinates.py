"""Coordinates given to every convolution of a network, untrained."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...backbones.backbone import Backbone
from ...backbones.probed import evaluating
from ...coordconv.inflation import inflate
from ...coordconv.layers import CoordinateTerm
from ...machine import exact_float32
from ...stimuli.leaves import Leaves
from ..names import STRENGTH

_IMAGES = 8  # to measure channels on


def give_coordinates(
    backbone: Backbone,
    image_size: tuple[int, int],
    at: str | Sequence[str] = "convs",
    strength: float = STRENGTH,
    seed: int = 0,
) -> nn.Module:
    """Inflate a copy of a network and set the weights of its coordinates; see :func:`ladder`."""
    given = inflate(backbone.model, at)
    terms = {n: m for n, m in given.named_modules() if isinstance(m, CoordinateTerm)}
    seen = _outputs(backbone, image_size, terms, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, module in terms.items():
            angles = torch.rand(module.out_channels, generator=generator, dtype=torch.float64)
            if name not in seen:  # never ran, or over a single place
                continue
            spread, size = seen[name]
            angles *= 2 * math.pi
            directions = torch.stack([angles.cos(), angles.sin()], 1)
            unit = torch.zeros_like(module.coord_weight)
            transposed = isinstance(module, nn.ConvTranspose2d)
            centre = [side // 2 for side in module.kernel_size]
            by_channel = unit.transpose(0, 1) if transposed else unit
            by_channel[:, :2, centre[0], centre[1]] = directions.to(unit)
            module.coord_weight.copy_(unit)
            part = module.coordinate_part(*size).double().flatten(2).std(2)[0].cpu()
            scale = torch.where(part > 0, strength * spread / part, 0.0).to(unit)
            module.coord_weight.mul_(scale.view((1, -1, 1, 1) if transposed else (-1, 1, 1, 1)))
    return given


def _outputs(
    backbone: Backbone, size: tuple[int, int], names: Iterable[str], seed: int
) -> dict[str, tuple[Tensor, tuple[int, int]]]:
    """Of convolutions over leaves: each channel's standard deviation, and the size of the input.

    Those whose output or input is a single place are left out.
    """
    modules, hooks = dict(backbone.model.named_modules()), []
    measured: dict[str, tuple[Tensor, tuple[int, int]]] = {}

    def measure(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            over = tuple(inputs[0].shape[-2:])
            if min(map(math.prod, (over, output.shape[-2:]))) > 1:
                measured[name] = output.double().transpose(0, 1).flatten(1).std(1).cpu(), over

        return hook

    images = Leaves(size, seed).with_channels(backbone.channels).batch("train", 0, _IMAGES)
    try:
        hooks += [modules[name].register_forward_hook(measure(name)) for name in names]
        with torch.no_grad(), exact_float32(), evaluating(backbone.model):
            backbone.model(backbone.normalise(images))
    finally:
        for hook in hooks:
            hook.remove()
    return measured
