"""Plain words of numbers, intervals and weights, wherever a sentence or a label needs them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

import numpy as np


def is_random(weights: str) -> bool:
    """Whether weights are drawn: ``random``, or ``random:k`` with the k-th seed after the run's."""
    return re.fullmatch(r"random(:\d+)?", weights) is not None


def first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return (text[0][:200] if text else "") or type(error).__name__


def short_name(weights: str) -> str:
    """Weights as figures name them: of a path the file's name after its folder's.

    Checkpoints of several trainings are often called alike, each in a folder of its own.
    """
    return "/".join(re.split(r"[/\\]", weights)[-2:]).lstrip("/")


def number_text(value: Any, form: str = ".2f") -> str:
    """A number with a proper minus, none before 0, and a dash for none."""
    if np.isnan(value):
        return "–"
    if np.isinf(value):
        return "∞"
    text = format(value, form)
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", "−")


def interval(value: Any, low: Any, high: Any) -> str:
    """Write a score with its interval: ``0.98 [0.97, 0.99]``."""
    if math.isnan(low) or math.isnan(high):
        return signed(value)
    return f"{signed(value)} [{signed(low)}, {signed(high)}]"


def signed(value: Any) -> str:
    text = f"{value:.2f}".replace("-0.00", "0.00")
    return text.replace("-", "−")


def families(weights: Iterable[str]) -> dict[str, list[str]]:
    """Group weights: all random draws together, every other on its own."""
    groups: dict[str, list[str]] = {}
    for w in dict.fromkeys(weights):
        groups.setdefault("random" if is_random(w) else w, []).append(w)
    return groups


def percent(share: float) -> str:
    return f"{number_text(100 * share, '.0f')} %"


def duration_text(seconds: float) -> str:
    """A time in words: ``12 s``, ``3 min``, ``2.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
