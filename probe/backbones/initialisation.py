"""Random weights: drawn from a seed, with the branches open that initialisations close."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import torch
from torch import nn

from ..errors import ProbeError
from ..text import first_line

_SCALE = re.compile(r"weight|gamma|scale|gain|alpha|^ls")


@dataclass(frozen=True)
class Origin:
    """Where weights come from.

    Attributes
    ----------
    words : str
        For provenance.
    caution : str
        What a reader of results should know of them; mostly nothing.
    """

    words: str
    caution: str = ""


@contextmanager
def fixed_rng(seed: int) -> Iterator[None]:
    """Seed the generator that initialises modules, and put it back as it was."""
    state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(state)


def expose_borders(model: nn.Module, seed: int = 0) -> list[str]:
    """Make what an initialisation sets to nearly 0 count, in place; return the parameters' names.

    Scales (LayerScale, the last normalisation of a residual branch, gains) of at most 0.1 become
    1; larger tensors that are all 0 (position embeddings, bias tables, last convolutions) become
    normal with variance 1 / fan-in, where fan-in is the size of an entry along the first
    dimension; biases stay.

    Parameters
    ----------
    model : Module
        With weights as initialised.
    seed : int
        Of the normal numbers.
    """
    stream = torch.Generator().manual_seed(seed)
    opened = []
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.is_floating_point() or not parameter.numel():
                continue
            largest = float(parameter.abs().max())
            scale = parameter.numel() == max(parameter.shape, default=1)
            if scale and largest <= 0.1 and not _is_bias(name.rpartition(".")[2]):
                parameter.fill_(1.0)
            elif not scale and largest == 0:
                fan_in = parameter[0].numel()
                drawn = torch.randn(parameter.shape, generator=stream) / math.sqrt(fan_in)
                parameter.copy_(drawn.to(parameter))
            else:
                continue
            opened.append(name)
    return opened


def drawn_anew(model: nn.Module, seed: int) -> nn.Module:
    """Return a copy of a module with its parameters drawn anew, by its own initialisation.

    Every module's ``reset_parameters`` runs; then the network's ``init_weights``, if it has one,
    and, for parameters that both left as they were, its ``_init_weights`` of the module that owns
    them (the transformers library's).

    Parameters
    ----------
    model : Module
        Stays as it is.
    seed : int
        Of torch's generator, which is put back.

    Raises
    ------
    ProbeError
        If something of the weights that were given would be left.
    """
    kind = type(model).__name__
    try:
        anew = copy.deepcopy(model)
    except Exception as error:  # whatever its author chose to raise
        raise ProbeError(
            f"weights 'random': {kind} can't be copied ({first_line(error)})"
        ) from error
    here = next(model.parameters(), torch.empty(0)).device
    anew.cpu()  # whose draws are the same everywhere
    with fixed_rng(seed), torch.no_grad():
        for module in anew.modules():
            _call(module, "reset_parameters")
        _call(anew, "init_weights")
        for name in _left(model, anew):
            _call(anew, "_init_weights", anew.get_submodule(name.rpartition(".")[0]))
    anew.to(here)
    if left := _left(model, anew):
        few = ", ".join(left[:3]) + ", …" * (len(left) > 3)
        raise ProbeError(
            f"weights 'random': {kind} does not say how {few} "
            f"{'is' if len(left) == 1 else 'are'} initialised (no reset_parameters of the module "
            "they belong to, no init_weights); pass a module with new weights in place of this"
        )
    return anew


def _call(module: nn.Module, name: str, *given: nn.Module) -> None:
    """Call a method of a module's class, if there is one; what it leaves is looked for later."""
    if callable(method := getattr(type(module), name, None)):
        with suppress(Exception):  # whatever its author chose to raise
            method(module, *given)


def _left(before: nn.Module, after: nn.Module) -> list[str]:
    """Names of the parameters whose values vary and are the same in both."""
    old = dict(before.named_parameters())
    return [
        name
        for name, p in after.named_parameters()
        if torch.equal(p, old[name].to(p)) and p.numel() > 1 and bool((p != p.flatten()[0]).any())
    ]


def silent_scales(model: nn.Module) -> list[str]:
    """Names of the scales that are 0 throughout, so that the branches they end are silent."""
    return [
        name
        for name, p in model.named_parameters()
        if _SCALE.search(name.rpartition(".")[2])
        and 0 < p.numel() == max(p.shape, default=1)
        and not bool(p.any())
    ]


def silence(scales: Sequence[str], what: str) -> str:
    """Say how many branches are silent, and that nothing is ``what`` about them."""
    if not scales:
        return ""
    branches = "1 branch is" if len(scales) == 1 else f"{len(scales)} branches are"
    few = ", ".join(scales[:2]) + ", …" * (len(scales) > 2)
    return f"{branches} silent, by scales of 0 ({few}): nothing is {what} about what they compute"


def initialised(how: str, model: nn.Module, seed: int) -> Origin:
    """Open what an initialisation closed, in place; return where the weights come from."""
    opened = expose_borders(model, seed)
    if not opened:
        return Origin(f"{how}, seed {seed}")
    few = ", ".join(opened[:2]) + ", …" * (len(opened) > 2)
    closed, begin = "branches or tables", "scales and tables that start at about 0 were"
    if len(opened) == 1:
        closed, begin = "branch or table", "scale or table that starts at about 0 was"
    return Origin(
        f"{how}, seed {seed}, with {len(opened)} closed {closed} opened ({few})",
        f"random weights are no control where an initialisation closes branches: {len(opened)} "
        f"{begin} opened ({few})",
    )


def _is_bias(name: str) -> bool:
    return "bias" in name or name in ("beta", "shift", "cls_token", "mask_token", "dist_token")
