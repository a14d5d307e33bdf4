"""One padded call and the border that it writes: what all rewritten functions share."""

from __future__ import annotations

import operator
import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from ..errors import one_of
from .calls import Call, Names, Where, as_predicate, calls_table, module_path
from .fills import COPYING, Borders, Fill, Noise, Strips, core_slices, write_border
from .rules import RULES, SIDES


def as_pair(value: Any) -> tuple[int, int]:
    try:
        side = operator.index(value)
    except TypeError:
        items = tuple(operator.index(v) for v in value)
    else:
        return side, side
    return (items[0], items[0]) if len(items) == 1 else (items[0], items[1])


def ceil_extra(size: int, kernel: int, stride: int, pad: int, dilation: int, ceil: bool) -> int:
    """Cells past the padded edge that the last window of a pooling with ``ceil_mode`` reads."""
    reach = dilation * (kernel - 1) + 1
    span = size + 2 * pad - reach
    if not ceil or span % stride == 0:
        return 0
    outputs = -(-span // stride) + 1
    if (outputs - 1) * stride >= size + pad:  # torch drops windows that start beyond the edge
        return 0
    return (outputs - 1) * stride + reach - (size + 2 * pad)


_NOTHING = ((0, 0, 0, 0), ("original",) * 4)


class Site:
    """One padded call: the rule of each of its sides, and the writing of its border."""

    def __init__(
        self,
        mode: BorderBlock,
        call: Call,
        dims: tuple[int, int],
        modes: Sequence[BorderBlock | None],
    ) -> None:
        self.mode, self.call, self.dims = mode, call, dims
        self.rules = [m.rule if m else "original" for m in modes]
        self._modes = modes
        noisy = dict.fromkeys(m for m in modes if m and m.rule == "noise")
        self._noise = {m: m.next_noise() for m in noisy}

    def record(self, padded: bool, widths: Borders, rewritten: Sequence[str] = SIDES) -> None:
        """Count the call in the tables of the blocks that saw it and of those that rewrite it."""
        rows, columns = (widths.get(d, (0, 0)) for d in self.dims)
        self.call.pad = (*rows, *columns)
        if padded:
            for block in self.mode.stack():
                block.padded_calls[self.call.key] += 1
        sides = zip(SIDES, self._modes, self.call.pad, strict=True)
        for block in {b for side, b, width in sides if b and width and side in rewritten}:
            if block.rule != "original":
                block.rewritten_calls[self.call.key] += 1

    @property
    def untouched(self) -> bool:
        return all(rule == "original" for rule in self.rules)

    @property
    def zeros(self) -> bool:
        """Whether a call whose own border is zeros can stay as it is."""
        return all(rule in ("original", "zeros") for rule in self.rules)

    def circular(self, axis: int) -> bool:
        """Whether rows (0) or columns (1) are a ring."""
        return self.rules[2 * axis] == self.rules[2 * axis + 1] == "circular"

    def has(self, rule: str) -> bool:
        return rule in self.rules

    def widths(self, widths: Borders) -> dict[int, tuple[int, int]]:
        """Leave out what the rule ``valid`` does not pad."""
        padded = {}
        for axis, d in enumerate(self.dims):
            ends = zip(widths.get(d, (0, 0)), self.rules[2 * axis : 2 * axis + 2], strict=True)
            before, after = (min(w, 0) if rule == "valid" else w for w, rule in ends)
            padded[d] = (before, after)
        return padded

    def strips(self, widths: Borders, fills: Sequence[Fill]) -> Strips:
        """Strips of these widths, filled by what there is for each side."""
        ends = zip(self.dims, fills[::2], fills[1::2], strict=True)
        return {d: (*widths.get(d, (0, 0)), first, last) for d, first, last in ends}

    def earlier(self, x: Tensor) -> tuple[dict[int, tuple[int, int]], dict[int, tuple[int, int]]]:
        """Cells at the edge of a map that a ``pad`` wrote: those to write anew, those to keep.

        Only sides with the same rule then and now; what another rule wrote belongs to the map.
        """
        cells, rules = self.mode.borders.get(x) or _NOTHING
        anew, kept = [0] * 4, [0] * 4
        for side, (width, then, now) in enumerate(zip(cells, rules, self.rules, strict=True)):
            if then == now:
                (kept if now == "original" else anew)[side] = width
        rows, columns = self.dims
        first, second = ({rows: (c[0], c[1]), columns: (c[2], c[3])} for c in (anew, kept))
        return first, second

    def wrote(self, x: Tensor, out: Tensor, widths: Borders) -> None:
        """Remember the border that a ``pad`` gave to a map."""
        cells, rules = map(list, self.mode.borders.get(x) or _NOTHING)
        for side, rule in enumerate(self.rules):
            added = widths.get(self.dims[side // 2], (0, 0))[side % 2]
            if added > 0 and rules[side] != rule:
                cells[side], rules[side] = 0, rule
            cells[side] = max(cells[side] + added, 0)
        self.mode.borders[out] = (cells, rules)

    def extend(
        self, x: Tensor, widths: Borders, original: Fill = 0.0, partial: Fill = 0.0
    ) -> Tensor:
        """Write the border: ``original`` where the padding stays that the network came with."""
        before, kept = self.earlier(x)
        if any(map(any, before.values())):
            # The map that a ``pad`` extended is what the rules are about.
            x = x.narrow(*core_slices(x, before, self.dims[0]))
            x = x.narrow(*core_slices(x, before, self.dims[1]))
            widths = self._add(widths, before)
        fills: list[Fill] = []
        for block, rule in zip(self._modes, self.rules, strict=True):
            fill = self._noise[block] if block in self._noise else RULES[rule].fill
            if fill is None:
                fill = partial if rule == "partial" else original
            fills.append(fill)
        return write_border(x, self.strips(widths, fills), kept=kept)

    def _add(self, widths: Borders, more: Borders) -> Borders:
        pairs = {d: zip(widths.get(d, (0, 0)), more[d], strict=True) for d in self.dims}
        return {d: (sum(first), sum(last)) for d, (first, last) in pairs.items()}

    def covered(self, x: Tensor, widths: Borders, original: float) -> Tensor:
        """1 where the extended map counts, 0 where it does not, shape (1, 1, H, W).

        Borders of the rule ``partial`` do not; ``original`` says whether the network's own do.
        """
        before, kept = self.earlier(x)
        height, width = x.shape[-2:]
        (t, b), (le, r) = before.values()
        dtype = torch.promote_types(x.dtype, torch.float32)  # counts exactly
        ones = x.new_ones((1, 1, height - t - b, width - le - r), dtype=dtype)
        known = {"original": original, "valid": original, "partial": 0.0}
        fills = [rule if rule in COPYING else known.get(rule, 1.0) for rule in self.rules]
        return write_border(ones, self.strips(self._add(widths, before), fills), kept=kept)


def window_of(
    block: BorderBlock,
    function: str,
    x: Tensor,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    widths: Sequence[tuple[int, int]],
) -> tuple[Site | None, dict[int, tuple[int, int]]]:
    """Site and borders of a sliding window; no site where there is nothing to write.

    On a ring of n cells an unpadded operation has n / stride windows, too. A window as large as the
    map looks at all of it and has no ring to go around; a map that a ``pad`` extended was fitted
    to what follows.
    """
    borders = dict(zip((-2, -1), widths, strict=True))
    if max(stride) > 1:
        block.note_step(function, x, kernel, stride, dilation, widths)
    rings = dict(borders)
    wraps = any(b.rule == "circular" and b.wrap_unpadded for b in block.stack())
    if wraps and x not in block.borders:
        for d, k, s, gap in zip((-2, -1), kernel, stride, dilation, strict=True):
            size, reach = x.shape[d], gap * (k - 1) + 1
            if borders[d] == (0, 0) and size % s == 0 and s < reach < size:
                windows = (size - reach) // s + 1
                rings[d] = (0, (size // s - windows) * s)
    padded = any(width > 0 for pair in widths for width in pair)
    if not padded and rings == borders:
        return None, borders
    site = block.site(function, borders if padded else rings, kernel, stride)
    wanted = {d: (rings if site.circular(axis) else borders)[d] for axis, d in enumerate((-2, -1))}
    if not padded and wanted == borders:
        return None, borders
    site.record(padded, wanted)
    return site, site.widths(wanted)


def partial_after_pad(
    block: BorderBlock, function: str, x: Tensor, kernel: tuple[int, int], stride: tuple[int, int]
) -> Site | None:
    """Site of an unpadded operation that reads the border of a ``pad`` under ``partial``."""
    earlier = block.borders.get(x)
    if earlier is None or not any(b.rule == "partial" for b in block.stack()):
        return None
    (top, bottom, left, right), _ = earlier
    return block.site(function, {-2: (top, bottom), -1: (left, right)}, kernel, stride)


def scale_partial(out: Tensor, share: Tensor) -> Tensor:
    """Multiply a map, batched or not, by a number for each place."""
    return out * share.reshape(share.shape[-2:]).to(out.dtype)


def reweigh_partial(
    out: Tensor, full: Tensor | int, covered: Tensor, bias: Tensor | None
) -> Tensor:
    """Partial convolution: ``out · full / covered + bias``, and ``bias`` where nothing is."""
    share = torch.where(covered > 0, full / covered.clamp(min=1), 0.0)
    out = scale_partial(out, share)
    return out if bias is None else out + bias.view(-1, 1, 1)


class Step(NamedTuple):
    """How a strided operation with padding goes over its input.

    ``size`` are rows and columns of the map without its border, ``pad`` the cells of border at the
    top, bottom, left and right, ``unread`` the rows at the bottom and the columns at the right
    that no window reads: (size + pads − reach of the kernel) mod stride.
    """

    module: str
    function: str
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    size: tuple[int, ...]
    pad: tuple[int, ...]
    unread: tuple[int, ...]

    @property
    def consumed(self) -> bool:
        """Whether windows read all of the padding."""
        return not any(self.unread)

    @property
    def even(self) -> bool:
        """Whether windows read as much of it on opposite sides."""
        ends = zip(self.pad[::2], self.pad[1::2], self.unread, strict=True)
        return all(first == last - unread for first, last, unread in ends)


class BorderBlock:
    """What one ``with`` block asks for and has seen; see :class:`~probe.borders.mode.padding`."""

    _thread = threading.local()

    def __init__(
        self,
        rule: str,
        where: Where | None = None,
        sides: str | Sequence[str] = SIDES,
        *,
        seed: int = 0,
        first: int = 0,
        amplitude: float | None = None,
        wrap_unpadded: bool = True,
    ) -> None:
        self.rule = one_of(rule, RULES, "border rule")
        self.where = as_predicate(where)
        self.patterns = None if where is None or callable(where) else where
        self.matched = False
        chosen = [sides] if isinstance(sides, str) else list(sides)
        self.sides = frozenset(one_of(side, SIDES, "side") for side in chosen)
        self.seed, self.first, self.amplitude = seed, first, amplitude
        self.wrap_unpadded = wrap_unpadded
        self.padded_calls: Counter[tuple[Any, ...]] = Counter()
        self.rewritten_calls: Counter[tuple[Any, ...]] = Counter()
        self.steps: Counter[Step] = Counter()
        self._drawn = 0
        # Borders that a ``pad`` wrote, until an operation reads them: cells and rules by side.
        self.borders = WeakIdKeyDictionary()
        # Maps of a single row or column that were larger, unlike gates that broadcast.
        self.shrunk = WeakIdKeyDictionary()
        self._names: Names = {}

    @property
    def rewritten(self) -> pd.DataFrame:
        return calls_table(self.rewritten_calls)

    @property
    def padded(self) -> pd.DataFrame:
        return calls_table(self.padded_calls)

    def stack(self) -> list[BorderBlock]:
        if not hasattr(self._thread, "stack"):
            self._thread.stack = []
        return self._thread.stack

    def note_step(
        self,
        function: str,
        x: Tensor,
        kernel: tuple[int, int],
        stride: tuple[int, int],
        dilation: tuple[int, int],
        widths: Sequence[tuple[int, int]],
    ) -> None:
        """Remember how a strided operation uses its padding, own or written by a ``pad`` before."""
        cells, _ = self.borders.get(x) or _NOTHING
        (top, bottom), (left, right) = widths
        own = (top, bottom, left, right)
        pad = tuple(a + b for a, b in zip(own, cells, strict=True))
        if not any(pad):
            return
        before = zip((-2, -1), cells[::2], cells[1::2], strict=True)
        size = tuple(int(x.shape[d]) - first - last for d, first, last in before)
        reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
        ends = zip(size, pad[::2], pad[1::2], reach, stride, strict=True)
        unread = tuple((n + first + last - k) % s for n, first, last, k, s in ends)
        self.steps[Step(module_path(self._names), function, kernel, stride, size, pad, unread)] += 1

    def next_noise(self) -> Noise:
        self._drawn += 1
        return Noise(self.seed, self.first, self._drawn - 1, self.amplitude)

    def site(
        self,
        function: str,
        widths: Borders,
        kernel: tuple[int, int] | None = None,
        stride: tuple[int, int] | None = None,
    ) -> Site:
        """Find out which rule each side of a call follows."""
        dims = (-3, -2) if -3 in widths else (-2, -1)
        rows, columns = (widths.get(d, (0, 0)) for d in dims)
        call = Call(module_path(self._names), function, kernel, stride, (*rows, *columns))
        blocks = [b for b in reversed(self.stack()) if b.where is None or b.where(call)]
        for block in blocks:
            block.matched = True
        modes = [next((b for b in blocks if side in b.sides), None) for side in SIDES]
        return Site(self, call, dims, modes)
