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
from ..errors import ProbeError
from ..readouts.base import FOLDS, Readout, check_memory
from ..readouts.posenet import PoseNet
from ..readouts.ridge import Ridge
from ..readouts.softmax import Softmax
from ..scores.patterns import PlaceSums
from ..scores.tables import Scored, Truth, control_order
from ..stimuli.scenes import scenes
from ..stimuli.source import Stimuli
from ..targets import layer_targets
from ..text import readout_label
from ..variants.run import VariantRun

INPUT = "input"
"""The control layer: the pixels themselves."""

CONCAT = "concat"
"""What several layers resized to a common grid are called together."""

CERTIFICATE_IMAGES = 2

FIRST_TEST_IMAGE = 2**32  # number of the first test image, for noise of its own

_ROOM = 2 * 2**30  # bytes that readouts hold at a time, but for a single condition


@dataclass(frozen=True)
class ReadoutSpec:
    """Which readout, on what.

    Attributes
    ----------
    readout : str
        One of :data:`~probe.readouts.READOUTS`.
    kernel : int
        1, or 3 for neighbourhoods of 3 × 3 places.
    concat : bool
        On all layers together, resized to a common grid.
    seed : int
        Of readouts that draw random numbers.
    progress : bool
        Whether slow ones show a bar.
    """

    readout: str = "ridge"
    kernel: int = 1
    concat: bool = False
    seed: int = 0
    progress: bool = False

    @property
    def label(self) -> str:
        """What tables call it."""
        return readout_label(self.readout, self.kernel)

    @property
    def gridded(self) -> bool:
        """Whether layers are resized to the common grid."""
        return self.concat or self.readout == "posenet"

    def make(self) -> Readout:
        """Return a readout that has seen nothing yet."""
        if self.readout == "posenet":
            return PoseNet(seed=self.seed, progress=self.progress)
        return Softmax() if self.readout == "softmax" else Ridge(self.kernel)

    def see(self, layers: Sequence[Layer]) -> tuple[Layer, ...]:
        """Return layers as the readout sees them: the input, then each layer or all together.

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
        shown = [Layer(INPUT, 0, 3, *size, "NCHW", 0, size)]
        if self.concat:
            channels = sum(layer.channels for layer in layers)
            shown.append(Layer(CONCAT, last + 1, channels, *grid_size(size), "NCHW", 0, size))
        else:
            shown.extend(layers)
        return tuple(GridLayer.like(layer) if self.gridded else layer for layer in shown)

    def truth(self, targets: Sequence[str], layer: Layer, seed: int) -> Truth:
        """Return what the readout should predict at a layer as it sees it."""
        maps = layer_targets(targets, layer.image_size, *layer.windows(self.kernel))
        order = control_order(maps[0].size, seed)
        distance = layer.border_distance(self.kernel)
        return Truth(tuple(targets), maps, order, layer.image_size, distance)


@dataclass(frozen=True)
class Job:
    """What all weights × variants of a run have in common."""

    source: Stimuli
    targets: list[str]
    stride: int
    margin: int
    batch_size: int
    seed: int
    train_images: int
    test_images: int
    head: ReadoutSpec

    @property
    def scenes(self) -> np.ndarray:
        """Number of the scene that each test image shows."""
        return scenes(self.source, self.test_images)


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
    accuracies: dict[str, list[np.ndarray]] = field(default_factory=dict)
    scored: dict[str, Scored] = field(default_factory=dict)

    @classmethod
    def of(cls, job: Job, backbone: Backbone, seen: VariantRun) -> Condition:
        """Prepare one."""
        layers = job.head.see(seen.layers)
        truths = {layer.name: job.head.truth(job.targets, layer, job.seed) for layer in layers}
        return cls(backbone, seen, layers, truths)

    @property
    def key(self) -> tuple[str, str]:
        return self.backbone.weights, self.view.variant.name

    @property
    def title(self) -> str:
        return f"{self.backbone.name}, {self.backbone.weights} weights, {self.view.variant.name}"


def check_finite(values: Tensor, layer: Layer, condition: Condition) -> None:
    if not bool(torch.isfinite(values).all()):
        raise ProbeError(
            f"features are not finite (NaN or infinity, or too large to square): first at layer "
            f"{layer.name} of {condition.title}; check the weights, or probe layers before it"
        )


def _room(job: Job, condition: Condition) -> int:
    """Bytes that the readouts of a condition hold while images stream."""
    total = 0
    for layer in condition.layers:
        readout, (height, width) = job.head.make(), layer.places
        if isinstance(readout, Ridge):
            size = layer.channels * readout.kernel**2
            total += 8 * FOLDS * size * (size + height * width)
            if readout.kernel > 1:
                total += 8 * FOLDS * layer.channels * height * width
        else:
            held = readout.copies * job.train_images + 2 * FOLDS
            total += 4 * held * layer.channels * height * width
    return total


def check_room(job: Job, condition: Condition) -> None:
    """Refuse what can't fit before the long part."""
    for layer in condition.layers:
        readout, (height, width) = job.head.make(), layer.places
        try:
            readout.places(height, width)
        except ProbeError as error:
            raise ProbeError(f"layer {layer.name} of {condition.title}: {error}") from None
        if isinstance(readout, Ridge):
            readout.check(layer.channels, height * width, condition.backbone.device, layer.name)
    check_memory(
        _room(job, condition),
        condition.backbone.device,
        f"the readouts of {condition.title}",
        "choose fewer layers or images, or kernel 1",
    )


def groups_that_fit(job: Job, conditions: Sequence[Condition]) -> Iterator[list[Condition]]:
    """Split conditions so that what readouts hold at a time stays within a budget."""
    each = max(_room(job, condition) for condition in conditions)
    together = max(1, _ROOM // max(each, 1))
    queue = iter(conditions)
    while group := list(islice(queue, together)):
        yield group
