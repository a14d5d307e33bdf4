"""Sums and concatenations of maps that lost a different number of places."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

_BINARY = (
    *("add", "sub", "subtract", "mul", "multiply", "div", "divide", "true_divide"),
    *("maximum", "minimum", "max", "min", "lerp", "addcmul", "where"),
)

JOINS = frozenset(
    getattr(place, name + end)
    for place in (torch, Tensor)
    for name in _BINARY
    for end in ("", "_")
    if hasattr(place, name + end)
) | {torch.cat, torch.concat, torch.concatenate, torch.stack}


def rewrite_join(
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
