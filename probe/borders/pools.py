"""Pooling under another border."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .fills import COPYING, write_border
from .site import BorderBlock, as_pair, ceil_extra, partial_after_pad, scale_partial, window_of


def _pool_stride(kernel: Any, stride: Any) -> Any:
    return kernel if stride is None or stride == [] else stride


def _pool_widths(
    input: Tensor, kernel: Any, stride: Any, pad: Any, dilation: Any, ceil: bool
) -> tuple[list[tuple[int, int]], list[int]]:
    """Cells that a pooling reads beyond the edge, and how many of those after are past its pad."""
    widths, extras = [], []
    for dim, k, s, p, d in zip(
        (-2, -1), as_pair(kernel), as_pair(stride), as_pair(pad), as_pair(dilation), strict=True
    ):
        extra = ceil_extra(input.shape[dim], k, s, p, d, ceil)
        widths.append((p, p + extra))
        extras.append(extra)
    return widths, extras


def rewrite_max_pool2d(
    block: BorderBlock,
    func: Callable[..., Any],
    /,
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    stride = _pool_stride(kernel_size, stride)
    widths, _ = _pool_widths(input, kernel_size, stride, padding, dilation, ceil_mode)
    windows = as_pair(kernel_size), as_pair(stride), as_pair(dilation)
    site, borders = window_of(block, "max_pool2d", input, *windows, widths)
    if site is None or site.untouched:
        return func(input, kernel_size, stride, padding, dilation, ceil_mode)
    wide = site.extend(input, borders, -math.inf, -math.inf)
    pooled = func(wide, kernel_size, stride, 0, dilation, False)
    if func is not F.max_pool2d_with_indices:
        return pooled
    # Indices count the cells of the extended map: find out which cells stand there. Where none
    # does (zeros, mean, noise), the nearest stands in.
    height, width = input.shape[-2:]
    cells = torch.arange(height * width, device=input.device).view(height, width)
    strips = site.strips(borders, [r if r in COPYING else "replicate" for r in site.rules])
    return pooled[0], write_border(cells, strips).reshape(-1)[pooled[1]]


def rewrite_avg_pool2d(
    block: BorderBlock,
    func: Callable[..., Tensor],
    /,
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    stride = _pool_stride(kernel_size, stride)
    widths, extras = _pool_widths(input, kernel_size, stride, padding, 1, ceil_mode)
    windows = as_pair(kernel_size), as_pair(stride), (1, 1)
    site, borders = window_of(block, "avg_pool2d", input, *windows, widths)
    if site is None:
        site = partial_after_pad(block, "avg_pool2d", input, *windows[:2])
    if site is None or site.untouched:
        return func(
            input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
        )
    wide = site.extend(input, borders)
    out = func(wide, kernel_size, stride, 0, False, True, divisor_override)
    if divisor_override is not None or not (site.has("original") or site.has("partial")):
        return out
    # The network's own padding may count, what lies past it in ceil_mode never does.
    beyond = {d: (0, e if borders[d][1] else 0) for d, e in zip((-2, -1), extras, strict=True)}
    padded = {d: (borders[d][0], borders[d][1] - beyond[d][1]) for d in (-2, -1)}
    counted = site.covered(input, padded, float(count_include_pad))
    whole = [float(rule not in ("original", "partial")) for rule in site.rules]
    wide = write_border(counted, site.strips(beyond, whole))
    share = func(wide, kernel_size, stride, 0, False, True)
    return scale_partial(out, torch.where(share > 0, 1 / share, 0))


def rewrite_lp_pool2d(
    block: BorderBlock,
    func: Callable[..., Tensor],
    /,
    input: Tensor,
    norm_type: float,
    kernel_size: Any,
    stride: Any = None,
    ceil_mode: bool = False,
) -> Tensor:
    stride = _pool_stride(kernel_size, stride)
    widths, _ = _pool_widths(input, kernel_size, stride, 0, 1, ceil_mode)
    windows = as_pair(kernel_size), as_pair(stride), (1, 1)
    site, borders = window_of(block, "lp_pool2d", input, *windows, widths)
    if site is None:
        site = partial_after_pad(block, "lp_pool2d", input, *windows[:2])
    if site is None or site.untouched:
        return func(input, norm_type, kernel_size, stride, ceil_mode)
    out = func(site.extend(input, borders), norm_type, kernel_size, stride, False)
    if not (site.has("original") or site.has("partial")):
        return out
    # Windows that reach past the edge count for more, as torch does it.
    counted = F.avg_pool2d(site.covered(input, borders, 0.0), kernel_size, stride)
    return scale_partial(out, torch.where(counted > 0, 1 / counted, 0) ** (1 / norm_type))
