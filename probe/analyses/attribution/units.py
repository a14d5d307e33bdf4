"""Units of attribution: padded calls that keep or lose their padding together."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...backbones.backbone import Backbone
from ...backbones.choice import choose_layers
from ...backbones.forwarding import entered
from ...backbones.probed import ProbedLayers, hooked
from ...borders.calls import Call
from ...borders.mode import padding
from ...errors import ProbeError

OWN_CODE = "(forward)"  # calls in the model's own code, outside all of its modules


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
        entered(model, taps.entry)(x)
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
    unit_names = _unit_names({k: [str(c) for _, c in ticked] for k, ticked in calls_of.items()})
    units = [
        Unit(
            name,
            frozenset(str(call) for _, call in ticked),
            tuple(dict.fromkeys(call.function for _, call in ticked)),
            ticked[0][0],
        )
        for name, ticked in zip(unit_names, calls_of.values(), strict=True)
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
    """How a call at some tick finds the key of the unit that it belongs to."""
    members = [] if groups == "calls" else choose_layers(backbone.model, groups, backbone.name)[0]
    if groups == "stages":
        ends = sorted((ended[name][-1][0], name) for name in members if name in ended)
        return lambda tick, call: next(
            (name for t, name in ends if t > tick), str(call) or OWN_CODE
        )
    blocks = sorted(members, key=len, reverse=True)
    return lambda tick, call: next(
        (b for b in blocks if f"{call}.".startswith(f"{b}.")), str(call) or OWN_CODE
    )


def _unit_names(calls_of: Mapping[str, Iterable[str]]) -> Iterator[str]:
    """Name each unit by the modules that it holds, as deep as its key lies in the network.

    A stage's key may be the name of a module that runs after the probed layer; what it holds is
    what ran before.
    """
    taken: set[str] = set()
    for key, calls in calls_of.items():
        paths = [call.split(".") for call in dict.fromkeys(calls)]
        for depth in range(1 + key.count("."), 1 + max(map(len, paths)) + 1):
            held = list(dict.fromkeys(".".join(path[:depth]) or OWN_CODE for path in paths))
            name = ", ".join(held) if len(held) < 4 else f"{held[0]} … {held[-1]}"
            if name not in taken:
                break
        else:
            name = f"{name} ({key})"
        taken.add(name)
        yield name
