"""Image sizes at which padding is even: every strided call reads as much on opposite sides."""

from __future__ import annotations

import copy
from typing import Any

import pandas as pd
import torch
from torch import nn

from ..backbones.backbone import input_size, load_backbone
from ..backbones.choice import total_stride
from ..backbones.probed import evaluating
from ..borders.mode import padding
from ..borders.site import Step
from ..errors import ProbeError, whole_number
from ..text import first_line


def padding_sizes(
    model: str | nn.Module, *, image_size: int | None = None, within: int | None = None
) -> pd.DataFrame:
    r"""Find image sizes at which a network's padding is even everywhere.

    A convolution or pooling with stride :math:`s`, kernel reach :math:`k` and pads :math:`p` on a
    map of :math:`h` rows leaves :math:`(h + p_\mathrm{top} + p_\mathrm{bottom} − k) \bmod s` rows
    at the bottom unread. Where these are padding, its windows reach beyond one edge and not, or
    less, beyond the other, and mean maps are skewed (Alsallakh et al. 2021, *Mind the pad*, arXiv
    2010.02178). The network runs once for each size, on images without content.

    Parameters
    ----------
    model : str or Module
        A timm name, or a module.
    image_size : int, optional
        Height and width around which to look, in pixels; by default the network's own.
    within : int, optional
        Pixels to go below and above it; by default the network's total stride.

    Returns
    -------
    DataFrame
        One row per size: ``image_size``; ``even``, whether padding is even in every strided
        padded call; ``calls``, how many of these there are; ``uneven``, in how many it is not;
        ``unread``, in how many windows leave padding unread; ``first``, the first uneven module;
        ``refused``, why the network can't run at this size (then the others say nothing).

    Raises
    ------
    ProbeError
        If the model does not exist, or runs at none of the sizes.

    Examples
    --------
    >>> table = probe.padding_sizes("resnet50")
    >>> table.loc[table["even"], "image_size"].tolist()
    [193, 225]
    """
    if image_size is not None:
        whole_number(image_size, "image_size", 1)
    backbone = load_backbone(model, "random" if isinstance(model, str) else "given", device="cpu")
    stride = total_stride(backbone.model)
    middle = image_size or input_size(backbone.config, stride)[0]
    reach = max(stride, 1) if within is None else whole_number(within, "within", 0)
    sizes = range(max(middle - reach, 1), middle + reach + 1)
    network, device = _without_content(backbone.model)
    rows = []
    for size in sizes:
        row: dict[str, Any] = {"image_size": size, "even": False}
        row |= {"calls": 0, "uneven": 0, "unread": 0, "first": "", "refused": ""}
        try:
            steps = _steps(network, torch.zeros(1, len(backbone.mean), size, size, device=device))
        except Exception as error:  # whatever the model's author chose to raise
            rows.append(row | {"refused": first_line(error)})
            continue
        uneven = [step for step in steps if not step.even]
        row |= {"even": not uneven, "calls": len(steps), "uneven": len(uneven)}
        row["unread"] = sum(not step.consumed for step in steps)
        rows.append(row | {"first": (uneven[0].module or "forward") if uneven else ""})
    table = pd.DataFrame(rows)
    if (table["refused"] != "").all():
        raise ProbeError(
            f"{backbone.name} refuses images of {sizes[0]} to {sizes[-1]} pixels: "
            f"{table['refused'].iloc[-1]}; choose another image_size"
        )
    return table


def _without_content(model: nn.Module) -> tuple[nn.Module, str]:
    """Return a copy whose tensors have shapes alone, where the network runs so."""
    try:
        return copy.deepcopy(model).to("meta"), "meta"
    except Exception:  # modules that can't be copied, or moved
        return model, "cpu"


def _steps(model: nn.Module, x: torch.Tensor) -> list[Step]:
    with torch.no_grad(), evaluating(model), padding("original") as borders:
        model(x)
    return list(borders.steps)
