r"""Certificates: a measured proof that a variant left no padding-made position behind.

On a torus a network without borders is translation equivariant: shifting a periodic image by a
multiple of every layer's stride shifts every feature map and changes nothing else. The residual

.. math:: \max_{layers} \frac{\|f(\mathrm{roll}\,x) - \mathrm{roll}\,f(x)\|_∞}{\|f(x)\|_∞}

is then rounding alone. Any source of position (padding, position embeddings, windows that do not
divide the shift) makes it large. It is measured in float64, where rounding is some 1e-14 and even
faint sources stand out, on a copy of the network; in float32 only where a network can't be
converted.

A certificate must be able to fail. Small factors (LayerScale at 1e-6) hide borders from the
layers that are looked at, so that any network would pass: the *contrast*, the residual of the
same weights with their own padding, has to be clear.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .backbones import Backbone, input_size, known_model, load_backbone
from .errors import ProbeError, ProbeWarning
from .inventory import EMBEDDING, PADDING, RESAMPLING, double_precision, take_inventory
from .layers import Layer, Taps, describe, evaluating, first_tensor, hooked, tap, total_stride
from .stimuli import Leaves, stretch
from .variants import Variant, View, contact, exact_copy, find_margin, parse_variant, view

THRESHOLD = 1e-8
"""Greatest residual that passes, measured in float64."""

SINGLE_THRESHOLD = 1e-4
"""Greatest residual that passes, measured in float32."""

NORM_SCALE = 0.3
"""Scale of batch normalisations in networks built for certifying."""

CONTRAST = 1e-4
"""Least residual of the original from which borders show."""


@dataclass(frozen=True)
class Certificate:
    """Equivariance of one backbone under one variant.

    Attributes
    ----------
    residual : float
        Greatest over the layers; NaN where it is not defined, see ``reason``.
    passed : bool
        Whether ``residual ≤ threshold``, none but padding is left of the known sources, and the
        contrast is clear or nothing pads.
    reason : str
        What that says, in words.
    layers : mapping of str to float
        Residual of each layer. ``output`` is what the network returns, if that is a map.
    shift : (int, int)
        Shift in pixels, down and to the right.
    threshold : float
        :data:`THRESHOLD`, in float32 :data:`SINGLE_THRESHOLD`.
    contrast : float
        Residual of ``original`` on the same weights and images.
    sources : tuple of str
        Sources of position that the variant leaves in place, by kind and module.
    first_break : str or None
        The first module at whose output equivariance is broken; None if at none.
    contact : float or None
        Of a canvas: how much of what padding writes reaches the probed region, 0 if nothing
        does; see :func:`probe.variants.contact`.
    margin : int
        Of a canvas, in pixels.
    image_size : (int, int)
        In pixels.
    precision : str
        ``float64`` or ``float32``.
    """

    residual: float
    passed: bool
    reason: str
    layers: Mapping[str, float] = field(default_factory=dict)
    shift: tuple[int, int] = (0, 0)
    threshold: float = THRESHOLD
    contrast: float = math.nan
    sources: tuple[str, ...] = ()
    first_break: str | None = None
    contact: float | None = None
    margin: int = 0
    image_size: tuple[int, int] = (0, 0)
    precision: str = "float64"


def certify(
    model: str | nn.Module,
    variant: str = "circular",
    *,
    weights: str = "random",
    layers: str | Sequence[str] = "stages",
    image_size: int | tuple[int, int] | None = None,
    margin: int | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
) -> Certificate:
    """Measure whether a variant leaves a network any source of position.

    Parameters
    ----------
    model : str or Module
        A timm name, or a module, which is taken as it is.
    variant : str
        See :data:`probe.VARIANTS`; parts are joined by ``+``.
    weights : str
        Of a name: ``random`` (timm's initialisation, with what it sets to nearly 0 made to count,
        so that borders show, see :func:`expose_borders` and :func:`calibrate_norms`),
        ``pretrained``, or a checkpoint file.
    layers : str or sequence of str
        Layers to look at besides what the network returns, see
        :func:`probe.layers.choose_layers`.
    image_size : int or (int, int), optional
        Pixels. By default for a name the smallest on which its layers have a few places each, for
        a module its config's or 224, both a multiple of the total stride.
    margin : int, optional
        Of ``canvas``, in pixels; by default the smallest that is out of padding's reach.
    seed : int
        Of random weights, images and noise.
    device : str or torch.device
        ``auto``: CUDA where there is one, else the CPU; a module stays where it is.

    Returns
    -------
    Certificate

    Raises
    ------
    ProbeError
        If the model or the variant does not exist, or it can't be run so.

    Examples
    --------
    >>> probe.certify("resnet18").passed
    True
    >>> probe.certify(model, "circular+no_pos_embed").sources
    """
    parsed = parse_variant(variant)
    if margin is not None and not parsed.canvas:
        raise ProbeError("margin: it is for the variant canvas, which was not asked for")
    named = {"weights": weights, "layers": layers, "seed": seed, "device": device}
    subject = prepare(model, image_size=image_size, **named)
    if parsed.rule == "valid" and image_size is None and isinstance(model, str):
        # Without padding maps shrink by what padding reaches.
        stride = total_stride(subject.backbone.model)
        reach, _ = find_margin(subject.backbone, subject.taps, stride)
        subject = prepare(model, image_size=2 * (reach + stride), **named)
    return subject.certify(parsed, margin=margin)


@dataclass
class Subject:
    """A network ready to be certified under any variant; see :func:`prepare`.

    Attributes
    ----------
    backbone : Backbone
        A copy in float64 where that can be had.
    taps : Taps
        The layers to look at.
    images : Tensor, shape (1, 3, H, W)
        Tileable, in [0, 1].
    seed : int
        Of noise.
    """

    backbone: Backbone
    taps: Taps
    images: Tensor
    seed: int = 0
    _plain: _Measurement | None = None
    _inventory: pd.DataFrame | None = None

    @property
    def inventory(self) -> pd.DataFrame:
        """See :func:`sources`."""
        if self._inventory is None:
            with _quietly(self.backbone.model):
                x = self.backbone.normalise(self.images)
                self._inventory = take_inventory(self.backbone.model, x, self.taps.entry)
        return self._inventory

    @property
    def resampled_alone(self) -> bool:
        """Whether uneven pooling or resizing is the one source of position besides padding."""
        return set(self.inventory["kind"]) - {PADDING} == {RESAMPLING}

    def certify(self, variant: Variant, margin: int | None = None) -> Certificate:
        """Measure one variant; ``margin`` is that of a canvas."""
        size = self.taps.layers[0].image_size
        precision = str(self.backbone.dtype).removeprefix("torch.")
        threshold = THRESHOLD if precision == "float64" else SINGLE_THRESHOLD
        remaining = self._remaining(variant)
        blank = Certificate(
            math.nan,
            False,
            "",
            threshold=threshold,
            sources=remaining,
            image_size=size,
            precision=precision,
        )
        stride = total_stride(self.backbone.model)
        with _quietly(self.backbone.model):
            if variant.canvas and margin is None:
                margin, _ = find_margin(self.backbone, self.taps, stride)
            try:
                seen = view(self.backbone, variant, self.taps, self.images, margin or 0)
            except ProbeError as error:
                if not _beside_padding(remaining):
                    raise
                reason = f"can't be run: {error}; there remain {_kinds(remaining)}"
                return replace(blank, reason=reason)
            shift, fault = _shift(seen.layers, self.taps.layers, size, stride)
            if fault:
                more = f"; there remain {_kinds(remaining)}" if _beside_padding(remaining) else ""
                return replace(blank, reason=fault + more)
            touch = contact(self.backbone, seen, self.images) if variant.canvas else None
            plain = View(parse_variant("original"), self.taps, self.taps.layers)
            if variant.name == "original" or self._plain is None or self._plain.shift != shift:
                watch = threshold if variant.name == "original" else None
                self._plain = self._measure(plain, shift, watch)
            found = self._plain
            if variant.name != "original":
                found = self._measure_closely(seen, shift, threshold, remaining)
        return self._judge(
            replace(
                blank,
                residual=found.residual,
                layers=found.layers,
                shift=found.shift,
                contrast=self._plain.residual,
                first_break=found.first_break,
                contact=touch,
                margin=seen.margin,
            )
        )

    def _judge(self, measured: Certificate) -> Certificate:
        """Say whether what was measured passes, and why."""
        passed, first = measured.residual <= measured.threshold, None
        reason = "every layer that was looked at is translation equivariant"
        if math.isnan(measured.residual):
            reason = "not defined: features are not finite"
        elif not passed:
            broken = (n for n, r in measured.layers.items() if not r <= measured.threshold)
            first = measured.first_break or next(broken)
            reason = f"position enters at or before {first}"
            if measured.sources:
                reason += f": {_kinds(measured.sources)}"
        elif _beside_padding(measured.sources):
            passed = False
            reason = (
                f"inconclusive: there remain {_kinds(measured.sources)}, which a shift of "
                f"{measured.shift[0]} × {measured.shift[1]} pixels or these weights hide"
            )
        elif not self._pads():
            reason += "; nothing pads"
        elif not measured.contrast >= CONTRAST:
            passed = False
            reason = (
                "inconclusive: with its own padding the network's residual (contrast) is only "
                f"{measured.contrast:.1e}, at least {CONTRAST:.0e} is needed, so that these "
                "weights hide borders; use trained weights, or raise factors such as LayerScale"
            )
        if measured.contact:
            reason += f"; padding reaches the probed region, contact {measured.contact:.1e}"
        return replace(measured, passed=passed, reason=reason, first_break=first)

    def _measure_closely(
        self, seen: View, shift: tuple[int, int], threshold: float, remaining: Sequence[str]
    ) -> _Measurement:
        """Measure; where it fails, with another shift if that may do, and module by module."""
        found = self._measure(seen, shift)
        if found.residual <= threshold:
            return found
        doubled = (2 * shift[0], 2 * shift[1])
        sides = zip(self.taps.layers[0].image_size, doubled, strict=True)
        if not remaining and all(pixels % d == 0 and pixels > d for pixels, d in sides):
            # Some layers halve a map and double it again, within a block.
            again = self._measure(seen, doubled)
            if again.residual <= threshold:
                return again
        return self._measure(seen, shift, threshold)

    def _pads(self) -> bool:
        return bool((self.inventory["kind"] == PADDING).any())

    def _remaining(self, variant: Variant) -> tuple[str, ...]:
        """Sources that the variant leaves in place, as ``kind: module``."""
        table = self.inventory
        if variant.removes_padding:
            table = table[table["kind"] != PADDING]
        if variant.embedding == "no_pos_embed":
            table = table[table["kind"] != EMBEDDING]
        named = [
            f"{row.kind}: {row.module or type(self.backbone.model).__name__}"
            for row in table.itertuples()
        ]
        return tuple(dict.fromkeys(named))

    # ------------------------------------------------------------ measuring

    def _pair(self, seen: View, shift: tuple[int, int]) -> Tensor:
        moved = torch.roll(self.images, shift, (2, 3))
        return stretch(torch.cat([self.images, moved]), seen.margin)

    def _measure(
        self, seen: View, shift: tuple[int, int], watch: float | None = None
    ) -> _Measurement:
        """Residual of each layer, from one pass over an image and its shifted copy.

        With a threshold to ``watch``, also the first of all modules whose residual is above it.
        """
        residuals: dict[str, float] = {}
        strides = {layer.name: layer for layer in self.taps.layers}

        def compare(layer: Layer, features: Tensor) -> None:
            before = strides.get(layer.name, layer)
            residuals[layer.name] = _residual(features, shift, layer, before)

        broken: list[str] = []
        with ExitStack() as stack:
            if watch is not None and seen.variant.torus:
                names = [
                    name
                    for name, module in self.backbone.model.named_modules()
                    if name and not isinstance(module, torch.jit.ScriptModule)  # takes no hooks
                ]
                look = partial(self._look, seen, shift, watch, broken)
                stack.enter_context(hooked(self.backbone.model, names, look))
            out = seen.run(self.backbone, self._pair(seen, shift), compare, seed=self.seed)
        if isinstance(out, Tensor) and seen.variant.torus and not seen.margin:
            size = self.taps.layers[0].image_size
            layer = describe(self.backbone.model, "output", 0, tuple(out.shape), 2, size)
            if layer is not None and max(layer.places) > 1 and _whole_places(layer, shift):
                compare(layer, layer.canonical(out))
        ordered = {layer.name: residuals[layer.name] for layer in seen.layers} | residuals
        values = list(ordered.values())
        residual = math.nan if any(map(math.isnan, values)) else max(values)
        return _Measurement(residual, ordered, shift, next(iter(broken), None))

    def _look(
        self,
        seen: View,
        shift: tuple[int, int],
        threshold: float,
        broken: list[str],
        name: str,
        output: Any,
    ) -> None:
        """Note a module if it is the first whose output does not move with the image."""
        tensor = first_tensor(output, 2)
        if broken or tensor is None or not tensor.is_floating_point():
            return
        size, inner = seen.taps.layers[0].image_size, self.taps.layers[0].image_size
        layer = describe(self.backbone.model, name, 0, tuple(tensor.shape), 2, size)
        if layer is None or layer.height * layer.width == 1:
            return
        features = layer.canonical(tensor)
        if seen.margin:
            sides = zip((layer.height, layer.width), inner, size, strict=True)
            height, width = (cells * probed // pixels for cells, probed, pixels in sides)
            if not height or not width:
                return
            top, left = (layer.height - height) // 2, (layer.width - width) // 2
            features = features.narrow(2, top, height).narrow(3, left, width)
            layer = replace(layer, height=height, width=width, image_size=inner)
        if (
            _whole_places(layer, shift)
            and not _residual(features, shift, layer, layer) <= threshold
        ):
            broken.append(name)


@dataclass(frozen=True)
class _Measurement:
    residual: float
    layers: Mapping[str, float]
    shift: tuple[int, int]
    first_break: str | None = None


def _beside_padding(sources: Sequence[str]) -> bool:
    return any(not source.startswith(f"{PADDING}:") for source in sources)


def _kinds(sources: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(source.partition(":")[0] for source in sources))


@contextmanager
def _quietly(model: nn.Module) -> Iterator[None]:
    """Eval mode, no gradients, no cautions; a network in float64 stays in it."""
    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", ProbeWarning)
        if any(p.dtype == torch.float64 for p in model.parameters()):
            stack.enter_context(double_precision())
        yield


def _residual(features: Tensor, shift: tuple[int, int], layer: Layer, original: Layer) -> float:
    """``max |f(roll x) − roll f(x)| / max |f(x)|`` for features of x and of roll x.

    Without padding there is no ring: what has moved out of sight is left out.
    """
    before, after = features[:1], features[1:]
    scale = float(before.abs().max())
    height, width = layer.image_size
    if layer.inset != (0.0, 0.0):
        down, right = shift[0] * original.height // height, shift[1] * original.width // width
        if down >= layer.height or right >= layer.width:
            return math.nan
        before = before[..., : layer.height - down, : layer.width - right]
        after = after[..., down:, right:]
    else:
        moves = (shift[0] * layer.height // height, shift[1] * layer.width // width)
        before = torch.roll(before, moves, (2, 3))
    apart = float((after - before).abs().max())
    return apart / scale if scale else apart


def _whole_places(layer: Layer, shift: tuple[int, int]) -> bool:
    sides = zip(shift, (layer.height, layer.width), layer.image_size, strict=True)
    return all((s * cells) % pixels == 0 for s, cells, pixels in sides)


def _shift(
    layers: Sequence[Layer], original: Sequence[Layer], size: tuple[int, int], stride: int
) -> tuple[tuple[int, int], str]:
    """Smallest shift in pixels that is a whole number of places in every layer."""
    steps = []
    for axis, word in enumerate(("rows", "columns")):
        pixels = size[axis]
        # A network may go through larger strides than its probed layers show.
        step = stride if pixels % stride == 0 and pixels > stride else 1
        for layer, before in zip(layers, original, strict=True):
            shown = before if layer.inset != (0.0, 0.0) else layer
            cells = (shown.height, shown.width)[axis]
            if pixels % cells:
                return (0, 0), (
                    f"not defined: the {cells} {word} of {layer.name} do not divide the image's "
                    f"{pixels}, so that no shift moves it by whole places"
                )
            step = math.lcm(step, pixels // cells)
        if step >= pixels:
            return (0, 0), (
                f"not defined: the probed layers have a common stride of {step} pixels and the "
                f"image only {pixels} {word}; choose a larger image size"
            )
        steps.append(step)
    return (steps[0], steps[1]), ""


# ---------------------------------------------------------------- what is certified


def prepare(
    model: str | nn.Module | Backbone,
    *,
    weights: str = "random",
    layers: str | Sequence[str] | Taps = "stages",
    image_size: int | tuple[int, int] | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
) -> Subject:
    """Build what :func:`certify` measures; see there."""
    wanted = (image_size, image_size) if isinstance(image_size, int) else image_size
    if not isinstance(model, str):
        backbone = model
        if isinstance(model, nn.Module):
            backbone = load_backbone(model, "given", seed=seed, device=device)
        stride = total_stride(backbone.model)
        size = wanted or input_size(backbone.config, stride)
        return _subject(backbone, layers, size, seed)

    known_model(model)
    named = {"seed": seed, "device": device}
    backbone = load_backbone(model, weights, image_size=wanted, **named)
    stride = total_stride(backbone.model)
    own = input_size(backbone.config, stride)
    sizes = [wanted] if wanted else list(dict.fromkeys([min(_smallest(stride), own), own]))
    subject: Subject | None = None
    failure: ProbeError | None = None
    for size in sizes:
        try:
            backbone = load_backbone(model, weights, image_size=size, **named)
            if weights == "random":
                expose_borders(backbone.model, seed)
                images = Leaves(size, seed).batch("certificate", 1, 5)
                calibrate_norms(backbone.model, backbone.normalise(images))
            subject = _subject(backbone, layers, size, seed)
        except ProbeError as error:
            failure = failure or error
            continue
        # Pooling to a fixed number of places may divide the network's own image size.
        if not subject.resampled_alone:
            break
    if subject is None:
        raise failure
    return subject


def _smallest(stride: int) -> tuple[int, int]:
    """Image size on which the deepest layer has at least 4 × 4 places."""
    side = max(4, math.ceil(64 / stride)) * stride
    return side, side


def _subject(
    backbone: Backbone, layers: str | Sequence[str] | Taps, size: tuple[int, int], seed: int
) -> Subject:
    images = Leaves(size, seed).batch("certificate", 0, 1)
    failure: ProbeError | None = None
    for candidate in (exact_copy(backbone), backbone):
        with _quietly(candidate.model):
            x = candidate.normalise(images)
            try:
                if isinstance(layers, Taps):
                    taps = layers.again(candidate.model, x, backbone.name)
                else:
                    taps = tap(candidate.model, layers, x, backbone.name)
                return Subject(candidate, taps, images, seed)
            except ProbeError as error:
                failure = failure or error
    raise failure


def expose_borders(model: nn.Module, seed: int = 0) -> None:
    """Make what an initialisation sets to nearly 0 count, in place.

    Scales (LayerScale, the last normalisation of a residual branch, gains) of at most 0.1 become
    1; larger tensors that are all 0 (position embeddings, bias tables, last convolutions) become
    normal with variance 1 / fan-in, where fan-in is the size of an entry along the first
    dimension; biases stay.

    Parameters
    ----------
    model : Module
        With weights as initialised.
    seed : int
        Of the normal numbers.
    """
    stream = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.is_floating_point() or not parameter.numel():
                continue
            largest = float(parameter.abs().max())
            scale = parameter.numel() == max(parameter.shape, default=1)
            last = name.rpartition(".")[2]
            if scale:
                if largest <= 0.1 and not _is_bias(last):
                    parameter.fill_(1.0)
            elif largest == 0:
                fan_in = parameter[0].numel()
                drawn = torch.randn(parameter.shape, generator=stream) / math.sqrt(fan_in)
                parameter.copy_(drawn.to(parameter))


def calibrate_norms(model: nn.Module, x: Tensor) -> None:
    """Give batch normalisations the statistics of some images, and a small scale, in place.

    With what they are initialised to, deep networks with random weights are chaotic: activations
    grow until gates saturate, and rounding grows with every block, beyond 1e-4 in float64 after
    some hundred of them. Scales that are all the same become :data:`NORM_SCALE`, so that residual
    branches add little to what they are added to.

    Parameters
    ----------
    model : Module
        Whose ``running_mean`` and ``running_var`` to set, each in the order of execution from
        what the ones before it let through. Channels that hardly vary get a variance of 1/1000 of
        the layer's mean, so that they are not blown up. A model that refuses the images stays as
        it is.
    x : Tensor, shape (B, 3, H, W)
        Normalised images.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    before = [(m, copy.deepcopy(m.state_dict()), m.momentum, m.training) for m in norms]

    def floor(norm: _BatchNorm, *_: Any) -> None:
        norm.running_var.clamp_(min=float(norm.running_var.mean()) / 1000)

    handles = [norm.register_forward_hook(floor) for norm in norms]
    entry = getattr(model, "forward_features", model)
    try:
        with evaluating(model):
            for norm in norms:
                norm.training, norm.momentum = True, 1.0
                if norm.weight is not None and bool((norm.weight == norm.weight[0]).all()):
                    norm.weight.fill_(NORM_SCALE)
            entry(x)
    except Exception:  # whatever the model's author chose to raise; measuring will say so
        for norm, state, _, _ in before:
            norm.load_state_dict(state)
    finally:
        for handle in handles:
            handle.remove()
        for norm, _, momentum, training in before:
            norm.momentum, norm.training = momentum, training


def _is_bias(name: str) -> bool:
    return "bias" in name or name in ("beta", "shift", "cls_token", "mask_token", "dist_token")


def sources(
    model: str | nn.Module,
    *,
    image_size: int | tuple[int, int] | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
) -> pd.DataFrame:
    """List every place from which absolute position can enter a network.

    The network runs once: padded calls are found by the border rules' own record, functional ones
    included; everything else by following which tensors depend on the image and which do not.

    Parameters
    ----------
    model : str or Module
        A timm name, built with random weights, or a module.
    image_size : int or (int, int), optional
        Pixels; by default the config's or 224.
    seed : int
        Of random weights and the image.
    device : str or torch.device
        ``auto``: CUDA where there is one, else the CPU; a module stays where it is.

    Returns
    -------
    DataFrame
        ``kind`` (one of :data:`probe.inventory.KINDS`), ``module`` (path; empty for the model's
        own code), ``function``, ``parameter`` (those that a constant comes from), ``kernel``,
        ``stride`` and ``pad`` (top, bottom, left, right) of padded calls, ``calls``.

    Raises
    ------
    ProbeError
        If the model does not exist or refuses the image size.
    """
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    weights = "random" if isinstance(model, str) else "given"
    backbone = load_backbone(model, weights, seed=seed, device=device, image_size=size)
    size = size or input_size(backbone.config, total_stride(backbone.model))
    images = Leaves(size, seed).batch("certificate", 0, 1)
    failure: Exception | None = None
    for entry in ("forward", "forward_features"):
        call: Callable[..., Any] | None = getattr(backbone.model, entry, None)
        if not callable(call):
            continue
        try:
            with evaluating(backbone.model):
                return take_inventory(backbone.model, backbone.normalise(images), entry)
        except Exception as error:  # whatever the model's author chose to raise
            failure = failure or error
    text = (str(failure).strip().splitlines() or [type(failure).__name__])[0][:200]
    raise ProbeError(
        f"{backbone.name} refuses images of {size[0]} × {size[1]} pixels: {text}"
    ) from failure
