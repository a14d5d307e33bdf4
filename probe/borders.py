"""Border rules: what a network sees beyond the edge of a feature map.

One :class:`torch.overrides.TorchFunctionMode` sees every padded operation that a network makes,
whichever module makes it, as a call of one of torch's own functions. It writes the border itself
and calls the function without padding. The network and its weights stay untouched.
"""

from __future__ import annotations

import math
import operator
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .errors import one_of

RULES: tuple[str, ...] = ("original", "zeros", "reflect", "replicate", "circular")
"""Names of the border rules that :func:`padding` takes."""

Borders = Mapping[int, tuple[int, int]]
"""Cells to add before and after, by dimension; negative numbers crop."""


@lru_cache(maxsize=4096)
def _source(rule: str, size: int, first: int, last: int, device: torch.device) -> Tensor:
    """Cells in [0, size) that stand in for the cells first … last - 1, some outside it."""
    with torch.inference_mode(False):  # cached: a later call may need gradients
        places = torch.arange(first, last)
        return _stand_ins(rule, size, places).to(device)


def _stand_ins(rule: str, size: int, places: Tensor) -> Tensor:
    if rule == "circular":
        places = places % size
    elif rule == "replicate":
        places = places.clamp(0, size - 1)
    elif rule == "reflect":
        period = max(2 * (size - 1), 1)
        places = places % period
        places = torch.minimum(places, period - places) if size > 1 else places * 0
    return places


def extend(x: Tensor, borders: Borders, rule: str) -> Tensor:
    r"""Write a border around a tensor.

    Cell ``i`` outside ``0 … n - 1`` of a dimension of ``n`` cells is a copy of cell

    - ``circular``: :math:`i \bmod n`;
    - ``reflect``: :math:`\min(m, 2(n - 1) - m)` with :math:`m = i \bmod 2(n - 1)`: mirrored at
      the centre of the edge cell, which is not repeated;
    - ``replicate``: the nearest edge cell;
    - ``zeros``: none; it is 0.

    Borders may be wider than the tensor. The memory format is kept.

    Parameters
    ----------
    x : Tensor
        Of any shape with at least one cell in each dimension that is extended.
    borders : mapping of int to (int, int)
        By dimension, how many cells to add before and after; negative numbers crop.
    rule : str
        One of :data:`RULES` but ``original``.

    Returns
    -------
    Tensor
    """
    borders = {d % x.ndim: widths for d, widths in borders.items() if widths != (0, 0)}
    for d, (before, after) in borders.items():
        first, last = max(-before, 0), x.shape[d] - max(-after, 0)
        if (first, last) != (0, x.shape[d]):
            x = x.narrow(d, first, max(last - first, 0))
    grow = {d: (max(b, 0), max(a, 0)) for d, (b, a) in sorted(borders.items()) if b > 0 or a > 0}
    if not grow:
        return x

    shape = list(x.shape)
    for d, (before, after) in grow.items():
        shape[d] += before + after
    nhwc = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if nhwc else torch.contiguous_format
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)
    if rule == "zeros":
        out.zero_()
    inner = out
    for d, (before, _) in grow.items():
        inner = inner.narrow(d, before, x.shape[d])
    inner.copy_(x)
    if rule == "zeros":
        return out

    # One dimension after the other: what the first wrote, corners take from.
    for d, (before, after) in grow.items():
        size = x.shape[d]
        part = out
        for other, (b, _) in grow.items():
            if other > d:
                part = part.narrow(other, b, x.shape[other])
        centre = part.narrow(d, before, size)
        if before:
            cells = _source(rule, size, -before, 0, x.device)
            part.narrow(d, 0, before).copy_(centre.index_select(d, cells))
        if after:
            cells = _source(rule, size, size, size + after, x.device)
            part.narrow(d, before + size, after).copy_(centre.index_select(d, cells))
    return out


def _pair(value: Any) -> tuple[int, int]:
    try:
        side = operator.index(value)
    except TypeError:
        items = tuple(operator.index(v) for v in value)
    else:
        return side, side
    return (items[0], items[0]) if len(items) == 1 else (items[0], items[1])


def _ceil_extra(size: int, kernel: int, stride: int, pad: int, dilation: int, ceil: bool) -> int:
    """Cells past the padded edge that the last window of a pooling with ``ceil_mode`` reads."""
    reach = dilation * (kernel - 1) + 1
    span = size + 2 * pad - reach
    if not ceil or span % stride == 0:
        return 0
    outputs = -(-span // stride) + 1
    if (outputs - 1) * stride >= size + pad:  # torch drops windows that start beyond the edge
        return 0
    return (outputs - 1) * stride + reach - (size + 2 * pad)


class padding(TorchFunctionMode):
    """Run any network with its borders written by another rule.

    Inside the ``with`` block every padded convolution, transposed convolution, pooling, ``unfold``
    and spatial ``pad``, in modules and in functional code alike, sees beyond the edge of its input
    what ``rule`` says (see :func:`extend`) rather than what the network was built with; bilinear
    and bicubic upsampling by whole factors take their neighbours from there too under ``circular``
    and ``reflect``. Output sizes stay what they were. Blocks nest, the inner one wins; other
    threads are not affected.

    A ``pad`` is taken for a border if it pads height and width, both or one of them on both
    sides, of a map (B, C, H, W) or (B, H, W, C) by zeros, −∞ or another rule. Padded channels and
    tokens, a column of ones, one-sided padding of a single dimension (as in relative positions)
    and three-dimensional tensors padded by constants are none. Scripted and traced modules hide
    their calls and are not rewritten; :func:`probe.run` certifies what was reached.

    Parameters
    ----------
    rule : str
        ``original`` (nothing is changed), ``zeros``, ``reflect``, ``replicate`` or ``circular``.
        ``zeros`` writes zeros everywhere, also where max pooling pads with −∞ and average pooling
        leaves the border out of its mean.

    Attributes
    ----------
    rewritten : DataFrame
        What was rewritten: ``function``, ``kernel``, ``stride``, ``pad`` (top, bottom, left,
        right), ``calls``.

    Raises
    ------
    ProbeError
        If there is no such rule.

    Examples
    --------
    >>> with probe.padding("circular"):
    ...     features = model.forward_features(images)
    """

    _thread = threading.local()

    def __init__(self, rule: str) -> None:
        super().__init__()
        self.rule = one_of(rule, RULES, "border rule")
        self._calls: Counter[tuple[Any, ...]] = Counter()

    @property
    def rewritten(self) -> pd.DataFrame:
        columns = ["function", "kernel", "stride", "pad", "calls"]
        return pd.DataFrame([(*k, n) for k, n in self._calls.items()], columns=columns)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        handler = _HANDLERS.get(func)
        # An outer block must not rewrite what an inner one has already settled.
        if handler is None or getattr(self._thread, "settled", False):
            return func(*args, **kwargs)
        self._thread.settled = True
        try:
            if self.rule == "original":
                return func(*args, **kwargs)
            return handler(self, func, *args, **kwargs)
        finally:
            self._thread.settled = False

    def _extend(
        self,
        x: Tensor,
        borders: Borders,
        function: str,
        kernel: Any = None,
        stride: Any = None,
    ) -> Tensor:
        nhwc = -3 in borders
        top, left = (borders.get(d, (0, 0)) for d in ((-3, -2) if nhwc else (-2, -1)))
        if any(width > 0 for pair in borders.values() for width in pair):
            self._calls[(function, kernel, stride, (*top, *left))] += 1
        return extend(x, borders, self.rule)


def _conv2d(
    border: padding,
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
    if padding == "valid":
        widths = [(0, 0), (0, 0)]
    elif padding == "same":
        totals = [d * (k - 1) for d, k in zip(_pair(dilation), kernel, strict=True)]
        widths = [(t // 2, t - t // 2) for t in totals]
    else:
        widths = [(p, p) for p in _pair(padding)]
    if widths != [(0, 0), (0, 0)]:
        borders = {-2: widths[0], -1: widths[1]}
        input = border._extend(input, borders, "conv2d", kernel, _pair(stride))
    return func(input, weight, bias, stride, 0, dilation, groups)


def _conv_transpose2d(
    border: padding,
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
    strides, crops = _pair(stride), _pair(padding)
    more = []
    for k, s, p, o, d in zip(
        kernel, strides, crops, _pair(output_padding), _pair(dilation), strict=True
    ):
        more.append(max(0, -(-(d * (k - 1) - p) // s), (d * (k - 1) + o - p) // s))
    borders = {-2: (more[0], more[0]), -1: (more[1], more[1])}
    input = border._extend(input, borders, "conv_transpose2d", kernel, strides)
    crops = tuple(p + m * s for p, m, s in zip(crops, more, strides, strict=True))
    return func(input, weight, bias, stride, crops, output_padding, groups, dilation)


def _pool_borders(
    input: Tensor, kernel: Any, stride: Any, pad: Any, dilation: Any, ceil: bool
) -> dict[int, tuple[int, int]]:
    borders = {}
    for dim, k, s, p, d in zip(
        (-2, -1), _pair(kernel), _pair(stride), _pair(pad), _pair(dilation), strict=True
    ):
        borders[dim] = (p, p + _ceil_extra(input.shape[dim], k, s, p, d, ceil))
    return borders


def _max_pool2d(
    border: padding,
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
    stride = kernel_size if stride is None or stride == [] else stride
    borders = _pool_borders(input, kernel_size, stride, padding, dilation, ceil_mode)
    wide = border._extend(input, borders, "max_pool2d", _pair(kernel_size), _pair(stride))
    pooled = func(wide, kernel_size, stride, 0, dilation, False)
    if func is not F.max_pool2d_with_indices:
        return pooled
    # Indices count the cells of the extended map: find out which cells stand there.
    height, width = input.shape[-2:]
    cells = torch.arange(height * width, device=input.device).view(height, width)
    stand_ins = extend(cells, borders, border.rule).reshape(-1)
    return pooled[0], stand_ins[pooled[1]]


def _avg_pool2d(
    border: padding,
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
    stride = kernel_size if stride is None or stride == [] else stride
    borders = _pool_borders(input, kernel_size, stride, padding, 1, ceil_mode)
    input = border._extend(input, borders, "avg_pool2d", _pair(kernel_size), _pair(stride))
    return func(input, kernel_size, stride, 0, False, True, divisor_override)


def _unfold(
    border: padding,
    func: Callable[..., Tensor],
    /,
    input: Tensor,
    kernel_size: Any,
    dilation: Any = 1,
    padding: Any = 0,
    stride: Any = 1,
) -> Tensor:
    borders = {d: (p, p) for d, p in zip((-2, -1), _pair(padding), strict=True)}
    input = border._extend(input, borders, "unfold", _pair(kernel_size), _pair(stride))
    return func(input, kernel_size, dilation, 0, stride)


def _pad(
    border: padding,
    func: Callable[..., Tensor],
    /,
    input: Tensor,
    pad: Any,
    mode: str = "constant",
    value: float | None = None,
) -> Tensor:
    pairs = [(int(pad[i]), int(pad[i + 1])) for i in range(0, len(pad), 2)]
    widths = {-1 - i: pair for i, pair in enumerate(pairs) if pair != (0, 0)}
    if not widths or not _is_border(input.ndim, widths, mode, value):
        return func(input, pad, mode, value)
    return border._extend(input, widths, "pad")


def _is_border(ndim: int, widths: Borders, mode: str, value: float | None) -> bool:
    """Whether a ``pad`` writes the border of a feature map; see :class:`padding`."""
    dims = {d % ndim for d in widths}
    last_two = ndim >= 3 and dims <= {ndim - 2, ndim - 1}
    if mode != "constant":
        return last_two and len(dims) + ndim > 4
    if ndim != 4 or value not in (None, 0, -math.inf):
        return False
    one_sided = len(dims) == 1 and 0 in next(iter(widths.values()))
    return (last_two or dims == {1, 2}) and not one_sided


def _interpolate(
    border: padding,
    func: Callable[..., Tensor],
    /,
    input: Tensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:
    def plain() -> Tensor:
        return func(
            input, size, scale_factor, mode, align_corners, recompute_scale_factor, antialias
        )

    if input.ndim != 4 or mode not in ("bilinear", "bicubic") or align_corners or antialias:
        return plain()
    if border.rule not in ("circular", "reflect"):
        return plain()
    cells = (int(input.shape[-2]), int(input.shape[-1]))
    if size is not None:
        wanted = _pair(size)
    else:
        factors = scale_factor if isinstance(scale_factor, tuple | list) else (scale_factor,) * 2
        if any(f != int(f) for f in factors):
            return plain()
        wanted = tuple(int(n * f) for n, f in zip(cells, factors, strict=True))
    if any(w % n for w, n in zip(wanted, cells, strict=True)):
        return plain()
    times = tuple(w // n for w, n in zip(wanted, cells, strict=True))
    margin = 1 if mode == "bilinear" else 2
    borders = {-2 + i: (margin, margin) if t > 1 else (0, 0) for i, t in enumerate(times)}
    wide = border._extend(input, borders, "interpolate", None, None)
    goal = tuple(n * t for n, t in zip(wide.shape[-2:], times, strict=True))
    wide = func(wide, goal, None, mode, False, None, False)
    for d, t, w in zip((-2, -1), times, wanted, strict=True):
        wide = wide.narrow(d, borders[d][0] * t, w)
    return wide


_HANDLERS: dict[Callable[..., Any], Callable[..., Any]] = {
    F.conv2d: _conv2d,
    F.conv_transpose2d: _conv_transpose2d,
    F.max_pool2d: _max_pool2d,
    torch.max_pool2d: _max_pool2d,
    F.max_pool2d_with_indices: _max_pool2d,
    F.avg_pool2d: _avg_pool2d,
    F.unfold: _unfold,
    F.pad: _pad,
    F.interpolate: _interpolate,
}
