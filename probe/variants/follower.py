"""Following one pass: which tensors know of places, and where position enters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from ..borders.calls import Names, module_path
from .kinds import (
    COORDINATES,
    EMBEDDING,
    FACTOR,
    MASK,
    MIXING,
    NAMES,
    RECURRENCE,
    RELATIVE,
    RESAMPLING,
    WINDOWS,
    Source,
)
from .layouts import SPECTRUM, Trait, place_dims, splits, tensors_in, turned, varies, whole_factor


@dataclass(frozen=True)
class Meeting:
    """A tensor that depends on the image meets one that does not, but differs over places.

    ``x`` is the one of the image, ``c`` the other, ``places`` the dimensions of c, counted from
    its last, along which places lie: two for logits of queries and keys. ``neutral`` is the number
    in place of c that leaves x as it is; ``layout`` that of x where it is known.
    """

    source: Source
    x: Tensor
    c: Tensor
    places: tuple[int, ...]
    neutral: float = 0.0
    layout: str = ""

    @property
    def of_map(self) -> bool:
        """Whether x is a map: then one dimension of places alone is its rows or its columns."""
        return self.layout in ("NCHW", "NHWC")


Substitute = Callable[[Meeting], Tensor]
"""Takes what met; returns what to use in place of the tensor that is not of the image."""


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
        self._made = WeakIdKeyDictionary(self._origin)  # constants, of calls that were seen
        self._parts = WeakIdKeyDictionary()
        self._depends = WeakIdKeyDictionary()
        self._depends[x] = Trait(layout="NCHW")
        self._images = len(x)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        tensors = list(tensors_in((args, kwargs)))
        moving = [t for t in tensors if t in self._depends]
        if moving:
            for tensor in tensors:
                if tensor not in self._depends and self._differs_by_image(tensor, moving):
                    self._depends[tensor] = Trait()
                    moving.append(tensor)
            args, kwargs = self._look(func, name, args, kwargs, moving)
        out = func(*args, **kwargs)
        if moving:
            trait = self._trait(name, args, kwargs, moving, out)
            for tensor in tensors_in(out):
                self._depends[tensor] = trait
            changed = args[0] if args else None
            in_place = name.endswith("_") and not name.endswith("__")
            if isinstance(changed, Tensor) and (in_place or name == "__setitem__"):
                self._depends[changed] = trait
        else:
            self._note_constant(func, name, args, kwargs, tensors, out)
        return out

    def _differs_by_image(self, c: Tensor, moving: list[Tensor]) -> bool:
        """Whether what no call was seen to make of the images differs between them all the same.

        Scripted and compiled functions are not seen.
        """
        if c in self._made or c.ndim < 3 or not 1 < self._images == len(c):
            return False
        alike = any(t.ndim == c.ndim and len(t) == self._images for t in moving)
        return alike and bool((c[0] != c[1]).any())

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
            args = tuple(
                self._met(a, args, moving, plain, None, _neutral(plain, n, args, self._depends))
                for n, a in enumerate(args)
            )
        elif plain in ("cat", "concat", "concatenate"):
            along = kwargs.get("dim", args[1] if len(args) > 1 else 0)
            items = args[0] if args else kwargs["tensors"]
            items = [self._met(a, items, moving, plain, along) for a in items]
            args, kwargs = (items, *args[1:]), {k: v for k, v in kwargs.items() if k != "tensors"}
        elif func is F.scaled_dot_product_attention:
            return self._attention(args, kwargs, name, moving)
        elif plain in ("matmul", "bmm", "einsum", "__matmul__"):
            args = self._product(plain, args, moving)
        elif plain in ("linear", "conv1d") and self._depends[moving[0]].layout == "NCL":
            if moving[0].shape[-1] > 1 and plain == "linear":
                self._record(MIXING, name, next(iter(tensors_in(args[1:]))))
        elif plain in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
            self._record(RECURRENCE, name)
        elif plain == "repeat_interleave" and kwargs.get("dim", args[2] if args[2:] else -1) == 0:
            # One query for each place of a window, from the whole map, for all windows.
            if moving[0].ndim == 4 and moving[0].shape[2] > 1:
                self._record(MIXING, name)
        elif plain in ("grid_sample", "deform_conv2d"):  # at places given by their coordinates
            self._record(RESAMPLING, name)
        elif func is Tensor.unfold and moving[0].ndim >= 4:
            self._record(WINDOWS, name)
        elif func is F.interpolate:
            if not whole_factor(moving[0], args, kwargs):
                self._record(RESAMPLING, name)
        elif plain.startswith("adaptive_") and "2d" in plain:
            sides = args[1] if len(args) > 1 else kwargs.get("output_size", 1)
            sides = sides if isinstance(sides, Sequence) else (sides, sides)
            cells = moving[0].shape[-2:]
            if any(s not in (None, 1) and n % s for s, n in zip(sides, cells, strict=True)):
                self._record(RESAMPLING, name)
        return args, kwargs

    def _attention(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], name: str, moving: list[Tensor]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Look at what is added to the logits of fused attention, or hides keys from queries."""
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
        given = dict(zip(names, args, strict=False)) | kwargs
        mask = given.get("attn_mask")
        if given.get("is_causal") and mask is None:  # each query sees the keys up to its own
            queries, keys = given["query"].shape[-2], given["key"].shape[-2]
            mask = torch.ones(queries, keys, dtype=torch.bool, device=given["query"].device).tril()
        if not isinstance(mask, Tensor) or mask in self._depends:
            return args, kwargs
        if varies(mask, (-2, -1), mask in self._origin):
            neutral = float(mask.dtype == torch.bool)
            mask = self._substituted(moving[0], mask, name, (-2, -1), neutral, RELATIVE)
            if self._substitute:
                return (), given | {"attn_mask": mask, "is_causal": False}
        return args, kwargs

    def _product(self, plain: str, args: tuple[Any, ...], moving: list[Tensor]) -> tuple[Any, ...]:
        """Look at the constants of a product, such as tables of relative positions."""
        for n, c in enumerate(args):
            if not isinstance(c, Tensor) or c in self._depends or not (kind := self._kind(c, "")):
                continue
            first = 1 if plain == "einsum" else 0
            if plain == "einsum":
                places = _kept_dims(args[0], n - 1, c)
            else:
                places = (-1,) if n > first else (-2,)
                # Summed over the places of keys, with a dimension for those of queries.
                queries = [d for d in range(-c.ndim, -2) if c.shape[d] == c.shape[-1] > 1]
                if n == first and kind == RELATIVE and queries:
                    places = (*queries, -1)
            changed = self._substituted(moving[0], c, plain, places, 0.0, kind)
            args = (*args[:n], changed, *args[n + 1 :])
        return args

    def _met(
        self,
        c: Any,
        items: Sequence[Any],
        moving: list[Tensor],
        name: str,
        along: int | None,
        neutral: float = 0.0,
    ) -> Any:
        """Look at one operand of a call in which another one depends on the image."""
        if not isinstance(c, Tensor) or c in self._depends or c.ndim == 0:
            return c
        x = max(
            (t for t in items if isinstance(t, Tensor) and t in self._depends),
            key=lambda t: t.ndim,
            default=moving[0],
        )
        trait = self._depends[x]
        places = place_dims(c, x, along, c in self._origin, trait.layout, trait.product)
        if not places:
            return c
        if along is not None:
            otherwise = COORDINATES
        elif trait.product and places == (-2, -1):
            otherwise = RELATIVE
        else:
            otherwise = FACTOR if name in ("mul", "div") else EMBEDDING
            if along is None and self._kind(c, otherwise) == COORDINATES and not bool(c.any()):
                return c
        return self._substituted(x, c, name, places, neutral, otherwise)

    def _substituted(
        self,
        x: Tensor,
        c: Tensor,
        name: str,
        places: tuple[int, ...],
        neutral: float,
        otherwise: str,
    ) -> Tensor:
        """Record a constant, or each summand of one, as a source; return what takes its place."""
        parts = [
            (part, MASK if otherwise == RELATIVE and _masks(part) else self._kind(part, otherwise))
            for part in self._parts.get(c, (c,))
        ]
        if len({kind for _, kind in parts}) == 1:
            parts = [(c, parts[0][1])]
        changed: Tensor | None = None
        for part, kind in parts:
            source = self._record(kind, name, part)
            if self._substitute:
                layout = self._depends[x].layout
                part = self._substitute(Meeting(source, x, part, places, neutral, layout))
            changed = part if changed is None else changed + part
        assert changed is not None  # there is one part at least
        return changed if self._substitute else c

    def _kind(self, c: Tensor, otherwise: str) -> str:
        names = " ".join(self._origin.get(c, ()))
        return next((kind for kind, words in NAMES if words.search(names)), otherwise)

    def _record(self, kind: str, function: str, c: Tensor | None = None) -> Source:
        origin = () if c is None else self._origin.get(c, ())
        source = Source(kind, module_path(self._names), function, ", ".join(origin))
        self.sources[source] += 1
        return source

    def _note_constant(
        self,
        func: Callable[..., Any],
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        tensors: list[Tensor],
        out: Any,
    ) -> None:
        """Keep track of what a tensor was made from that doesn't depend on the image."""
        if all(t in self._made for t in tensors):
            for tensor in tensors_in(out):
                self._made[tensor] = True
        origin = tuple(sorted({n for t in tensors for n in self._origin.get(t, ())}))
        if origin:
            for tensor in tensors_in(out):
                if tensor not in self._origin:
                    self._origin[tensor] = origin
        if not isinstance(out, Tensor) or out.ndim < 2 or not out.is_floating_point():
            return
        plain = name.strip("_").removeprefix("r")
        if plain == "add" and len(tensors) == 2 and all(out is not t for t in tensors):
            self._parts[out] = tuple(t.expand(out.shape) for t in tensors)
        elif len(tensors) == 1 and tensors[0] in self._parts and plain in _RESHAPING:
            parts = self._parts[tensors[0]]
            self._parts[out] = tuple(func(part, *args[1:], **kwargs) for part in parts)

    def _trait(
        self,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        moving: list[Tensor],
        out: Any,
    ) -> Trait:
        """What is known of the layout of a call's result."""
        x, old = moving[0], self._depends[moving[0]]
        plain = name.rstrip("_")
        if not isinstance(out, Tensor):
            return Trait(layout=old.layout if plain in ("chunk", "split") else "")
        if plain in _MAPS and out.ndim == 4:
            return Trait(layout="NCHW")
        if plain.startswith("fft_") and not plain.endswith("shift"):
            back = plain.startswith(("fft_i", "fft_hfft"))
            return Trait(layout="" if back else SPECTRUM)
        if plain in ("matmul", "bmm", "einsum", "__matmul__", "baddbmm"):
            return Trait(product=len(moving) > 1)
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
            return Trait(product, layout, splits(x, out))
        if plain in _TURNING and out.ndim == x.ndim == len(old.layout):
            return Trait(product, turned(x, out, old.layout), old.split)
        kept = out.ndim == x.ndim
        layout = old.layout if kept or old.layout == SPECTRUM else ""
        return Trait(product, layout, old.split and kept)

    def _partitions(self, x: Tensor, out: Tensor) -> bool:
        """Whether windows of a map that was split become images or groups of their own."""
        if x.ndim != 6 or out.ndim < 3:
            return False
        windows = x.shape[1] * x.shape[2]
        if windows == 1 or out.shape[-1] == x.shape[3] * x.shape[4] * x.shape[5]:
            return False
        return out.shape[0] == x.shape[0] * windows or tuple(out.shape[:2]) == (x.shape[0], windows)


_ELEMENTWISE = (
    *("add", "sub", "mul", "div", "addcmul", "masked_fill"),
    *("where", "__radd__", "__rmul__", "true_divide", "maximum", "minimum"),
)

_MAPS = (
    *("conv2d", "conv_transpose2d", "max_pool2d", "avg_pool2d", "batch_norm", "group_norm"),
    *("interpolate", "pixel_shuffle", "pixel_unshuffle"),
)

_TURNING = ("transpose", "permute", "swapaxes", "swapdims", "movedim", "moveaxis", "mT", "__get__")


_RESHAPING = (
    *("view", "reshape", "expand", "expand_as", "unsqueeze", "squeeze", "contiguous", "to"),
    *("permute", "transpose", "repeat", "flatten", "unflatten", "type_as", "float", "double"),
)
"""What leaves a sum the sum of its parts, each of them so changed."""

_LOWERED = -10.0
"""Logits are lowered by this much, or more, by a mask that is not one of truth values."""


def _masks(c: Tensor) -> bool:
    """Whether a tensor says the keys that a query may see, by its values: 0 or much below."""
    if c.dtype == torch.bool:
        return True
    lowered = c <= _LOWERED
    return bool(lowered.any()) and bool(((c == 0) | lowered).all())


def _neutral(name: str, place: int, args: tuple[Any, ...], depends: WeakIdKeyDictionary) -> float:
    """Return the number in place of an operand that leaves the image's tensor as it is."""
    if name == "where":
        return float(place == 0 and any(isinstance(a, Tensor) and a in depends for a in args[1:2]))
    return float("mul" in name or "div" in name)


def _kept_dims(equation: Any, operand: int, c: Tensor) -> tuple[int, ...]:
    """Dimensions of an operand, counted from its last, that ``einsum`` does not sum over.

    Left out are the heads of tokens (B, heads, N, C) which the operand shares.
    """
    if not isinstance(equation, str) or "." in equation or "->" not in equation:
        return tuple(range(-c.ndim, -1))
    inputs, output = equation.replace(" ", "").split("->")
    letters = inputs.split(",")
    first = letters[1 - operand] if len(letters) == 2 else ""
    heads = first[1] if len(first) >= 4 and letters[operand][0] == first[1] else ""
    kept = [letter in output and letter != heads for letter in letters[operand]]
    return tuple(d - len(kept) for d, keep in enumerate(kept) if keep)
