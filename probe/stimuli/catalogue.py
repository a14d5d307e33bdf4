"""Stimulus sources by name; nothing here needs torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..registry import Registry

if TYPE_CHECKING:
    from .source import Stimuli

STIMULI: Registry[Callable[[tuple[int, int], int], Stimuli]] = Registry(
    "stimuli",
    {
        "leaves": ("probe.stimuli.leaves:Leaves", "dead leaves on a torus: no position at all"),
        "noise": ("probe.stimuli.noise:WhiteNoise", "every pixel drawn alone"),
        "pink": ("probe.stimuli.noise:PinkNoise", "noise with the spectrum of photographs"),
        "black": ("probe.stimuli.noise:black", "every pixel 0"),
        "white": ("probe.stimuli.noise:white", "every pixel 1"),
    },
)
"""Sources that need no files, each made from (height, width) and a seed.

One more is a class of :class:`~probe.stimuli.Stimuli`, or a function that returns one:
``STIMULI["mine"] = MyStimuli``.
"""
