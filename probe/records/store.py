"""Records as files: arrays, tables and run.json, written whole and read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
import pandas as pd

from ..scores.patterns import Pattern
from .record import PatternKey

CHANNELS_KEPT = 16
"""Channels of each layer whose mean maps are saved: those most tuned to position."""


def load_pattern(folder: Path) -> dict[PatternKey, Pattern]:
    if not (folder / "pattern.npz").exists():
        return {}
    channels = pd.read_parquet(folder / "channels.parquet")
    eta2 = dict(iter(channels.groupby(["weights", "variant", "layer"], sort=False)["eta2"]))
    found: dict[PatternKey, Pattern] = {}
    with np.load(folder / "pattern.npz", allow_pickle=False) as arrays:
        for name in arrays.files:
            stem, part = name.rsplit("/", 1)
            if part != "snr":
                continue
            weights, variant, layer = stem.rsplit("/", 2)
            key = (weights, variant, unquote(layer))
            snr, difference_snr = (float(v) for v in arrays[name])
            apart = f"{stem}/difference"
            paired = apart in arrays.files
            found[key] = Pattern(
                mean=arrays[f"{stem}/mean"],
                channels=arrays[f"{stem}/channels"],
                eta2=eta2[key].to_numpy(),
                snr=snr,
                difference=arrays[apart] if paired else None,
                difference_snr=difference_snr if paired else None,
            )
    return found


def quoted_layer(layer: str) -> str:
    """A layer's name without the slash that separates the parts of a key."""
    return quote(layer, safe="")


def number(value: Any) -> float:
    return float(value)
