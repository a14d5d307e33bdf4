"""Estimates: parameters, operations and memory of a network, without allocating it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from ...backbones.layer import MAX_PLACES
from ...backbones.weights import DEFAULT_SIZE
from ...errors import ProbeError
from ...readouts.base import FOLDS
from ...runner.job import ROOM
from ...runner.options import Options

BASE = 600 * 2**20
"""Bytes of a process that has imported everything."""

_PER_PARAMETER = 4 + 8 + 4  # float32, the certificate's float64 copy, room for a state dict
_PER_ACTIVATION = 3  # an operation's input and output, and a copy for the moments
_SECONDS = 4.0  # certificates, scores and the report of a small network


@dataclass(frozen=True)
class Estimate:
    """What a network needs.

    Attributes
    ----------
    parameters : int
        How many.
    operations : float
        Floating-point operations of one image; NaN where they can't be counted.
    activations : int
        Bytes that the largest operation reads and writes for one image.
    readouts : int
        Bytes that the readouts of one weights × variant hold.
    """

    parameters: int
    operations: float
    activations: int
    readouts: int

    def memory(self, options: Options) -> int:
        """Bytes that a run with these options needs, about."""
        conditions = len(options.weights) * len(options.variants)
        readouts = max(self.readouts, min(self.readouts * conditions, ROOM))
        weights = self.parameters * (_PER_PARAMETER + 4 * (len(options.weights) - 1))
        return BASE + weights + options.batch_size * self.activations * _PER_ACTIVATION + readouts

    def work(self, options: Options) -> float:
        """Floating-point operations of a run with these options."""
        images = options.train_images + options.test_images
        return self.operations * images * len(options.weights) * len(options.variants)

    def seconds(self, options: Options, rate: float) -> float:
        """Seconds that a run takes, about, at so many operations a second."""
        return _SECONDS + self.work(options) / rate


def estimate(model: str, options: Options) -> Estimate:
    """Estimate what a network needs, from timm's architecture on torch's ``meta`` device.

    Raises
    ------
    ProbeError
        If it can't be built so.
    """
    try:
        config = timm.get_pretrained_cfg(model, allow_unregistered=True)
        entry: Mapping[str, Any] = config.to_dict() if config is not None else {}
        size = options.image_size or entry.get("input_size", (3, DEFAULT_SIZE, DEFAULT_SIZE))[-2:]
        fixed = entry.get("fixed_input_size") and tuple(entry["input_size"][-2:]) != tuple(size)
        built: dict[str, Any] = {"img_size": tuple(size)} if fixed else {}
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            network = timm.create_model(model, pretrained=False, **built).eval()
    except Exception as error:  # timm's builders raise whatever their authors chose
        raise ProbeError(f"{model} can't be estimated: {error}") from error
    parameters = sum(p.numel() for p in network.parameters())
    operations, largest = float("nan"), 0
    try:
        counter, sizes = FlopCounterMode(display=False), _Sizes()
        with torch.no_grad(), counter, sizes:
            network(torch.empty(1, 3, *size, device="meta"))
        operations, largest = float(counter.get_total_flops()), sizes.largest
    except Exception:  # forwards that look at values can't run without any
        largest = 64 * 4 * size[0] * size[1]
    readouts = 0
    for stage in getattr(network, "feature_info", None) or []:
        if isinstance(stage, dict) and "num_chs" in stage:
            channels, reduction = stage["num_chs"], stage.get("reduction") or 1
            places = min(size[0] * size[1] // reduction**2, MAX_PLACES**2)
            readouts += 8 * FOLDS * channels * (channels + 2 * places)
    return Estimate(parameters, operations, largest, readouts)


class _Sizes(TorchDispatchMode):
    """Notes how many bytes the largest operation reads and writes."""

    largest = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = function(*args, **(kwargs or {}))
        seen = {
            id(t): t.numel() * t.element_size()
            for t in tree_leaves((args, out))
            if isinstance(t, torch.Tensor) and not isinstance(t, torch.nn.Parameter)
        }
        self.largest = max(self.largest, sum(seen.values()))
        return out


def bytes_text(number: float) -> str:
    """Bytes in words."""
    return f"{number / 2**30:.1f} GiB" if number >= 2**30 else f"{number / 2**20:.0f} MiB"
