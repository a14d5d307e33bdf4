"""One network under certification: its shifts, residuals and first break."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from ..backbones.backbone import Backbone
from ..backbones.choice import total_stride
from ..backbones.dryrun import ReadLayers, read_layers
from ..backbones.forwarding import entered
from ..backbones.hooks import hooked, takes_hooks
from ..backbones.initialisation import silence, silent_scales
from ..backbones.layer import Layer, first_tensor
from ..backbones.probed import ProbedLayers
from ..backbones.reading import reread
from ..errors import ProbeError
from ..stimuli.source import stretch
from ..variants.canvas import find_margin, padding_leakage
from ..variants.kinds import PADDING, RESAMPLING, WINDOWS
from ..variants.run import VariantRun, open_variant
from ..variants.variant import Variant, parse_variant
from .certificate import (
    CONTRAST,
    NOTHING_PADS,
    SINGLE_THRESHOLD,
    THRESHOLD,
    Certificate,
    beside_padding,
    kinds,
)
from .determinism import first_random
from .inventory import take_inventory
from .precision import quietly
from .shifts import residual_of, smallest_shift, whole_places


@dataclass
class CertificationTarget:
    """A network ready to be certified under any variant; see :func:`prepare`.

    ``backbone`` is a copy in float64 where that can be had, ``single`` the network as it was,
    many times as fast, for all that needs no precision; ``probed`` are the layers to look at,
    ``images`` one tileable image in [0, 1], ``seed`` that of noise, ``others`` builds the same
    network for images of other sizes, on which a shift may fit that moves every layer by whole
    places and windows; it takes the least common multiple of the layers' strides. ``fixed``: the
    size was asked for, and only windows are a reason to leave it.
    """

    backbone: Backbone
    single: Backbone
    probed: ProbedLayers
    images: Tensor
    seed: int = 0
    others: Callable[[int], Iterable[CertificationTarget]] | None = None
    fixed: bool = False
    _plain: _Measurement | None = None
    _inventory: pd.DataFrame | None = None
    _everything: ReadLayers | None = None
    _output: tuple[Layer | None] | None = None
    _random: tuple[str | None] | None = None

    @property
    def inventory(self) -> pd.DataFrame:
        """See :func:`sources`."""
        if self._inventory is None:
            with quietly(self.single.model):
                x = self.single.normalise(self.images)
                self._inventory = take_inventory(self.single.model, x, self.probed.entry)
        return self._inventory

    @property
    def everything(self) -> ReadLayers:
        """How the outputs of all modules lie over the image."""
        if self._everything is None:
            modules = self.single.model.named_modules()
            self._everything = self._read([n for n, m in modules if n and takes_hooks(m)])
        return self._everything

    @property
    def output(self) -> Layer | None:
        """How what the network returns lies over the image, if that is a map."""
        if self._output is None:
            self._output = (self._read(self._names).whole,)
        return self._output[0]

    def _read(self, names: Sequence[str]) -> ReadLayers:
        single = self.single
        with quietly(single.model):
            x = single.normalise(self.images)
            return read_layers(single.model, names, x, single.name, self._names, why=False)

    @property
    def _names(self) -> list[str]:
        return [layer.name for layer in self.probed.layers]

    @property
    def random(self) -> str | None:
        """The first module that returns something else for the same images, if one does.

        What differs must do so in double precision too, where rounding does not grow.
        """
        if self._random is None:
            found: str | None = None
            for seen in (self.single, self.backbone):
                model, x = seen.model, seen.normalise(self.images)
                with quietly(model):
                    run = entered(model, self.probed.entry)
                    found = first_random(model, run, x, self._names)
                if found is None:
                    break
            self._random = (found,)
        return self._random[0]

    @property
    def windowed(self) -> bool:
        """Whether the network looks at windows one by one."""
        return WINDOWS in set(self.inventory["kind"])

    @property
    def resampled_alone(self) -> bool:
        """Whether uneven pooling or resizing is the one source of position besides padding."""
        return set(self.inventory["kind"]) - {PADDING} == {RESAMPLING}

    def certify(self, variant: Variant, margin: int | None = None) -> Certificate:
        """Measure one variant; ``margin`` is that of a canvas.

        Where no shift fits images of this size, or a break can't be explained, others are tried.
        """
        helps = variant.torus and not variant.canvas and self.random is None
        helps = helps and (self.windowed or not self.fixed)
        helps = helps and not beside_padding(self._remaining(variant))
        if not helps or not self.others:
            return self._certify(variant, margin)
        measured = self._certify(variant, margin, explained=False)
        if measured.passed:
            return measured
        size = self.probed.layers[0].image_size
        layers = [n for layer in self.probed.layers for n in (layer.height, layer.width)]
        steps = [pixels // cells for pixels, cells in zip(size * len(layers), layers, strict=False)]
        for other in self.others(math.lcm(*steps)):
            measured = other._certify(variant, margin, explained=False)
            if measured.passed:
                return measured
        return self._certify(variant, margin)

    def _certify(self, variant: Variant, margin: int | None, explained: bool = True) -> Certificate:
        """Measure on images of this size; where it fails, say where if it is to be explained."""
        size = self.probed.layers[0].image_size
        precision = str(self.backbone.dtype).removeprefix("torch.")
        threshold = THRESHOLD if precision == "float64" else SINGLE_THRESHOLD
        remaining = self._remaining(variant)
        blank = Certificate(math.nan, False, "", threshold=threshold, sources=remaining)
        silent = tuple(silent_scales(self.backbone.model))
        blank = replace(blank, image_size=size, precision=precision, silent=silent)
        if self.random is not None:
            reason = (
                f"not defined: the network is not deterministic in eval mode, two passes over the "
                f"same images differ from {self.random} on; switch its noise or dropout off"
            )
            return replace(blank, reason=reason, first_break=self.random)
        stride = total_stride(self.backbone.model)
        own = variant.name == "original"
        output = self.output  # what is read in single precision comes before double precision is on
        read = self.everything if own and explained else None
        with quietly(self.backbone.model):
            if variant.canvas and margin is None:
                margin, _ = find_margin(self.backbone, self.probed, stride)
            try:
                seen = open_variant(self.backbone, variant, self.probed, self.images, margin or 0)
            except ProbeError as error:
                if not beside_padding(remaining):
                    raise
                reason = f"can't be run: {error}; there remain {kinds(remaining)}"
                return replace(blank, reason=reason)
            shift, fault = smallest_shift(seen.layers, self.probed.layers, size, stride)
            if fault:
                more = f"; there remain {kinds(remaining)}" if beside_padding(remaining) else ""
                return replace(blank, reason=fault + more)
            leakage = padding_leakage(self.backbone, seen, self.images) if variant.canvas else None
            plain = VariantRun(parse_variant("original"), self.probed, self.probed.layers)
            if own or self._plain is None or self._plain.shift != shift:
                self._plain = self._measure(plain, shift, output, read, threshold)
            measured = self._plain
            if not own:
                measured = self._measure_closely(seen, shift, output, threshold, remaining)
        if explained and not own and not measured.residual <= threshold:
            read = self.everything
            with quietly(self.backbone.model):
                measured = self._measure(seen, measured.shift, output, read, threshold)
        blank = replace(blank, contrast=self._plain.residual, contact=leakage, margin=seen.margin)
        values = vars(measured).copy()
        before = values.pop("before")
        return self._judge(replace(blank, **values), before)

    def _judge(self, measured: Certificate, before: Sequence[str]) -> Certificate:
        """Say whether what was measured passes, and why.

        ``before`` are the modules that had run when equivariance broke: what comes later is no
        cause.
        """
        passed, first = measured.residual <= measured.threshold, None
        found = set(self.inventory["kind"])
        reason = "every layer that was looked at is translation equivariant"
        if self.windowed:
            reason += " up to its place within a window of {} × {} pixels".format(*measured.shift)
        if math.isnan(measured.residual):
            reason = "not defined: features are not finite"
        elif not passed:
            broken = (n for n, r in measured.layers.items() if not r <= measured.threshold)
            first = measured.first_break or next(broken)
            reason = f"position enters at or before {first}"
            if causes := _causes(measured.sources, before, first, self._whole):
                reason += f": {kinds(causes)}"
            elif self.windowed and not measured.sources:
                reason += (
                    ": of the sources that were found only windows are left, and no shift smaller "
                    "than the image was found that moves all of them; choose a larger image size"
                )
            elif not measured.sources:
                reason += ": of the sources that were found none is left; it is one of another kind"
        elif beside_padding(measured.sources):
            passed = False
            reason = (
                f"inconclusive: there remain {kinds(measured.sources)}, which a shift of "
                f"{measured.shift[0]} × {measured.shift[1]} pixels or these weights hide"
            )
        elif PADDING not in found and (self.windowed or not found):
            reason += f"; {NOTHING_PADS}"
        elif not measured.contrast >= CONTRAST:
            passed = False
            own = "its own padding" if PADDING in found else "its own sources of position"
            reason = (
                f"inconclusive: with {own} the network's residual (contrast) is only "
                f"{measured.contrast:.1e}, at least {CONTRAST:.0e} is needed, so that these "
                "weights hide them; use trained weights, or raise factors such as LayerScale"
            )
        elif PADDING not in found:
            reason += f"; {NOTHING_PADS}"
        if measured.contact:
            reason += f"; padding reaches the probed region, contact {measured.contact:.1e}"
        if measured.silent:
            reason += f"; {silence(measured.silent, 'proven')}"
        return replace(measured, passed=passed, reason=reason, first_break=first)

    def _measure_closely(
        self,
        seen: VariantRun,
        shift: tuple[int, int],
        output: Layer | None,
        threshold: float,
        remaining: Sequence[str],
    ) -> _Measurement:
        """Measure; where it fails, with another shift if that may do."""
        measured = self._measure(seen, shift, output)
        if measured.residual <= threshold:
            return measured
        sides = list(zip(self.probed.layers[0].image_size, shift, strict=True))
        # Some layers halve a map and double it again, within a block; windows have a stride.
        most = min(pixels // step for pixels, step in sides) if self.windowed else 3
        for factor in range(2, most) if not remaining else ():
            wider = (factor * shift[0], factor * shift[1])
            if all(n % (factor * step) == 0 < n - factor * step for n, step in sides):
                again = self._measure(seen, wider, output)
                if again.residual <= threshold:
                    return again
        return measured

    @property
    def _whole(self) -> str:
        """What sources of no module of its own are said to lie in."""
        return type(self.backbone.model).__name__

    def _remaining(self, variant: Variant) -> tuple[str, ...]:
        """Sources that the variant leaves in place, as ``kind: module``."""
        table = self.inventory
        # Windows leave the place within one of them, which the shift bounds.
        table = table[~table["kind"].isin(variant.removed_kinds | {WINDOWS})]
        pairs = zip(table["kind"], table["module"], strict=True)
        return tuple(dict.fromkeys(f"{kind}: {module or self._whole}" for kind, module in pairs))

    # ------------------------------------------------------------ measuring

    def _measure(
        self,
        seen: VariantRun,
        shift: tuple[int, int],
        whole: Layer | None,
        read: ReadLayers | None = None,
        threshold: float = 0.0,
    ) -> _Measurement:
        """Residual of each layer, from one pass over an image and its shifted copy.

        ``whole`` tells how what the network returns lies over the image; with ``read``, which
        tells that of all modules, also the first of these whose residual is above the threshold.
        """
        residuals: dict[str, float] = {}
        strides = {layer.name: layer for layer in self.probed.layers}

        def compare(layer: Layer, features: Tensor) -> None:
            before = strides.get(layer.name, layer)
            residuals[layer.name] = residual_of(features, shift, layer, before)

        broken: list[str] = []
        ran: list[str] = []
        pair = torch.cat([self.images, torch.roll(self.images, shift, (2, 3))])
        with ExitStack() as stack:
            if read is not None and seen.variant.torus:
                layers = {name: layer for name, layer, _ in read.outputs if layer}
                look = partial(self._look, seen, shift, threshold, broken, ran, layers)
                names = [name for name, _, _ in read.outputs]
                stack.enter_context(hooked(self.backbone.model, names, look))
            out = seen.run(self.backbone, stretch(pair, seen.margin), compare, seed=self.seed)
        known = isinstance(out, Tensor) and out.is_floating_point()  # no classes
        if known and seen.variant.torus and not seen.margin:
            size = self.probed.layers[0].image_size
            layer = whole and reread(whole, self.backbone.model, tuple(out.shape), 2, size)
            if layer and max(layer.places) > 1 and whole_places(layer, shift):
                compare(replace(layer, name="output"), layer.canonical(out, 2))
            if layer and layer.prefix + layer.suffix and layer.layout == "NLC":
                # Tokens of no place are compared as they are.
                last = layer.prefix + layer.height * layer.width
                tokens = torch.cat([out[:, : layer.prefix], out[:, last:]], 1)
                scale = float(tokens.abs().max()) or 1.0
                residuals["tokens of no place"] = float((tokens[1] - tokens[0]).abs().max()) / scale
        ordered = {layer.name: residuals[layer.name] for layer in seen.layers} | residuals
        values = list(ordered.values())
        residual = math.nan if any(map(math.isnan, values)) else max(values)
        return _Measurement(residual, ordered, shift, next(iter(broken), None), tuple(ran))

    def _look(
        self,
        seen: VariantRun,
        shift: tuple[int, int],
        threshold: float,
        broken: list[str],
        ran: list[str],
        layers: Mapping[str, Layer],
        name: str,
        output: Any,
    ) -> None:
        """Note a module if it is the first whose output does not move with the image."""
        if broken:
            return
        ran.append(name.partition(":")[0])
        known = layers.get(name)
        if known is None:
            return
        tensor = first_tensor(output, 2, known.layout.index("N"), len(known.layout))
        if tensor is None or not tensor.is_floating_point():
            return
        size, inner = seen.probed.layers[0].image_size, self.probed.layers[0].image_size
        layer = reread(known, self.backbone.model, tuple(tensor.shape), 2, size)
        if layer is None or layer.height * layer.width == 1:
            return
        features = layer.canonical(tensor, 2)
        if seen.margin:
            sides = zip((layer.height, layer.width), inner, size, strict=True)
            height, width = (cells * probed // pixels for cells, probed, pixels in sides)
            if not height or not width:
                return
            top, left = (layer.height - height) // 2, (layer.width - width) // 2
            features = features.narrow(2, top, height).narrow(3, left, width)
            layer = replace(layer, height=height, width=width, image_size=inner)
        if (
            whole_places(layer, shift)
            and not residual_of(features, shift, layer, layer) <= threshold
        ):
            broken.append(name)


@dataclass(frozen=True)
class _Measurement:
    residual: float
    layers: Mapping[str, float]
    shift: tuple[int, int]
    first_break: str | None = None
    before: tuple[str, ...] = ()


def _causes(sources: Sequence[str], before: Sequence[str], first: str, whole: str) -> list[str]:
    """Which sources can have broken equivariance at the output of module ``first``.

    Those of modules that had run by then, of ``first``, of what it is part of, and of the whole
    network; all where the order of execution was not seen.
    """
    possible = {*before, first, whole}
    possible.update(first[:end] for end, letter in enumerate(first) if letter == ".")
    causes = [source for source in sources if source.partition(": ")[2] in possible]
    return causes if before and causes else list(sources)
