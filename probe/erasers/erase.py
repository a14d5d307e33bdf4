"""One pass over images, and every eraser that can be made of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor, nn

from ..backbones.layer import Layer, single_precision
from ..errors import ProbeError, one_of
from ..machine import memory_explained
from ..runner.options import Options, SharedGiven, takes_options
from ..runner.setup import Opened, one_weights, opened, weights_record
from ..stimuli.scenes import scene_size
from ..stimuli.source import Stimuli
from ..targets import layer_targets, read_targets
from ..variants.run import VariantRun, open_variant
from ..variants.variant import parse_variant
from .closed import FOLDS, SIGNIFICANCE
from .eraser import Eraser
from .fit import HOWS, constant_eraser, mean_eraser, project_eraser
from .moments import PositionMoments

TRAIN_IMAGES = 4096
"""Images of a pass."""

_SHIFTS = 2
"""Training images of one scene, where images tile."""

_GREY = 0.5


@dataclass(frozen=True)
class Gathered:
    """What one pass gathered: enough for all erasers of its layers.

    Attributes
    ----------
    layers : dict of str to Layer
    moments : dict of str to PositionMoments
    constant : dict of str to Tensor, shape (C, P)
        Features of a grey image.
    record : dict
        Of which network and images.
    """

    layers: dict[str, Layer]
    moments: dict[str, PositionMoments]
    constant: dict[str, Tensor]
    record: dict[str, Any]

    def eraser(
        self,
        layer: str,
        how: str = "project",
        targets: str | Sequence[str] | None = None,
        *,
        significance: float | None = SIGNIFICANCE,
        rank: int | None = None,
    ) -> Eraser:
        """Make an eraser, see :func:`erase`."""
        seen, moments = self.layers[one_of(layer, self.layers, "layer")], self.moments[layer]
        if "C" not in seen.layout:
            raise ProbeError(
                f"layer {layer!r} returns a map of one channel without an axis for it "
                f"({seen.layout}), from which nothing can be erased; choose an earlier layer"
            )
        lies = {"layout": seen.layout, "prefix": seen.prefix, "suffix": seen.suffix}
        layout: dict[str, Any] = lies | {"order": seen.order}
        names = list(read_targets(targets or self.record["targets"]))
        eraser: Eraser
        if one_of(how, HOWS, "how") == "mean":
            eraser = mean_eraser(moments, significance, **layout)
        elif how == "constant":
            eraser = constant_eraser(moments, self.constant[layer], rank, **layout)
        else:
            truth = torch.from_numpy(layer_targets(names, seen.image_size, *seen.windows()))
            eraser = project_eraser(moments, truth, significance, reduce=seen.reduce, **layout)
        record = self.record | {"layer": layer, "targets": names}
        eraser.record |= record if how == "project" else record | {"targets": []}
        return eraser


@takes_options(
    *("targets", "stimuli", "train_images", "image_size", "batch_size", "seed", "device"),
    *("progress", "name", "mean", "std", "forward_kwargs"),
    train_images=TRAIN_IMAGES,
)
def erase(  # type: ignore[misc]
    model: str | nn.Module,
    layers: str | Sequence[str] = "stages",
    *,
    how: str = "project",
    weights: str | Path = "pretrained",
    significance: float | None = SIGNIFICANCE,
    rank: int | None = None,
    **options: Unpack[SharedGiven],
) -> dict[str, Eraser]:
    """Make erasers that take position out of a network's layers.

    One pass over images gathers position moments, of which each is a closed form. Images should
    show no position of their own, as leaves do; of photographs, what always lies above goes, too.

    - ``mean``: subtract the mean map and add its mean. No linear readout of any function of
      position then beats chance, on such images. For maps of another size it is resampled.
    - ``project``: LEACE, the least change after which no linear readout beats chance at the
      targets; one affine map for all places and sizes.
    - ``constant``: project out the leading directions of a grey image's features, for comparison.

    What an eraser leaves is what finite images leave in their mean map: linear readouts of many
    images find about ``R² = channels / (images × places)`` again, and more where neighbouring
    places see the same. Images that tile are therefore shown at two shifts, which cancels part
    of it; more images leave less. Mean maps that agree over folds of scenes no better than chance
    are left alone: features without position come back as they are.

    The network comes back as it was.

    Parameters
    ----------
    model : str or Module
        A timm name, or any module that maps images (B, 3, H, W).
    layers : str or sequence of str
        As in :func:`probe.run`.
    how : str
        ``mean``, ``project`` or ``constant``.
    weights : str or Path
        ``pretrained``, ``random``, or the path of a checkpoint; a module's own are ``given``.
    significance : float or None
        How often a layer without position may be taken to have some; None takes out whatever
        there is.
    rank : int, optional
        Of ``constant``; by default what holds 95 % of the variance over places.
    {options}

    Returns
    -------
    dict of str to Eraser
        By layer.

    Raises
    ------
    ProbeError
        If something asked for does not exist, can't be had or doesn't fit.

    References
    ----------
    Belrose et al. (2023), arXiv 2306.03819: ``project``, and ``mean`` as oracle erasure.

    Examples
    --------
    >>> erasers = probe.erase("vit_small_patch14_dinov2", ["blocks.8"], how="project")
    >>> clean = erasers["blocks.8"].attach(model)
    """
    one_of(how, HOWS, "how")
    gathered = gather(model, layers, weights=weights, **options)
    choice: dict[str, Any] = {"significance": significance, "rank": rank}
    return {layer: gathered.eraser(layer, how, **choice) for layer in gathered.layers}


def gather(
    model: str | nn.Module,
    layers: str | Sequence[str] = "stages",
    *,
    weights: str | Path = "pretrained",
    **options: Any,
) -> Gathered:
    """Gather in one pass what erasers are made of; options as of :func:`erase`."""
    fixed: dict[str, Any] = {"variants": ("original",), "test_images": 1, "layers": layers}
    given = {"train_images": TRAIN_IMAGES} | options | {"weights": (one_weights(model, weights),)}
    asked = Options.of(given, **fixed)
    with opened(model, asked) as setup:
        view = open_variant(setup.first, parse_variant("original"), setup.probed, setup.leaves)
        moments = {layer.name: PositionMoments(layer.height, layer.width) for layer in view.layers}
        _stream(setup, view, moments)
        constant: dict[str, Tensor] = {}

        def keep(layer: Layer, features: Tensor) -> None:
            constant[layer.name] = single_precision(features)[0].flatten(1).clone()

        view.run(setup.first, torch.full((1, 3, *setup.size), _GREY), keep)
        record = {
            "model": setup.first.name,
            "stimuli": setup.stimuli.name,
            **setup.recorded("image_size", "seed", "targets", "train_images"),
            **{k: v for k, v in weights_record(setup.first).items() if k in ("weights", "sha256")},
        }
    return Gathered({layer.name: layer for layer in view.layers}, moments, constant, record)


def _stream(setup: Opened, view: VariantRun, moments: dict[str, PositionMoments]) -> None:
    options, count = setup.options, setup.options.train_images
    with setup.bar(1, setup.first.name) as bar:
        for start in range(0, count, options.batch_size):
            stop = min(start + options.batch_size, count)
            images, scenes = shifted_batch(setup.stimuli, start, stop, count, setup.stride)

            def receive(layer: Layer, features: Tensor, scenes: Tensor = scenes) -> None:
                features = single_precision(features)
                moments[layer.name].update(features, scenes)
                total = moments[layer.name].moments
                if not torch.isfinite(total.second.diagonal()).all():
                    raise ProbeError(
                        f"features are not finite (NaN or infinity, or too large to square): first "
                        f"at layer {layer.name}; check the weights, or choose layers before it"
                    )

            with memory_explained(stop - start):
                view.run(setup.first, images, receive, seed=options.seed, first=start)
            bar.update(stop - start)


def shifted_batch(
    source: Stimuli, start: int, stop: int, count: int, stride: int = 1
) -> tuple[Tensor, Tensor]:
    """Return training images ``start … stop − 1`` of so many, and the scene that each shows.

    On a stationary torus, images ``2 s`` and ``2 s + 1`` are scene s, and that shifted by half the
    torus down and to the right. What is in the scene then comes by two places, and its part in the
    mean map cancels mostly, as in :func:`~probe.stimuli.antithetic_batch`; position stays.
    More shifts of fewer scenes leave more, as what padding makes of a scene is its own.

    Parameters
    ----------
    source : Stimuli
        Whose train split to take.
    start, stop : int
        First image, and the one after the last.
    count : int
        Training images in all; of too few for 16 scenes each is a scene of its own.
    stride : int
        Shifts are rounded to multiples of it.
    """
    numbers = np.arange(start, stop)
    if scene_size(source) == 1 or count < _SHIFTS * FOLDS:
        return source.batch("train", start, stop), torch.from_numpy(numbers)
    first = start // _SHIFTS
    whole = source.batch("train", first, (stop - 1) // _SHIFTS + 1)
    images = torch.empty((stop - start, *whole.shape[1:]))
    images = images.contiguous(memory_format=torch.channels_last)
    for row, index in enumerate(numbers):
        half = int(index) % _SHIFTS
        moves = [half * round(side / 2 / stride) * stride for side in source.image_size]
        images[row] = torch.roll(whole[index // _SHIFTS - first], moves, (1, 2))
    return images, torch.from_numpy(numbers // _SHIFTS)
