"""Layers: choosing them, hooking them, and seeing each one's output as ``(B, C, H, W)``.

What a layer is (name, channels, size, layout) is data, found out by one dry run of the backbone.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from difflib import get_close_matches
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from .errors import ProbeError, ProbeWarning

PRESETS: tuple[str, ...] = ("stages", "blocks", "convs")
"""Names of ready-made choices of layers."""

MAX_PLACES = 28
"""Greatest height and width at which a layer is probed; larger ones are averaged down."""

_Shape = tuple[int, ...]
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


@dataclass(frozen=True)
class Layer:
    """A module whose output feature map is probed.

    Attributes
    ----------
    name : str
        Its name in ``model.named_modules()``.
    depth : int
        Its rank in order of execution among the probed layers, from 1.
    channels, height, width : int
        Of its feature map.
    layout : str
        How the module returns it: ``NCHW``, ``NHWC``, ``NLC`` (tokens) or ``NCL``.
    prefix : int
        Tokens before those of the places, such as a class token.
    image_size : (int, int)
        Height and width in pixels of the images behind.
    inset : (float, float)
        Pixels at the top and bottom, and at the left and right, that the map leaves out.
    """

    name: str
    depth: int
    channels: int
    height: int
    width: int
    layout: str
    prefix: int
    image_size: tuple[int, int]
    inset: tuple[float, float] = (0.0, 0.0)

    @property
    def places(self) -> tuple[int, int]:
        """Height and width at which it is probed, at most :data:`MAX_PLACES` each."""
        return _windows(self.height)[0].size, _windows(self.width)[0].size

    @cached_property
    def rows(self) -> NDArray[np.float64]:
        """Weight of each row of pixels in each row of places, shape (places, pixels)."""
        return _averaging(self.height, self.image_size[0], self.inset[0])

    @cached_property
    def columns(self) -> NDArray[np.float64]:
        """Weight of each column of pixels in each column of places, shape (places, pixels)."""
        return _averaging(self.width, self.image_size[1], self.inset[1])

    def windows(self, kernel: int = 1) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Weights of pixel rows and columns in the places that have a whole kernel around them."""
        edge = kernel // 2
        rows, columns = self.rows, self.columns
        return rows[edge : len(rows) - edge], columns[edge : len(columns) - edge]

    def border_distance(self, kernel: int = 1) -> NDArray[np.float64]:
        """Pixels of the input from each place's centre to the nearest border, shape (h', w')."""
        sides = []
        for weights, pixels in zip(self.windows(kernel), self.image_size, strict=True):
            centre = weights @ (np.arange(pixels) + 0.5)
            sides.append(np.minimum(centre, pixels - centre))
        return np.minimum(sides[0][:, None], sides[1][None, :])

    def canonical(self, output: Any, batch: int | None = None) -> Tensor:
        """See the module's output as ``(B, C, H, W)``, whatever its layout; a view."""
        x = first_tensor(output, batch)
        if self.layout == "NCHW":
            return x
        if self.layout == "NHWC":
            return x.permute(0, 3, 1, 2)
        if self.layout == "NCL":
            x = x.transpose(1, 2)
        x = x[:, self.prefix :]
        return x.transpose(1, 2).reshape(len(x), self.channels, self.height, self.width)

    def reduce(self, x: Tensor) -> Tensor:
        """Average a map ``(B, C, H, W)`` over equal windows, one for each place.

        The windows are squares of ``⌈size / 28⌉`` cells. Where they do not tile the map, they are
        spread evenly and leave some cells out, so that every place averages as many cells.
        """
        (starts_y, k_y), (starts_x, k_x) = _windows(self.height), _windows(self.width)
        if k_y == k_x == 1:
            return x
        if starts_y.size * k_y == self.height and starts_x.size * k_x == self.width:
            return F.avg_pool2d(x, (k_y, k_x))
        rows, columns = (
            torch.from_numpy(_window_weights(n)).to(x) for n in (self.height, self.width)
        )
        return rows @ x @ columns.T


@dataclass(frozen=True)
class GridLayer(Layer):
    """A layer, or several, resized to a common grid as in the published protocol.

    Bilinear with corners aligned: the first place lies on the first row of pixels and the last on
    the last, however far the layer's own cells are from the edge. What a readout predicts, which
    may be a place less on each side, is taken to cover the whole image again. Distances to the
    border are those on the grid.

    References
    ----------
    Islam, Jia, Bruce (2020), arXiv 2001.08248, section 3.2.
    """

    @classmethod
    def like(cls, layer: Layer) -> GridLayer:
        """Return the same layer, to be resized."""
        return cls(**{field.name: getattr(layer, field.name) for field in fields(Layer)})

    @property
    def places(self) -> tuple[int, int]:
        """Height and width of the grid."""
        return grid_size(self.image_size)

    def windows(self, kernel: int = 1) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Weights of pixel rows and columns in the places that a readout predicts."""
        rows, columns = (
            _sampling(places - kernel + 1, pixels)
            for places, pixels in zip(self.places, self.image_size, strict=True)
        )
        return rows, columns

    def reduce(self, x: Tensor) -> Tensor:
        """Resize a map ``(B, C, H, W)`` to the grid."""
        return F.interpolate(x, self.places, mode="bilinear", align_corners=True)


def grid_size(image_size: tuple[int, int]) -> tuple[int, int]:
    """Places of the common grid: 28 along the longer side, as many per pixel along the other."""
    height, width = (max(3, round(MAX_PLACES * n / max(image_size))) for n in image_size)
    return height, width


def _sampling(places: int, pixels: int) -> NDArray[np.float64]:
    """Weights of linear interpolation at evenly spread pixels, first and last among them."""
    at = np.linspace(0, pixels - 1, places) if places > 1 else np.array([(pixels - 1) / 2])
    return np.clip(1 - np.abs(at[:, None] - np.arange(pixels)[None, :]), 0, None)


def _windows(size: int) -> tuple[NDArray[np.int64], int]:
    """First cells of the windows over ``size`` cells, and the width of each."""
    width = math.ceil(size / MAX_PLACES)
    count = size // width
    return np.rint(np.linspace(0, size - width, count)).astype(np.int64), width


def _window_weights(size: int) -> NDArray[np.float64]:
    starts, width = _windows(size)
    cells = np.arange(size)[None, :] - starts[:, None]
    return ((cells >= 0) & (cells < width)) / width


def _averaging(cells: int, pixels: int, inset: float) -> NDArray[np.float64]:
    starts, width = _windows(cells)
    step = (pixels - 2 * inset) / cells
    low = inset + starts[:, None] * step
    high = inset + (starts[:, None] + width) * step
    pixel = np.arange(pixels)[None, :]
    covered = np.clip(np.minimum(pixel + 1, high) - np.maximum(pixel, low), 0, None)
    return covered / covered.sum(1, keepdims=True)


@dataclass(frozen=True)
class Taps:
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

    def again(self, model: nn.Module, x: Tensor, label: str = "the model") -> Taps:
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
        return Taps(tuple(layers), self.entry, memory_format)


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


def choose_layers(
    model: nn.Module, layers: str | Sequence[str], label: str = "the model"
) -> tuple[list[str], set[str]]:
    """Turn a choice of layers into module names.

    Parameters
    ----------
    model : Module
        Whose modules to choose from.
    layers : str or sequence of str
        ``stages`` (the modules of timm's ``feature_info``; of a model without one its blocks, with
        a warning), ``blocks`` (residual blocks, transformer blocks and the like: the smallest
        modules of more than one weighted layer that stand in a stage), ``convs`` (every
        convolution), or module names and globs: ``*`` within one dotted part of a name, ``**``
        across parts. Where a module has the name of a preset, the preset is meant.
    label : str
        What messages call the model.

    Returns
    -------
    names : list of str
    exact : set of str
        Those given by their exact name: where one of them can't be probed, that is an error.

    Raises
    ------
    ProbeError
        If a name or pattern matches no module.
    """
    modules = dict(model.named_modules())
    modules.pop("", None)
    wanted = [layers] if isinstance(layers, str) or not isinstance(layers, Sequence) else layers
    if not wanted or not all(isinstance(name, str) for name in wanted):
        raise ProbeError(f"layers: expected {', '.join(PRESETS)}, or module names, got {layers!r}")
    names: dict[str, None] = {}
    exact: set[str] = set()
    for pattern in wanted:
        if pattern in PRESETS:
            found = _preset(model, pattern, modules, label)
        elif pattern in modules:
            found = [pattern]
            exact.add(pattern)
        else:
            expression = glob(pattern)
            found = [n for n in modules if expression.fullmatch(n)]
        if not found:
            raise ProbeError(_no_layer(pattern, modules, label))
        names.update(dict.fromkeys(found))
    return list(names), exact


def glob(pattern: str) -> re.Pattern[str]:
    """Turn a glob over module names into an expression.

    ``*`` and ``?`` stay within one dotted part of a name, ``**`` goes across parts; ``[…]`` is a
    set of characters.

    Raises
    ------
    ProbeError
        If the pattern can't be read.
    """
    parts = re.split(r"(\*\*|\*|\?|\[[^\]]*\])", pattern)
    wild = {"**": ".*", "*": "[^.]*", "?": "[^.]"}
    expression = "".join(
        wild.get(
            p, p.replace("[!", "[^") if p.startswith("[") and p.endswith("]") else re.escape(p)
        )
        for p in parts
    )
    try:
        return re.compile(expression)
    except re.error as error:
        raise ProbeError(f"pattern {pattern!r} can't be read: {error}") from None


def tap(
    model: nn.Module,
    layers: str | Sequence[str],
    x: Tensor,
    label: str = "the model",
) -> Taps:
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
    return Taps(tuple(taps), used, memory_format)


def total_stride(model: nn.Module, default: int = 32) -> int:
    """Least common multiple of the reductions in timm's ``feature_info``, or ``default``."""
    reductions = [int(i["reduction"]) for i in _feature_info(model) if i.get("reduction")]
    return math.lcm(*reductions) if reductions else default


# ---------------------------------------------------------------- choosing


def _feature_info(model: nn.Module) -> list[Mapping[str, Any]]:
    info = getattr(model, "feature_info", None)
    info = getattr(info, "info", info)
    if not isinstance(info, Sequence):
        return []
    return [entry for entry in info if isinstance(entry, Mapping)]


def _preset(
    model: nn.Module, preset: str, modules: Mapping[str, nn.Module], label: str
) -> list[str]:
    if preset == "stages":
        named = [str(i["module"]) for i in _feature_info(model) if i.get("module") in modules]
        # A list never runs itself: its last module ends the stage.
        lists = {n for n in named if isinstance(modules[n], nn.ModuleList) and len(modules[n])}
        found = [f"{n}.{len(modules[n]) - 1}" if n in lists else n for n in named]
        if found:
            return found
        warnings.warn(
            f"{label} has no feature_info that names its stages; its blocks are probed instead",
            ProbeWarning,
            stacklevel=4,
        )
    if preset != "convs":
        found = _blocks(model)
        if len(found) > 1:
            return found
    return [name for name, module in modules.items() if isinstance(module, _CONVOLUTIONS)]


def _blocks(model: nn.Module) -> list[str]:
    found: list[str] = []

    def composite(module: nn.Module) -> bool:
        weighted = (
            m
            for m in module.modules()
            if not any(True for _ in m.children()) and getattr(m, "weight", None) is not None
        )
        return sum(m.weight.ndim > 1 for m in weighted) > 1

    def holds_blocks(module: nn.Module) -> bool:
        return any(composite(child) for child in module.children())

    def walk(module: nn.Module, prefix: str) -> None:
        for key, child in module.named_children():
            name = f"{prefix}{key}"
            if not composite(child):
                continue
            if isinstance(child, _CONTAINERS):
                inside = holds_blocks(child)
            else:
                inside = any(
                    isinstance(c, _CONTAINERS) and holds_blocks(c) for c in child.children()
                )
            if inside:
                walk(child, f"{name}.")
            else:
                found.append(name)

    walk(model, "")
    return found


def _no_layer(pattern: str, modules: Mapping[str, nn.Module], label: str) -> str:
    if not modules:
        return f"no layer matches {pattern!r}: {label} has no submodules"
    near = get_close_matches(pattern, modules, n=3, cutoff=0.7)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    shallow = [n for n in modules if n.count(".") <= 1]
    there = ", ".join(shallow[:24]) + (", …" if len(modules) > 24 else "")
    return (
        f"no layer of {label} matches {pattern!r}: expected {', '.join(PRESETS)}, "
        f"or names or globs among {there}.{hint}"
    )


# ---------------------------------------------------------------- the dry run


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


def first_tensor(output: Any, batch: int | None = None) -> Tensor | None:
    """Return the first tensor in what a module returned, best one of so many images, or None."""
    tensors = list(all_tensors(output))
    fitting = (t for t in tensors if batch is not None and t.ndim and t.shape[0] == batch)
    return next(fitting, next(iter(tensors), None))


def all_tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping | list | tuple):
        for item in output.values() if isinstance(output, Mapping) else output:
            yield from all_tensors(item)


def single_precision(features: Tensor) -> Tensor:
    """Half-precision features in float32; sums of their products would overflow."""
    wide = features.dtype in (torch.float32, torch.float64)
    return features if wide else features.to(torch.float32)


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
