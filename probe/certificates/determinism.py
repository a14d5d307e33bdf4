"""Whether a network gives the same output for the same images, and if not, where it starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from ..backbones.hooks import hooked, takes_hooks
from ..backbones.layer import all_tensors

ROUNDING = 1e-6
"""Share by which sums of the same numbers may differ, as reductions on some devices do."""


_Passes = list[list[tuple[str, tuple[float, ...], float]]]


def first_random(
    model: nn.Module,
    run: Callable[[Tensor], Any],
    x: Tensor,
    layers: Sequence[str],
    rounding: float = ROUNDING,
) -> str | None:
    """Run a network twice on a batch ``x``; return the first module that differs, if one does.

    At first ``layers`` and what the network returns are compared, and where these differ all
    modules. The one returned is the first to return something else, so that chance enters in it or
    in the code between it and the module before; ``(forward)`` stands for the network's own. The
    generators of random numbers are afterwards as they were. ``rounding`` is the share by which
    sums of the same numbers may differ.
    """
    with torch.random.fork_rng([x.device] if x.is_cuda else []):
        coarse = _first_apart(_two_passes(model, run, x, layers), rounding)
        if coarse is None:
            return None
        names = [name for name, module in model.named_modules() if name and takes_hooks(module)]
        return _first_apart(_two_passes(model, run, x, names), rounding) or coarse


def _two_passes(
    model: nn.Module, run: Callable[[Tensor], Any], x: Tensor, names: Sequence[str]
) -> _Passes:
    passes: _Passes = []
    for _ in range(2):
        returned: list[tuple[str, tuple[float, ...], float]] = []

        def note(name: str, output: Any, into: Any = returned) -> None:
            into.append((name, *_digest(output)))

        with hooked(model, names, note):
            note("(forward)", run(x.clone()))  # some write into their input
        passes.append(returned)
    return passes


def _first_apart(passes: _Passes, rounding: float) -> str | None:
    for one, other in zip_longest(*passes):
        if one is None or other is None or one[0] != other[0]:
            return str((one or other)[0])
        apart = max((abs(a - b) for a, b in zip(one[1], other[1], strict=False)), default=0.0)
        if apart > rounding * one[2]:
            return one[0]
    return None


def _digest(output: Any) -> tuple[tuple[float, ...], float]:
    """Sums over parts of what a module returned, and the greatest that they could be."""
    sums: list[float] = []
    total = 0.0
    for tensor in all_tensors(output):
        if isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.numel():
            flat = tensor.detach().flatten().double().nan_to_num()
            sums += [float(part.sum()) for part in flat.chunk(8)]
            total = max(total, float(flat.abs().max()) * flat.numel() ** 0.5)
    return tuple(sums), total
