"""Variants: the named ways to run a backbone.

``original`` runs it as it was trained; each of the others takes a source of position away. A name
has one part for borders (a rule of :func:`probe.padding`, or ``canvas``) and one for position
embeddings (``no_pos_embed`` or ``shuffled_pos_embed``), joined by ``+`` if there are both.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from .backbones import Backbone
from .borders import RULES, SIDES, padding
from .errors import ProbeError, ProbeWarning, one_of
from .inventory import EMBEDDING, Follower, Source
from .layers import Layer, Taps, describe, evaluating
from .stimuli import Leaves, stretch

EMBEDDINGS: tuple[str, ...] = ("no_pos_embed", "shuffled_pos_embed")
"""Parts of a variant's name that are about absolute position embeddings."""

VARIANTS: tuple[str, ...] = (*RULES, "canvas", *EMBEDDINGS)
"""Parts of which the names of variants are made."""

DESCRIPTIONS: dict[str, str] = {
    "original": "as trained",
    "zeros": "zeros beyond every edge, also where pooling leaves the border out",
    "reflect": "maps mirrored at their edges",
    "replicate": "edge cells repeated",
    "circular": "maps as a torus: no border on periodic images",
    "mean": "beyond the edge, the channel's mean over the map",
    "noise": "beyond the edge, noise of the channel's mean and variance",
    "partial": "zeros, with outputs weighted by the share of the kernel on the map",
    "valid": "no padding: maps shrink, and only their middle is probed",
    "canvas": "a larger stretch of the stimulus, of which only the middle is probed",
    "no_pos_embed": "absolute position embeddings at their mean over places",
    "shuffled_pos_embed": "absolute position embeddings permuted over places",
}
"""What each part of a variant's name means."""

REMOVES_PADDING: tuple[str, ...] = ("circular", "canvas", "valid")
"""Parts that leave nothing of padding."""

MARGINS = (64, 128, 256, 512)
"""Margins in pixels among which a canvas looks for one that is out of padding's reach."""

WHOLE_IMAGE_MARGIN = 256
"""Margin in pixels of a canvas for networks that see the whole image at every place."""

_LARGE = 1e3  # of the numbers that take padding's place in the proof of a canvas


@dataclass(frozen=True)
class Variant:
    """A way to run a backbone.

    Attributes
    ----------
    name : str
        Its parts joined by ``+``.
    rule : str
        The border rule, see :func:`probe.padding`.
    canvas : bool
        Whether the network sees a larger stretch of the stimulus than is probed.
    embedding : str
        One of :data:`EMBEDDINGS`, or empty.
    """

    name: str
    rule: str = "original"
    canvas: bool = False
    embedding: str = ""

    @property
    def removes_padding(self) -> bool:
        """Whether nothing of padding should be left."""
        return self.canvas or self.rule in REMOVES_PADDING

    @property
    def description(self) -> str:
        """What it is, in words."""
        return "; ".join(DESCRIPTIONS[part] for part in self.name.split("+"))

    @property
    def torus(self) -> bool:
        """Whether a shift of the torus should shift all features."""
        return self.rule != "valid"


def parse_variant(name: str) -> Variant:
    """Take a variant's name apart.

    Raises
    ------
    ProbeError
        If a part is unknown, or there are two of one kind.
    """
    parts = [one_of(part.strip(), VARIANTS, "variant") for part in str(name).split("+")]
    borders = [part for part in parts if part not in EMBEDDINGS]
    embeddings = [part for part in parts if part in EMBEDDINGS]
    if len(borders) > 1 or len(embeddings) > 1:
        raise ProbeError(
            f"variant {name!r}: expected one border rule and one part for position embeddings at "
            f"most, got {len(borders)} and {len(embeddings)}"
        )
    border = borders[0] if borders else "original"
    canvas = border == "canvas"
    named = "+".join([*(b for b in borders if b != "original" or not embeddings), *embeddings])
    return Variant(named, "original" if canvas else border, canvas, "".join(embeddings))


@contextmanager
def running(
    variant: Variant,
    model: nn.Module,
    x: Tensor,
    *,
    seed: int = 0,
    first: int = 0,
    close: bool = True,
) -> Iterator[Any]:
    """Run a backbone as the variant says, inside the block.

    Parameters
    ----------
    variant : Variant
        What to change.
    model : Module
        The backbone.
    x : Tensor
        Its input, as it will be given.
    seed : int
        Of noise and of shuffled position embeddings.
    first : int
        Number of the first image of the batch, on which noise depends.
    close : bool
        See :class:`probe.padding`.

    Raises
    ------
    ProbeError
        If there is nothing to change, or the network can't be run so.
    """
    border = nullcontext()
    if variant.rule != "original":
        border = padding(variant.rule, seed=seed, first=first, close=close)
    if not variant.embedding:
        with border as mode:
            yield mode
        return
    change = _Embeddings(variant.embedding, model, (int(x.shape[-2]), int(x.shape[-1])), seed)
    with border as mode, Follower(model, x, change) as follower:
        yield mode
    if not any(source.kind == EMBEDDING for source in follower.found):
        raise ProbeError(
            f"variant {variant.name!r}: the network adds no absolute position embedding"
        )


class _Embeddings:
    """Takes the place of absolute position embeddings: their mean over places, or a permutation.

    Entries of tokens that stand for no place, such as a class token, stay as they are.
    """

    def __init__(self, how: str, model: nn.Module, image_size: tuple[int, int], seed: int) -> None:
        self.how, self.model, self.image_size, self.seed = how, model, image_size, seed

    def __call__(self, source: Source, x: Tensor, c: Tensor) -> Tensor:
        if source.kind != EMBEDDING:
            return c
        shape = (1, *x.shape[1:])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ProbeWarning)
            layer = describe(self.model, "", 1, shape, 1, self.image_size)
        if layer is None:
            return c
        c = c[:1] if c.ndim == x.ndim else c
        full = c.expand(shape).clone()
        if layer.layout == "NCHW":
            places = full.flatten(2).transpose(1, 2)
        elif layer.layout == "NHWC":
            places = full.flatten(1, 2)
        else:
            tokens = full if layer.layout == "NLC" else full.transpose(1, 2)
            places = tokens[:, layer.prefix :]
        if self.how == "no_pos_embed":
            places = places.mean(1, keepdim=True).expand_as(places)
        else:
            stream = torch.Generator().manual_seed(self.seed)
            order = torch.randperm(places.shape[1], generator=stream).to(places.device)
            places = places[:, order]
        if layer.layout == "NCHW":
            return places.transpose(1, 2).reshape(shape)
        if layer.layout == "NHWC":
            return places.reshape(shape)
        tokens = torch.cat([tokens[:, : layer.prefix], places], 1)
        return tokens if layer.layout == "NLC" else tokens.transpose(1, 2)


# ---------------------------------------------------------------- what a variant shows


@dataclass(frozen=True)
class View:
    """The layers of a backbone as they are under a variant.

    Attributes
    ----------
    variant : Variant
        How the backbone is run.
    taps : Taps
        The layers as the network computes them: larger than what is probed on a canvas.
    layers : tuple of Layer
        What is probed.
    margin : int
        Pixels on each side of the images that only the network sees; 0 without a canvas.
    close : bool
        Whether the torus closes after unpadded operations, see :class:`probe.padding`; False where
        a network needs maps of the sizes it was built with.
    """

    variant: Variant
    taps: Taps
    layers: tuple[Layer, ...]
    margin: int = 0
    close: bool = True

    def run(
        self,
        backbone: Backbone,
        images: Tensor,
        receive: Callable[[Layer, Tensor], None],
        *,
        seed: int = 0,
        first: int = 0,
    ) -> Any:
        """Run the backbone on images with their margin; hand over each layer's map.

        Parameters
        ----------
        backbone : Backbone
            In eval mode.
        images : Tensor, shape (B, 3, H + 2 margin, W + 2 margin), in [0, 1]
            See :meth:`probe.stimuli.Stimuli.batch`.
        receive : callable
            Takes a layer and its map (B, C, h, w), which may be overwritten afterwards.
        seed, first : int
            See :func:`running`.

        Returns
        -------
        Any
            What the network returned.
        """
        layers = {layer.name: layer for layer in self.layers}

        def take(seen: Layer, features: Tensor) -> None:
            layer = layers[seen.name]
            if self.margin:
                top, left = (seen.height - layer.height) // 2, (seen.width - layer.width) // 2
                features = features.narrow(2, top, layer.height).narrow(3, left, layer.width)
            receive(layer, features)

        x = backbone.normalise(images)
        named = {"seed": seed, "first": first, "close": self.close}
        with running(self.variant, backbone.model, x, **named):
            return self.taps.run(backbone.model, x, take)


def view(
    backbone: Backbone,
    variant: Variant,
    taps: Taps,
    images: Tensor,
    margin: int = 0,
) -> View:
    """Learn by a dry run what a variant makes of the layers.

    Parameters
    ----------
    backbone : Backbone
        In eval mode.
    variant : Variant
        How to run it.
    taps : Taps
        The layers of the network as trained.
    images : Tensor, shape (B, 3, H, W), in [0, 1]
        Tileable; one or two will do.
    margin : int
        Of a canvas, see :func:`find_margin`.

    Raises
    ------
    ProbeError
        If the network can't be run so, or a layer is gone.
    """
    plain = View(variant, taps, taps.layers, margin if variant.canvas else 0)
    if variant.rule in ("original", "zeros") and not variant.canvas and not variant.embedding:
        return plain
    x = backbone.normalise(stretch(images, plain.margin))
    try:
        with running(variant, backbone.model, x):
            seen = taps.again(backbone.model, x, backbone.name)
    except ProbeError as error:
        if variant.rule == "circular":
            with running(variant, backbone.model, x, close=False):
                seen = taps.again(backbone.model, x, backbone.name)
            return View(variant, seen, seen.layers, close=False)
        if variant.rule != "valid":
            raise
        raise ProbeError(
            f"{backbone.name} can't be run without padding (valid) on images of "
            f"{x.shape[-2]} × {x.shape[-1]} pixels; choose a larger image size, or another "
            f"variant if the network needs maps of fixed sizes ({error})"
        ) from error
    if variant.canvas:
        return replace(plain, taps=seen)
    if variant.rule != "valid":
        return View(variant, seen, seen.layers)
    layers = []
    for before, after in zip(taps.layers, seen.layers, strict=True):
        height, width = before.image_size
        inset = (
            (height - after.height * height / before.height) / 2,
            (width - after.width * width / before.width) / 2,
        )
        layers.append(replace(after, inset=inset))
    return View(variant, seen, tuple(layers))


# ---------------------------------------------------------------- the canvas


def exact_copy(backbone: Backbone) -> Backbone:
    """Copy a backbone into float64, in which rounding can't be taken for position.

    Where a network can't be copied or converted, it is returned as it is.
    """
    try:
        model = copy.deepcopy(backbone.model).double()
        return replace(backbone, model=model)
    except Exception:  # whatever a module's own __deepcopy__ or _apply raises
        return backbone


def find_margin(backbone: Backbone, taps: Taps, stride: int) -> tuple[int, bool]:
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


def _reach(
    backbone: Backbone, taps: Taps, size: tuple[int, int], sides: tuple[str, ...]
) -> int | None:
    """Pixels from these sides within which padding changes some layer; None if everywhere."""
    images = Leaves(size, 0).batch("certificate", 0, 1)
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
    return None if None in depths else math.ceil(max(depths, default=0.0))


def contact(backbone: Backbone, seen: View, images: Tensor) -> float:
    """Measure how much of what padding writes still reaches the probed region of a canvas.

    Parameters
    ----------
    backbone : Backbone
        In eval mode, best in float64.
    seen : View
        Of a canvas.
    images : Tensor, shape (B, 3, H, W), in [0, 1]
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

    def change(**options: float) -> float:
        found: list[float] = []

        def compare(layer: Layer, features: Tensor) -> None:
            before = plain[layer.name]
            apart = float((features - before).abs().max())
            found.append(apart / (float(before.abs().max()) or 1.0))

        with padding("noise", **options):
            seen.run(backbone, stretched, compare)
        return math.nan if any(map(math.isnan, found)) else max(found)

    return change() if change(amplitude=_LARGE) != 0 else 0.0
