"""Dry runs: which modules fire, and how what they give lies over the image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..errors import ProbeError
from ..machine import memory_explained
from .choice import split_call
from .forwarding import entered, passed_to
from .hooks import hooked, takes_hooks
from .layer import Layer, all_tensors
from .reading import Seen, Shape, changed, decide, squared_changes

_Changes = Mapping[int, NDArray[np.float64]]


@dataclass(frozen=True)
class ReadLayers:
    """What dry runs tell of some modules.

    Attributes
    ----------
    outputs : list of (str, Layer or None, str)
        Name, layer, and why it can't be probed if it can't: in order of execution, then what never
        ran. A module that ran several times stands there once for each call, as ``name:0``, ….
    calls : mapping of str to int
        How often each name ran.
    entry : str
        The method that was called.
    memory_format : torch.memory_format
        Of the input.
    whole : Layer or None
        What the network itself returned, if that is a map over the image.
    """

    outputs: list[tuple[str, Layer | None, str]]
    calls: Mapping[str, int]
    entry: str
    memory_format: torch.memory_format
    whole: Layer | None = None


def read_layers(
    model: nn.Module,
    names: Sequence[str],
    x: Tensor,
    label: str = "the model",
    needed: Sequence[str] | None = None,
    why: bool = True,
) -> ReadLayers:
    """Learn by dry runs on one image, whole and changed, how the outputs of modules lie over it.

    Parameters
    ----------
    model : Module
        In eval mode.
    names : sequence of str
        Of modules, or of calls.
    x : Tensor, shape (B, C, H, W)
        Normalised images; the first one is used.
    label : str
        What messages call the model.
    needed : sequence of str, optional
        Names for which ``forward`` is run where ``forward_features`` does not reach them.
    why : bool
        Whether to list what never ran, with the reason, which takes another dry run.

    Raises
    ------
    ProbeError
        If the model refuses the image size.
    """
    entries = ["forward"]
    if callable(getattr(model, "forward_features", None)) and not passed_to(model):
        entries.insert(0, "forward_features")
    pair = changed(x)
    for entry in entries:
        try:
            fired, memory_format = dry_run(model, names, entry, pair, label, _shape_and_changes)
        except ProbeError:
            if entry == entries[-1]:
                raise
            continue
        calls = Counter(name for name, _ in fired)
        if all(calls[name] for name in (names if needed is None else needed)):
            break
    single: list[tuple[str, Any]] = []
    with suppress(ProbeError), torch.random.fork_rng(_devices(x)):  # some refuse single images
        single, _ = dry_run(model, names, entry, pair[:1], label, output_shape)
    alone = [shape for _, shape in single]
    if [name for name, _ in single] != [name for name, _ in fired]:
        alone = [None] * len(fired)

    modules = dict(model.named_modules())
    blank = Layer("", 0, 0, 0, 0, "", 0, (int(x.shape[-2]), int(x.shape[-1])))
    outputs: list[tuple[str, Layer | None, str]] = []
    nth: Counter[str] = Counter()
    for (name, value), one in zip(fired, alone, strict=True):
        address = f"{name}:{nth[name]}" if calls[name] > 1 else name
        nth[name] += 1
        layer, fault = None, "returns no tensor"
        if value is not None:
            module = modules[split_call(name, modules)[0]]
            seen = Seen(value[0], one, value[1])
            layer, fault = decide(replace(blank, name=address), model, module, seen)
        if layer is not None and max(layer.places) == 1:
            layer, fault = None, "has a single place, which can't tell where it is"
        outputs.append((address, layer, fault))
    whole = next((layer for name, layer, _ in reversed(outputs) if not name), None)
    outputs = [output for output in outputs if output[0]]
    silent = [name for name in names if why and not calls[name]]
    outputs += _silent(model, silent, entry, pair[:1], label, calls) if silent else []
    return ReadLayers(_like_neighbours(outputs), calls, entry, memory_format, whole)


def dry_run(
    model: nn.Module,
    names: Sequence[str],
    entry: str,
    x: Tensor,
    label: str,
    look: Callable[[Any, int], Any],
) -> tuple[list[tuple[str, Any]], torch.memory_format]:
    """Run once; return what ``look`` made of each output, in order, and the input's memory format.

    Raises
    ------
    ProbeError
        If the model refuses the images, or memory runs out.
    """
    failure: Exception | None = None
    for memory_format in (torch.channels_last, torch.contiguous_format):
        fired: list[tuple[str, Any]] = []

        def receive(name: str, output: Any, fired: list[tuple[str, Any]] = fired) -> None:
            fired.append((name, look(output, len(x))))

        try:
            with memory_explained(len(x)), hooked(model, names, receive):
                output = entered(model, entry)(x.clone(memory_format=memory_format))
            if "" not in dict(fired):
                receive("", output)
            return fired, memory_format
        except ProbeError:  # out of memory, not refused
            raise
        except Exception as error:  # whatever the model's author chose to raise
            failure = failure or error
    text = (str(failure).strip().splitlines() or [type(failure).__name__])[0][:200]
    height, width = x.shape[-2:]
    raise ProbeError(
        f"{label} refuses images of {height} × {width} pixels and {x.shape[1]} channels: {text}"
    ) from failure


def output_shape(output: Any, batch: int) -> Shape | None:
    """Shape of the tensor in what a module returned."""
    tensor = _of_images(output, batch)
    return None if tensor is None else tuple(tensor.shape)


def _shape_and_changes(output: Any, batch: int) -> tuple[Shape, _Changes] | None:
    tensor = _of_images(output, batch)
    return None if tensor is None else (tuple(tensor.shape), squared_changes(tensor))


def _of_images(output: Any, batch: int) -> Tensor | None:
    """The first tensor of which one of the first two axes counts the images, or the first."""
    tensors = list(all_tensors(output))
    return next((t for t in tensors if batch in t.shape[:2]), next(iter(tensors), None))


def _silent(
    model: nn.Module,
    names: Sequence[str],
    entry: str,
    x: Tensor,
    label: str,
    calls: Mapping[str, int],
) -> list[tuple[str, None, str]]:
    """Why modules did not fire, as far as that can be known."""
    modules = dict(model.named_modules())
    parts = {
        name: [n for n in modules if n.startswith(f"{name}.")] for name in names if name in modules
    }
    fired: set[str] = set()
    with suppress(ProbeError), torch.random.fork_rng(_devices(x)):
        watched = list(dict.fromkeys(n for inner in parts.values() for n in inner))
        fired = set(dict(dry_run(model, watched, entry, x, label, output_shape)[0]))

    def reason(name: str) -> str:
        owner, call = split_call(name, modules)
        if not all(takes_hooks(module) for n, module in modules.items() if _holds(n, owner)):
            return "is part of a TorchScript module, into which hooks can't see"
        if call is not None:
            return f"does not run {call + 1} times for each image"
        if isinstance(modules[name], nn.ModuleList | nn.ModuleDict):
            return "is a list of modules, which never runs itself; choose its members"
        if any(part in fired for part in parts[name]):
            return (
                "never runs itself, only its parts do: the network calls them, or its forward, "
                "directly"
            )
        return "never runs on an image"

    return [(name, None, reason(name)) for name in names]


def _holds(outer: str, name: str) -> bool:
    return outer in ("", name) or name.startswith(f"{outer}.")


def _like_neighbours(
    outputs: Sequence[tuple[str, Layer | None, str]],
) -> list[tuple[str, Layer | None, str]]:
    """Confirm guesses by layers with as many tokens whose layout was measured or is known."""
    sure: dict[tuple[object, ...], str] = {}
    for name, layer, _ in outputs:
        if layer is not None and not layer.decided.startswith("guess"):
            sure.setdefault(_arrangement(layer), name)
    confirmed: list[tuple[str, Layer | None, str]] = []
    for name, layer, fault in outputs:
        if layer is not None and layer.decided.startswith("guess"):
            like = sure.get(_arrangement(layer))
            layer = replace(layer, decided=f"as {like}") if like else layer
        confirmed.append((name, layer, fault))
    return confirmed


def _arrangement(layer: Layer) -> tuple[object, ...]:
    extra = (layer.prefix, layer.suffix, layer.order)
    return (layer.layout, layer.height, layer.width, *extra)


def _devices(x: Tensor) -> list[torch.device]:
    return [x.device] if x.is_cuda else []
