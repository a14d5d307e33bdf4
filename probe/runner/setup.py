"""Opening what an analysis runs on: weights, layers, stimuli, and where they come from."""

from __future__ import annotations

import datetime
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..backbones.backbone import Backbone, input_size, load_backbone
from ..backbones.catalogue import known_model
from ..backbones.choice import total_stride
from ..backbones.forwarding import called_with
from ..backbones.probed import ProbedLayers, evaluating, probe_layers
from ..certificates.inventory import take_inventory
from ..errors import ProbeError, ProbeWarning, whole_number
from ..machine import device_name, exact_float32, memory_explained, pick_device, versions
from ..readouts.spec import ReadoutSpec
from ..stimuli.leaves import Leaves
from ..stimuli.opening import open_stimuli
from ..stimuli.scenes import scene_size
from ..stimuli.source import Stimuli
from ..targets import formulas, given_maps
from ..text import short_name
from ..variants.canvas import canvas_cost, find_margin
from ..variants.run import open_variant
from ..variants.variant import Variant, parse_variant
from .auto import AUTO, auto_variants
from .job import CERTIFICATE_IMAGES, Condition, Job
from .options import DEFAULT_WEIGHTS, Options


class Stopwatch:
    """When something began, and how long it has taken: for provenance."""

    def __init__(self) -> None:
        self._started, self._clock = datetime.datetime.now(datetime.UTC), time.perf_counter()

    def times(self) -> dict[str, Any]:
        """Return ``started`` (ISO 8601) and ``seconds``."""
        return {
            "started": self._started.isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - self._clock, 1),
        }


@dataclass(frozen=True)
class Opened:
    """A model, opened: each of its weights in eval mode, its probed layers, its stimuli.

    Attributes
    ----------
    model : str or Module
        What was asked for.
    options : Options
        As asked for, with ``image_size`` settled.
    backbones : tuple of Backbone
        One for each of the weights.
    stimuli : Stimuli
        Of the run.
    probed : ProbedLayers
        The chosen layers.
    leaves : Tensor, shape (2, C, H, W)
        Images that dry runs and certificates are made with.
    stride : int
        Total stride of the network.
    margin : int
        Pixels of canvas on each side; 0 where no variant is a canvas.
    clock : Stopwatch
        Since the analysis was asked for.
    """

    model: str | nn.Module
    options: Options
    backbones: tuple[Backbone, ...]
    stimuli: Stimuli
    probed: ProbedLayers
    leaves: Tensor
    stride: int
    margin: int
    clock: Stopwatch

    @property
    def first(self) -> Backbone:
        """The backbone with the first of the weights."""
        return self.backbones[0]

    @property
    def cautions(self) -> list[str]:
        """What a reader of results should know of the weights and the layers."""
        shown = Counter(short_name(backbone.weights) for backbone in self.backbones)
        alike = [
            f"several weights are shown as {name}; the table has their whole paths"
            for name, count in shown.items()
            if count > 1
        ]
        return [*cautions_of(self.backbones), *self.probed.cautions, *alike]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images."""
        return self.stimuli.image_size

    @property
    def variants(self) -> list[Variant]:
        """The variants asked for."""
        return [parse_variant(name) for name in self.options.variants]

    def job(self, stimuli: Stimuli | None = None, seed: int | None = None) -> Job:
        """Return what all conditions have in common; with other stimuli and seed if given."""
        options = self.options if seed is None else replace(self.options, progress=False)
        return Job(
            stimuli or self.stimuli,
            list(options.targets),
            self.stride,
            self.margin,
            options.batch_size,
            options.seed if seed is None else seed,
            options.train_images,
            options.test_images,
            readout_spec(options),
        )

    def bar(self, conditions: int, title: str) -> tqdm:
        """Return a progress bar over both passes of so many conditions."""
        options = self.options
        return tqdm(
            total=(options.train_images + options.test_images) * conditions,
            desc=title,
            unit="img",
            disable=not options.progress,
            dynamic_ncols=True,
        )

    def condition(self, job: Job, backbone: Backbone, variant: Variant) -> Condition:
        """Open one weights × variant."""
        with memory_explained(CERTIFICATE_IMAGES):
            view = open_variant(backbone, variant, self.probed, self.leaves, self.margin)
        return Condition.of(job, backbone, view)

    def recorded(self, *names: str) -> dict[str, Any]:
        """Return options as provenance keeps them: plain values, settled ones where known."""
        options, first, spec = self.options, self.first, readout_spec(self.options)
        settled = {
            "model": self.model if isinstance(self.model, str) else type(self.model).__name__,
            "stimuli": self.stimuli.name,
            "image_size": list(self.size),
            "kernel": options.kernel if len(spec.kind.kernels) > 1 else None,
            "readout": options.readout if isinstance(options.readout, str) else spec.label,
            "targets": [str(target) for target in options.targets],
            "device": str(options.device),
            "margin": self.margin or None,
            "mean": None if options.mean is None else list(first.mean),
            "std": None if options.std is None else list(first.std),
            "forward_kwargs": _plain(options.forward_kwargs),
        }
        values = {n: settled[n] if n in settled else getattr(options, n) for n in names}
        return {n: list(v) if isinstance(v, tuple) else v for n, v in values.items()}

    def origin(self) -> dict[str, Any]:
        """Return the provenance that all analyses have: model, stimuli, versions, times."""
        return {
            "name": self.first.name,
            "module": isinstance(self.model, nn.Module),
            "named_stimuli": isinstance(self.options.stimuli, str | Path),
            "given": [
                *(["targets"] if given_maps(self.options.targets, (2, 2)) else []),
                *(["readout"] if not isinstance(self.options.readout, str) else []),
            ],
            "stimuli": {
                "name": self.stimuli.name,
                "tileable": self.stimuli.tileable,
                "stationary": self.stimuli.stationary,
                "images_per_scene": scene_size(self.stimuli),
                "untested": self.stimuli.untested,
                "skipped": self.stimuli.skipped,
            },
            "entry": self.probed.entry,
            "maps": formulas(self.options.targets),
            "device": device_name(self.first.device),
            "versions": versions(),
            **self.clock.times(),
        }


def _plain(forward_kwargs: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return keyword arguments as a record keeps them: numbers and words, of others the kind."""
    if not forward_kwargs:
        return None
    kept = bool | int | float | str | None
    return {k: v if isinstance(v, kept) else type(v).__name__ for k, v in forward_kwargs.items()}


def cautions_of(backbones: Iterable[Backbone]) -> list[str]:
    """Return what a reader of results should know of weights, each sentence once."""
    return list(dict.fromkeys(b.caution for b in backbones if b.caution))


def weights_record(backbone: Backbone) -> dict[str, Any]:
    """Return where weights come from, with their hash and the normalisation."""
    return {
        "weights": backbone.weights,
        "source": backbone.source,
        "sha256": backbone.sha256,
        "mean": list(backbone.mean),
        "std": list(backbone.std),
    }


def readout_spec(options: Options) -> ReadoutSpec:
    """Return the readout that options ask for."""
    return ReadoutSpec(
        options.readout, options.kernel, options.concat, options.seed, options.progress
    )


def weights_asked(model: str | nn.Module, options: Options) -> tuple[str, ...]:
    """Return which weights a model is run with: a module's own unless others were asked for.

    Raises
    ------
    ProbeError
        If the model is neither a name nor a module.
    """
    if isinstance(model, nn.Module):
        return ("given",) if options.weights == DEFAULT_WEIGHTS else options.weights
    if not isinstance(model, str):
        raise ProbeError(f"model: expected a timm name or a torch module, got {model!r}")
    return options.weights


def one_weights(model: str | nn.Module, weights: str | Path) -> str:
    """Return the weights of an analysis that is made of one set: a module's are its own.

    Raises
    ------
    ProbeError
        If several were given, or none.
    """
    if isinstance(model, nn.Module) and weights == "pretrained":
        return "given"
    if not isinstance(weights, str | Path):
        raise ProbeError(
            f"weights: expected 'pretrained', 'random' or the path of a checkpoint, got {weights!r}"
        )
    return str(weights)


def load_all(model: str | nn.Module, options: Options) -> tuple[tuple[Backbone, ...], int]:
    """Load a model with each of its weights; return the backbones and the total stride.

    What needs no weights is checked first: loading them may be a long download.

    Raises
    ------
    ProbeError
        If the model, its weights, the device or the stimuli can't be had.
    """
    if isinstance(model, str):
        known_model(model)
    pick_device(options.device)
    size = _size_asked(options)
    _stimuli(options, size or (32, 32))
    backbones = tuple(
        load_backbone(
            model,
            w,
            image_size=size,
            seed=options.seed,
            device=options.device,
            name=options.name,
            mean=options.mean,
            std=options.std,
        )
        for w in weights_asked(model, options)
    )
    for message in cautions_of(backbones):
        warnings.warn(message, ProbeWarning, stacklevel=5)
    return backbones, total_stride(backbones[0].model)


@contextmanager
def opened(model: str | nn.Module, options: Options) -> Iterator[Opened]:
    """Open a model for an analysis; within the block it is in eval mode and float32 is exact.

    Raises
    ------
    ProbeError
        If something asked for does not exist, can't be had or doesn't fit.
    """
    clock = Stopwatch()
    with ExitStack() as stack:
        stack.enter_context(called_with(model, options.forward_kwargs))
        backbones, stride = load_all(model, options)
        first = backbones[0]
        size = _size_asked(options) or input_size(first.config, stride)
        stack.enter_context(exact_float32())
        for module in {id(b.model): b.model for b in backbones}.values():
            stack.enter_context(evaluating(module))
        with memory_explained(CERTIFICATE_IMAGES):
            source = Leaves(size, options.seed).with_channels(first.channels)
            leaves = source.batch("certificate", 0, CERTIFICATE_IMAGES)
            probed = probe_layers(first.model, options.layers, first.normalise(leaves), first.name)
            kinds = _kinds(options, first, probed, leaves)
        if kinds is not None:
            options = replace(options, variants=auto_variants(kinds))
        margin = _margin(options, first, probed, stride)
        if cost := canvas_cost(size, margin, stride):
            warnings.warn(cost, ProbeWarning, stacklevel=5)
        stimuli = _stimuli(options, size, margin, first.channels)
        if margin:
            stimuli.batch("test", 0, 1, margin)  # has one, or says so before the long part
        settled = replace(options, image_size=size, weights=weights_asked(model, options))
        yield Opened(model, settled, backbones, stimuli, probed, leaves, stride, margin, clock)


def _kinds(
    options: Options, backbone: Backbone, probed: ProbedLayers, leaves: Tensor
) -> list[str] | None:
    """Kinds of sources of position in the network, where they say how it is run."""
    if options.variants != (AUTO,):
        return None
    x = backbone.normalise(leaves[:1])
    return list(dict.fromkeys(take_inventory(backbone.model, x, probed.entry)["kind"]))


def _margin(options: Options, backbone: Backbone, probed: ProbedLayers, stride: int) -> int:
    if not any(parse_variant(name).canvas for name in options.variants):
        return 0
    if options.margin is None:
        return find_margin(backbone, probed, stride)[0]
    if whole_number(options.margin, "margin", 1) % stride:
        raise ProbeError(
            f"margin: expected a multiple of the network's stride of {stride}, got {options.margin}"
        )
    return options.margin


def _size_asked(options: Options) -> tuple[int, int] | None:
    """Height and width that were asked for, or that the given images have."""
    if options.image_size is not None:
        return options.image_size
    images = options.stimuli
    if isinstance(images, Tensor | np.ndarray) and images.ndim == 4:
        return int(images.shape[2]), int(images.shape[3])
    return images.image_size if isinstance(images, Stimuli) else None


def _stimuli(
    options: Options, size: tuple[int, int], margin: int = 0, channels: int | None = None
) -> Stimuli:
    return open_stimuli(
        options.stimuli,
        size,
        options.seed,
        train_images=options.train_images,
        test_images=options.test_images,
        margin=margin,
        channels=channels,
    )
