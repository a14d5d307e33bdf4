"""Hooks on the chosen layers: what they give on a dry run, and their features in every pass."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ProbeError, ProbeWarning
from .choice import choose_layers
from .layer import Layer, first_tensor

_Shape = tuple[int, ...]


@dataclass(frozen=True)
class ProbedLayers:
    """The layers of one backbone, and how to run it so that they fire.

    Attributes
    ----------
    layers : tuple of Layer
        In order of execution.
    entry : str
        The method to call: ``forward_features``, or ``forward`` where a layer needs more.
    memory_format : torch.memory_format
        Of the input. Channels last is the faster one for most convolutional networks on a CPU.
    """

    layers: tuple[Layer, ...]
    entry: str
    memory_format: torch.memory_format

    def run(self, model: nn.Module, x: Tensor, receive: Callable[[Layer, Tensor], None]) -> Any:
        """Run the model; hand each layer's map ``(B, C, H, W)`` over as soon as it is there.

        The map may be overwritten once ``receive`` returns. Hooks are gone afterwards, also after
        an exception. Returns what the model returned.
        """
        by_name = {layer.name: layer for layer in self.layers}

        def take(name: str, output: Any) -> None:
            layer = by_name[name]
            # A mode that rewrites the network's borders must not rewrite a readout's.
            with torch._C.DisableTorchFunction():
                receive(layer, layer.canonical(output, len(x)))

        with hooked(model, by_name, take):
            return getattr(model, self.entry)(x.contiguous(memory_format=self.memory_format))

    def again(self, model: nn.Module, x: Tensor, label: str = "the model") -> ProbedLayers:
        """Learn by another dry run what the same layers are on other images, or run otherwise.

        Raises
        ------
        ProbeError
            If the model refuses, or a layer is no map any more or has a single place.
        """
        names = [layer.name for layer in self.layers]
        fired, memory_format = _dry_run(model, names, self.entry, x, label)
        size = (int(x.shape[-2]), int(x.shape[-1]))
        layers = []
        for layer in self.layers:
            shape = (fired.get(layer.name) or [None])[0]
            seen = shape and describe(model, layer.name, layer.depth, shape, len(x), size)
            if not seen or seen.height == seen.width == 1:
                raise ProbeError(
                    f"layer {layer.name!r} of {label} can't be probed so: it returns a tensor of "
                    f"shape {shape}; choose a larger image size or other layers"
                )
            layers.append(seen)
        return ProbedLayers(tuple(layers), self.entry, memory_format)


@contextmanager
def hooked(
    model: nn.Module, names: Sequence[str] | Mapping[str, Any], receive: Callable[[str, Any], None]
) -> Iterator[None]:
    """Call ``receive(name, output)`` whenever one of the named modules returns."""
    modules = dict(model.named_modules())
    handles = []

    def hook(name: str) -> Callable[..., None]:
        return lambda _module, _inputs, output: receive(name, output)

    try:
        for name in names:
            handles.append(modules[name].register_forward_hook(hook(name)))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put every module in eval mode, without gradients, and put back the modes it had."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in modes:
            module.training = False
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def probe_layers(
    model: nn.Module,
    layers: str | Sequence[str],
    x: Tensor,
    label: str = "the model",
) -> ProbedLayers:
    """Choose layers and learn by a dry run how they fire, in which order and in which layout.

    Parameters
    ----------
    model : Module
        In eval mode.
    layers : str or sequence of str
        See :func:`choose_layers`.
    x : Tensor, shape (B, 3, H, W)
        Normalised images.
    label : str
        What messages call the model.

    Returns
    -------
    Taps

    Raises
    ------
    ProbeError
        If the model refuses the image size, or an exactly named layer can't be probed.
    """
    names, exact = choose_layers(model, layers, label)
    entries = ["forward"]
    if callable(getattr(model, "forward_features", None)):
        entries.insert(0, "forward_features")
    for used in entries:
        try:
            fired, memory_format = _dry_run(model, names, used, x, label)
        except ProbeError:
            if used == entries[-1]:
                raise
            continue
        if all(name in fired for name in (exact or names)):
            break

    size = (int(x.shape[-2]), int(x.shape[-1]))
    taps: list[Layer] = []
    left_out: list[str] = []
    for name in [*fired, *(n for n in names if n not in fired)]:
        calls = fired.get(name, [])
        layer = None
        if not calls:
            fault = "never runs on an image"
        elif len(calls) > 1:
            fault = f"runs {len(calls)} times for each image, so that it has no one feature map"
        elif calls[0] is None:
            fault = "returns no tensor"
        else:
            layer = describe(model, name, len(taps) + 1, calls[0], len(x), size)
            fault = f"returns a tensor of shape {calls[0]}, which is no map over the image"
            if layer is not None and min(layer.places) == max(layer.places) == 1:
                fault, layer = "has a single place, which can't tell where it is", None
        if layer is not None:
            taps.append(layer)
        elif name in exact:
            raise ProbeError(f"layer {name!r} of {label} can't be probed: it {fault}")
        elif calls:
            left_out.append(f"{name} ({fault})")
    if not taps:
        why = f": {'; '.join(left_out[:3])}" if left_out else ""
        raise ProbeError(f"none of the layers {layers!r} of {label} can be probed{why}")
    if left_out:
        more = f" and {len(left_out) - 3} more" if len(left_out) > 3 else ""
        warnings.warn(
            f"layers of {label} left out: {'; '.join(left_out[:3])}{more}",
            ProbeWarning,
            stacklevel=2,
        )
    return ProbedLayers(tuple(taps), used, memory_format)


def _dry_run(
    model: nn.Module,
    names: Sequence[str],
    entry: str,
    x: Tensor,
    label: str,
) -> tuple[dict[str, list[_Shape | None]], torch.memory_format]:
    """Run once; return the shapes that each layer gave, and the memory format of the input."""
    failure: Exception | None = None
    for memory_format in (torch.channels_last, torch.contiguous_format):
        fired: dict[str, list[_Shape | None]] = {}

        def receive(name: str, output: Any, fired: dict[str, list[_Shape | None]] = fired) -> None:
            tensor = first_tensor(output, len(x))
            fired.setdefault(name, []).append(None if tensor is None else tuple(tensor.shape))

        try:
            with hooked(model, names, receive):
                getattr(model, entry)(x.contiguous(memory_format=memory_format))
            return fired, memory_format
        except Exception as error:  # whatever the model's author chose to raise
            failure = failure or error
    text = (str(failure).strip().splitlines() or [type(failure).__name__])[0][:200]
    height, width = x.shape[-2:]
    raise ProbeError(
        f"{label} refuses images of {height} × {width} pixels and {x.shape[1]} channels: {text}"
    ) from failure


def describe(
    model: nn.Module,
    name: str,
    depth: int,
    shape: tuple[int, ...],
    batch: int,
    image_size: tuple[int, int],
) -> Layer | None:
    """Tell from the shape of a module's output how it lies over the image.

    Parameters
    ----------
    model : Module
        Whose ``output_fmt`` and ``num_prefix_tokens`` count, if it has them.
    name : str
        Of the layer.
    depth : int
        Its rank.
    shape : tuple of int
        Of the output.
    batch : int
        How many images went in.
    image_size : (int, int)
        Their height and width.

    Returns
    -------
    Layer or None
        None if the output is no map over the image.
    """
    if len(shape) not in (2, 3, 4) or shape[0] != batch:
        return None

    def layer(channels: int, height: int, width: int, layout: str, prefix: int = 0) -> Layer:
        return Layer(name, depth, channels, height, width, layout, prefix, image_size)

    if len(shape) == 2:
        return layer(shape[1], 1, 1, "NCL")
    if len(shape) == 4:
        ways = [("NCHW", shape[1], shape[2:]), ("NHWC", shape[3], shape[1:3])]
        if getattr(model, "output_fmt", None) == "NHWC":
            ways.reverse()
        fits = [w for w in ways if _covers(w[2], image_size)]
        layout, channels, (height, width) = (fits or ways[:1])[0]
        return layer(channels, height, width, layout)
    known = getattr(model, "num_prefix_tokens", None)
    found = []
    for layout, tokens, channels in (("NLC", shape[1], shape[2]), ("NCL", shape[2], shape[1])):
        for prefix in (0, 1, 2) if known is None else dict.fromkeys((known, 0)):
            size = _grid(tokens - prefix, image_size)
            if size is not None:
                found.append(layer(channels, *size, layout, prefix))
                break
    if len(found) == 2 and known is None and shape[1] != shape[2]:
        warnings.warn(
            f"layer {name} returns a tensor of shape {shape}: it is taken for "
            f"{found[0].height} × {found[0].width} tokens of {found[0].channels} channels",
            ProbeWarning,
            stacklevel=2,
        )
    return found[0] if found else None


def _covers(size: Sequence[int], image_size: tuple[int, int]) -> bool:
    """Whether a map of this size can be a strided view of the image, to within a cell."""
    (h, w), (height, width) = size, image_size
    return abs(h * width - w * height) <= max(width, height) and h <= height and w <= width


def _grid(tokens: int, image_size: tuple[int, int]) -> tuple[int, int] | None:
    """Rows and columns of a number of tokens laid out as the image is."""
    if tokens < 1:
        return None
    rows = round(math.sqrt(tokens * image_size[0] / image_size[1]))
    for height in (rows, rows - 1, rows + 1):
        if height > 0 and tokens % height == 0:
            size = (height, tokens // height)
            if _covers(size, image_size):
                return size
    return None
