"""Which modules are probed: presets, names and globs."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..errors import ProbeError, ProbeWarning, did_you_mean

PRESETS: tuple[str, ...] = ("stages", "blocks", "convs")
"""Names of ready-made choices of layers."""

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)

_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


def choose_layers(
    model: nn.Module, layers: str | Sequence[str], label: str = "the model"
) -> tuple[list[str], set[str]]:
    """Turn a choice of layers into module names.

    Parameters
    ----------
    model : Module
        Whose modules to choose from.
    layers : str or sequence of str
        ``stages`` (the modules of timm's ``feature_info``, also of a network inside the model; of a
        model without one the members of its outermost lists of like modules, if these hold all
        blocks, else its blocks; a warning says so), ``blocks`` (residual blocks, transformer blocks
        and the like: the smallest modules of more than one weighted layer that stand in a stage),
        ``convs`` (every convolution), or module names and globs: ``*`` within one dotted part of a
        name, ``**`` across parts. ``name:0``, ``name:1``, … are single calls of a
        module that runs several times for each image. Where a module has the name of a preset, the
        preset is meant.
    label : str
        What messages call the model.

    Returns
    -------
    names : list of str
    exact : set of str
        Those given by their exact name: where one of them can't be probed, that is an error.

    Raises
    ------
    ProbeError
        If a name or pattern matches no module.
    """
    modules = dict(model.named_modules())
    modules.pop("", None)
    wanted = [layers] if isinstance(layers, str) or not isinstance(layers, Sequence) else layers
    if not wanted or not all(isinstance(name, str) for name in wanted):
        raise ProbeError(f"layers: expected {', '.join(PRESETS)}, or module names, got {layers!r}")
    names: dict[str, None] = {}
    exact: set[str] = set()
    for pattern in wanted:
        if pattern in PRESETS:
            found = _preset(model, pattern, modules, label)
        elif split_call(pattern, modules)[0] in modules:
            found = [pattern]
            exact.add(pattern)
        else:
            expression = glob(pattern)
            found = [n for n in modules if expression.fullmatch(n)]
        if not found:
            raise ProbeError(_no_layer(model, pattern, modules, label))
        names.update(dict.fromkeys(found))
    return list(names), exact


def glob(pattern: str) -> re.Pattern[str]:
    """Turn a glob over module names into an expression.

    ``*`` and ``?`` stay within one dotted part of a name, ``**`` goes across parts; ``[…]`` is a
    set of characters.

    Raises
    ------
    ProbeError
        If the pattern can't be read.
    """
    parts = re.split(r"(\*\*|\*|\?|\[[^\]]*\])", pattern)
    wild = {"**": ".*", "*": "[^.]*", "?": "[^.]"}
    expression = "".join(
        wild.get(
            p, p.replace("[!", "[^") if p.startswith("[") and p.endswith("]") else re.escape(p)
        )
        for p in parts
    )
    try:
        return re.compile(expression)
    except re.error as error:
        raise ProbeError(f"pattern {pattern!r} can't be read: {error}") from None


def split_call(name: str, modules: Collection[str]) -> tuple[str, int | None]:
    """Split ``v1:0`` into a module's name and the number of one of its calls."""
    module, colon, call = name.rpartition(":")
    if name not in modules and colon and call.isdecimal() and module in modules:
        return module, int(call)
    return name, None


def total_stride(model: nn.Module, default: int = 32) -> int:
    """Least common multiple of the reductions in timm's ``feature_info``, or ``default``."""
    for module in model.modules():
        reductions = [int(i["reduction"]) for i in _feature_info(module) if i.get("reduction")]
        if reductions:
            return math.lcm(*reductions)
    return default


def core(model: nn.Module) -> nn.Module:
    """Return the network in what only holds it, such as timm's extractors of features."""
    while len(children := list(model.children())) == 1 and not list(model.parameters(False)):
        model = children[0]
    return model


def _feature_info(model: nn.Module) -> list[Mapping[str, Any]]:
    info = getattr(model, "feature_info", None)
    info = getattr(info, "info", info)
    if not isinstance(info, Sequence):
        return []
    return [entry for entry in info if isinstance(entry, Mapping)]


def _preset(
    model: nn.Module, preset: str, modules: Mapping[str, nn.Module], label: str
) -> list[str]:
    if preset == "stages":
        stages, caution = _stages(model, modules, label)
        if caution:
            warnings.warn(caution, ProbeWarning, stacklevel=4)
        if stages:
            return stages
    if preset != "convs":
        found = _blocks(model)
        if len(found) > 1:
            return found
    return [name for name, module in modules.items() if isinstance(module, _CONVOLUTIONS)]


def _stages(
    model: nn.Module, modules: Mapping[str, nn.Module], label: str
) -> tuple[list[str], str]:
    """Stages by timm's ``feature_info``, or else by how modules stand in lists; with a caution."""
    for part, module in model.named_modules():
        prefix = f"{part}." * bool(part)
        said = [f"{prefix}{i['module']}" for i in _feature_info(module) if i.get("module")]
        # timm's extractors of features flatten the names of modules.
        flat = [prefix + name[len(prefix) :].replace(".", "_", 1) for name in said]
        either = (n if n in modules else f for n, f in zip(said, flat, strict=True))
        named = [name for name in either if name in modules]
        # A list never runs itself: its last module ends the stage.
        lists = {n: len(m) for n in named if isinstance(m := modules[n], nn.ModuleList) and len(m)}
        if named:
            other = module is not core(model) and module is not model
            caution = f"the stages probed of {label} are those of its part {part}" if other else ""
            return [f"{n}.{lists[n] - 1}" if n in lists else n for n in named], caution
    none = f"{label} has no feature_info that names its stages"
    stacks: list[str] = []
    for name, module in modules.items():
        members = list(module.children()) if isinstance(module, _CONTAINERS) else []
        alike = len({type(m) for m in members}) == 1 and all(map(_composite, members))
        if len(members) > 1 and alike and not any(f"{name}.".startswith(f"{s}.") for s in stacks):
            stacks += [f"{name}.{key}" for key, _ in module.named_children()]
    blocks = _blocks(model)
    if len(stacks) == len(blocks) or not all(
        any(f"{block}.".startswith(f"{stage}.") for stage in stacks) for block in blocks
    ):
        return [], f"{none}; its blocks are probed instead"
    return stacks, f"{none}; they are guessed to be {stacks[0]} to {stacks[-1]}"


def _composite(module: nn.Module) -> bool:
    leaves = (m for m in module.modules() if not any(True for _ in m.children()))
    weights = (getattr(m, "weight", None) for m in leaves)
    return sum(w.ndim > 1 for w in weights if w is not None) > 1


def _blocks(model: nn.Module) -> list[str]:
    found: list[str] = []

    def holds_blocks(module: nn.Module) -> bool:
        return any(_composite(child) for child in module.children())

    def walk(module: nn.Module, prefix: str) -> None:
        for key, child in module.named_children():
            name = f"{prefix}{key}"
            if not _composite(child):
                continue
            if isinstance(child, _CONTAINERS):
                inside = holds_blocks(child)
            else:
                inside = any(
                    isinstance(c, _CONTAINERS) and holds_blocks(c) for c in child.children()
                )
            if inside:
                walk(child, f"{name}.")
            else:
                found.append(name)

    walk(model, "")
    return found


def _no_layer(model: nn.Module, pattern: str, modules: Mapping[str, nn.Module], label: str) -> str:
    if isinstance(model, torch.jit.ScriptModule):
        return (
            f"{label} is a TorchScript module, into which hooks can't see: build the network in "
            "Python and load the weights of its state_dict()"
        )
    if not modules:
        return f"no layer matches {pattern!r}: {label} has no submodules"
    shallow = [n for n in modules if n.count(".") <= 1]
    there = ", ".join(shallow[:24]) + (", …" if len(modules) > 24 else "")
    return (
        f"no layer of {label} matches {pattern!r}: expected {', '.join(PRESETS)}, "
        f"or names or globs among {there}.{did_you_mean(pattern, modules, 0.7)}"
    )
