"""What can be probed: a table of a network's layers, and how each one's layout was found out."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch
from torch import nn

from ..backbones.backbone import input_size, load_backbone
from ..backbones.choice import PRESETS, choose_layers, split_call, total_stride
from ..backbones.dryrun import read_layers
from ..backbones.forwarding import called_with
from ..backbones.hooks import evaluating, takes_hooks
from ..errors import ProbeError, ProbeWarning
from ..machine import memory_explained
from ..stimuli.leaves import Leaves

COLUMNS = [
    *("name", "kind", "channels", "height", "width", "row_stride", "column_stride"),
    *("layout", "prefix", "suffix", "decided", "calls", *PRESETS, "fault"),
]
"""Columns of the table."""


def layers(
    model: str | nn.Module,
    *,
    image_size: int | tuple[int, int] | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
    left_out: bool = False,
    forward_kwargs: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """List what can be probed of a network, in order of execution.

    The network, a timm name built with random weights or a module, sees three images in dry runs.

    Parameters
    ----------
    model : str or Module
        A timm name, or any module that maps images.
    image_size : int or (int, int), optional
        Pixels; by default as in :func:`probe.run`.
    seed : int
        Of random weights and images.
    device : str or torch.device
        ``auto``: CUDA where there is one, else the CPU; a module stays where it is.
    left_out : bool
        List modules that can't be probed too, last, each with its ``fault``.
    forward_kwargs : mapping, optional
        Keyword arguments that a module's own ``forward`` is called with besides the images.

    Returns
    -------
    DataFrame
        ``name`` (``name:0``, ``name:1``, … for the calls of a module that runs several times),
        ``kind`` (its class), ``channels``, ``height`` and ``width`` of its feature map,
        ``row_stride`` and ``column_stride`` (pixels of the image from one place to the next),
        ``layout`` (a letter for each axis of the output, see :class:`probe.backbones.Layer`),
        ``prefix`` and ``suffix`` (tokens before and after those of the places), ``decided`` (how
        the layout was found out), ``calls`` (for each image), ``stages``, ``blocks`` and ``convs``
        (whether that choice of layers takes it), ``fault`` (why it can't be probed; empty if it
        can).

    Raises
    ------
    ProbeError
        If the model does not exist or refuses the image size.

    Examples
    --------
    >>> probe.layers("resnet18").query("blocks")["name"]
    """
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    weights = "random" if isinstance(model, str) else "given"
    backbone = load_backbone(model, weights, image_size=size, seed=seed, device=device)
    network, label = backbone.model, backbone.name
    size = size or input_size(backbone.config, total_stride(network))
    modules = dict(network.named_modules())
    names = [name for name, module in modules.items() if name and takes_hooks(module)]
    chosen = {preset: _chosen(network, preset) for preset in PRESETS}
    with called_with(model, forward_kwargs), evaluating(network), memory_explained(2):
        x = backbone.normalise(Leaves(size, seed).batch("certificate", 0, 2))
        try:
            read = read_layers(network, names, x, label)
        except ProbeError:  # its forward may need what forward_features does not
            read = read_layers(network, names, x, label, needed=[])
    rows = []
    for name, layer, fault in read.outputs:
        module, call = split_call(name, modules)
        if name in PRESETS:
            layer = None
            fault = f"has the name of a choice of layers; the glob [{name[0]}]{name[1:]} takes it"
        calls = read.calls[module]
        row = {"name": name, "kind": type(modules[module]).__name__, "calls": calls, "fault": fault}
        row |= {preset: call is None and name in chosen[preset] for preset in PRESETS}
        if layer is not None:
            row |= {word: getattr(layer, word) for word in COLUMNS if hasattr(layer, word)}
            row["row_stride"] = size[0] / layer.height
            row["column_stride"] = size[1] / layer.width
        elif not left_out:
            continue
        rows.append(row)
    table = pd.DataFrame(rows, columns=COLUMNS)
    whole = ["channels", "height", "width", "prefix", "suffix"]
    table = table.astype(dict.fromkeys(whole, "Int64") | dict.fromkeys(PRESETS, bool))
    table[["layout", "decided"]] = table[["layout", "decided"]].fillna("")
    return table.sort_values("fault", key=lambda f: f != "", kind="stable", ignore_index=True)


def _chosen(model: nn.Module, preset: str) -> set[str]:
    """Names that a ready-made choice of layers takes."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ProbeWarning)
            return set(choose_layers(model, preset)[0])
    except ProbeError:  # none
        return set()
