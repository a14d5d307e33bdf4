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
from .follower import Follower
from .removals import REMOVALS, SHIFTED, Grid
from .removing import Removing
from .variant import Variant


@contextmanager
def running(
    variant: Variant,
    model: nn.Module,
    x: Tensor,
    *,
    seed: int = 0,
    first: int = 0,
    wrap_unpadded: bool = True,
    remove: Removing | None = None,
) -> Iterator[Any]:
    """Run a backbone as the variant says, inside the block.

    ``x`` is its input, as it will be given, ``seed`` that of noise and of shuffled position
    embeddings, ``first`` the number of the first image of the batch, on which noise depends;
    ``wrap_unpadded`` see :class:`probe.padding`; ``remove`` does the removals, if given.
    """
    border: AbstractContextManager[Any] = nullcontext()
    if variant.rule != "original":
        border = padding(variant.rule, seed=seed, first=first, wrap_unpadded=wrap_unpadded)
    if not variant.removals:
        with border as mode:
            yield mode
        return
    size = int(x.shape[-2]), int(x.shape[-1])
    remove = remove or Removing(variant.removals, model, size, seed)
    with border as mode, Follower(model, x, remove) as follower:
        yield mode
    met = {source.kind for source in follower.sources}
    for name in () if variant.everything else variant.removals:
        if REMOVALS[name].kind not in met:
            others = [r for r in REMOVALS if REMOVALS[r].kind in met and r not in variant.removals]
            raise ProbeError(
                f"variant {variant.name!r}: {name} would change nothing, the network has no "
                f"{REMOVALS[name].kind}; there is to remove: "
                + (", ".join(others) or "nothing but padding")
            )


@dataclass(frozen=True)
class VariantRun:
    """The layers of a backbone as they are under a variant.

    Attributes
    ----------
    variant : Variant
        How the backbone is run.
    probed : ProbedLayers
        The layers as the network computes them: larger than what is probed on a canvas.
    layers : tuple of Layer
        What is probed.
    margin : int
        Pixels on each side of the images that only the network sees; 0 without a canvas.
    wrap_unpadded : bool
        See :class:`probe.padding`; False where a network needs maps of the sizes it was built with.
    shifted : tuple of (int, int), optional
        Rows and columns of places over which position embeddings are shifted; None if none are, or
        those of several maps.
    """

    variant: Variant
    probed: ProbedLayers
    layers: tuple[Layer, ...]
    margin: int = 0
    wrap_unpadded: bool = True
    shifted: Grid | None = None

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
        images : Tensor, shape (B, C, H + 2 margin, W + 2 margin), in [0, 1]
            See :meth:`probe.stimuli.Stimuli.batch`.
        receive : callable
            Takes a layer and its map (B, C, h, w), which may be overwritten afterwards.
        seed, first : int
            See :func:`running`.
        """
        layers = {layer.name: layer for layer in self.layers}

        def take(seen: Layer, features: Tensor) -> None:
            layer = layers[seen.name]
            if self.margin:
                top, left = (seen.height - layer.height) // 2, (seen.width - layer.width) // 2
                features = features.narrow(2, top, layer.height).narrow(3, left, layer.width)
            receive(layer, features)

        x, model = backbone.normalise(images), backbone.model
        options: dict[str, Any] = {"seed": seed, "first": first}
        with running(self.variant, model, x, **options, wrap_unpadded=self.wrap_unpadded):
            return self.probed.run(model, x, take)


def open_variant(
    backbone: Backbone, variant: Variant, probed: ProbedLayers, images: Tensor, margin: int = 0
) -> VariantRun:
    """Learn by a dry run on tileable images what a variant makes of the layers.

    ``probed`` are those of the network as trained, in eval mode; ``margin`` is that of a canvas,
    see :func:`find_margin`.
    """
    plain = VariantRun(variant, probed, probed.layers, margin if variant.canvas else 0)
    if variant.rule in ("original", "zeros") and not variant.canvas and not variant.removals:
        return plain
    x = backbone.normalise(stretch(images, plain.margin))
    size = int(x.shape[-2]), int(x.shape[-1])
    remove = Removing(variant.removals, backbone.model, size, 0)
    try:
        with running(variant, backbone.model, x, remove=remove):
            seen = probed.again(backbone.model, x, backbone.name)
    except ProbeError as error:
        if variant.rule == "circular":
            with running(variant, backbone.model, x, wrap_unpadded=False):
                seen = probed.again(backbone.model, x, backbone.name)
            return VariantRun(variant, seen, seen.layers, wrap_unpadded=False)
        if variant.rule != "valid":
            raise
        raise ProbeError(
            f"{backbone.name} can't be run without padding (valid) on images of "
            f"{x.shape[-2]} × {x.shape[-1]} pixels; choose a larger image size, or another "
            f"variant if the network needs maps of fixed sizes ({error})"
        ) from error
    if variant.canvas:
        return replace(plain, probed=seen)
    if variant.rule != "valid":
        one = variant.embedding == SHIFTED and len(remove.grids) == 1
        return VariantRun(variant, seen, seen.layers, shifted=min(remove.grids) if one else None)
    layers = []
    for before, after in zip(probed.layers, seen.layers, strict=True):
        height, width = before.image_size
        inset = (
            (height - after.height * height / before.height) / 2,
            (width - after.width * width / before.width) / 2,
        )
        layers.append(replace(after, inset=inset))
    return VariantRun(variant, seen, tuple(layers))
