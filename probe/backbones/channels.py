"""How many channels the images of a network have."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .hooks import evaluating, takes_hooks


class _Reached(Exception):
    """The first weights were reached."""


def image_channels(
    model: nn.Module, config: Mapping[str, Any], image_size: tuple[int, int] | None = None
) -> int:
    """Channels of the images that a network takes: what its config says, if its weights fit that.

    Where its first weights take others, it is run up to the first ones that see the image: shown C
    channels, they get some multiple of C, also where pixels were gathered before.

    Parameters
    ----------
    model : Module
        Run, if at all, in eval mode and without gradients.
    config : mapping
        timm's ``pretrained_cfg``; where it says nothing, 3 channels of 224 × 224 pixels, or as many
        as ``num_channels`` in the config of a network of the transformers library.
    image_size : (int, int), optional
        Height and width in pixels of the run, if not those of the config.
    """
    stated = getattr(getattr(model, "config", None), "num_channels", 3)
    told, *size = config.get("input_size", (stated if isinstance(stated, int) else 3, 224, 224))
    taking = [(m, takes) for m in model.modules() if (takes := _takes(m)) is not None]
    if not taking or taking[0][1] == (1, told):
        return int(told)
    first = next(model.parameters(), torch.empty(0))
    images = torch.zeros(2, told, *(image_size or size), dtype=first.dtype, device=first.device)
    seen: list[tuple[int, int]] = []

    def reached(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        axis, taken = _takes(module) or (0, 1)
        seen.append((inputs[0].shape[axis], taken))
        raise _Reached

    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        stack.enter_context(torch.random.fork_rng([images.device] if images.is_cuda else []))
        for module, _ in taking:
            if takes_hooks(module):
                stack.callback(module.register_forward_pre_hook(reached).remove)
        with suppress(Exception):  # whatever the model's author chose to raise
            model(images)
    channels, rest = divmod(told * seen[0][1], seen[0][0]) if seen else (told, 0)
    return told if rest else int(channels)  # where that is wrong, running it will say so


def _takes(module: nn.Module) -> tuple[int, int] | None:
    """Axis of the channels of what a module with weights takes, and how many; None of others."""
    if isinstance(module, nn.Conv2d | nn.Conv3d):
        return 1, module.in_channels
    if isinstance(module, nn.Linear):
        return -1, module.in_features
    if isinstance(module, _BatchNorm):
        return 1, module.num_features
    if type(module) is nn.LayerNorm:
        return -1, module.normalized_shape[-1]
    return None
