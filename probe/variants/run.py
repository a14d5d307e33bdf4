"""A backbone run under a variant: its layers, and their features for a batch of images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from ..backbones.backbone import Backbone
from ..backbones.layer import Layer
from ..backbones.probed import ProbedLayers
from ..borders.mode import padding
from ..errors import ProbeError
from ..stimuli.source import stretch
from .embeddings import Embeddings
from .follower import EMBEDDING, Follower
from .variant import Variant


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
    border: AbstractContextManager[Any] = nullcontext()
    if variant.rule != "original":
        border = padding(variant.rule, seed=seed, first=first, close=close)
    if not variant.embedding:
        with border as mode:
            yield mode
        return
    change = Embeddings(variant.embedding, model, (int(x.shape[-2]), int(x.shape[-1])), seed)
    with border as mode, Follower(model, x, change) as follower:
        yield mode
    if not any(source.kind == EMBEDDING for source in follower.found):
        raise ProbeError(
            f"variant {variant.name!r}: the network adds no absolute position embedding"
        )


@dataclass(frozen=True)
class VariantRun:
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
    taps: ProbedLayers
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
        with running(self.variant, backbone.model, x, seed=seed, first=first, close=self.close):
            return self.taps.run(backbone.model, x, take)


def open_variant(
    backbone: Backbone,
    variant: Variant,
    taps: ProbedLayers,
    images: Tensor,
    margin: int = 0,
) -> VariantRun:
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
    plain = VariantRun(variant, taps, taps.layers, margin if variant.canvas else 0)
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
            return VariantRun(variant, seen, seen.layers, close=False)
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
        return VariantRun(variant, seen, seen.layers)
    layers = []
    for before, after in zip(taps.layers, seen.layers, strict=True):
        height, width = before.image_size
        inset = (
            (height - after.height * height / before.height) / 2,
            (width - after.width * width / before.width) / 2,
        )
        layers.append(replace(after, inset=inset))
    return VariantRun(variant, seen, tuple(layers))
