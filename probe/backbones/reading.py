"""How the output of a module lies over the image: what it can be, and which of these it is.

What can be said for certain decides first: a convolution returns ``(B, C, H, W)``, a linear layer
acts on the last axis. Then a measurement: one rectangle of an image is changed, and the reading is
right under which the output changes there. Then what the network says of itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules import batchnorm, conv, instancenorm, pooling

from .choice import core
from .grids import MOST_EXTRA, block_order, grids, known_extra, near_grid, orders
from .layer import Layer

RECTANGLE = (0.36, 0.64)
"""Height and width, as shares of the image's, of the rectangle at the top left that is changed."""

CLEAR = 0.8
"""Agreement from which a reading counts as measured; 0.5 is chance."""

SURE = 0.95
"""Agreement from which also an unusual reading counts as measured."""

WRONG = 0.75
"""Agreement under which a reading is refused where much of the output did not change at all."""

FEW_PLACES = 36
"""Places below which a reading is not refused for what was measured."""

_CHANNELS_FIRST = (
    conv._ConvNd,
    batchnorm._BatchNorm,
    instancenorm._InstanceNorm,
    nn.GroupNorm,
    pooling._MaxPoolNd,
    pooling._AvgPoolNd,
    nn.PixelShuffle,
    nn.Upsample,
)
_CHANNELS_LAST = (nn.Linear, nn.LayerNorm)

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Seen:
    """What one call of a module gave in a dry run on two images, the second one changed.

    ``shape`` is that of the output, ``single`` that for one image, if that was run; ``changes``
    holds, by the axis that is taken for the channels, the squared change summed over that axis.
    """

    shape: Shape
    single: Shape | None
    changes: Mapping[int, NDArray[np.float64]]


def changed(images: Tensor) -> Tensor:
    """Return the first image and a copy with another rectangle at the top left, shape (2, …)."""
    first = images[:1]
    height, width = _rectangle((first.shape[2], first.shape[3]))
    second = first.clone()
    second[..., :height, :width] = 1 - first.flip(2, 3)[..., :height, :width]
    return torch.cat([first, second])


def squared_changes(output: Tensor) -> dict[int, NDArray[np.float64]]:
    """Squared change from the first to the second image, for each axis that may be channels.

    Of tensors of three axes under −1 also as it is, since these may be maps of one channel.
    """
    axes = [axis for axis in (0, 1) if output.ndim > axis and output.shape[axis] == 2]
    if output.ndim not in (3, 4) or not axes or not output.is_floating_point():
        return {}
    first, second = output.detach().unbind(axes[0])
    change = (second.float() - first.float()).square()
    # Removing the images' axis moves the ones after it forward.
    numbers = [axis for axis in range(output.ndim) if axis != axes[0]]
    taken = {numbers[axis]: change.sum(axis) for axis in (0, len(numbers) - 1)}
    taken |= {-1: change} if output.ndim == 3 else {}
    return {axis: values.double().cpu().numpy() for axis, values in taken.items()}


def image_axis(seen: Seen) -> tuple[int, str]:
    """Which axis counts the images, and if none does, why."""
    two, one = seen.shape, seen.single
    if one is None or len(one) != len(two):
        if two[:1] == (2,):
            return 0, ""
        return 0, f"returns a tensor of shape {two} for two images, of which no axis counts them"
    differ = [axis for axis in range(len(two)) if two[axis] != one[axis]]
    if len(differ) == 1 and differ[0] < 2:
        (axis,) = differ
        if (one[axis], two[axis]) == (1, 2):
            return axis, ""
        if two[axis] == 2 * one[axis]:
            return 0, f"returns each image in {one[axis]} parts, one after another"
    return 0, f"returns a tensor of shape {two} for two images, of which no axis counts them"


def decide(
    layer: Layer, model: nn.Module, module: nn.Module | None, seen: Seen
) -> tuple[Layer | None, str]:
    """Decide how an output lies over the image.

    Parameters
    ----------
    layer : Layer
        Whose name, depth and image size to take over.
    model, module : Module
        The network, and the part of it that returned the output (None: the network itself).
    seen : Seen
        From the dry run.

    Returns
    -------
    layer : Layer or None
        With ``decided`` in words; these start with "guess" where nothing but the shape tells.
    fault : str
        Why it is no map over the image, if it is none.
    """
    axis, fault = image_axis(seen)
    if fault:
        return None, fault
    if axis != seen.shape.index(2):  # its changes were taken along another axis
        seen = replace(seen, changes={})
    candidates = list(readings(layer, model, module, seen.shape, axis))
    candidates = [c for c in candidates if _likely(c, model)] or [
        c for c in candidates if c.height * c.width >= FEW_PLACES
    ]
    nothing = f"returns a tensor of shape {seen.shape}, which is no map over the image"
    agreements = [(c, _agreement(c, seen)) for c in candidates]
    if any(covers(c) and a >= CLEAR for c, a in agreements):  # others agree by chance
        agreements = [(c, a) for c, a in agreements if covers(c)]
    agreements = [(c, a) for c, a in agreements if not _outdone(c, a, agreements, model)]
    best = max((a for _, a in agreements if not math.isnan(a)), default=math.nan)
    measured = [
        c
        for c, a in agreements
        if a >= max(CLEAR, best - 0.02) and ((covers(c) and _likely(c, model)) or a >= SURE)
    ]
    if measured:
        sure = f"{measured[0].decided} and " if not measured[0].decided.startswith("guess") else ""
        return replace(measured[0], decided=f"{sure}measured"), ""
    candidates = [c for c in candidates if covers(c) and _likely(c, model)]
    if not candidates:
        return None, nothing
    if len(seen.shape) == 4 and candidates[0].decided.startswith("guess"):
        candidates = [c for c in candidates if _whole_strides(c)] or candidates
    few = candidates[0].height * candidates[0].width < FEW_PLACES
    rows = "H" in candidates[0].layout  # and columns, which nothing shuffles
    if best < WRONG and not few and not rows and _partly_still(seen):
        return None, f"returns a tensor of shape {seen.shape}, not in the order of the image"
    return candidates[0], ""


def readings(
    layer: Layer, model: nn.Module, module: nn.Module | None, shape: Shape, axis: int = 0
) -> Iterator[Layer]:
    """Yield what an output of this shape can be, likeliest first."""
    rest = [n for at, n in enumerate(shape) if at != axis]

    def laid(letters: str, channels: int, grid: Sequence[int], why: str, **more: Any) -> Layer:
        layout = letters[:axis] + "N" + letters[axis:]
        height, width = grid
        return replace(
            layer,
            layout=layout,
            channels=channels,
            height=height,
            width=width,
            decided=why,
            prefix=more.get("prefix", 0),
            suffix=more.get("suffix", 0),
            order=more.get("order", ()),
        )

    while isinstance(module, nn.Sequential) and len(module):
        module = module[-1]  # whose output it is
    kind = type(module).__name__
    first = isinstance(module, _CHANNELS_FIRST)
    last = type(module) in _CHANNELS_LAST
    why = kind if first or last else "guess from the shape"
    if len(rest) == 1:
        yield laid("C", rest[0], (1, 1), why)
    elif len(rest) == 2:
        ways = [("LC", rest[0], rest[1]), ("CL", rest[1], rest[0])]
        for letters, tokens, channels in ways[first : 1 if last else 2]:
            for known, grid, prefix, suffix in grids(layer.image_size, model, tokens):
                say = " and ".join(w for w in ((first or last) * kind, known) if w)
                for words, order in orders(model, grid, tokens):
                    reason = words or (say if known else why)
                    yield laid(
                        letters, channels, grid, reason, prefix=prefix, suffix=suffix, order=order
                    )
        if not (first or last):
            yield laid("HW", 1, rest, why)
    elif len(rest) == 3:
        ways4 = [("CHW", rest[0], rest[1:]), ("HWC", rest[2], rest[:2])]
        if getattr(core(model), "output_fmt", None) == "NHWC":
            ways4.reverse()
        if first or last:
            ways4 = [way for way in ways4 if way[0].startswith("C") == first]
        both = [laid(letters, c, grid, why) for letters, c, grid in ways4]
        yield from sorted(both, key=lambda c: not covers(c))
        if not first:
            blocks = block_order(rest[0], rest[1], layer.image_size)
            if blocks is not None:
                yield laid("TLC", rest[2], blocks[0], "guess from the shape", order=blocks[1])


def reread(
    layer: Layer, model: nn.Module, shape: Shape, batch: int, image_size: tuple[int, int]
) -> Layer | None:
    """Tell a layer's size from its output for other images, its layout being known."""
    if len(shape) != len(layer.layout) or shape[layer.layout.index("N")] != batch:
        return None
    size = dict(zip(layer.layout, shape, strict=True))
    grid, order = (1, 1), layer.order
    if "H" in size:
        grid = (size["H"], size["W"])
    elif "T" in size:
        blocks = block_order(size["T"], size["L"], image_size)
        if blocks is None:
            return None
        grid, order = blocks
    elif "L" in size:
        tokens = size["L"] - layer.prefix - layer.suffix
        same = image_size == layer.image_size and layer.height * layer.width == tokens
        fitting = (layer.height, layer.width) if same else near_grid(tokens, image_size)
        if fitting is None:
            return None
        grid = fitting
        if order and not same:
            order = next((o for _, o in orders(model, grid, size["L"])), ())
            if not order:
                return None
    return replace(
        layer,
        channels=size.get("C", 1),
        height=grid[0],
        width=grid[1],
        order=order,
        image_size=image_size,
    )


def describe(layer: Layer, model: nn.Module, shape: Shape) -> Layer | None:
    """Tell from a shape alone, images first, how a tensor lies over the image; None if it can't."""
    found = (c for c in readings(layer, model, None, shape) if covers(c) and "C" in c.layout)
    return next(found, None)


def covers(layer: Layer) -> bool:
    """Whether a map can be a strided view of the whole image, to within a cell."""
    (h, w), (height, width) = (layer.height, layer.width), layer.image_size
    return abs(h * width - w * height) <= max(width, height) and h <= height and w <= width


def _whole_strides(layer: Layer) -> bool:
    (height, width), (h, w) = layer.image_size, (layer.height, layer.width)
    return height % h == 0 and width % w == 0


def _likely(layer: Layer, model: nn.Module) -> bool:
    """Whether so many tokens that stand for no place are usual, or what the network says."""
    extra = layer.prefix + layer.suffix
    return extra <= MOST_EXTRA or extra in known_extra(model)


def _outdone(
    layer: Layer, agreement: float, others: Sequence[tuple[Layer, float]], model: nn.Module
) -> bool:
    """Whether a reading with extra tokens that nothing tells of gives way to one without.

    What attention hides, as under a causal mask, may agree a little better by chance.
    """
    usual = (0, *known_extra(model))
    if layer.prefix + layer.suffix in usual:
        return False
    return any(
        max(CLEAR, agreement - 0.1) <= a
        for c, a in others
        if c.prefix + c.suffix in usual and _whole_strides(c) and c.height > layer.height
    )


def _rectangle(size: tuple[int, int]) -> tuple[int, int]:
    return math.ceil(RECTANGLE[0] * size[0]), math.ceil(RECTANGLE[1] * size[1])


def _agreement(layer: Layer, seen: Seen) -> float:
    """How surely a place in the rectangle changes more than one outside; 0.5 is chance.

    The area under the ROC curve; not a number if nothing changed or no place is on either side.
    """
    change = seen.changes.get(layer.layout.find("C"))
    if change is None or layer.height * layer.width == 1:
        return math.nan
    if "H" in layer.layout:
        values = change  # rows and columns are in this order in every layout
    else:
        tokens = torch.from_numpy(change).reshape(1, -1, 1)
        values = layer.of_tokens(tokens)[0, 0].numpy()
    inside = np.ones((layer.height, layer.width))
    pixels = zip(_rectangle(layer.image_size), layer.image_size, strict=True)
    for axis, (length, size) in enumerate(pixels):
        cells = inside.shape[axis]
        share = np.clip(length * cells / size - np.arange(cells), 0, 1)
        inside *= share[:, None] if axis == 0 else share[None, :]
    within, outside = values[inside >= 0.7], np.sort(values[inside <= 0.3])
    if not within.size or not outside.size or not np.isfinite(values).all() or not values.any():
        return math.nan
    below = np.searchsorted(outside, within, "left") + np.searchsorted(outside, within, "right")
    return float(below.mean() / (2 * outside.size))


def _partly_still(seen: Seen) -> bool:
    """Whether a good part of the output did not change at all, so that where it did tells."""
    for change in seen.changes.values():
        if change.size and np.isfinite(change).all() and change.max() > 0:
            still = float((change <= 1e-9 * change.max()).mean())
            if 0.1 < still < 0.95:
                return True
    return False
