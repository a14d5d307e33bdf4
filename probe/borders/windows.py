"""Convolutions, transposed convolutions, unfolding and folding under another border."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .fills import source_index
from .rules import SIDES
from .site import BorderBlock, as_pair, partial_after_pad, reweigh_partial, window_of


def rewrite_conv2d(
    block: BorderBlock,
    func: Callable[..., Tensor],
    /,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    kernel = (int(weight.shape[-2]), int(weight.shape[-1]))
    strides, gaps = as_pair(stride), as_pair(dilation)
    if padding == "valid":
        widths = [(0, 0), (0, 0)]
    elif padding == "same":
        totals = [d * (k - 1) for d, k in zip(gaps, kernel, strict=True)]
        widths = [(t // 2, t - t // 2) for t in totals]
    else:
        widths = [(p, p) for p in as_pair(padding)]
    site, borders = window_of(block, "conv2d", input, kernel, strides, gaps, widths)
    if site is None:
        site = partial_after_pad(block, "conv2d", input, kernel, strides)
    if site is None or site.zeros:
        return func(input, weight, bias, stride, padding, dilation, groups)
    wide = site.extend(input, borders)
    if not site.has("partial"):
        return func(wide, weight, bias, stride, 0, dilation, groups)
    out = func(wide, weight, None, stride, 0, dilation, groups)
    mask = site.covered(input, borders, 1.0)
    window = mask.new_ones((1, 1, *kernel))
    covered = func(mask, window, None, stride, 0, dilation)
    return reweigh_partial(out, kernel[0] * kernel[1], covered, bias)


def rewrite_conv3d(
    block: BorderBlock,
    func: Callable[..., Tensor],
    /,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    # Over maps whose values are vectors (B, C, H, W, V), as lambda layers have them, and else over
    # volumes (B, C, D, H, W), whose depth is no place.
    pads = [(0, 0)] * 3
    if padding == "same":
        gaps = (dilation,) * 3 if isinstance(dilation, int) else dilation
        totals = [gap * (n - 1) for gap, n in zip(gaps, weight.shape[-3:], strict=True)]
        pads = [(total // 2, total - total // 2) for total in totals]
    elif padding != "valid":
        pads = [(p, p) for p in ((padding,) * 3 if isinstance(padding, int) else padding)]
    first = 1 if any(pads[2]) else 0
    borders = {first - 3: pads[first], first - 2: pads[first + 1]}
    site = None
    if any(map(any, borders.values())):
        kernel = (int(weight.shape[first - 3]), int(weight.shape[first - 2]))
        strides = (stride,) * 3 if isinstance(stride, int) else tuple(stride)
        site = block.site("conv3d", borders, kernel, strides[first : first + 2])
        site.record(True, borders)
    if site is None or site.untouched:
        return func(input, weight, bias, stride, padding, dilation, groups)
    wide = site.extend(input, site.widths(borders))
    if first:
        wide = F.pad(wide, (0, 0, 0, 0, *pads[0]))
    return func(wide, weight, bias, stride, 0, dilation, groups)


def rewrite_conv_transpose2d(
    block: BorderBlock,
    func: Callable[..., Tensor],
    /,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor:
    # Beyond the edge a transposed convolution sees nothing, that is zeros. Extend the input by
    # every cell that reaches the output, and crop as many strides more.
    kernel = (int(weight.shape[-2]), int(weight.shape[-1]))
    strides, crops, gaps = as_pair(stride), as_pair(padding), as_pair(dilation)
    outer = as_pair(output_padding)
    more = [
        max(0, (d * (k - 1) + o - p) // s)
        for k, s, p, o, d in zip(kernel, strides, crops, outer, gaps, strict=True)
    ]
    borders = {-2: (more[0], more[0]), -1: (more[1], more[1])}
    site = None
    if any(more):
        site = block.site("conv_transpose2d", borders, kernel, strides)
        site.record(True, borders)
    if site is None or site.zeros:
        return func(input, weight, bias, stride, padding, output_padding, groups, dilation)
    wide = site.extend(input, borders)
    cut = tuple(p + m * s for p, m, s in zip(crops, more, strides, strict=True))
    if site.has("partial"):
        out = func(wide, weight, None, stride, cut, output_padding, groups, dilation)
        mask = site.covered(input, borders, 1.0)
        window = mask.new_ones((1, 1, *kernel))
        full, covered = (
            func(m, window, None, stride, cut, output_padding, 1, dilation)
            for m in (torch.ones_like(mask), mask)
        )
        return reweigh_partial(out, full, covered, bias)
    out = func(wide, weight, bias, stride, cut, output_padding, groups, dilation)
    for axis, (d, k, s, p, gap) in enumerate(
        zip((-2, -1), kernel, strides, crops, gaps, strict=True)
    ):
        # Outputs that a cell beyond the edge would have reached.
        first = max(0, gap * (k - 1) - s + 1 - p) if site.rules[2 * axis] == "valid" else 0
        past = max(0, out.shape[d] + p - input.shape[d] * s)
        last = past if site.rules[2 * axis + 1] == "valid" else 0
        out = out.narrow(d, first, max(out.shape[d] - first - last, 0))
    return out


def rewrite_unfold(
    block: BorderBlock,
    func: Callable[..., Tensor],
    /,
    input: Tensor,
    kernel_size: Any,
    dilation: Any = 1,
    padding: Any = 0,
    stride: Any = 1,
) -> Tensor:
    borders = {d: (p, p) for d, p in zip((-2, -1), as_pair(padding), strict=True)}
    site = None
    if borders != {-2: (0, 0), -1: (0, 0)}:
        site = block.site("unfold", borders, as_pair(kernel_size), as_pair(stride))
        site.record(True, borders)
    if site is None or site.zeros:
        return func(input, kernel_size, dilation, padding, stride)
    wide = site.extend(input, site.widths(borders))
    return func(wide, kernel_size, dilation, 0, stride)


def rewrite_fold(
    block: BorderBlock,
    func: Callable[..., Tensor],
    /,
    input: Tensor,
    output_size: Any,
    kernel_size: Any,
    dilation: Any = 1,
    padding: Any = 0,
    stride: Any = 1,
) -> Tensor:
    # What falls beyond the edge is dropped; on a ring it lands on the other side.
    pads, size = as_pair(padding), as_pair(output_size)
    borders = {d: (p, p) for d, p in zip((-2, -1), pads, strict=True)}
    rings = [False, False]
    if any(pads):
        site = block.site("fold", borders, as_pair(kernel_size), as_pair(stride))
        rings = [bool(p) and site.circular(axis) for axis, p in enumerate(pads)]
        site.record(True, borders, [side for i, side in enumerate(SIDES) if rings[i // 2]])
    if not any(rings):
        return func(input, output_size, kernel_size, dilation, padding, stride)
    wide_size = [n + 2 * p if ring else n for n, p, ring in zip(size, pads, rings, strict=True)]
    kept = [0 if ring else p for p, ring in zip(pads, rings, strict=True)]
    out = func(input, wide_size, kernel_size, dilation, kept, stride)
    for d, n, p, ring in zip((-2, -1), size, pads, rings, strict=True):
        if ring:
            cells = source_index("circular", n, -p, n + p, out.device)
            shape = list(out.shape)
            shape[d] = n
            out = out.new_zeros(shape).index_add_(d % out.ndim, cells, out)
    return out
