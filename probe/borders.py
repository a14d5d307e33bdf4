"""Border rules: what a network sees beyond the edge of a feature map.

One :class:`torch.overrides.TorchFunctionMode` sees every padded operation that a network makes,
whichever module makes it, as a call of one of torch's own functions. It writes the border itself
and calls the function without padding. The network and its weights stay untouched.
"""

from __future__ import annotations

import math
import operator
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from types import TracebackType
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from .errors import ProbeError, one_of
from .layers import glob

RULES: tuple[str, ...] = (
    "original",
    "zeros",
    "reflect",
    "replicate",
    "circular",
    "mean",
    "noise",
    "partial",
    "valid",
)
"""Names of the border rules that :func:`padding` takes."""

SIDES: tuple[str, ...] = ("top", "bottom", "left", "right")
"""Names of the sides of a feature map, in the order in which pads are written."""

Borders = Mapping[int, tuple[int, int]]
"""Cells to add before and after, by dimension; negative numbers crop."""

_COPYING = ("circular", "reflect", "replicate")


class _Noise:
    """Standard normal numbers for one call, each image of the batch from a stream of its own."""

    def __init__(self, seed: int, first: int, call: int, amplitude: float | None = None) -> None:
        self.seed, self.first, self.call, self.amplitude = seed, first, call, amplitude
        self._streams: list[torch.Generator] = []

    def __call__(self, like: Tensor) -> Tensor:
        while len(self._streams) < len(like):
            key = (self.seed, self.first + len(self._streams), self.call)
            state = np.random.SeedSequence(key).generate_state(1, np.uint64)
            self._streams.append(torch.Generator().manual_seed(int(state[0])))
        drawn = [
            torch.randn(like.shape[1:], generator=stream)
            for stream, _ in zip(self._streams, like, strict=False)
        ]
        return torch.stack(drawn).to(like)


Fill = str | float | _Noise
"""What one side of a border is filled with: a copying rule, ``mean``, noise, or a number."""


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


def extend(x: Tensor, borders: Borders, rule: str, *, seed: int = 0) -> Tensor:
    r"""Write a border around a tensor.

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
    wider than the tensor. The memory format is kept.

    Parameters
    ----------
    x : Tensor
        Of any shape with at least one cell in each dimension that is extended.
    borders : mapping of int to (int, int)
        By dimension, how many cells to add before and after; negative numbers crop.
    rule : str
        One of those above.
    seed : int
        Of ``noise``.

    Returns
    -------
    Tensor

    Raises
    ------
    ProbeError
        If there is no such rule.
    """
    one_of(rule, [r for r in RULES if r not in ("original", "partial", "valid")], "border rule")
    fill: Fill = {"zeros": 0.0, "noise": _Noise(seed, 0, 0)}.get(rule, rule)
    return _write(x, {d: (*widths, fill, fill) for d, widths in borders.items()})


_Strips = Mapping[int, tuple[int, int, Fill, Fill]]
"""By dimension: cells before and after, and what fills them."""


_Moments = tuple[Tensor, Tensor]


def _write(
    x: Tensor, strips: _Strips, moments: _Moments | None = None, kept: Borders | None = None
) -> Tensor:
    """Write strips around a tensor; ``kept`` cells at its ends are border that stays as it is."""
    kept = {d % x.ndim: cells for d, cells in (kept or {}).items()}
    if moments is None and any(_of_channel(fill) for s in strips.values() for fill in s[2:]):
        core = x
        for d in kept:
            core = core.narrow(*_core(core, kept, d))
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
    native = _NATIVE.get(next(iter(fills))) if len(fills) == 1 else None
    if native is not None and _fits(x, grow, kept):
        return native(x, [*grow.get(3, (0, 0))[:2], *grow.get(2, (0, 0))[:2]])
    nhwc = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if nhwc else torch.contiguous_format
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)
    uniform = len(fills) == 1 and isinstance(next(iter(fills)), float)
    if uniform:
        out.fill_(next(iter(fills)))
    inner = out
    for d, (before, *_) in grow.items():
        inner = inner.narrow(d, before, x.shape[d])
    inner.copy_(x)
    if uniform:
        return out

    # One dimension after the other: what the first wrote, corners take from.
    for d, (before, after, first, last) in grow.items():
        size = x.shape[d]
        part = out
        for other, (b, *_) in grow.items():
            if other > d:
                part = part.narrow(other, b, x.shape[other])
        inner_first, inner_last = kept.get(d, (0, 0))
        core = size - inner_first - inner_last
        centre = part.narrow(d, before + inner_first, core)
        for width, start, cell, fill in (
            (before, 0, -before, first),
            (after, before + size, core, last),
        ):
            if not width:
                continue
            strip = part.narrow(d, start, width)
            if isinstance(fill, float):
                strip.fill_(fill)
            elif fill in _COPYING:
                strip.copy_(_beyond(centre, d, fill, cell, width))
            else:
                mean, deviation = moments
                if fill == "mean":
                    strip.copy_(mean)
                elif fill.amplitude is None:
                    strip.copy_(mean + deviation * fill(strip))
                else:
                    strip.copy_(fill.amplitude * fill(strip))
    return out


_NATIVE = {
    "reflect": torch.ops.aten.reflection_pad2d,
    "replicate": torch.ops.aten.replication_pad2d,
}
"""Rules that torch writes in one go on all sides."""


def _fits(x: Tensor, strips: _Strips, kept: Borders) -> bool:
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
    return x.index_select(d, _source(rule, size, first, first + width, x.device))


def _of_channel(fill: Fill) -> bool:
    return fill == "mean" or isinstance(fill, _Noise)


def _shift(
    x: Tensor, d: int, before: int, after: int, fill: Fill, moments: _Moments | None
) -> Tensor:
    """Crop one end of a dimension and extend the other, which sees what was cropped."""
    size = x.shape[d]
    start, stop = -before, size + after
    if fill in _COPYING:
        return x.index_select(d, _source(fill, size, start, stop, x.device))
    wide = _write(x, {d: (max(before, 0), max(after, 0), fill, fill)}, moments)
    return wide.narrow(d, max(-before, 0), stop - start)


def _channel_moments(x: Tensor, strips: _Strips) -> _Moments:
    """Mean and standard deviation by channel over the map, which may be NCHW or NHWC."""
    dims = (-3, -2) if x.ndim - 3 in {d % x.ndim for d in strips} else (-2, -1)
    deviation, mean = torch.std_mean(x, dims, correction=0, keepdim=True)
    return mean, deviation


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


class Call(str):
    """A padded call, as ``where`` sees it: the path of the module that makes it, and more.

    Attributes
    ----------
    module : str
        The path, as in ``model.named_modules()``; the string itself. Empty in the model's own
        ``forward``, and where no module makes the call.
    function : str
        ``conv2d``, ``max_pool2d``, ``pad``, …
    kernel, stride : (int, int) or None
        Height and width.
    pad : (int, int, int, int)
        Cells of border at the top, bottom, left and right.
    """

    __slots__ = ("function", "kernel", "pad", "stride")

    function: str
    kernel: tuple[int, int] | None
    stride: tuple[int, int] | None
    pad: tuple[int, int, int, int]

    def __new__(
        cls,
        module: str,
        function: str,
        kernel: tuple[int, int] | None,
        stride: tuple[int, int] | None,
        pad: tuple[int, int, int, int],
    ) -> Self:
        call = super().__new__(cls, module)
        call.function, call.kernel, call.stride, call.pad = function, kernel, stride, pad
        return call

    @property
    def module(self) -> str:
        return str(self)

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells one call from another in a table."""
        return (str(self), self.function, self.kernel, self.stride, self.pad)


Where = str | Sequence[str] | Callable[[Call], bool]
"""Which calls a rule is for: globs over module paths, or a predicate."""


def _predicate(where: Where | None) -> Callable[[Call], bool] | None:
    if where is None or callable(where):
        return where
    patterns = [where] if isinstance(where, str) else list(where)
    if not all(isinstance(p, str) for p in patterns):
        raise ProbeError(f"where: expected module globs or a function of a call, got {where!r}")
    expressions = [glob(p) for p in patterns]

    def matches(call: Call) -> bool:
        parts = call.split(".")
        paths = [".".join(parts[:n]) for n in range(1, len(parts) + 1)]
        return any(e.fullmatch(path) for e in expressions for path in paths)

    return matches


class padding(TorchFunctionMode):
    r"""Run any network with its borders written by another rule.

    Inside the ``with`` block every padded convolution, transposed convolution, pooling,
    ``unfold``, ``fold`` and spatial ``pad``, in modules and in functional code alike, sees beyond
    the edge of its input what ``rule`` says rather than what the network was built with. Output
    sizes stay what they were, but for the two cases below. Blocks nest: for each call and side the
    innermost block that is for it decides. Other threads are not affected.

    ``circular``, ``reflect``, ``replicate``, ``mean``, ``noise``, ``zeros``
        See :func:`extend`. ``zeros`` writes zeros everywhere, also where max pooling pads with −∞
        and average pooling leaves the border out of its mean. Under ``circular`` and ``reflect``
        bilinear and bicubic upsampling by whole factors take their neighbours from there too.

        A torus closes only where a map of n cells becomes one of n / stride. Under ``circular``
        operations that drop cells instead (the unpadded convolutions of Inception's stem) go on
        reading across the edge, so that their outputs start where they did and are n / stride.
    ``partial``
        Partial convolution as padding: zeros, and the output weighted by the share of the kernel
        that lies on the map,
        :math:`y = \frac{|K|}{|K ∩ \mathrm{map}|}\,(W ∗ x) + b`, and :math:`b` where nothing does.
        Pooling leaves the border out; ``unfold`` and ``conv3d`` see zeros.
    ``valid``
        No padding: maps shrink. Where branches of different sizes are added, multiplied or
        concatenated, the larger one is cropped about its centre.
    ``original``
        What the network was built with.

    A ``pad`` is taken for a border if it pads height and width, both or one of them on both
    sides, of a map (B, C, H, W) or (B, H, W, C) by zeros, −∞ or another rule. Padded channels and
    tokens, a column of ones, one-sided padding of a single dimension (as in relative positions)
    and three-dimensional tensors padded by constants are none. Scripted and traced modules hide
    their calls and are not rewritten; :func:`probe.certify` tells.

    Parameters
    ----------
    rule : str
        One of :data:`RULES`.
    where : str, sequence of str or callable, optional
        Which calls the rule is for; all by default. Globs over module paths (``*`` within one
        dotted part, ``**`` across), which stand for everything inside the modules that they match;
        or a function that takes a :class:`Call`, which is the module's path as a string and
        knows its function, kernel, stride and pad, and returns whether the rule is for it.
    sides : str or sequence of str
        Which sides the rule is for, of ``top``, ``bottom``, ``left``, ``right``.
    seed : int
        Of ``noise``. The same seed gives the same noise at the same call of a block.
    first : int
        Number of the first image of the batch: image ``first + i`` has the same noise in whichever
        batch it comes.
    amplitude : float, optional
        Standard deviation of ``noise`` of mean 0, in place of each channel's own.
    close : bool
        Whether under ``circular`` unpadded operations read on across the edge.

    Attributes
    ----------
    rewritten : DataFrame
        What was rewritten: ``module`` (path), ``function``, ``kernel``, ``stride``, ``pad`` (top,
        bottom, left, right), ``calls``.
    padded : DataFrame
        Every padded call that was seen, rewritten or not; the same columns.

    Raises
    ------
    ProbeError
        If there is no such rule or side, a pattern can't be read, or, when the block ends, a
        network can't be run without padding.

    References
    ----------
    Innamorati et al. (2020), "Learning on the edge: investigating boundary filters in CNNs", IJCV
    128, for rules at borders; Liu et al. (2018), "Partial convolution based padding",
    arXiv 1811.11718, equations 1 to 3; Islam, Jia, Bruce (2020), arXiv 2001.08248, section 4.4,
    for networks without padding.

    Examples
    --------
    >>> with probe.padding("circular"):
    ...     features = model.forward_features(images)
    >>> with probe.padding("circular"), probe.padding("original", where="blocks.2"):
    ...     ...  # padding in blocks.2 alone
    >>> with probe.padding("circular", sides=("left", "right")) as mode:
    ...     ...  # a cylinder
    >>> mode.rewritten
    """

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
        close: bool = True,
    ) -> None:
        super().__init__()
        self.rule = one_of(rule, RULES, "border rule")
        self.where = _predicate(where)
        named = [sides] if isinstance(sides, str) else list(sides)
        self.sides = frozenset(one_of(side, SIDES, "side") for side in named)
        self.seed, self.first, self.amplitude, self.close = seed, first, amplitude, close
        self._padded: Counter[tuple[Any, ...]] = Counter()
        self._rewritten: Counter[tuple[Any, ...]] = Counter()
        self._drawn = 0
        # Borders that a ``pad`` wrote, until an operation reads them: cells and rules by side.
        self._borders = WeakIdKeyDictionary()
        # Maps of a single row or column that were larger, unlike gates that broadcast.
        self._shrunk = WeakIdKeyDictionary()
        self._names: Names = {}

    @property
    def rewritten(self) -> pd.DataFrame:
        return _table(self._rewritten)

    @property
    def padded(self) -> pd.DataFrame:
        return _table(self._padded)

    def __enter__(self) -> Self:
        self._stack().append(self)
        super().__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)
        self._stack().pop()
        self._borders.clear()
        self._shrunk.clear()
        self._names.clear()
        if self.rule == "valid" and isinstance(error, RuntimeError) and self._rewritten:
            what = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ProbeError(
                f"the network can't be run without padding (valid) on images of this size: {what}; "
                "choose a larger image size, or another variant if the network needs fixed sizes"
            ) from error

    def _stack(self) -> list[padding]:
        if not hasattr(self._thread, "stack"):
            self._thread.stack = []
        return self._thread.stack

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        # An outer block must not rewrite what an inner one has already settled.
        if getattr(self._thread, "settled", False):
            return func(*args, **kwargs)
        handler = _HANDLERS.get(func)
        if handler is None:
            return self._pass(func, args, kwargs)
        self._thread.settled = True
        try:
            out = handler(self, func, *args, **kwargs)
            if func in _SHRINKING and isinstance(out, Tensor):
                self._note_shrunk(args[0] if args else kwargs["input"], out)
            return out
        finally:
            self._thread.settled = False

    def _pass(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a function that pads nothing; keep track of borders that it hands on."""
        if self.rule == "valid" and func in _JOINS:
            args = _cropped(func, args, kwargs, self._shrunk)
        out = func(*args, **kwargs)
        known = [notes for notes in (self._borders, self._shrunk) if notes]
        if known and args and isinstance(out, Tensor) and isinstance(args[0], Tensor):
            for notes in known:
                note = notes.get(args[0])
                if note is not None and out.shape == args[0].shape:
                    notes[out] = note
        return out

    def _note_shrunk(self, x: Tensor, out: Tensor) -> None:
        for block in self._stack():
            if block.rule == "valid" and 1 in out.shape[-2:]:
                larger = any(o == 1 < n for o, n in zip(out.shape[-2:], x.shape[-2:], strict=True))
                if larger or x in block._shrunk:
                    block._shrunk[out] = True

    def _site(
        self,
        function: str,
        widths: Borders,
        kernel: tuple[int, int] | None = None,
        stride: tuple[int, int] | None = None,
    ) -> _Site:
        """Find out which rule each side of a call follows."""
        dims = (-3, -2) if -3 in widths else (-2, -1)
        rows, columns = (widths.get(d, (0, 0)) for d in dims)
        call = Call(module_path(self._names), function, kernel, stride, (*rows, *columns))
        blocks = [b for b in reversed(self._stack()) if b.where is None or b.where(call)]
        modes = [next((b for b in blocks if side in b.sides), None) for side in SIDES]
        return _Site(self, call, dims, modes)


Names = dict[int, tuple[nn.Module, dict[int, str]]]
"""Names of the modules inside the outermost ones that were seen, by identity."""


def module_path(names: Names) -> str:
    """Path of the innermost module whose code is running, in the outermost one that holds it.

    Python's own call stack knows it, also for methods other than ``forward``; hooks would be state
    left on the network.

    Parameters
    ----------
    names : dict
        Filled with the names of modules that were seen; the caller keeps it between calls.
    """
    modules = list(_running_modules())
    for outermost in reversed(modules):
        if id(outermost) not in names:
            inside = {id(module): name for name, module in outermost.named_modules()}
            names[id(outermost)] = (outermost, inside)
        inside = names[id(outermost)][1]
        if id(modules[0]) in inside:
            return inside[id(modules[0])]
    return ""


def _running_modules() -> Iterator[nn.Module]:
    """Modules whose methods are running in this thread, the innermost first."""
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_argcount and code.co_varnames[0] == "self":
            owner = frame.f_locals.get("self")
            if isinstance(owner, nn.Module):
                yield owner
        frame = frame.f_back


def _table(calls: Counter[tuple[Any, ...]]) -> pd.DataFrame:
    columns = ["module", "function", "kernel", "stride", "pad", "calls"]
    return pd.DataFrame([(*key, count) for key, count in calls.items()], columns=columns)


_NOTHING = ((0, 0, 0, 0), ("original",) * 4)


class _Site:
    """One padded call: the rule of each of its sides, and the writing of its border."""

    def __init__(
        self, mode: padding, call: Call, dims: tuple[int, int], modes: Sequence[padding | None]
    ) -> None:
        self.mode, self.call, self.dims = mode, call, dims
        self.rules = [m.rule if m else "original" for m in modes]
        self._modes = modes
        self._noise: dict[int, _Noise] = {}
        for m in modes:
            if m and m.rule == "noise" and id(m) not in self._noise:
                self._noise[id(m)] = _Noise(m.seed, m.first, m._drawn, m.amplitude)
                m._drawn += 1

    def record(self, padded: bool, widths: Borders, rewritten: Sequence[str] = SIDES) -> None:
        """Count the call in the tables of the blocks that saw it and of those that rewrite it."""
        rows, columns = (widths.get(d, (0, 0)) for d in self.dims)
        self.call.pad = (*rows, *columns)
        if padded:
            for block in self.mode._stack():
                block._padded[self.call.key] += 1
        at_work = {
            id(b): b
            for side, b, w in zip(SIDES, self._modes, self.call.pad, strict=True)
            if b and w and side in rewritten
        }
        for block in at_work.values():
            if block.rule != "original":
                block._rewritten[self.call.key] += 1

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
        found = {}
        for axis, d in enumerate(self.dims):
            before, after = widths.get(d, (0, 0))
            if self.rules[2 * axis] == "valid":
                before = min(before, 0)
            if self.rules[2 * axis + 1] == "valid":
                after = min(after, 0)
            found[d] = (before, after)
        return found

    def earlier(self, x: Tensor) -> tuple[dict[int, tuple[int, int]], dict[int, tuple[int, int]]]:
        """Cells at the edge of a map that a ``pad`` wrote: those to write anew, those to keep.

        Only sides with the same rule then and now; what another rule wrote belongs to the map.
        """
        cells, rules = self.mode._borders.get(x) or _NOTHING
        anew, kept = [0] * 4, [0] * 4
        for side, (width, rule, own) in enumerate(zip(cells, rules, self.rules, strict=True)):
            if rule == own:
                (kept if own == "original" else anew)[side] = width
        rows, columns = self.dims
        return tuple({rows: (c[0], c[1]), columns: (c[2], c[3])} for c in (anew, kept))

    def wrote(self, x: Tensor, out: Tensor, widths: Borders) -> None:
        """Remember the border that a ``pad`` gave to a map."""
        cells, rules = map(list, self.mode._borders.get(x) or _NOTHING)
        for side, own in enumerate(self.rules):
            added = widths.get(self.dims[side // 2], (0, 0))[side % 2]
            if added > 0 and rules[side] != own:
                cells[side], rules[side] = 0, own
            cells[side] = max(cells[side] + added, 0)
        self.mode._borders[out] = (cells, rules)

    def fill(self, side: int, own: Fill, partial: Fill) -> Fill:
        rule = self.rules[side]
        if rule == "noise":
            return self._noise[id(self._modes[side])]
        return {"original": own, "partial": partial, "valid": own, "zeros": 0.0}.get(rule, rule)

    def extend(self, x: Tensor, widths: Borders, own: Fill = 0.0, partial: Fill = 0.0) -> Tensor:
        """Write the border: ``own`` where the network's own padding stays."""
        before, kept = self.earlier(x)
        if any(map(any, before.values())):
            # The map that a ``pad`` extended is what the rules are about.
            x = x.narrow(*_core(x, before, self.dims[0]))
            x = x.narrow(*_core(x, before, self.dims[1]))
            widths = {d: _sum(widths.get(d, (0, 0)), before[d]) for d in self.dims}
        strips = {}
        for axis, d in enumerate(self.dims):
            first, last = (self.fill(2 * axis + end, own, partial) for end in (0, 1))
            strips[d] = (*widths.get(d, (0, 0)), first, last)
        return _write(x, strips, kept=kept)

    def covered(self, x: Tensor, widths: Borders, own: float) -> Tensor:
        """1 where the extended map counts, 0 where it does not, shape (1, 1, H, W).

        Borders of the rule ``partial`` do not; ``own`` says whether the network's own do.
        """
        before, kept = self.earlier(x)
        height, width = x.shape[-2:]
        (t, b), (le, r) = before.values()
        dtype = torch.promote_types(x.dtype, torch.float32)  # counts exactly
        ones = x.new_ones((1, 1, height - t - b, width - le - r), dtype=dtype)
        strips = {}
        for axis, d in enumerate(self.dims):
            fills = []
            for end in (0, 1):
                rule = self.rules[2 * axis + end]
                known = {"original": own, "valid": own, "partial": 0.0}
                fills.append(rule if rule in _COPYING else known.get(rule, 1.0))
            strips[d] = (*_sum(widths.get(d, (0, 0)), before[d]), *fills)
        return _write(ones, strips, kept=kept)


def _core(x: Tensor, before: Borders, d: int) -> tuple[int, int, int]:
    first, last = before.get(d, (0, 0))
    return d, first, x.shape[d] - first - last


def _sum(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    return a[0] + b[0], a[1] + b[1]


# ---------------------------------------------------------------- one handler for each function


def _window(
    block: padding,
    function: str,
    x: Tensor,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    widths: Sequence[tuple[int, int]],
) -> tuple[_Site | None, dict[int, tuple[int, int]]]:
    """Site and borders of a sliding window; no site where there is nothing to write.

    On a ring of n cells an unpadded operation has n / stride windows, too. A window as large as the
    map looks at all of it and has no ring to go around; a map that a ``pad`` extended was fitted
    to what follows.
    """
    borders = dict(zip((-2, -1), widths, strict=True))
    rings = dict(borders)
    if x not in block._borders and any(b.rule == "circular" and b.close for b in block._stack()):
        for d, k, s, gap in zip((-2, -1), kernel, stride, dilation, strict=True):
            size, reach = x.shape[d], gap * (k - 1) + 1
            if borders[d] == (0, 0) and size % s == 0 and s < reach < size:
                windows = (size - reach) // s + 1
                rings[d] = (0, (size // s - windows) * s)
    padded = any(width > 0 for pair in widths for width in pair)
    if not padded and rings == borders:
        return None, borders
    site = block._site(function, borders if padded else rings, kernel, stride)
    wanted = {d: (rings if site.circular(axis) else borders)[d] for axis, d in enumerate((-2, -1))}
    if not padded and wanted == borders:
        return None, borders
    site.record(padded, wanted)
    return site, site.widths(wanted)


def _partial_after_pad(
    block: padding,
    function: str,
    x: Tensor,
    kernel: tuple[int, int],
    stride: tuple[int, int],
) -> _Site | None:
    """Site of an unpadded operation that reads the border of a ``pad`` under ``partial``."""
    found = block._borders.get(x)
    if found is None or not any(b.rule == "partial" for b in block._stack()):
        return None
    (top, bottom, left, right), _ = found
    return block._site(function, {-2: (top, bottom), -1: (left, right)}, kernel, stride)


def _conv2d(
    block: padding,
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
    strides, gaps = _pair(stride), _pair(dilation)
    if padding == "valid":
        widths = [(0, 0), (0, 0)]
    elif padding == "same":
        totals = [d * (k - 1) for d, k in zip(gaps, kernel, strict=True)]
        widths = [(t // 2, t - t // 2) for t in totals]
    else:
        widths = [(p, p) for p in _pair(padding)]
    site, borders = _window(block, "conv2d", input, kernel, strides, gaps, widths)
    if site is None:
        site = _partial_after_pad(block, "conv2d", input, kernel, strides)
    if site is None or site.zeros:
        return func(input, weight, bias, stride, padding, dilation, groups)
    wide = site.extend(input, borders)
    if not site.has("partial"):
        return func(wide, weight, bias, stride, 0, dilation, groups)
    out = func(wide, weight, None, stride, 0, dilation, groups)
    mask = site.covered(input, borders, 1.0)
    window = mask.new_ones((1, 1, *kernel))
    covered = func(mask, window, None, stride, 0, dilation)
    return _weighted(out, kernel[0] * kernel[1], covered, bias)


def _conv3d(
    block: padding,
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
    # Over maps whose values are vectors (B, C, H, W, V), as lambda layers have them.
    pads = (padding,) * 3 if isinstance(padding, int) else padding
    site = None
    if not isinstance(pads, str) and any(pads[:2]) and not pads[2]:
        borders = {-3: (pads[0], pads[0]), -2: (pads[1], pads[1])}
        kernel = (int(weight.shape[-3]), int(weight.shape[-2]))
        strides = (stride,) * 3 if isinstance(stride, int) else stride
        site = block._site("conv3d", borders, kernel, tuple(strides[:2]))
        site.record(True, borders)
    if site is None or site.untouched:
        return func(input, weight, bias, stride, padding, dilation, groups)
    return func(site.extend(input, site.widths(borders)), weight, bias, stride, 0, dilation, groups)


def _scaled(out: Tensor, share: Tensor) -> Tensor:
    """Multiply a map, batched or not, by a number for each place."""
    return out * share.reshape(share.shape[-2:]).to(out.dtype)


def _weighted(out: Tensor, full: Tensor | int, covered: Tensor, bias: Tensor | None) -> Tensor:
    """Partial convolution: ``out · full / covered + bias``, and ``bias`` where nothing is."""
    share = torch.where(covered > 0, full / covered.clamp(min=1), 0.0)
    out = _scaled(out, share)
    return out if bias is None else out + bias.view(-1, 1, 1)


def _conv_transpose2d(
    block: padding,
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
    strides, crops, gaps = _pair(stride), _pair(padding), _pair(dilation)
    outer = _pair(output_padding)
    more = []
    for k, s, p, o, d in zip(kernel, strides, crops, outer, gaps, strict=True):
        more.append(max(0, (d * (k - 1) + o - p) // s))
    borders = {-2: (more[0], more[0]), -1: (more[1], more[1])}
    site = None
    if any(more):
        site = block._site("conv_transpose2d", borders, kernel, strides)
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
        return _weighted(out, full, covered, bias)
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


def _pool_stride(kernel: Any, stride: Any) -> Any:
    return kernel if stride is None or stride == [] else stride


def _pool_widths(
    input: Tensor, kernel: Any, stride: Any, pad: Any, dilation: Any, ceil: bool
) -> tuple[list[tuple[int, int]], list[int]]:
    """Cells that a pooling reads beyond the edge, and how many of those after are past its pad."""
    widths, extras = [], []
    for dim, k, s, p, d in zip(
        (-2, -1), _pair(kernel), _pair(stride), _pair(pad), _pair(dilation), strict=True
    ):
        extra = _ceil_extra(input.shape[dim], k, s, p, d, ceil)
        widths.append((p, p + extra))
        extras.append(extra)
    return widths, extras


def _max_pool2d(
    block: padding,
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
    windows = _pair(kernel_size), _pair(stride), _pair(dilation)
    site, borders = _window(block, "max_pool2d", input, *windows, widths)
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
    strips = {}
    for axis, d in enumerate((-2, -1)):
        rules = site.rules[2 * axis : 2 * axis + 2]
        strips[d] = (*borders[d], *(r if r in _COPYING else "replicate" for r in rules))
    return pooled[0], _write(cells, strips).reshape(-1)[pooled[1]]


def _avg_pool2d(
    block: padding,
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
    windows = _pair(kernel_size), _pair(stride), (1, 1)
    site, borders = _window(block, "avg_pool2d", input, *windows, widths)
    if site is None:
        site = _partial_after_pad(block, "avg_pool2d", input, *windows[:2])
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
    strips = {}
    for axis, d in enumerate((-2, -1)):
        whole = site.rules[2 * axis + 1] not in ("original", "partial")
        strips[d] = (*beyond[d], 0.0, float(whole))
    share = func(_write(counted, strips), kernel_size, stride, 0, False, True)
    return _scaled(out, torch.where(share > 0, 1 / share, 0))


def _lp_pool2d(
    block: padding,
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
    windows = _pair(kernel_size), _pair(stride), (1, 1)
    site, borders = _window(block, "lp_pool2d", input, *windows, widths)
    if site is None:
        site = _partial_after_pad(block, "lp_pool2d", input, *windows[:2])
    if site is None or site.untouched:
        return func(input, norm_type, kernel_size, stride, ceil_mode)
    out = func(site.extend(input, borders), norm_type, kernel_size, stride, False)
    if not (site.has("original") or site.has("partial")):
        return out
    # Windows that reach past the edge count for more, as torch does it.
    counted = F.avg_pool2d(site.covered(input, borders, 0.0), kernel_size, stride)
    return _scaled(out, torch.where(counted > 0, 1 / counted, 0) ** (1 / norm_type))


def _unfold(
    block: padding,
    func: Callable[..., Tensor],
    /,
    input: Tensor,
    kernel_size: Any,
    dilation: Any = 1,
    padding: Any = 0,
    stride: Any = 1,
) -> Tensor:
    borders = {d: (p, p) for d, p in zip((-2, -1), _pair(padding), strict=True)}
    site = None
    if borders != {-2: (0, 0), -1: (0, 0)}:
        site = block._site("unfold", borders, _pair(kernel_size), _pair(stride))
        site.record(True, borders)
    if site is None or site.zeros:
        return func(input, kernel_size, dilation, padding, stride)
    wide = site.extend(input, site.widths(borders))
    return func(wide, kernel_size, dilation, 0, stride)


def _fold(
    block: padding,
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
    pads, size = _pair(padding), _pair(output_size)
    borders = {d: (p, p) for d, p in zip((-2, -1), pads, strict=True)}
    rings = [False, False]
    if any(pads):
        site = block._site("fold", borders, _pair(kernel_size), _pair(stride))
        rings = [bool(p) and site.circular(axis) for axis, p in enumerate(pads)]
        site.record(True, borders, [side for i, side in enumerate(SIDES) if rings[i // 2]])
    if not any(rings):
        return func(input, output_size, kernel_size, dilation, padding, stride)
    wide_size = [n + 2 * p if ring else n for n, p, ring in zip(size, pads, rings, strict=True)]
    kept = [0 if ring else p for p, ring in zip(pads, rings, strict=True)]
    out = func(input, wide_size, kernel_size, dilation, kept, stride)
    for d, n, p, ring in zip((-2, -1), size, pads, rings, strict=True):
        if ring:
            cells = _source("circular", n, -p, n + p, out.device)
            shape = list(out.shape)
            shape[d] = n
            out = out.new_zeros(shape).index_add_(d % out.ndim, cells, out)
    return out


def _pad(
    block: padding,
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
    site = block._site("pad", widths)
    site.record(True, widths)
    if site.untouched:
        out = func(input, pad, mode, value)
    else:
        own: Fill = float(value or 0.0) if mode == "constant" else mode
        partial = own if own == -math.inf else 0.0
        kept = site.widths(widths)
        out = site.extend(input, kept, own, partial)
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


def _interpolate(
    block: padding,
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
    if max(times) == 1:
        return plain()
    site = block._site("interpolate", borders)
    if not (site.has("circular") or site.has("reflect")):
        return plain()
    site.record(True, borders)
    strips = {}
    for axis, d in enumerate((-2, -1)):
        rules = site.rules[2 * axis : 2 * axis + 2]
        # By itself, upsampling repeats the edge.
        fills = (r if r in ("circular", "reflect") else "replicate" for r in rules)
        strips[d] = (*borders[d], *fills)
    wide = _write(input, strips)
    goal = tuple(n * t for n, t in zip(wide.shape[-2:], times, strict=True))
    wide = func(wide, goal, None, mode, False, None, False)
    for d, t, w in zip((-2, -1), times, wanted, strict=True):
        wide = wide.narrow(d, borders[d][0] * t, w)
    return wide


_HANDLERS: dict[Callable[..., Any], Callable[..., Any]] = {
    F.conv2d: _conv2d,
    F.conv3d: _conv3d,
    F.conv_transpose2d: _conv_transpose2d,
    F.max_pool2d: _max_pool2d,
    torch.max_pool2d: _max_pool2d,
    F.max_pool2d_with_indices: _max_pool2d,
    F.avg_pool2d: _avg_pool2d,
    F.lp_pool2d: _lp_pool2d,
    F.unfold: _unfold,
    F.fold: _fold,
    F.pad: _pad,
    F.interpolate: _interpolate,
}

_SHRINKING = (F.conv2d, F.max_pool2d, torch.max_pool2d)
"""Functions that make small maps, but no gates."""


# ---------------------------------------------------------------- where shrunken branches meet

_BINARY = (
    *("add", "sub", "subtract", "mul", "multiply", "div", "divide", "true_divide"),
    *("maximum", "minimum", "max", "min", "lerp", "addcmul", "where"),
)
_JOINS = frozenset(
    getattr(place, name + end)
    for place in (torch, Tensor)
    for name in _BINARY
    for end in ("", "_")
    if hasattr(place, name + end)
) | {torch.cat, torch.concat, torch.concatenate, torch.stack}


def _cropped(
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    shrunk: Mapping[Tensor, bool],
) -> tuple[Any, ...]:
    """Crop the maps that a function joins about their centres to the size of the smallest."""
    listed = bool(args) and isinstance(args[0], list | tuple)
    items = list(args[0]) if listed else list(args)
    maps = [item for item in items if isinstance(item, Tensor) and item.ndim == 4]
    if len(maps) < 2:
        return args
    dims = [1, 2, 3]
    if listed and func is not torch.stack:
        named = kwargs.get("dim", kwargs.get("axis", args[1] if len(args) > 1 else 0))
        dims = [d for d in dims if d != named % 4]
    for d in dims:
        # What is joined end to end does not broadcast, nor does what shrank to one cell.
        sizes = {m.shape[d] for m in maps if listed or m.shape[d] > 1 or m in shrunk}
        if len(sizes) < 2:
            continue
        least = min(sizes)
        for place, item in enumerate(items):
            if isinstance(item, Tensor) and item.ndim == 4 and item.shape[d] > least:
                items[place] = item.narrow(d, (item.shape[d] - least) // 2, least)
    return (items, *args[1:]) if listed else tuple(items)
