"""Units of attribution: padded calls that keep or lose their padding together."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...backbones.backbone import Backbone
from ...backbones.choice import choose_layers
from ...backbones.probed import ProbedLayers, hooked
from ...borders.calls import Call
from ...borders.mode import padding
from ...errors import ProbeError

_ITSELF = "(forward)"  # calls in the model's own code, outside all of its modules


@dataclass(frozen=True)
class Unit:
    """Padded calls that keep or lose their padding together."""

    name: str
    modules: frozenset[str]  # that make them
    functions: tuple[str, ...]
    start: int  # tick of the first of them


@dataclass(frozen=True)
class Kept:
    """What keeps its padding in one pass: a row of the table, see :class:`Attribution`."""

    kind: str
    unit: str
    order: int
    keeps: str
    function: str = ""

    @property
    def words(self) -> str:
        return f"padding kept in {self.keeps} {self.unit}"


Runs = dict[str, int]
"""By module, the tick at which it returned one tensor, its only run before the layer fired."""


def find_units(
    backbone: Backbone, taps: ProbedLayers, images: Tensor, groups: str
) -> tuple[list[Unit], Runs]:
    """Watch one pass as trained: the units before the layer, and what may be played again."""
    model, layer = backbone.model, taps.layers[0].name
    clock = itertools.count()
    seen: list[tuple[int, Call]] = []
    ended: dict[str, list[tuple[int, bool]]] = {}

    def note(call: Call) -> bool:
        seen.append((next(clock), call))
        return True

    def end(name: str, output: Any) -> None:
        ended.setdefault(name, []).append((next(clock), isinstance(output, Tensor)))

    x = backbone.normalise(images).contiguous(memory_format=taps.memory_format)
    names = [name for name, _ in model.named_modules() if name]
    with hooked(model, names, end), padding("original", note) as mode:
        getattr(model, taps.entry)(x)
    fired = ended[layer][0][0]
    padded = {key[:2] for key in mode.padded[["module", "function"]].itertuples(index=False)}
    calls = [(t, c) for t, c in seen if t < fired and (str(c), c.function) in padded]
    if not calls:
        raise ProbeError(
            f"no padded call runs before layer {layer!r} of {backbone.name} has fired: there is "
            "nothing to attribute; choose a later layer (scripted and traced modules hide their "
            "calls)"
        )
    unit_of = _grouping(backbone, groups, ended)
    calls_of: dict[str, list[tuple[int, Call]]] = {}
    home: dict[str, str] = {}  # the calls of one module stay together
    for tick, call in calls:
        home.setdefault(str(call), unit_of(tick, call))
        calls_of.setdefault(home[str(call)], []).append((tick, call))
    units = [
        Unit(
            name,
            frozenset(str(call) for _, call in ticked),
            tuple(dict.fromkeys(call.function for _, call in ticked)),
            ticked[0][0],
        )
        for name, ticked in calls_of.items()
    ]
    runs = {
        name: ends[0][0]
        for name, times in ended.items()
        if len(ends := [t for t in times if t[0] < fired]) == 1 and ends[0][1]
    }
    return units, runs


def _grouping(
    backbone: Backbone, groups: str, ended: Mapping[str, Sequence[tuple[int, bool]]]
) -> Callable[[int, Call], str]:
    """How a call at some tick finds the unit that it belongs to."""
    members = [] if groups == "calls" else choose_layers(backbone.model, groups, backbone.name)[0]
    if groups == "stages":
        ends = sorted((ended[name][-1][0], name) for name in members if name in ended)
        return lambda tick, call: next((name for t, name in ends if t > tick), call or _ITSELF)
    blocks = sorted(members, key=len, reverse=True)
    return lambda tick, call: next(
        (b for b in blocks if f"{call}.".startswith(f"{b}.")), str(call) or _ITSELF
    )
