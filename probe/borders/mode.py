"""Border rules: what a network sees beyond the edge of a feature map.

One :class:`torch.overrides.TorchFunctionMode` sees every padded operation that a network makes,
whichever module makes it, as a call of one of torch's own functions. It writes the border itself
and calls the function without padding. The network and its weights stay untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..errors import ProbeError
from ..text import first_line
from .pads import rewrite_interpolate, rewrite_pad
from .pools import rewrite_avg_pool2d, rewrite_lp_pool2d, rewrite_max_pool2d
from .site import BorderBlock
from .windows import (
    rewrite_conv2d,
    rewrite_conv3d,
    rewrite_conv_transpose2d,
    rewrite_fold,
    rewrite_unfold,
)


class padding(BorderBlock, TorchFunctionMode):
    r"""Run any network with its borders written by another rule.

    Inside the ``with`` block every padded convolution, transposed convolution, pooling,
    ``unfold``, ``fold`` and spatial ``pad``, in modules and in functional code alike, sees beyond
    the edge of its input what ``rule`` says rather than what the network was built with. Output
    sizes stay what they were, but for the two cases below. Blocks nest: for each call and side the
    innermost block whose ``where`` and ``sides`` match applies. Other threads are not affected.

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
        or a function that takes a :class:`Call` and returns whether the rule is for it.
    sides : str or sequence of str
        Which sides the rule is for, of ``top``, ``bottom``, ``left``, ``right``.
    seed : int
        Of ``noise``. The same seed gives the same noise at the same call of a block.
    first : int
        Number of the first image of the batch: image ``first + i`` has the same noise in whichever
        batch it comes.
    amplitude : float, optional
        Standard deviation of ``noise`` of mean 0, in place of each channel's own.
    wrap_unpadded : bool
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

    def __enter__(self) -> Self:
        self.stack().append(self)
        super().__enter__()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        super().__exit__(kind, error, trace)
        self.stack().pop()
        self.borders.clear()
        self.shrunk.clear()
        self._names.clear()
        if error is None and self.patterns is not None and self.padded_calls and not self.matched:
            seen = ", ".join(dict.fromkeys(str(key[0]) or "(forward)" for key in self.padded_calls))
            raise ProbeError(
                f"where: no padded call was made in {self.patterns!r}; those that were: {seen}"
            )
        if self.rule == "valid" and isinstance(error, RuntimeError) and self.rewritten_calls:
            raise ProbeError(
                "the network can't be run without padding (valid) on images of this size: "
                f"{first_line(error)}; choose a larger image size, or another variant if the "
                "network needs fixed sizes"
            ) from error

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
            args = _crop_joined(func, args, kwargs, self.shrunk)
        out = func(*args, **kwargs)
        known = [notes for notes in (self.borders, self.shrunk) if notes]
        if known and args and isinstance(out, Tensor) and isinstance(args[0], Tensor):
            for notes in known:
                note = notes.get(args[0])
                if note is not None and out.shape == args[0].shape:
                    notes[out] = note
        return out

    def _note_shrunk(self, x: Tensor, out: Tensor) -> None:
        for block in self.stack():
            if block.rule == "valid" and 1 in out.shape[-2:]:
                larger = any(o == 1 < n for o, n in zip(out.shape[-2:], x.shape[-2:], strict=True))
                if larger or x in block.shrunk:
                    block.shrunk[out] = True


_HANDLERS: dict[Callable[..., Any], Callable[..., Any]] = {
    F.conv2d: rewrite_conv2d,
    F.conv3d: rewrite_conv3d,
    F.conv_transpose2d: rewrite_conv_transpose2d,
    F.max_pool2d: rewrite_max_pool2d,
    torch.max_pool2d: rewrite_max_pool2d,
    F.max_pool2d_with_indices: rewrite_max_pool2d,
    F.avg_pool2d: rewrite_avg_pool2d,
    F.lp_pool2d: rewrite_lp_pool2d,
    F.unfold: rewrite_unfold,
    F.fold: rewrite_fold,
    F.pad: rewrite_pad,
    F.interpolate: rewrite_interpolate,
}

_SHRINKING = (F.conv2d, F.max_pool2d, torch.max_pool2d)
"""Functions that make small maps, but no gates."""

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


def _crop_joined(
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
        along = kwargs.get("dim", kwargs.get("axis", args[1] if len(args) > 1 else 0))
        dims = [d for d in dims if d != along % 4]
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
