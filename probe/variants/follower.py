"""Following one pass: which tensors know of places, and where position enters."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from ..borders.calls import Names, module_path

PADDING = "padding"
EMBEDDING = "position embedding"
RELATIVE = "relative position bias"
ROTARY = "rotary position embedding"
COORDINATES = "coordinates"
MASK = "attention mask"
WINDOWS = "window partition"
MIXING = "token mixing"
RECURRENCE = "recurrence over places"
RESAMPLING = "resampling"
FACTOR = "position-dependent factor"

KINDS: tuple[str, ...] = (
    *(PADDING, EMBEDDING, RELATIVE, ROTARY, COORDINATES, MASK),
    *(WINDOWS, MIXING, RECURRENCE, RESAMPLING, FACTOR),
)
"""Kinds of sources of position."""

_NAMES = (
    (COORDINATES, re.compile(r"^(\S+\.)?coord_weight$")),
    (RELATIVE, re.compile(r"rel_|_rel|relative|attention_bias|attn_bias|bias_table|rpe|cpb|rpb")),
    (ROTARY, re.compile(r"rope|rotary")),
    (
        EMBEDDING,
        re.compile(r"pos_emb|pos_enc|pos_drop|position|(^|\.|_)pos($|\.|_)|(^|\.)ape($|\.)"),
    ),
    (MASK, re.compile(r"attn_mask|attention_mask|(^|\.)mask($|\.)")),
)


@dataclass(frozen=True)
class Source:
    """A tensor that doesn't depend on the image meets one that does.

    ``parameter`` names the parameters and buffers that it was made from.
    """

    kind: str
    module: str
    function: str
    parameter: str = ""


Substitute = Callable[[Source, Tensor, Tensor], Tensor]
"""Takes a source, the tensor of the image and the one that is not; returns what to use for it."""


class Follower(TorchFunctionMode):
    """Follow which tensors depend on the image while a network runs.

    Only the input ``x`` does when the block is entered. ``sources`` counts their calls; a
    ``substitute`` may put another tensor in the place of each.
    """

    def __init__(self, model: nn.Module, x: Tensor, substitute: Substitute | None = None) -> None:
        super().__init__()
        self.sources: Counter[Source] = Counter()
        self._substitute = substitute
        self._names: Names = {}
        self._origin = WeakIdKeyDictionary()
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            self._origin[tensor] = (name,)
        self._depends = WeakIdKeyDictionary()
        self._depends[x] = _Trait(layout="NCHW")

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        tensors = list(_tensors((args, kwargs)))
        moving = [t for t in tensors if t in self._depends]
        if moving:
            args, kwargs = self._look(func, name, args, kwargs, moving)
        out = func(*args, **kwargs)
        if moving:
            trait = self._trait(name, args, kwargs, moving, out)
            for tensor in _tensors(out):
                self._depends[tensor] = trait
            changed = args[0] if args else None
            in_place = name.endswith("_") and not name.endswith("__")
            if isinstance(changed, Tensor) and (in_place or name == "__setitem__"):
                self._depends[changed] = trait
        else:
            origin = tuple(sorted({n for t in tensors for n in self._origin.get(t, ())}))
            if origin:
                for tensor in _tensors(out):
                    if tensor not in self._origin:
                        self._origin[tensor] = origin
        return out

    # ------------------------------------------------------------ what a call does

    def _look(
        self,
        func: Callable[..., Any],
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        moving: list[Tensor],
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Record sources in a call; put substitutes in their place."""
        plain = name.rstrip("_")
        if plain in _ELEMENTWISE:
            args = tuple(self._met(a, args, moving, plain, None) for a in args)
        elif plain in ("cat", "concat", "concatenate"):
            along = kwargs.get("dim", args[1] if len(args) > 1 else 0)
            items = args[0] if args else kwargs["tensors"]
            items = [self._met(a, items, moving, plain, along) for a in items]
            args, kwargs = (items, *args[1:]), {k: v for k, v in kwargs.items() if k != "tensors"}
        elif func is F.scaled_dot_product_attention:
            mask = kwargs.get("attn_mask", args[3] if len(args) > 3 else None)
            if isinstance(mask, Tensor) and mask not in self._depends:
                kind = MASK if mask.dtype == torch.bool else self._kind(mask, RELATIVE)
                if _varies(mask, (-2, -1), mask in self._origin):
                    self._record(kind, name, mask)
        elif plain in ("matmul", "bmm", "einsum", "__matmul__"):
            for tensor in _tensors(args):
                if tensor not in self._depends and (kind := self._kind(tensor, "")):
                    self._record(kind, name, tensor)
        elif plain in ("linear", "conv1d") and self._depends[moving[0]].layout == "NCL":
            if moving[0].shape[-1] > 1 and plain == "linear":
                self._record(MIXING, name, next(iter(_tensors(args[1:]))))
        elif plain in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
            self._record(RECURRENCE, name)
        elif func is Tensor.unfold and moving[0].ndim >= 4:
            self._record(WINDOWS, name)
        elif func is F.interpolate:
            if not _whole(moving[0], args, kwargs):
                self._record(RESAMPLING, name)
        elif plain.startswith("adaptive_") and "2d" in plain:
            sides = args[1] if len(args) > 1 else kwargs.get("output_size", 1)
            sides = sides if isinstance(sides, Sequence) else (sides, sides)
            cells = moving[0].shape[-2:]
            if any(s not in (None, 1) and n % s for s, n in zip(sides, cells, strict=True)):
                self._record(RESAMPLING, name)
        return args, kwargs

    def _met(
        self, c: Any, items: Sequence[Any], moving: list[Tensor], name: str, along: int | None
    ) -> Any:
        """Look at one operand of a call in which another one depends on the image."""
        if not isinstance(c, Tensor) or c in self._depends or c.ndim == 0:
            return c
        x = max(
            (t for t in items if isinstance(t, Tensor) and t in self._depends),
            key=lambda t: t.ndim,
            default=moving[0],
        )
        trained = c in self._origin
        if not _over_places(c, x, along, trained, self._depends[x].layout):
            return c
        if along is not None:
            kind = self._kind(c, COORDINATES)
        elif self._depends[x].product and _varies(c, (-2, -1), trained):
            kind = self._kind(c, MASK if c.dtype == torch.bool else RELATIVE)
        else:
            kind = self._kind(c, FACTOR if name in ("mul", "div") else EMBEDDING)
        if kind == COORDINATES and along is None and not bool(c.any()):
            return c
        source = self._record(kind, name, c)
        return self._substitute(source, x, c) if self._substitute else c

    def _kind(self, c: Tensor, otherwise: str) -> str:
        names = " ".join(self._origin.get(c, ()))
        return next((kind for kind, words in _NAMES if words.search(names)), otherwise)

    def _record(self, kind: str, function: str, c: Tensor | None = None) -> Source:
        origin = () if c is None else self._origin.get(c, ())
        source = Source(kind, module_path(self._names), function, ", ".join(origin))
        self.sources[source] += 1
        return source

    def _trait(
        self,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        moving: list[Tensor],
        out: Any,
    ) -> _Trait:
        """What is known of the layout of a call's result."""
        x, old = moving[0], self._depends[moving[0]]
        plain = name.rstrip("_")
        if not isinstance(out, Tensor):
            return _Trait(layout=old.layout if plain in ("chunk", "split") else "")
        if plain in _MAPS and out.ndim == 4:
            return _Trait(layout="NCHW")
        if plain in ("matmul", "bmm", "einsum", "__matmul__", "baddbmm"):
            return _Trait(product=len(moving) > 1)
        product = old.product and out.ndim >= 3 and plain not in ("linear", "conv2d")
        if plain in ("view", "reshape", "flatten", "unflatten"):
            if old.split and self._partitions(x, out):
                self._record(WINDOWS, name)
            layout = ""
            if x.ndim == 4 and out.ndim == 3:
                if old.layout == "NCHW" and out.shape[:2] == x.shape[:2]:
                    layout = "NCL"
                elif out.shape[0] == x.shape[0] and out.shape[2] == x.shape[3]:
                    layout = "NLC"
            elif out.shape == x.shape:
                layout = old.layout
            return _Trait(product, layout, _splits(x, out))
        if plain in _TURNING and out.ndim == x.ndim == len(old.layout):
            return _Trait(product, _turned(x, out, old.layout), old.split)
        kept = out.ndim == x.ndim
        return _Trait(product, old.layout if kept else "", old.split and kept)

    def _partitions(self, x: Tensor, out: Tensor) -> bool:
        """Whether windows of a map that was split become images or groups of their own."""
        if x.ndim != 6 or out.ndim < 3:
            return False
        windows = x.shape[1] * x.shape[2]
        if windows == 1 or out.shape[-1] == x.shape[3] * x.shape[4] * x.shape[5]:
            return False
        return out.shape[0] == x.shape[0] * windows or tuple(out.shape[:2]) == (x.shape[0], windows)


@dataclass(frozen=True)
class _Trait:
    """What is known of a tensor that depends on the image."""

    product: bool = False  # of two such tensors: attention logits
    layout: str = ""  # NCHW, NHWC, NLC or NCL, where known
    split: bool = False  # a map whose rows and columns were each split in two


_ELEMENTWISE = (
    *("add", "sub", "mul", "div", "addcmul", "masked_fill"),
    *("where", "__radd__", "__rmul__", "true_divide", "maximum", "minimum"),
)

_MAPS = (
    *("conv2d", "conv_transpose2d", "max_pool2d", "avg_pool2d", "batch_norm", "group_norm"),
    *("interpolate", "pixel_shuffle", "pixel_unshuffle"),
)

_TURNING = ("transpose", "permute", "swapaxes", "swapdims", "movedim", "moveaxis", "mT", "__get__")

_PLACES = {"NCHW": (2, 3), "NHWC": (1, 2), "NLC": (1,), "NCL": (2,)}
"""Dimensions of places by layout."""


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)


def _varies(c: Tensor, dims: Sequence[int], trained: bool = False) -> bool:
    """Whether a tensor differs along each of these dimensions, or could after training."""
    return all(
        -d <= c.ndim
        and c.shape[d] > 1
        and c.stride(d) != 0
        and (trained or bool((c != c.narrow(d, 0, 1)).any()))
        for d in dims
    )


def _over_places(c: Tensor, x: Tensor, along: int | None, trained: bool, layout: str) -> bool:
    """Whether a tensor varies over the places of a map or of tokens that it meets.

    Over channels alone every scale and bias does. Where the layout is not known, the rows of a map
    (B, C, H, W) or the heads' tokens (B, N, L, D) are dimension 2, those of tokens (B, L, C)
    dimension 1 together with C.
    """
    offset = x.ndim - c.ndim
    if offset < 0 or x.ndim < 3:
        return False
    varying = {
        d + offset for d in range(c.ndim) if d + offset and _varies(c, (d - c.ndim,), trained)
    }
    if along is not None:
        along %= x.ndim
        if x.ndim == 4 and along in (1, 3):
            return bool(varying & ({2, 3} if along == 1 else {1, 2}))
        return x.ndim == 3 and along == 2 and 1 in varying
    if len(layout) == x.ndim:
        return bool(varying & set(_PLACES[layout]))
    if x.ndim == 3:
        return {1, 2} <= varying
    if x.ndim == 4:
        return 2 in varying
    return len(varying) > 1


def _turned(x: Tensor, out: Tensor, layout: str) -> str:
    """Layout of a tensor whose dimensions were put in another order, as its strides tell."""
    turn = {"NCHW": "NHWC", "NHWC": "NCHW", "NCL": "NLC", "NLC": "NCL"}
    for other in (layout, turn.get(layout, "")):
        order = [layout.index(letter) for letter in other]
        seen = [(x.shape[d], x.stride(d)) for d in order]
        if seen == list(zip(out.shape, out.stride(), strict=True)):
            return other
    return ""


def _splits(x: Tensor, out: Tensor) -> bool:
    """Whether a view splits the rows and the columns of a map in two each."""
    if x.ndim != 4 or out.ndim != 6 or out.shape[0] != x.shape[0]:
        return False
    h, u, w, v, c = out.shape[1:]
    if (h * u, w * v, c) == tuple(x.shape[1:]):
        return True
    c, h, u, w, v = out.shape[1:]
    return (c, h * u, w * v) == tuple(x.shape[1:])


def _whole(x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether an interpolation scales by a whole factor, up or down, without aligned corners."""
    names = ("input", "size", "scale_factor", "mode", "align_corners")
    given = dict(zip(names, args, strict=False)) | kwargs
    if given.get("align_corners") or x.ndim != 4:
        return False
    size, factor = given.get("size"), given.get("scale_factor")
    if size is None:
        pair = factor if isinstance(factor, Sequence) else (factor, factor)
        size = [n * f for n, f in zip(x.shape[-2:], pair, strict=True)]
    pair = size if isinstance(size, Sequence) else (size, size)
    return all(
        float(s) % n == 0 or n % float(s) == 0 for s, n in zip(pair, x.shape[-2:], strict=True)
    )
