"""Conditions of an attribution, with outputs that stay the same played again."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary
from tqdm.auto import tqdm

from ...backbones.backbone import Backbone
from ...backbones.layer import Layer, all_tensors, first_tensor, single_precision
from ...backbones.probed import ProbedLayers, describe, hooked
from ...borders.calls import Call
from ...borders.mode import padding
from ...borders.rules import SIDES
from ...errors import ProbeError, ProbeWarning
from ...machine import memory_explained
from ...readouts.ridge import Ridge
from ...targets import layer_targets
from .units import Runs, Unit


@dataclass(eq=False)
class ReplayedCondition:
    """One way to keep some padding, on its way through the two passes."""

    kind: str
    unit: str
    order: int
    keeps: str
    border: Callable[[], AbstractContextManager[Any]]
    function: str = ""
    base: ReplayedCondition | None = None  # what it is the same as before ``start``
    start: int = 0
    replayed: frozenset[str] = frozenset()  # modules that do not run
    needed: frozenset[str] = frozenset()  # those of them whose output something reads
    saved: int = 0  # modules without children among all those
    layer: Layer | None = None
    readout: Ridge = field(default_factory=Ridge)
    truth: NDArray[np.float64] | None = None
    values: list[NDArray[np.float64]] = field(default_factory=list)  # (B, T, metrics) by batch

    def solve(self, targets: Sequence[str]) -> None:
        layer = self.layer
        truth = layer_targets(targets, layer.image_size, layer.rows, layer.columns)
        self.truth = truth.reshape(len(targets), -1)
        self.readout.solve(truth)


def plan_conditions(units: Sequence[Unit], kind: str, close: bool) -> list[ReplayedCondition]:
    def circular(**options: Any) -> Callable[[], AbstractContextManager[Any]]:
        return lambda: padding("circular", close=close, **options)

    original = ReplayedCondition("network", "original", 1, "all", nullcontext)
    bare = ReplayedCondition("network", "circular", 2, "none", circular())
    only, all_but = [], []
    for order, unit in enumerate(units, 1):
        mine = {"function": ", ".join(unit.functions), "start": unit.start}

        def inside(call: Call, modules: Collection[str] = unit.modules) -> bool:
            return call in modules

        def outside(call: Call, modules: Collection[str] = unit.modules) -> bool:
            return call not in modules

        named = (kind, unit.name, order)
        only.append(ReplayedCondition(*named, "only", circular(where=outside), base=bare, **mine))
        all_but.append(
            ReplayedCondition(*named, "all but", circular(where=inside), base=original, **mine)
        )
    found = [original, bare, *only, *all_but]
    for order, side in enumerate(SIDES, 1):
        others = tuple(s for s in SIDES if s != side)
        found += [
            ReplayedCondition("side", side, order, "only", circular(sides=others)),
            ReplayedCondition("side", side, order, "all but", circular(sides=side)),
        ]
    return found


class _Reached(Exception):
    """The layer has fired: nothing after it matters."""


class ReplayedNetwork:
    """A backbone up to one layer."""

    def __init__(self, backbone: Backbone, taps: ProbedLayers, batch_size: int) -> None:
        self.backbone, self.taps, self.batch_size = backbone, taps, batch_size
        self.layer = taps.layers[0]

    def run(
        self,
        images: Tensor,
        border: Callable[[], AbstractContextManager[Any]],
        keep: Collection[str] = (),
        play: Mapping[str, Callable[[], Tensor]] | None = None,
        watch: AbstractContextManager[Any] | None = None,
    ) -> tuple[Any, dict[str, Tensor]]:
        """Run until the layer has fired.

        Parameters
        ----------
        images : Tensor, shape (B, 3, H, W)
            In [0, 1].
        border : callable
            Makes the context to run in.
        keep : collection of str
            Modules whose outputs to keep.
        play : mapping of str to callable
            Modules not to run, and what gives their outputs instead.
        watch : context manager, optional
            Entered last.

        Returns
        -------
        output : Any
            What the layer returned.
        kept : dict of str to Tensor
        """
        model, layer = self.backbone.model, self.layer.name
        kept: dict[str, Tensor] = {}
        found: list[Any] = []

        def take(name: str, output: Any) -> None:
            if name == layer:
                found.append(output)
                raise _Reached
            kept[name] = output.clone()  # modules after it may write into it

        x = self.backbone.normalise(images).contiguous(memory_format=self.taps.memory_format)
        try:
            with (
                hooked(model, dict.fromkeys([*keep, layer]), take),
                _played(model, play or {}),
                border(),
                watch or nullcontext(),
            ):
                getattr(model, self.taps.entry)(x)
        except _Reached:
            return found[0], kept
        raise ProbeError(f"layer {layer!r} of {self.backbone.name} did not run")

    def features(self, condition: ReplayedCondition, output: Any, count: int) -> Tensor:
        """See the layer's output as places (B, C, h, w); learn its size the first time."""
        if condition.layer is None:
            condition.layer = self.layer
            shape = tuple(first_tensor(output, count).shape)
            usual = (self.layer.channels, self.layer.height, self.layer.width)
            if self.layer.layout != "NCHW" or shape[1:] != usual:
                size = self.layer.image_size
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ProbeWarning)  # tap has said it
                    seen = describe(self.backbone.model, self.layer.name, 1, shape, count, size)
                if seen is None or max(seen.places) == 1:
                    raise ProbeError(
                        f"layer {self.layer.name!r} of {self.backbone.name} can't be probed with "
                        f"padding kept in {condition.keeps} {condition.unit}: it returns a tensor "
                        f"of shape {shape}; choose a larger image size or another layer"
                    )
                condition.layer = seen
        layer = condition.layer
        features = layer.reduce(single_precision(layer.canonical(output, count)))
        if not bool(torch.isfinite(features).all()):
            raise ProbeError(
                f"features are not finite (NaN or infinity) at layer {layer.name} of "
                f"{self.backbone.name}: check the weights, or choose an earlier layer"
            )
        return features

    def stream(
        self,
        conditions: Sequence[ReplayedCondition],
        batch: Callable[[int, int], Tensor],
        count: int,
        bar: tqdm,
        receive: Callable[[ReplayedCondition, Tensor, int], None],
    ) -> None:
        """Run every batch through every condition; hand over the layer's features.

        The conditions that share a base come together, so that the kept outputs of one base are
        held at a time.
        """
        network = [c for c in conditions if c.kind == "network"]
        bases = dict.fromkeys([*network, *_bases(conditions)])
        for start in range(0, count, self.batch_size):
            stop = min(start + self.batch_size, count)
            with memory_explained(stop - start):
                images = batch(start, stop)
                for base in (*bases, None):
                    mine = [c for c in conditions if c.base is base and c not in bases]
                    kept: dict[str, Tensor] = {}
                    keep = frozenset().union(*(c.needed for c in mine))
                    if base is not None and (base in conditions or keep):
                        output, kept = self.run(images, base.border, keep)
                        if base in conditions:
                            mine.insert(0, base)
                    for condition in mine:
                        if condition is not base:
                            play = _plays(condition.replayed, condition.needed, kept)
                            output, _ = self.run(images, condition.border, play=play)
                        receive(condition, self.features(condition, output, stop - start), start)
                        bar.update(stop - start)


def _bases(conditions: Sequence[ReplayedCondition]) -> Iterator[ReplayedCondition]:
    return (c.base for c in conditions if c.base is not None)


def _plays(
    replayed: Collection[str], needed: Collection[str], kept: Mapping[str, Tensor]
) -> dict[str, Callable[[], Tensor]]:
    """What gives the outputs of modules that do not run; nothing looks at those not needed."""
    nothing = torch.empty(0)
    return {name: kept[name].clone if name in needed else lambda: nothing for name in replayed}


@contextmanager
def _played(model: nn.Module, play: Mapping[str, Callable[[], Tensor]]) -> Iterator[None]:
    """Have modules return what is given instead of running, inside the block."""
    before: list[tuple[nn.Module, Any]] = []

    def instead(give: Callable[[], Tensor]) -> Callable[..., Tensor]:
        return lambda *_args, **_kwargs: give()

    try:
        for name, give in play.items():
            module = model.get_submodule(name)
            before.append((module, module.__dict__.get("forward")))
            module.forward = instead(give)
        yield
    finally:
        for module, own in before:
            if own is None:
                del module.forward
            else:
                module.forward = own


def share_outputs(
    network: ReplayedNetwork,
    conditions: Sequence[ReplayedCondition],
    units: Sequence[Unit],
    runs: Runs,
    images: Tensor,
) -> None:
    """Find out for each condition what can be played again, and prove it on an image."""
    model = network.backbone.model
    chosen = _replayable(model, runs, units)
    read: dict[int, frozenset[str]] = {}
    for base in dict.fromkeys(_bases(conditions)):
        _, kept = network.run(images, base.border, chosen)
        for condition in (c for c in conditions if c.base is base):
            replayed = _outermost([n for n in chosen if runs[n] < condition.start])
            try:
                if condition.start not in read:  # the same with either base
                    reads = _Reads()
                    watched = {name: partial(reads.give, name, kept[name]) for name in replayed}
                    network.run(images, condition.border, play=watched, watch=reads)
                    read[condition.start] = frozenset(reads.found)
                needed = read[condition.start]
                play = _plays(replayed, needed, kept)
                output, _ = network.run(images, condition.border, play=play)
            except Exception:  # whatever a module raises that misses what another left for it
                continue
            expected, _ = network.run(images, condition.border)
            if torch.equal(first_tensor(output, 1), first_tensor(expected, 1)):
                condition.replayed, condition.needed = replayed, needed
                condition.saved = len(leaf_modules(model, runs, replayed))


def _replayable(model: nn.Module, runs: Runs, units: Sequence[Unit]) -> list[str]:
    """Modules whose outputs are worth keeping.

    Those of the whole network, and those inside a module that holds calls of several units or
    can't be played again itself.
    """
    found: list[str] = []

    def walk(module: nn.Module, prefix: str) -> None:
        for key, child in module.named_children():
            name = f"{prefix}{key}"
            plays = name in runs and not isinstance(child, torch.jit.ScriptModule)
            if plays:
                found.append(name)
            inside = sum(any(f"{m}.".startswith(f"{name}.") for m in u.modules) for u in units)
            if inside > 1 or not plays:
                walk(child, f"{name}.")

    walk(model, "")
    return found


def _outermost(names: Collection[str]) -> frozenset[str]:
    """Leave out modules inside others."""
    return frozenset(n for n in names if not any(n.startswith(f"{other}.") for other in names))


def leaf_modules(model: nn.Module, runs: Runs, within: Collection[str] | None = None) -> list[str]:
    """Modules without children that run before the layer has fired."""
    leaves = [n for n in runs if not any(True for _ in model.get_submodule(n).children())]
    if within is None:
        return leaves
    return [n for n in leaves if any(f"{n}.".startswith(f"{other}.") for other in within)]


class _Reads(TorchFunctionMode):
    """Finds out which of the tensors that it gave some operation looks at."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()
        self._given = WeakIdKeyDictionary()

    def give(self, name: str, tensor: Tensor) -> Tensor:
        copy = tensor.clone()
        self._given[copy] = name
        return copy

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        for tensor in all_tensors((args, kwargs)):
            if tensor in self._given:
                self.found.add(self._given[tensor])
        return func(*args, **kwargs)
