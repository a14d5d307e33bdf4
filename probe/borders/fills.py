"""Writing what stands in the place of padding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ..errors import one_of
from .rules import RULES

Borders = Mapping[int, tuple[int, int]]
"""Cells to add before and after, by dimension; negative numbers crop."""

COPYING = ("circular", "reflect", "replicate")


class Noise:
    """Standard normal numbers for one call, each image of the batch from a stream of its own."""

    def __init__(self, seed: int, first: int, call: int, amplitude: float | None = None) -> None:
        self.seed, self.first, self.call, self.amplitude = seed, first, call, amplitude
        self._streams: list[torch.Generator] = []

    def __call__(self, like: Tensor) -> Tensor:
        while len(self._streams) < len(like):
            key = (self.seed, self.first + len(self._streams), self.call)
            state = np.random.SeedSequence(key).generate_state(1, np.uint64)
            self._streams.append(torch.Generator().manual_seed(int(state[0])))
        streams = self._streams[: len(like)]
        return torch.stack([torch.randn(like.shape[1:], generator=s) for s in streams]).to(like)


Fill = str | float | Noise | Callable[[Tensor], Tensor]
"""What one side of a border is filled with, see :class:`~probe.borders.rules.Rule`."""


@lru_cache(maxsize=4096)
def source_index(rule: str, size: int, first: int, last: int, device: torch.device) -> Tensor:
    """Cells in [0, size) that stand in for the cells first … last - 1, some outside it."""
    with torch.inference_mode(False):  # cached: a later call may need gradients
        places = torch.arange(first, last)
        if rule == "circular":
            places = places % size
        elif rule == "replicate":
            places = places.clamp(0, size - 1)
        elif rule == "reflect":
            period = max(2 * (size - 1), 1)
            places = places % period
            places = torch.minimum(places, period - places) if size > 1 else places * 0
        return places.to(device)


def extend(x: Tensor, borders: Borders, rule: str, *, seed: int = 0) -> Tensor:
    r"""Write a border around a tensor; ``borders`` are cells to add before and after, by dimension.

    Cell ``i`` outside ``0 … n - 1`` of a dimension of ``n`` cells is

    - ``circular``: cell :math:`i \bmod n`;
    - ``reflect``: cell :math:`\min(m, 2(n - 1) - m)` with :math:`m = i \bmod 2(n - 1)`: mirrored
      at the centre of the edge cell, which is not repeated;
    - ``replicate``: the nearest edge cell;
    - ``mean``: the mean :math:`μ` of its channel over the map, image by image;
    - ``noise``: :math:`μ + σ ε` with the channel's mean and standard deviation over the map, image
      by image, and independent standard normal :math:`ε`;
    - ``zeros``: 0.

    Height comes before width, so that corners follow the rule along the width. Borders may be
    wider than the tensor; negative numbers crop. The memory format is kept.
    """
    fills = {name: known.fill for name, known in RULES.items() if known.fill is not None}
    fills["noise"] = Noise(seed, 0, 0)
    fill: Fill = fills[one_of(rule, fills, "border rule")]
    return write_border(x, {d: (*widths, fill, fill) for d, widths in borders.items()})


Strips = Mapping[int, tuple[int, int, Fill, Fill]]
"""By dimension: cells before and after, and what fills them."""

_Moments = tuple[Tensor, Tensor]


def write_border(
    x: Tensor, strips: Strips, moments: _Moments | None = None, kept: Borders | None = None
) -> Tensor:
    """Write strips around a tensor; ``kept`` cells at its ends are border that stays as it is."""
    kept = {d % x.ndim: cells for d, cells in (kept or {}).items()}
    if moments is None and any(_of_channel(fill) for s in strips.values() for fill in s[2:]):
        core = x
        for d in kept:
            core = core.narrow(*core_slices(core, kept, d))
        moments = _channel_moments(core, strips)
    strips = {d % x.ndim: s for d, s in strips.items() if s[:2] != (0, 0)}
    for d, (before, after, first, last) in strips.items():
        if before < 0 < after or after < 0 < before:
            x = _shift(x, d, before, after, first if before > 0 else last, moments)
        elif before < 0 or after < 0:
            start, stop = max(-before, 0), x.shape[d] - max(-after, 0)
            x = x.narrow(d, start, max(stop - start, 0))
    grow = {d: s for d, s in sorted(strips.items()) if min(s[:2]) >= 0}
    if not grow:
        return x

    shape = list(x.shape)
    for d, (before, after, _, _) in grow.items():
        shape[d] += before + after
    fills = {fill for s in grow.values() for width, fill in zip(s[:2], s[2:], strict=True) if width}
    only = next(iter(fills)) if len(fills) == 1 else None
    native = _NATIVE.get(str(only))
    if native is not None and _fits(x, grow, kept):
        return native(x, [*grow.get(3, (0, 0))[:2], *grow.get(2, (0, 0))[:2]])
    nhwc = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if nhwc else torch.contiguous_format
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)
    if isinstance(only, float):
        out.fill_(only)
    inner = out
    for d, (before, *_) in grow.items():
        inner = inner.narrow(d, before, x.shape[d])
    inner.copy_(x)
    if isinstance(only, float):
        return out

    # One dimension after the other: what the first wrote, corners take from.
    for d, (before, after, first, last) in grow.items():
        part = out
        for other, (b, *_) in grow.items():
            if other > d:
                part = part.narrow(other, b, x.shape[other])
        _, edge, cells = core_slices(x, kept, d)
        centre = part.narrow(d, before + edge, cells)
        ends = ((before, 0, -before, first), (after, before + x.shape[d], cells, last))
        for width, start, cell, fill in ends:
            if not width:
                continue
            strip = part.narrow(d, start, width)
            if isinstance(fill, float):
                strip.fill_(fill)
            elif isinstance(fill, str) and fill != "mean":
                strip.copy_(_beyond(centre, d, fill, cell, width))
            else:
                strip.copy_(_values(fill, strip, moments))
    return out


def _values(fill: Fill, strip: Tensor, moments: _Moments | None) -> Tensor:
    """What a fill that depends on no place puts into a strip."""
    if isinstance(fill, Noise) and fill.amplitude is not None:
        return fill.amplitude * fill(strip)
    if callable(fill) and not isinstance(fill, Noise):
        return fill(strip)
    assert moments is not None  # those of the channel were taken
    mean, deviation = moments
    return mean + deviation * fill(strip) if isinstance(fill, Noise) else mean


_NATIVE = {
    "reflect": torch.ops.aten.reflection_pad2d,
    "replicate": torch.ops.aten.replication_pad2d,
}
"""Rules that torch writes in one go on all sides."""


def _fits(x: Tensor, strips: Strips, kept: Borders) -> bool:
    """Whether torch's own padding writes these strips: narrow ones of an NCHW map."""
    return (
        x.ndim == 4
        and x.is_floating_point()
        and not x.requires_grad
        and set(strips) <= {2, 3}
        and all(max(s[:2]) < x.shape[d] for d, s in strips.items())
        and not any(map(any, kept.values()))
    )


def _beyond(x: Tensor, d: int, rule: str, first: int, width: int) -> Tensor:
    """Cells ``first`` … of a dimension beyond an edge; a view where they lie side by side."""
    size = x.shape[d]
    if rule == "circular" and width <= size:
        return x.narrow(d, 0 if first > 0 else size - width, width)
    if rule == "replicate":
        return x.narrow(d, 0 if first < 0 else size - 1, 1)
    if rule == "reflect" and width == 1 < size:
        return x.narrow(d, 1 if first < 0 else size - 2, 1)
    return x.index_select(d, source_index(rule, size, first, first + width, x.device))


def _of_channel(fill: Fill) -> bool:
    return fill == "mean" or isinstance(fill, Noise)


def _shift(
    x: Tensor, d: int, before: int, after: int, fill: Fill, moments: _Moments | None
) -> Tensor:
    """Crop one end of a dimension and extend the other, which sees what was cropped."""
    size = x.shape[d]
    start, stop = -before, size + after
    if isinstance(fill, str) and fill in COPYING:
        return x.index_select(d, source_index(fill, size, start, stop, x.device))
    wide = write_border(x, {d: (max(before, 0), max(after, 0), fill, fill)}, moments)
    return wide.narrow(d, max(-before, 0), stop - start)


def _channel_moments(x: Tensor, strips: Strips) -> _Moments:
    """Mean and standard deviation by channel over the map, which may be NCHW or NHWC."""
    dims = (-3, -2) if x.ndim - 3 in {d % x.ndim for d in strips} else (-2, -1)
    deviation, mean = torch.std_mean(x, dims, correction=0, keepdim=True)
    return mean, deviation


def core_slices(x: Tensor, before: Borders, d: int) -> tuple[int, int, int]:
    first, last = before.get(d, (0, 0))
    return d, first, x.shape[d] - first - last
