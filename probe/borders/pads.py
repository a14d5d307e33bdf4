"""Bare padding and resizing under another border."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from .fills import Borders, Fill, write_border
from .site import BorderBlock, as_pair


def rewrite_pad(
    block: BorderBlock,
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
    site = block.site("pad", widths)
    site.record(True, widths)
    if site.untouched:
        out = func(input, pad, mode, value)
    else:
        original: Fill = float(value or 0.0) if mode == "constant" else mode
        partial = original if original == -math.inf else 0.0
        kept = site.widths(widths)
        out = site.extend(input, kept, original, partial)
        widths = {d: pair for d, pair in kept.items() if pair != (0, 0)}
    if widths and -3 not in widths:
        site.wrote(input, out, widths)
    return out


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


def rewrite_interpolate(
    block: BorderBlock,
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
    cells = (int(input.shape[-2]), int(input.shape[-1]))
    if size is not None:
        wanted: tuple[int, ...] = as_pair(size)
    else:
        factors = scale_factor if isinstance(scale_factor, tuple | list) else (scale_factor,) * 2
        if any(f != int(f) for f in factors):
            return plain()
        wanted = tuple(int(n * f) for n, f in zip(cells, factors, strict=True))
    if any(w % n for w, n in zip(wanted, cells, strict=True)):
        return plain()
    times = tuple(w // n for w, n in zip(wanted, cells, strict=True))
    if max(times) == 1:
        return plain()
    margin = 1 if mode == "bilinear" else 2
    borders = {-2 + i: (margin, margin) if t > 1 else (0, 0) for i, t in enumerate(times)}
    site = block.site("interpolate", borders)
    if not (site.has("circular") or site.has("reflect")):
        return plain()
    site.record(True, borders)
    # By itself, upsampling repeats the edge.
    fills = [r if r in ("circular", "reflect") else "replicate" for r in site.rules]
    wide = write_border(input, site.strips(borders, fills))
    goal = tuple(n * t for n, t in zip(wide.shape[-2:], times, strict=True))
    wide = func(wide, goal, None, mode, False, None, False)
    for d, t, w in zip((-2, -1), times, wanted, strict=True):
        wide = wide.narrow(d, borders[d][0] * t, w)
    return wide
