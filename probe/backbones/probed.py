"""The layers that are probed: chosen, read by dry runs, and their features in every pass."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ProbeError, ProbeWarning
from .choice import choose_layers
from .dryrun import dry_run, output_shape, read_layers
from .forwarding import entered
from .hooks import evaluating as evaluating
from .hooks import hooked as hooked
from .layer import Layer
from .reading import reread


@dataclass(frozen=True)
class ProbedLayers:
    """The layers of one backbone, and how to run it so that they fire.

    Attributes
    ----------
    layers : tuple of Layer
        In order of execution.
    entry : str
        The method to call: ``forward_features``, or ``forward`` where a layer needs more.
    memory_format : torch.memory_format
        Of the input. Channels last is the faster one for most convolutional networks on a CPU.
    cautions : tuple of str
        What was left out and why, and which layers' layout is a guess.
    """

    layers: tuple[Layer, ...]
    entry: str
    memory_format: torch.memory_format
    cautions: tuple[str, ...] = ()

    def run(self, model: nn.Module, x: Tensor, receive: Callable[[Layer, Tensor], None]) -> Any:
        """Run the model; hand each layer's map ``(B, C, H, W)`` over as soon as it is there.

        The map may be overwritten once ``receive`` returns. Hooks are gone afterwards, also after
        an exception. Returns what the model returned.
        """
        by_name = {layer.name: layer for layer in self.layers}

        def take(name: str, output: Any) -> None:
            layer = by_name[name]
            # A mode that rewrites the network's borders must not rewrite a readout's.
            with torch._C.DisableTorchFunction():
                receive(layer, layer.canonical(output, len(x)))

        with hooked(model, by_name, take):
            return entered(model, self.entry)(x.clone(memory_format=self.memory_format))

    def again(self, model: nn.Module, x: Tensor, label: str = "the model") -> ProbedLayers:
        """Learn by another dry run what the same layers are on other images, or run otherwise.

        Raises
        ------
        ProbeError
            If the model refuses, or a layer is no map any more or has a single place.
        """
        names = [layer.name for layer in self.layers]
        fired, memory_format = dry_run(model, names, self.entry, x, label, output_shape)
        size = (int(x.shape[-2]), int(x.shape[-1]))
        layers = []
        for layer in self.layers:
            shape = dict(fired).get(layer.name)
            seen = shape and reread(layer, model, shape, len(x), size)
            if not seen or seen.height == seen.width == 1:
                raise ProbeError(
                    f"layer {layer.name!r} of {label} can't be probed so: it returns a tensor of "
                    f"shape {shape}; choose a larger image size or other layers"
                )
            layers.append(seen)
        return ProbedLayers(tuple(layers), self.entry, memory_format)


def probe_layers(
    model: nn.Module,
    layers: str | Sequence[str],
    x: Tensor,
    label: str = "the model",
) -> ProbedLayers:
    """Choose layers and learn by dry runs how they fire, in which order and in which layout.

    Parameters
    ----------
    model : Module
        In eval mode.
    layers : str or sequence of str
        See :func:`choose_layers`.
    x : Tensor, shape (B, C, H, W)
        Normalised images.
    label : str
        What messages call the model.

    Returns
    -------
    ProbedLayers

    Raises
    ------
    ProbeError
        If the model refuses the image size, or an exactly named layer can't be probed.
    """
    names, exact = choose_layers(model, layers, label)
    read = read_layers(model, names, x, label, list(exact) or names)
    probed: list[Layer] = []
    left_out: dict[str, list[str]] = {}
    for name, layer, fault in read.outputs:
        if name not in names:  # one of several calls
            name, layer = name.rpartition(":")[0], None
            last = read.calls[name] - 1
            fault = (
                f"runs {last + 1} times for each image, so that it has no one feature map; choose "
                f"one of its calls: {name}:0 to {name}:{last}"
            )
        if layer is not None:
            probed.append(replace(layer, depth=len(probed) + 1))
        elif name in exact:
            raise ProbeError(f"layer {name!r} of {label} can't be probed: it {fault}")
        else:
            left_out.setdefault(fault, []).append(name)
    told = [f"{_some(list(dict.fromkeys(who)), 4)} ({fault})" for fault, who in left_out.items()]
    if not probed:
        why = f": {'; '.join(told[:3])}" if told else ""
        raise ProbeError(f"none of the layers {layers!r} of {label} can be probed{why}")
    cautions = []
    if told:
        more = f"; and {len(told) - 5} more reasons" if len(told) > 5 else ""
        cautions.append(f"layers of {label} left out: {'; '.join(told[:5])}{more}")
    guesses = [layer for layer in probed if layer.decided.startswith("guess")]
    if guesses:
        words = [f"{g.name} ({g.height} × {g.width} × {g.channels} channels)" for g in guesses]
        shown = _some(words, 3)
        cautions.append(f"how these layers of {label} lie over the image is a guess: {shown}")
    for message in cautions:
        warnings.warn(message, ProbeWarning, stacklevel=2)
    return ProbedLayers(tuple(probed), read.entry, read.memory_format, tuple(cautions))


def _some(names: Sequence[str], count: int) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more
