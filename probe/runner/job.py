"""A job: what all weights × variants of a run have in common, and each of them on its way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from ..backbones.backbone import Backbone
from ..backbones.layer import GridLayer, Layer, grid_size
from ..errors import NotFiniteError, ProbeError
from ..readouts.base import FOLDS, Readout, check_memory
from ..readouts.spec import ReadoutSpec
from ..scores.patterns import PlaceSums
from ..scores.tables import Scored, Truth, control_order
from ..stimuli.scenes import scenes
from ..stimuli.source import Stimuli
from ..targets import layer_targets
from ..variants.run import VariantRun

INPUT = "input"
"""The control layer: the pixels themselves."""

CONCAT = "concat"
"""What several layers resized to a common grid are called together."""

CERTIFICATE_IMAGES = 2

FIRST_TEST_IMAGE = 2**32  # number of the first test image, for noise of its own

ROOM = 2 * 2**30
"""Bytes that readouts hold at a time, unless those of a single condition take more."""


@dataclass(frozen=True)
class Job:
    """What all weights × variants of a run have in common.

    With ``controls`` readouts are also fitted to the pixels, the layer :data:`INPUT`, and to the
    control task, the targets with their places permuted.
    """

    source: Stimuli
    targets: list[str]
    stride: int
    margin: int
    batch_size: int
    seed: int
    train_images: int
    test_images: int
    head: ReadoutSpec
    controls: bool = True
    steps: tuple[int, ...] = ()  # counts of test images, where they were added until precise

    @property
    def scenes(self) -> np.ndarray:
        """Number of the scene that each test image shows."""
        return scenes(self.source, self.test_images)


def layers_seen(
    head: ReadoutSpec, layers: Sequence[Layer], channels: int, control: bool = True
) -> tuple[Layer, ...]:
    """Return layers as a readout sees them: the input as a control, then each or all together.

    ``channels`` are those of the input.

    Raises
    ------
    ProbeError
        If a layer is called like the input.
    """
    if any(layer.name == INPUT for layer in layers):
        raise ProbeError(
            f"layers: {INPUT!r} is what the control on the pixels is called; rename that module"
        )
    size, last = layers[0].image_size, layers[-1].depth
    shown = [Layer(INPUT, 0, channels, *size, "NCHW", 0, size)] if control else []
    if head.concat:
        channels = sum(layer.channels for layer in layers)
        shown.append(Layer(CONCAT, last + 1, channels, *grid_size(size), "NCHW", 0, size))
    else:
        shown.extend(layers)
    return tuple(GridLayer.like(layer) if head.gridded else layer for layer in shown)


def layer_truth(
    head: ReadoutSpec, targets: Sequence[str], layer: Layer, seed: int = 0, control: bool = True
) -> Truth:
    """Return what a readout should predict at a layer as it sees it."""
    maps = layer_targets(targets, layer.image_size, *layer.windows(head.kernel))
    order = control_order(maps[0].size, seed) if control else None
    distance = layer.border_distance(head.kernel)
    return Truth(tuple(map(str, targets)), maps, order, layer.image_size, distance)


Extra = dict[tuple[str, str], np.ndarray]
"""By target and metric, scores (B,) of test images that only some readout has."""


@dataclass
class Condition:
    """One weights × variant on its way through the run."""

    backbone: Backbone
    view: VariantRun
    layers: tuple[Layer, ...]  # as the readout sees them
    truths: dict[str, Truth]
    readouts: dict[str, Readout] = field(default_factory=dict)
    sums: dict[str, list[PlaceSums]] = field(default_factory=dict)
    alphas: dict[str, list[float]] = field(default_factory=dict)
    predictions: dict[str, list[np.ndarray]] = field(default_factory=dict)
    extra: dict[str, list[Extra]] = field(default_factory=dict)  # of each batch of test images
    scored: dict[str, Scored] = field(default_factory=dict)
    pixels: list[np.ndarray] = field(default_factory=list)  # predictions from the input alone
    trained: Condition | None = None  # the same weights as trained, where embeddings are shifted
    followed: dict[str, list[np.ndarray]] = field(default_factory=dict)  # see runner.follow

    @classmethod
    def of(cls, job: Job, backbone: Backbone, seen: VariantRun) -> Condition:
        """Prepare one.

        Raises
        ------
        ProbeError
            If a layer is called like the input.
        """
        layers = layers_seen(job.head, seen.layers, job.source.channels, job.controls)
        truths = {
            layer.name: layer_truth(job.head, job.targets, layer, job.seed, job.controls)
            for layer in layers
        }
        return cls(backbone, seen, layers, truths)

    @property
    def key(self) -> tuple[str, str]:
        return self.backbone.weights, self.view.variant.name

    @property
    def title(self) -> str:
        return f"{self.backbone.name}, {self.backbone.weights} weights, {self.view.variant.name}"


def check_finite(values: Tensor, layer: Layer, condition: Condition) -> None:
    if not bool(torch.isfinite(values).all()):
        raise NotFiniteError(
            f"features are not finite (NaN or infinity, or too large to square): first at layer "
            f"{layer.name} of {condition.title}; check the weights, or probe layers before it"
        )


def _room(job: Job, condition: Condition) -> int:
    """Bytes that the readouts of a condition, and the sums beside them, hold."""
    readout, total = job.head.make(), 0
    for layer in condition.layers:
        places = layer.places[0] * layer.places[1]
        total += readout.bytes_held(layer.channels, places, job.train_images)
        total += 8 * FOLDS * layer.channels * places * readout.needs_sums
    return total


def check_room(job: Job, condition: Condition) -> None:
    """Refuse what can't fit before the long part."""
    readout, device = job.head.make(), condition.backbone.device
    for layer in condition.layers:
        try:
            readout.check(layer.channels, *layer.places, device)
        except ProbeError as error:
            raise ProbeError(f"layer {layer.name} of {condition.title}: {error}") from None
    check_memory(
        _room(job, condition),
        device,
        f"the readouts of {condition.title}",
        "choose fewer layers or images, or kernel 1",
    )


def groups_that_fit(job: Job, conditions: Sequence[Condition]) -> Iterator[list[Condition]]:
    """Split conditions so that what readouts hold at a time stays within a budget."""
    each = max(_room(job, condition) for condition in conditions)
    together = max(1, ROOM // max(each, 1))
    queue = iter(conditions)
    while group := list(islice(queue, together)):
        yield group
