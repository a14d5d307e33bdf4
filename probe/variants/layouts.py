"""How tensors lie over the image: which of their dimensions are places, as calls tell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Trait:
    """What is known of a tensor that depends on the image."""

    product: bool = False  # of two such tensors: attention logits
    layout: str = ""  # NCHW, NHWC, NLC, NCL or LNC, where known; or SPECTRUM
    split: bool = False  # a map whose rows and columns were each split in two


SPECTRUM = "spectrum"
"""Layout of a Fourier transform: what it is multiplied by is a convolution on the torus."""

_PLACES = {"NCHW": (2, 3), "NHWC": (1, 2), "NLC": (1,), "NCL": (2,), "LNC": (0,)}
"""Dimensions of places by layout."""


def tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)


def varies(c: Tensor, dims: Sequence[int], trained: bool = False) -> bool:
    """Whether a tensor differs along each of these dimensions, or could after training."""
    return all(
        -d <= c.ndim
        and c.shape[d] > 1
        and c.stride(d) != 0
        and (trained or bool((c != c.narrow(d, 0, 1)).any()))
        for d in dims
    )


def place_dims(
    c: Tensor, x: Tensor, along: int | None, trained: bool, layout: str, product: bool
) -> tuple[int, ...]:
    """Dimensions of a tensor, counted from its last, along which it differs over places.

    Those are of a map or of tokens ``x`` that it meets; over channels alone every scale and bias
    differs. ``product``: x are logits, of queries and keys. Where the layout is not known, the
    rows of a map (B, C, H, W) or the heads' tokens (B, N, L, D) are dimension 2, those of tokens
    (B, L, C) dimension 1 if c differs over them and over channels.
    """
    offset, n = x.ndim - c.ndim, x.ndim
    if offset < 0 or n < 3 or layout == SPECTRUM:
        return ()
    images = layout.index("N") if len(layout) == n else 0
    differs = {
        d + offset
        for d in range(c.ndim)
        if d + offset != images and varies(c, (d - c.ndim,), trained)
    }
    if along is not None:
        along %= n
        if n == 4 and along in (1, 3):
            places = {2, 3} if along == 1 else {1, 2}
        else:
            places = {1} if n == 3 and along == 2 else set()
    elif product and {n - 2, n - 1} <= differs:
        places = {n - 2, n - 1}
    elif len(layout) == n:
        places = set(_PLACES[layout])
    elif n == 3:
        places = {1} if {1, 2} <= differs else set()
    elif n == 4:
        places = {2, 1} if x.shape[1] == x.shape[2] else {2}
        places = places if 2 in differs else set()
    else:
        places = {*range(1, n - 1)} if len(differs) > 1 else set()
    return tuple(sorted(d - n for d in places & differs))


def turned(x: Tensor, out: Tensor, layout: str) -> str:
    """Layout of a tensor whose dimensions were put in another order, as its strides tell."""
    for other in (layout, *(known for known in _PLACES if sorted(known) == sorted(layout))):
        order = [layout.index(letter) for letter in other]
        seen = [(x.shape[d], x.stride(d)) for d in order]
        if seen == list(zip(out.shape, out.stride(), strict=True)):
            return other
    return ""


def splits(x: Tensor, out: Tensor) -> bool:
    """Whether a view splits the rows and the columns of a map in two each."""
    if x.ndim != 4 or out.ndim != 6 or out.shape[0] != x.shape[0]:
        return False
    h, u, w, v, c = out.shape[1:]
    if (h * u, w * v, c) == tuple(x.shape[1:]):
        return True
    c, h, u, w, v = out.shape[1:]
    return (c, h * u, w * v) == tuple(x.shape[1:])


def whole_factor(x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
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
