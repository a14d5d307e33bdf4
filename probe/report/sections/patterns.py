"""Sections of a report: profiles by distance, mean maps of channels, signal to noise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...text import families, number_text
from ..figures.conditions import leading
from ..figures.maps import pattern_rows
from ..figures.profile import profile_figure
from ..parts import png, svg
from ..style import DIVERGING, INPUT, evenly
from .scores import MAP_LAYERS

if TYPE_CHECKING:
    from ...results import Result

_PROFILES = 3  # targets

_PATTERN_LAYERS, _PATTERN_CHANNELS = 3, 8


def profile_sections(result: Result, best: str) -> list[dict[str, Any]]:
    """Error by distance to the border: the best target, and two more to open."""
    if result.profile.empty:
        return []
    targets = list(dict.fromkeys((best, *result.targets)))[:_PROFILES]
    return [
        {
            "target": target,
            "figure": svg(
                profile_figure(result, target, MAP_LAYERS),
                f"profile-{target}",
                f"Error by distance to the border, {target.replace('_', ' ')}",
            ),
        }
        for target in targets
    ]


def pattern_sections(result: Result, best: str) -> list[dict[str, Any]]:
    """Mean maps of the most tuned channels of a few layers, the best among them."""
    there = {layer for _, _, layer in result.pattern}
    layers = [name for name in result.layers if name in there and name != INPUT]
    if not layers:
        return []
    chosen = set(evenly(layers, _PATTERN_LAYERS))
    if best not in chosen:
        middle = evenly(layers, _PATTERN_LAYERS)[1:-1]
        chosen = chosen - set(middle[-1:]) | {best}
    blocks = []
    for layer in (name for name in layers if name in chosen):
        rows = [
            {
                "condition": row.condition,
                "leads": row.leads,
                "snr": number_text(row.snr),
                "cells": [
                    {
                        "channel": cell.channel,
                        "eta2": number_text(cell.eta2),
                        "picture": png((cell.relative + 1) / 2, DIVERGING),
                    }
                    for cell in row.cells
                ],
            }
            for row in pattern_rows(result, layer, _PATTERN_CHANNELS)
        ]
        if rows:
            blocks.append({"layer": layer, "rows": rows})
    return blocks


def snr_rows(result: Result) -> list[dict[str, Any]]:
    """Signal-to-noise ratio of each layer under every condition, seeds in one cell."""
    groups = families(w for w, _ in result.conditions).values()
    rows = []
    for layer in result.layers if result.pattern else ():
        cells = []
        for weights, variant in leading(result):
            members = next(group for group in groups if weights in group)
            found = [result.pattern.get((w, variant, layer)) for w in members]
            cells.append(" / ".join(number_text(p.snr) for p in found if p) or "–")
        rows.append({"layer": layer, "cells": cells})
    return rows
