"""The state in which networks are certified: quiet, and in double precision throughout."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..backbones.hooks import evaluating
from ..errors import ProbeWarning


class double_precision(TorchFunctionMode):
    """Keep a network that was converted to float64 from going back to float32 on the way."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is Tensor.float:
            return args[0].double()
        args = tuple(torch.float64 if a is torch.float32 else a for a in args)
        kwargs = {k: torch.float64 if v is torch.float32 else v for k, v in (kwargs or {}).items()}
        return func(*args, **kwargs)


@contextmanager
def quietly(model: nn.Module) -> Iterator[None]:
    """Eval mode, no gradients, no cautions; a network in float64 stays in it."""
    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", ProbeWarning)
        if any(p.dtype == torch.float64 for p in model.parameters()):
            stack.enter_context(double_precision())
        yield
