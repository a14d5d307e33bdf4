"""Certificates and inventories of models by name or module."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from ..backbones.backbone import Backbone, input_size, load_backbone
from ..backbones.choice import total_stride
from ..backbones.forwarding import called_with
from ..backbones.probed import evaluating
from ..errors import ProbeError
from ..stimuli.leaves import Leaves
from ..text import first_line
from ..variants.canvas import find_margin
from ..variants.variant import parse_variant
from .certificate import Certificate
from .inventory import take_inventory
from .prepare import prepare


def certify(
    model: str | nn.Module,
    variant: str = "circular",
    *,
    weights: str = "random",
    layers: str | Sequence[str] = "stages",
    image_size: int | tuple[int, int] | None = None,
    margin: int | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
    forward_kwargs: Mapping[str, Any] | None = None,
) -> Certificate:
    """Measure whether a variant leaves a network any source of position.

    Parameters
    ----------
    model : str or Module
        A timm name, or a module, which is taken as it is.
    variant : str
        See :data:`probe.VARIANTS`; parts are joined by ``+``.
    weights : str
        Of a name: ``random`` (timm's initialisation, with what it sets to nearly 0 made to count,
        so that borders show, see :mod:`probe.backbones.initialisation` and
        :func:`calibrate_norms`), ``pretrained``, or a checkpoint file.
    layers : str or sequence of str
        Layers to look at besides what the network returns, see
        :func:`probe.layers.choose_layers`.
    image_size : int or (int, int), optional
        Pixels. By default for a name the smallest on which its layers have a few places each, for
        a module its config's or 224, both a multiple of the total stride.
    margin : int, optional
        Of ``canvas``, in pixels; by default the smallest that is out of padding's reach.
    seed : int
        Of random weights, images and noise.
    device : str or torch.device
        ``auto``: CUDA where there is one, else the CPU; a module stays where it is.
    forward_kwargs : mapping, optional
        Keyword arguments that a module's own ``forward`` is called with besides the images.

    Raises
    ------
    ProbeError
        If the model or the variant does not exist, or it can't be run so.

    Examples
    --------
    >>> probe.certify("resnet18").passed
    True
    >>> probe.certify(model, "circular+no_pos_embed").sources
    """
    parsed = parse_variant(variant)
    if margin is not None and not parsed.canvas:
        raise ProbeError("margin: it is for the variant canvas, which was not asked for")
    options: dict[str, Any] = {"weights": weights, "layers": layers, "seed": seed, "device": device}
    with called_with(model, forward_kwargs):
        target = prepare(model, image_size=image_size, **options)
        if parsed.rule == "valid" and image_size is None and isinstance(model, str):
            # Without padding maps shrink by what padding reaches.
            stride = total_stride(target.backbone.model)
            reach, _ = find_margin(target.backbone, target.probed, stride)
            target = prepare(model, image_size=2 * (reach + stride), **options)
        return target.certify(parsed, margin=margin)


def sources(
    model: str | nn.Module,
    *,
    image_size: int | tuple[int, int] | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
    forward_kwargs: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """List every place from which absolute position can enter a network.

    The network, a timm name built with random weights or a module, runs once: padded calls are
    found by the border rules' own record, functional ones included; everything else by following
    which tensors depend on the image and which do not. Options are those of :func:`certify`.

    Returns
    -------
    DataFrame
        ``kind`` (one of :data:`probe.inventory.KINDS`), ``module`` (path; empty for the model's
        own code), ``function``, ``parameter`` (those that a constant comes from), ``kernel``,
        ``stride`` and ``pad`` (top, bottom, left, right) of padded calls, ``calls``. Of strided
        ones: ``consumed``, whether windows read all of the padding,
        (size + pads − kernel) mod stride = 0, and ``even``, whether they read as much of it on
        opposite sides (Alsallakh et al. 2021, arXiv 2010.02178); see :func:`padding_sizes`.

    Raises
    ------
    ProbeError
        If the model does not exist or refuses the image size.
    """
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    weights = "random" if isinstance(model, str) else "given"
    backbone = load_backbone(model, weights, seed=seed, device=device, image_size=size)
    size = size or input_size(backbone.config, total_stride(backbone.model))
    images = Leaves(size, seed).with_channels(backbone.channels).batch("certificate", 0, 1)
    with called_with(model, forward_kwargs):
        return _inventory(backbone, images)


def _inventory(backbone: Backbone, images: Tensor) -> pd.DataFrame:
    failure: Exception | None = None
    for entry in ("forward", "forward_features"):
        call: Callable[..., Any] | None = getattr(backbone.model, entry, None)
        if not callable(call):
            continue
        try:
            with evaluating(backbone.model):
                return take_inventory(backbone.model, backbone.normalise(images), entry)
        except Exception as error:  # whatever the model's author chose to raise
            failure = failure or error
    assert failure is not None  # modules have a forward
    height, width = images.shape[-2:]
    raise ProbeError(
        f"{backbone.name} refuses images of {height} × {width} pixels: {first_line(failure)}"
    ) from failure
