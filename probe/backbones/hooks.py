"""Hooks on modules, and the state in which a network is run."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from .choice import split_call

CHECKPOINTING = ("grad_checkpointing", "gradient_checkpointing", "use_checkpoint", "with_cp")
"""Attributes by which modules say that they recompute activations rather than keep them."""


@contextmanager
def hooked(
    model: nn.Module, names: Sequence[str] | Mapping[str, Any], receive: Callable[[str, Any], None]
) -> Iterator[None]:
    """Call ``receive(name, output)`` whenever one of the named modules returns.

    A name such as ``v1:0`` stands for one call of the module, counted from when the block began.
    """
    modules = dict(model.named_modules())
    handles = []

    def hook(name: str, call: int | None) -> Callable[..., None]:
        calls = itertools.count()

        def take(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if next(calls) == call or call is None:
                receive(name, output)

        return take

    try:
        for name in names:
            module, call = split_call(name, modules)
            if takes_hooks(modules[module]):
                handles.append(modules[module].register_forward_hook(hook(name, call)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def takes_hooks(module: nn.Module) -> bool:
    """Whether a hook sees the module run; those of TorchScript run out of Python's sight."""
    return not isinstance(module, torch.jit.ScriptModule)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put every module in eval mode, without gradients, and put back the modes it had.

    Gradient checkpointing, under which some networks run the parts of a module rather than the
    module, is off meanwhile.
    """
    modes = [
        (module, name, value)
        for module in model.modules()
        for name, value in vars(module).items()
        if name == "training" or (name in CHECKPOINTING and value is True)
    ]
    try:
        for module, name, _ in modes:
            setattr(module, name, False)
        with torch.no_grad():
            yield
    finally:
        for module, name, value in modes:
            setattr(module, name, value)
