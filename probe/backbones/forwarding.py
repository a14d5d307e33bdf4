"""Keyword arguments of a network's own that it is called with, wherever it is called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from ..errors import ProbeError, one_of
from .backbone import unwrapped
from .choice import core


class _Passing:
    """A forward pre-hook that adds keyword arguments."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.given = dict(given)

    def __call__(self, _module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        return args, {**self.given, **kwargs}


@contextmanager
def called_with(model: Any, forward_kwargs: Mapping[str, Any] | None) -> Iterator[None]:
    """Pass keyword arguments to ``model.forward`` whenever it is called in the block.

    Parameters
    ----------
    model : Module
        A name is refused where there is something to pass.
    forward_kwargs : mapping, optional
        By name; None and an empty one pass nothing.

    Raises
    ------
    ProbeError
        If they are no mapping of names, or ``forward`` does not take one of them.
    """
    if not forward_kwargs:
        yield
        return
    if not isinstance(forward_kwargs, Mapping):
        raise ProbeError(f"forward_kwargs: expected a mapping of names, got {forward_kwargs!r}")
    if not isinstance(model, nn.Module):
        raise ProbeError(
            "forward_kwargs: they are for a module; build the network with timm.create_model and "
            "pass it"
        )
    taken = inspect.signature(core(model).forward).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in taken.values()):
        kinds = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        names = [p.name for p in taken.values() if p.kind in kinds]
        for name in forward_kwargs:
            one_of(name, names[1:], "forward_kwargs")
    handle = unwrapped(model).register_forward_pre_hook(_Passing(forward_kwargs), with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def entered(model: nn.Module, entry: str) -> Callable[[Tensor], Any]:
    """What runs a network: itself for ``forward``, so that its hooks see it; else a method."""
    return model if entry == "forward" else getattr(model, entry)


def passed_to(model: nn.Module) -> dict[str, Any]:
    """Keyword arguments that :func:`called_with` passes to a network at the moment."""
    hooks = model._forward_pre_hooks.values()
    return next((hook.given for hook in hooks if isinstance(hook, _Passing)), {})
