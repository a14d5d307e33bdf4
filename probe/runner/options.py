"""What a run can be asked, checked in one place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import ProbeError, one_of, whole_number
from ..readouts.base import READOUTS
from ..targets import TARGETS
from ..variants.variant import parse_variant
from .job import ReadoutSpec

DEFAULT_WEIGHTS = ("pretrained", "random", "random:1", "random:2")
"""Pretrained ones, and three draws of random ones as a control."""


def check_options(
    variants: str | Sequence[str],
    targets: str | Sequence[str],
    readout: str,
    train_images: int,
    test_images: int,
    batch_size: int,
    seed: int,
) -> tuple[list[str], list[str]]:
    """Check the options of :func:`run` that do not depend on the model.

    Returns
    -------
    variants, targets : list of str

    Raises
    ------
    ProbeError
        If one of them is not what it should be.
    """
    variants = [parse_variant(v).name for v in _listed(variants, "variants")]
    targets = [one_of(t, TARGETS, "target") for t in _listed(targets, "targets")]
    one_of(readout, READOUTS, "readout")
    for value, what, least in (
        (train_images, "train_images", 2),
        (test_images, "test_images", 1),
        (batch_size, "batch_size", 1),
        (seed, "seed", 0),
    ):
        whole_number(value, what, least)
    return variants, targets


def make_head(
    readout: str,
    kernel: int | None = None,
    concat: bool | None = None,
    seed: int = 0,
    progress: bool = False,
) -> ReadoutSpec:
    """Check what is asked of the readout.

    Raises
    ------
    ProbeError
        If there is no such readout, or it has no such option.
    """
    one_of(readout, READOUTS, "readout")
    if kernel not in (None, 1, 3):
        raise ProbeError(f"kernel: expected 1 or 3, got {kernel!r}")
    own = {"ridge": kernel or 1, "posenet": 3, "softmax": 1}[readout]
    if kernel not in (None, own):
        raise ProbeError(f"kernel: the readout {readout} has kernel {own}, got {kernel}")
    if concat is None:
        concat = readout == "posenet"
    return ReadoutSpec(readout, own, bool(concat), seed, progress)


def weights_asked(model: str | nn.Module, weights: Any) -> list[str]:
    if isinstance(model, nn.Module):
        if not isinstance(weights, str | Path) and tuple(weights or ()) == DEFAULT_WEIGHTS:
            return ["given"]
    elif not isinstance(model, str):
        raise ProbeError(f"model: expected a timm name or a torch module, got {model!r}")
    return [str(w) for w in _listed(weights, "weights")]


def _listed(value: Any, what: str) -> list[Any]:
    single = isinstance(value, str | Path) or not isinstance(value, Sequence)
    items = [value] if single else list(value)
    if not items or not all(isinstance(item, str | Path) for item in items):
        raise ProbeError(f"{what}: expected one or several names, got {value!r}")
    return list(dict.fromkeys(items))


def image_sides(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    sides = tuple(value) if isinstance(value, Sequence) else (value, value)
    if len(sides) != 2:
        raise ProbeError(f"image_size: expected one number or (height, width), got {value!r}")
    height, width = (whole_number(side, "image_size", 1) for side in sides)
    return height, width
