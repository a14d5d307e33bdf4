"""How far padding reaches, and the margin that keeps it out of the image."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import torch
from torch import Tensor

from ..backbones.backbone import Backbone
from ..backbones.layer import Layer
from ..backbones.probed import ProbedLayers, evaluating
from ..borders.mode import padding
from ..borders.rules import SIDES
from ..errors import ProbeError
from ..stimuli.leaves import Leaves
from ..stimuli.source import stretch
from .run import VariantRun

MARGINS = (64, 128, 256, 512)
"""Margins in pixels among which a canvas looks for one that is out of padding's reach."""

WHOLE_IMAGE_MARGIN = 256
"""Margin in pixels of a canvas for networks that see the whole image at every place."""

_LARGE = 1e3  # of the numbers that take padding's place in the proof of a canvas


def exact_copy(backbone: Backbone) -> Backbone:
    """Copy a backbone into float64, in which rounding can't be taken for position.

    Where a network can't be copied or converted, it is returned as it is.
    """
    try:
        model = copy.deepcopy(backbone.model).double()
        return replace(backbone, model=model)
    except Exception:  # whatever a module's own __deepcopy__ or _apply raises
        return backbone


def find_margin(backbone: Backbone, taps: ProbedLayers, stride: int) -> tuple[int, bool]:
    """Find how far padding reaches into the layers, by changing what it writes.

    The network sees long strips twice, once with large random numbers beyond their short edges.
    What differs is within padding's reach, which is the same on any larger image as long as no
    operation spans the whole of it.

    Parameters
    ----------
    backbone : Backbone
        In eval mode.
    taps : Taps
        Its layers.
    stride : int
        Total stride in pixels; the margin is a multiple of it.

    Returns
    -------
    margin : int
        The smallest margin out of reach for all layers, in pixels; :data:`WHOLE_IMAGE_MARGIN`,
        rounded up, where none up to the last of :data:`MARGINS` is.
    found : bool
        Whether it is out of reach.

    Raises
    ------
    ProbeError
        If the network takes images of one size only.
    """
    exact = exact_copy(backbone)
    for limit in MARGINS:
        steps = -(-limit // stride)
        long, short = (2 * steps + 1) * stride, 2 * stride
        try:
            # A strip shows how far its two short edges reach.
            rows = _reach(exact, taps, (long, short), ("top", "bottom"))
            columns = _reach(exact, taps, (short, long), ("left", "right"))
        except ProbeError:
            try:
                rows = columns = _reach(exact, taps, (long, long), SIDES)
            except ProbeError as error:
                raise ProbeError(
                    f"{backbone.name} can't see a canvas, which is larger than its images: {error}"
                ) from error
        if rows is not None and columns is not None:
            return max(1, -(-max(rows, columns) // stride)) * stride, True
    return -(-WHOLE_IMAGE_MARGIN // stride) * stride, False


def canvas_pixels(image_size: tuple[int, int], margin: int) -> float:
    """Return how many times the pixels of an image a canvas has."""
    height, width = image_size
    return (height + 2 * margin) * (width + 2 * margin) / (height * width)


def canvas_batch(batch_size: int, image_size: tuple[int, int], margin: int) -> int:
    """Return how many canvases have the pixels of a batch of images; at least 1."""
    return max(1, int(batch_size / canvas_pixels(image_size, margin)))


def canvas_cost(image_size: tuple[int, int], margin: int, stride: int) -> str:
    """Say what a canvas costs, and the margin that halves it; empty where it costs little."""
    times = canvas_pixels(image_size, margin)
    if times < 4:
        return ""
    sentence = (
        f"a canvas with a margin of {margin} pixels has {times:.0f} times the pixels of an image, "
        "and takes about as many times as long as the original"
    )
    halves = (
        m for m in range(margin - stride, 0, -stride) if 2 * canvas_pixels(image_size, m) <= times
    )
    if half := next(halves, 0):
        sentence += f"; margin={half} halves that, but lets padding reach further into the image"
    return sentence


def _reach(
    backbone: Backbone, taps: ProbedLayers, size: tuple[int, int], sides: tuple[str, ...]
) -> int | None:
    """Pixels from these sides within which padding changes some layer; None if everywhere."""
    images = Leaves(size, 0).with_channels(backbone.channels).batch("certificate", 0, 1)
    plain: dict[str, Tensor] = {}
    depths: list[float | None] = []

    def keep(layer: Layer, features: Tensor) -> None:
        plain[layer.name] = features.clone()

    def compare(layer: Layer, features: Tensor) -> None:
        clean = ~(features != plain.pop(layer.name)).any(1).any(0)
        for axis, names in ((0, SIDES[:2]), (1, SIDES[2:])):
            if not set(names) & set(sides):
                continue
            inside = torch.nonzero(clean.any(1 - axis)).flatten()
            if not len(inside):
                depths.append(None)
                return
            cells = clean.shape[axis]
            edge = max(int(inside[0]), cells - 1 - int(inside[-1]))
            depths.append(edge * size[axis] / cells)

    with evaluating(backbone.model):
        x = backbone.normalise(images)
        seen = taps.again(backbone.model, x, backbone.name)
        seen.run(backbone.model, x, keep)
        with padding("noise", sides=sides, amplitude=_LARGE):
            seen.run(backbone.model, x, compare)
    known = [depth for depth in depths if depth is not None]
    return math.ceil(max(known, default=0.0)) if len(known) == len(depths) else None


def padding_leakage(backbone: Backbone, seen: VariantRun, images: Tensor) -> float:
    """Measure how much of what padding writes still reaches the probed region of a canvas.

    Parameters
    ----------
    backbone : Backbone
        In eval mode, best in float64.
    seen : VariantRun
        Of a canvas.
    images : Tensor, shape (B, C, H, W), in [0, 1]
        Tileable.

    Returns
    -------
    float
        0 if replacing what padding writes by large random numbers leaves every probed value
        unchanged, bit for bit. Otherwise ``max |f' − f| / max |f|``, the greatest over the layers,
        where f' has noise of the channels' own mean and variance for borders.
    """
    stretched = stretch(images, seen.margin)
    plain: dict[str, Tensor] = {}
    seen.run(backbone, stretched, lambda layer, f: plain.__setitem__(layer.name, f.clone()))

    def change(amplitude: float | None = None) -> float:
        found: list[float] = []

        def compare(layer: Layer, features: Tensor) -> None:
            before = plain[layer.name]
            apart = float((features - before).abs().max())
            found.append(apart / (float(before.abs().max()) or 1.0))

        with padding("noise", amplitude=amplitude):
            seen.run(backbone, stretched, compare)
        return math.nan if any(map(math.isnan, found)) else max(found)

    return change() if change(amplitude=_LARGE) != 0 else 0.0
