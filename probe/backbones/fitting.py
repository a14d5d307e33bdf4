"""A network with the weights of a checkpoint file, its position embeddings on the right grid."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import resample_abs_pos_embed
from timm.models.mlp_mixer import MlpMixer
from torch import Tensor, nn

from ..errors import ProbeError
from .checkpoint import State, groups, read_states, some, take
from .renaming import with_renamed

_PREFIXES = ("module.", "model.", "_orig_mod.", "backbone.", "encoder.", "net.")

_FOREIGN = re.compile(
    r"(head|fc|classifier|linear|proj|predict|decoder|prototypes|queue|mask_token|last_layer"
    r"|logit|loss|criterion|aux)(?!\w*norm)\w*(\.|$)"
)
"""Names of what training puts behind a network's features."""

_MOST_PREFIX_TOKENS = 16

_STATES_TRIED = 4

_Size = tuple[int, int]


def from_file(
    name: str, path: Path, options: Mapping[str, Any], network: nn.Module
) -> tuple[nn.Module, str]:
    """Load a checkpoint; return the network and, in words, what of the file was taken.

    Parameters
    ----------
    name : str
        timm's.
    path : Path
        The file.
    options : mapping
        What the network was built with: nothing, or ``img_size``.
    network : Module
        Freshly built; another is built where timm has to convert the file.

    Raises
    ------
    ProbeError
        If the file can't be read or doesn't fit.
    """
    states = with_renamed(read_states(path))
    ours, heads = network.state_dict(), _heads(network)
    taken = take(states, [k for k in ours if _saved_always(k) and not k.startswith(heads)])
    behind = [k for k in taken.tensors if k not in ours and not k.startswith(heads)]
    foreign = [k for k in behind if _FOREIGN.match(k)]
    theirs: Mapping[str, Tensor] = {k: v for k, v in taken.tensors.items() if k not in foreign}
    words = [f"file {path.name}", *taken.words]
    if foreign:
        words.append(f"leaving out its {some(groups(foreign))}")
    fitting = {k: v for k, v in theirs.items() if k in ours and _fits(v, ours[k])}
    left = {k: v for k, v in ours.items() if k not in fitting and k.startswith(heads)}
    if any(map(_saved_always, left)):
        words.append("without its head")
    faults = _faults(ours, theirs, heads)
    converted = _converted(name, {**theirs, **left}, options) if faults or options else None
    if converted is None and faults:
        words = [f"file {path.name}", "its names converted by timm"]
        converted, theirs = _of_other_names(name, states, options)
        if converted is None:
            raise ProbeError(f"{path} doesn't fit the model: {faults}")
    if converted is None:
        network.load_state_dict(fitting, strict=False)
    network = converted or network
    resampled = regrid(name, network, theirs, options)
    if resampled:
        words.append(f"its {some(groups(resampled))} resampled for the size of the images")
    return network, ", ".join(words)


def regrid(
    name: str, network: nn.Module, theirs: Mapping[str, Tensor], options: Mapping[str, Any]
) -> list[str]:
    """See to it that position embeddings lie on the network's grid; return those resampled.

    timm resamples them where their number differs from the network's; not always where a grid of
    another shape has as many places (14 × 14 and 7 × 28).

    Parameters
    ----------
    name : str
        timm's.
    network : Module
        With the weights loaded.
    theirs : mapping
        The tensors as they were, on the grid of the size in timm's config.
    options : mapping
        What the network was built with: nothing, or ``img_size``.

    Raises
    ------
    ProbeError
        If places are mixed by weights that can't be resampled.
    """
    ours = network.state_dict(keep_vars=True)
    resampled = [k for k, v in ours.items() if k in theirs and v.shape != theirs[k].shape]
    for key, old, new, prefix in reshaped(name, network, options):
        given = theirs.get(key)
        if given is None or given.shape != ours[key].shape:
            continue
        if torch.equal(ours[key].detach(), given.to(ours[key])):
            with torch.no_grad():
                placed = resample_abs_pos_embed(
                    given, new_size=list(new), old_size=list(old), num_prefix_tokens=prefix
                )
                ours[key].copy_(placed)
        resampled.append(key)
    return [k for k in resampled if not k.startswith(_heads(network))]


def reshaped(
    name: str, network: nn.Module, options: Mapping[str, Any]
) -> list[tuple[str, _Size, _Size, int]]:
    """List position embeddings of as many places on a grid of another shape.

    Key, the grid for the size in timm's config, the network's grid, and how many tokens before
    it stand for no place.
    """
    if "img_size" not in options:
        return []
    tables: list[tuple[str, _Size, _Size, int]] = []
    height, width = vars(network)["pretrained_cfg"]["input_size"][-2:]
    native = (int(height), int(width))
    _check_mixing(name, network, native)
    for key, value in network.state_dict().items():
        if "pos" not in key.rpartition(".")[2] or value.ndim != 3 or value.shape[0] != 1:
            continue
        for prefix in range(_MOST_PREFIX_TOKENS + 1):
            places = value.shape[1] - prefix
            old = _grid(places, native)
            if old is None:
                continue
            side = native[0] / old[0]
            new = tuple(math.floor(pixels / side + 1e-6) for pixels in options["img_size"])
            if new != old and math.prod(new) == places:
                tables.append((key, old, (new[0], new[1]), prefix))
            break
    return tables


def _grid(places: int, size: _Size) -> _Size | None:
    """Grid of so many places with the shape of an image; nothing where there is none."""
    height = round(math.sqrt(places * size[0] / size[1])) if places > 0 else 0
    if not height or places % height or height * size[1] != places // height * size[0]:
        return None
    return height, places // height


def _check_mixing(name: str, network: nn.Module, size: _Size) -> None:
    """Refuse weights that mix places, on a grid of another shape than they were trained on."""
    if isinstance(network, MlpMixer):
        old = tuple(s // p for s, p in zip(size, network.stem.patch_size, strict=True))
        new = network.stem.grid_size
        if new != old:
            raise ProbeError(
                f"{name} mixes its {old[0]} × {old[1]} places by weights that can't be resampled "
                f"to {new[0]} × {new[1]}: choose images of {size[0]} × {size[1]} pixels"
            )


def _heads(network: nn.Module) -> tuple[str, ...]:
    """What the names of the head's tensors begin with: no obstacle, as Probe reads features."""
    config = getattr(network, "pretrained_cfg", None) or {}
    classifier = config.get("classifier") or ()
    head = [classifier] if isinstance(classifier, str) else list(classifier)
    return tuple(f"{part}." for part in ([*head, "pre_logits"] if head else ()))


def _fits(value: Tensor, ours: Tensor) -> bool:
    return value.shape == ours.shape and value.is_floating_point() == ours.is_floating_point()


def _faults(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], heads: Sequence[str]) -> str:
    """Say which tensors of a checkpoint don't fit; nothing where all do."""

    def matters(key: str) -> bool:
        return not key.startswith(tuple(heads))

    missing = [k for k in ours if k not in theirs and matters(k) and _saved_always(k)]
    extra = [k for k in theirs if k not in ours and matters(k)]
    shared = [(k, theirs[k], v) for k, v in ours.items() if k in theirs and matters(k)]
    shapes = [
        f"{key} {tuple(value.shape)} instead of {tuple(own.shape)}"
        for key, value, own in shared
        if value.shape != own.shape
    ]
    kinds = [
        f"{key} {value.dtype} instead of {own.dtype}".replace("torch.", "")
        for key, value, own in shared
        if value.shape == own.shape and not _fits(value, own)
    ]
    faults = (
        *(("missing", missing), ("unexpected", extra)),
        *(("of another shape", shapes), ("of another type", kinds)),
    )
    return "; ".join(f"{len(keys)} {what}: {some(keys)}" for what, keys in faults if keys)


def _converted(
    name: str, theirs: Mapping[str, Tensor], options: Mapping[str, Any]
) -> nn.Module | None:
    """Build the network from tensors as timm would: converted, resampled, all of them loaded.

    Nothing where timm's own conversion doesn't make them fit either.
    """
    if name.startswith(("hf-hub:", "hf_hub:", "local-dir:")):  # timm would load what lies there
        return None
    if any(v.dtype in (torch.int8, torch.uint8) and v.ndim > 1 for v in theirs.values()):
        return None  # codes of some quantisation, which loading would take for numbers
    overlay = {"state_dict": dict(theirs)}
    try:
        network = timm.create_model(
            name, pretrained=True, pretrained_cfg_overlay=overlay, **options
        )
    except Exception:  # conversions raise whatever they miss
        return None
    vars(network)["pretrained_cfg"].pop("state_dict", None)
    return network


def _of_other_names(
    name: str, states: Sequence[State], options: Mapping[str, Any]
) -> tuple[nn.Module | None, Mapping[str, Tensor]]:
    """Build the network from a checkpoint that timm knows under other names, say torchvision's."""
    for state in states[:_STATES_TRIED]:
        theirs: Mapping[str, Tensor] = state.tensors
        while True:
            network = _converted(name, theirs, options)
            if network is not None:
                return network, theirs
            prefix = next((p for p in _PREFIXES if any(k.startswith(p) for k in theirs)), None)
            if prefix is None:
                break
            theirs = {k.removeprefix(prefix): v for k, v in theirs.items()}
    return None, {}


def _saved_always(key: str) -> bool:
    """Whether every version of torch writes this key into a state_dict."""
    return not key.endswith("num_batches_tracked")
