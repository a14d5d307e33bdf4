"""Passes of an attribution, in which outputs that stay the same are played again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from ...backbones.backbone import Backbone
from ...backbones.forwarding import entered
from ...backbones.layer import Layer, all_tensors, first_tensor
from ...backbones.probed import ProbedLayers, hooked
from ...backbones.reading import reread
from ...borders.mode import padding
from ...borders.rules import SIDES
from ...errors import ProbeError
from ...variants.run import VariantRun
from ...variants.variant import Variant
from .units import Kept, Runs, Unit

Border = Callable[[], AbstractContextManager[Any]]
"""Makes the context in which some of the padding is left."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ReplayedRun(VariantRun):
    """A backbone run up to one layer with some of its padding, playing again what it can.

    Attributes
    ----------
    network : ReplayedNetwork
        The backbone.
    kept : Kept
        What keeps its padding.
    border : callable
        Makes the context to run in.
    base : ReplayedRun, optional
        Whose outputs it plays again.
    replayed : frozenset of str
        Modules that do not run.
    needed : frozenset of str
        Those of them whose output something reads.
    saved : int
        How many modules without children are among all those.
    """

    network: ReplayedNetwork
    kept: Kept
    border: Border
    base: ReplayedRun | None = None
    replayed: frozenset[str] = frozenset()
    needed: frozenset[str] = frozenset()
    saved: int = 0

    def run(
        self,
        backbone: Backbone,
        images: Tensor,
        receive: Callable[[Layer, Tensor], None],
        *,
        seed: int = 0,
        first: int = 0,
    ) -> Any:
        """Run until the layer has fired; hand over its map."""
        output = self.network.output(self, images)
        (layer,) = self.layers
        receive(layer, layer.canonical(output, len(images)))
        return output


class _Reached(Exception):
    """The layer has fired: nothing after it matters."""


class ReplayedNetwork:
    """A backbone up to one layer, and what it keeps of one batch.

    Attributes
    ----------
    wanted : dict of Kept to frozenset of str
        By base, modules whose outputs others need.
    """

    def __init__(self, backbone: Backbone, taps: ProbedLayers) -> None:
        self.backbone, self.taps = backbone, taps
        self.layer = taps.layers[0]
        self.wanted: dict[Kept, frozenset[str]] = {}
        self._held: tuple[Kept | None, Tensor | None, dict[str, Tensor]] = (None, None, {})

    def output(self, run: ReplayedRun, images: Tensor) -> Any:
        """Return what the layer returns in a pass.

        The outputs that others need of a base are kept until another base runs, or other images
        come: passes that share a base had best follow it, one after another.
        """
        base = run.base or run
        same = self._held[0] == base.kept and self._held[1] is images
        if run is base or (run.needed and not same):
            self._held = (None, None, {})
            output, kept = self.run(images, base.border, self.wanted.get(base.kept, ()))
            self._held = (base.kept, images, kept)
            if run is base:
                return output
        play = _plays(run.replayed, run.needed, self._held[2])
        return self.run(images, run.border, play=play)[0]

    def run(
        self,
        images: Tensor,
        border: Border,
        keep: Collection[str] = (),
        play: Mapping[str, Callable[[], Tensor]] | None = None,
        watch: AbstractContextManager[Any] | None = None,
    ) -> tuple[Any, dict[str, Tensor]]:
        """Run until the layer has fired.

        Parameters
        ----------
        images : Tensor, shape (B, C, H, W)
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
        outputs: list[Any] = []

        def take(name: str, output: Any) -> None:
            if name == layer:
                outputs.append(output)
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
                entered(model, self.taps.entry)(x)
        except _Reached:
            return outputs[0], kept
        raise ProbeError(f"layer {layer!r} of {self.backbone.name} did not run")

    def seen(self, output: Any, count: int, kept: Kept) -> Layer:
        """Return the layer as it is in a pass, from its output for so many images."""
        layer = self.layer
        tensor = first_tensor(output, count, layer.layout.index("N"), len(layer.layout))
        shape = () if tensor is None else tuple(tensor.shape)
        if layer.layout == "NCHW" and shape[1:] == (layer.channels, layer.height, layer.width):
            return layer
        seen = reread(layer, self.backbone.model, shape, count, layer.image_size)
        if seen is None or max(seen.places) == 1:
            raise ProbeError(
                f"layer {layer.name!r} of {self.backbone.name} can't be probed with {kept.words}: "
                f"it returns a tensor of shape {shape}; choose a larger image size or another layer"
            )
        return seen


def open_runs(
    network: ReplayedNetwork,
    units: Sequence[Unit],
    kind: str,
    close: bool,
    images: Tensor,
    runs: Runs,
) -> list[ReplayedRun]:
    """Plan all passes, each with a dry run: those that share a base follow it.

    Parameters
    ----------
    network : ReplayedNetwork
        With the layer as it is in a pass as trained.
    units : sequence of Unit
        Of which each keeps its padding alone, and loses it alone.
    kind : str
        What tables call them.
    close : bool
        See :class:`probe.padding`.
    images : Tensor, shape (1, C, H, W)
        What dry runs see.
    runs : dict of str to int
        By module that may be played again, when it ran.

    Returns
    -------
    list of ReplayedRun
        Without padding, with that of each unit only; as trained, with all but that of each unit;
        with that of each side of the image.
    """

    def circular(**where: Any) -> Border:
        return lambda: padding("circular", wrap_unpadded=close, **where)

    def opened(
        kept: Kept, border: Border, base: ReplayedRun | None = None, keep: Collection[str] = ()
    ) -> tuple[ReplayedRun, Any, dict[str, Tensor]]:
        output, outputs = network.run(images, border, keep)
        run = ReplayedRun(
            variant=Variant(kept.words, "circular"),
            probed=network.taps,
            layers=(network.seen(output, len(images), kept),),
            wrap_unpadded=close,
            network=network,
            kept=kept,
            border=border,
            base=base,
        )
        return run, output, outputs

    model = network.backbone.model
    chosen = _replayable(model, runs, units)
    planned: list[ReplayedRun] = []
    for base_kept, base_border, keeps in (
        (Kept("network", "circular", 2, "none"), circular(), "only"),
        (Kept("network", "original", 1, "all"), nullcontext, "all but"),
    ):
        base, _, outputs = opened(base_kept, base_border, keep=chosen)
        planned.append(base)
        wanted: frozenset[str] = frozenset()
        for order, unit in enumerate(units, 1):
            inside, outside = unit.modules.__contains__, partial(_lacks, unit.modules)
            border = circular(where=outside if keeps == "only" else inside)
            before = [name for name in outputs if runs[name] < unit.start]
            shared = {name: outputs[name] for name in _outermost(before)}
            # First of the two: what a module notes down in a pass must not help the next.
            needed, played = _played_again(network, images, border, shared)
            kept = Kept(kind, unit.name, order, keeps, ", ".join(unit.functions))
            run, output, _ = opened(kept, border, base)
            if _same(played, output, len(images)):
                saved = len(leaf_modules(model, runs, shared))
                run = replace(run, replayed=frozenset(shared), needed=needed, saved=saved)
                wanted |= needed
            planned.append(run)
        network.wanted[base.kept] = wanted
    for order, side in enumerate(SIDES, 1):
        others = tuple(s for s in SIDES if s != side)
        planned.append(opened(Kept("side", side, order, "only"), circular(sides=others))[0])
        planned.append(opened(Kept("side", side, order, "all but"), circular(sides=side))[0])
    return planned


def _lacks(modules: Collection[str], call: str) -> bool:
    return call not in modules


def _played_again(
    network: ReplayedNetwork,
    images: Tensor,
    border: Border,
    outputs: Mapping[str, Tensor],
) -> tuple[frozenset[str], Any]:
    """Play outputs of modules again; return which something reads, and what the layer returns.

    That is None if there is nothing to play, or the network can't be run so.
    """
    reads, output = _Reads(), None
    watched = {name: partial(reads.give, name, out) for name, out in outputs.items()}
    try:
        if outputs:
            network.run(images, border, play=watched, watch=reads)
            output, _ = network.run(images, border, play=_plays(outputs, reads.names, outputs))
    except Exception:  # whatever a module raises that misses what another left for it
        output = None
    return frozenset(reads.names), output


def _same(output: Any, other: Any, count: int) -> bool:
    tensor, expected = first_tensor(output, count), first_tensor(other, count)
    return tensor is not None and expected is not None and torch.equal(tensor, expected)


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
        for module, forward in before:
            if forward is None:
                del module.forward
            else:
                module.forward = forward


def _replayable(model: nn.Module, runs: Runs, units: Sequence[Unit]) -> list[str]:
    """Modules whose outputs are worth keeping.

    Those of the whole network, and those inside a module that holds calls of several units or
    can't be played again itself.
    """
    names: list[str] = []

    def walk(module: nn.Module, prefix: str) -> None:
        for key, child in module.named_children():
            name = f"{prefix}{key}"
            plays = name in runs and not isinstance(child, torch.jit.ScriptModule)
            if plays:
                names.append(name)
            inside = sum(any(f"{m}.".startswith(f"{name}.") for m in u.modules) for u in units)
            if inside > 1 or not plays:
                walk(child, f"{name}.")

    walk(model, "")
    return names


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
        self.names: set[str] = set()
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
                self.names.add(self._given[tensor])
        return func(*args, **kwargs)
