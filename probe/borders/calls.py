"""Padded calls: which module makes them, under which names, and the table of what was rewritten."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

import pandas as pd
from torch import nn

from ..backbones.choice import glob
from ..errors import ProbeError

_Pair = tuple[int, int] | None
_Sides = tuple[int, int, int, int]


class Call(str):
    """A padded call, as ``where`` sees it: the path of the module that makes it, and more.

    The string is the path as in ``model.named_modules()``, empty in the model's own ``forward`` and
    where no module makes the call. ``function`` is ``conv2d``, ``max_pool2d``, ``pad``, …;
    ``kernel`` and ``stride`` are height and width, or None; ``pad`` says how many cells of border
    there are at the top, bottom, left and right.
    """

    __slots__ = ("function", "kernel", "pad", "stride")

    function: str
    kernel: _Pair
    stride: _Pair
    pad: _Sides

    def __new__(cls, module: str, function: str, kernel: _Pair, stride: _Pair, pad: _Sides) -> Self:
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


def as_predicate(where: Where | None) -> Callable[[Call], bool] | None:
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


Names = dict[int, tuple[nn.Module, dict[int, str]]]
"""Names of the modules inside the outermost ones that were seen, by identity."""


WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)
"""Modules that run another one on several devices; not part of the network."""


def module_path(names: Names) -> str:
    """Path of the innermost module whose code is running, in the outermost one that holds it.

    Python's own call stack knows it, also for methods other than ``forward``; hooks would be state
    left on the network. The caller keeps ``names``, those of the modules seen, between calls.
    """
    modules = list(_running_modules())
    for outermost in reversed(modules):
        if isinstance(outermost, WRAPPERS):
            continue
        if id(outermost) not in names:
            inside = {id(module): name for name, module in outermost.named_modules()}
            names[id(outermost)] = (outermost, inside)
        inside = names[id(outermost)][1]
        if id(modules[0]) in inside:
            return inside[id(modules[0])]
    return ""


def _running_modules() -> Iterator[nn.Module]:
    """Modules whose methods are running in this thread, the innermost first."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_argcount and code.co_varnames[0] == "self":
            owner = frame.f_locals.get("self")
            if isinstance(owner, nn.Module):
                yield owner
        frame = frame.f_back


def calls_table(calls: Counter[tuple[Any, ...]]) -> pd.DataFrame:
    columns = ["module", "function", "kernel", "stride", "pad", "calls"]
    return pd.DataFrame([(*key, count) for key, count in calls.items()], columns=columns)
