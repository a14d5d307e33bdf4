"""Erasers inside a network: for the length of a block, or built into a copy."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from ..backbones.hooks import takes_hooks
from ..backbones.layer import all_tensors
from ..errors import ProbeError, one_of


@contextmanager
def erasing(model: nn.Module, erasers: Mapping[str, nn.Module]) -> Iterator[nn.Module]:
    """Apply erasers to the outputs of layers inside the block; later layers see what they return.

    The network comes out as it was, also after an exception.

    Parameters
    ----------
    model : Module
        Any network.
    erasers : mapping of str to Eraser
        By layer. Each was fitted to the network as it is: with several, the later ones meet
        features that differ from what they saw.

    Raises
    ------
    ProbeError
        If there is no such layer.

    Examples
    --------
    >>> with probe.erasing(model, probe.erase(model, ["blocks.8"])):
    ...     features = model.forward_features(images)
    """
    handles = []
    try:
        for layer, eraser in erasers.items():
            module = _layer_of(model, layer)

            def hook(_: nn.Module, __: Any, output: Any, eraser: nn.Module = eraser) -> Any:
                return cleaned(output, eraser)

            handles.append(module.register_forward_hook(hook))
        yield model
    finally:
        for handle in handles:
            handle.remove()


def attached(model: nn.Module, layer: str, eraser: nn.Module) -> nn.Module:
    """Return a copy of a network with an eraser built in after a layer.

    The eraser becomes a submodule of the layer, so that it is saved, moved and compiled with it;
    all other names stay. The network itself stays as it is.

    Raises
    ------
    ProbeError
        If there is no such layer.
    """
    model = copy.deepcopy(model)
    module = _layer_of(model, layer)
    eraser = copy.deepcopy(eraser)
    first = next(module.parameters(), next(model.parameters(), None))
    eraser = eraser if first is None else eraser.to(first.device)
    eraser.train(module.training)
    count = sum(name.startswith(_NAME) for name, _ in module.named_children())
    name = f"{_NAME}_{count + 1}" if count else _NAME
    module.add_module(name, eraser)
    if type(module).forward is not nn.Sequential.forward:
        module.register_forward_hook(_Hook(name))
    return model


_NAME = "eraser"


class _Hook:
    """Applies a module's child to its output; can be copied and pickled with the network."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, module: nn.Module, _inputs: Any, output: Any) -> Any:
        return cleaned(output, module.get_submodule(self.name))


def _layer_of(model: nn.Module, layer: str) -> nn.Module:
    modules = dict(model.named_modules())
    if ":" in layer and layer not in modules:
        raise ProbeError(
            f"layer {layer!r} is one call of a module that runs several times for each image: an "
            "eraser can stand behind all of its calls only; choose another layer"
        )
    module = modules[one_of(layer, modules, "layer")]
    if not takes_hooks(module):
        raise ProbeError(f"layer {layer!r} is TorchScript, behind which no eraser can be put")
    return module


def cleaned(output: Any, eraser: nn.Module) -> Any:
    """Put what an eraser returns in place of the first tensor in an output that fits it."""
    fits = getattr(eraser, "fits", lambda x: True)
    chosen = next((t for t in all_tensors(output) if fits(t)), None)
    if chosen is None:
        chosen = next(iter(all_tensors(output)))
    return _replaced(output, chosen, eraser(chosen))


def _replaced(output: Any, old: Tensor, new: Tensor) -> Any:
    if output is old:
        return new
    if isinstance(output, Mapping):
        changed = copy.copy(output)
        for key, value in output.items():
            changed[key] = _replaced(value, old, new)  # type: ignore[index]
        return changed
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return type(output)(*(_replaced(item, old, new) for item in output))
    if isinstance(output, list | tuple):
        return type(output)(_replaced(item, old, new) for item in output)
    return output
