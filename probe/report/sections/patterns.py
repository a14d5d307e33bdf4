"""Sections of a report: profiles by distance, mean maps of channels, signal to noise."""

from __future__ import annotations

from typing import Any

from ...readouts.spec import readout_record
from ...records.record import Record
from ...text import families, number_text
from ..figures.conditions import best_score, leading
from ..figures.maps import pattern_rows
from ..figures.profile import profile_figure
from ..parts import png, svg
from ..style import DIVERGING, INPUT, evenly
from .scores import MAP_LAYERS

_PROFILES = 3  # targets

_PATTERN_LAYERS, _PATTERN_CHANNELS = 3, 8


def profile_sections(record: Record, best: str) -> list[dict[str, Any]]:
    """Error by distance to the border: the best target, and two more to open."""
    if record.profile.empty:
        return []
    targets = list(dict.fromkeys((best, *record.targets)))[:_PROFILES]
    return [
        {
            "target": target,
            "figure": svg(
                profile_figure(record.profile, target, MAP_LAYERS),
                f"profile-{target}",
                f"Error by distance to the border, {target.replace('_', ' ')}",
            ),
        }
        for target in targets
    ]


def pattern_sections(record: Record, best: str) -> list[dict[str, Any]]:
    """Mean maps of the most tuned channels of a few layers, the best among them."""
    there = {layer for _, _, layer in record.pattern}
    layers = [name for name in record.layers if name in there and name != INPUT]
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
            for row in pattern_rows(record.pattern, layer, _PATTERN_CHANNELS)
        ]
        if rows:
            blocks.append({"layer": layer, "rows": rows})
    return blocks


def snr_rows(record: Record) -> list[dict[str, Any]]:
    """Signal-to-noise ratio of each layer under every condition, seeds in one cell."""
    groups = families(w for w, _ in record.conditions).values()
    rows = []
    for layer in record.layers if record.pattern else ():
        cells = []
        for weights, variant in leading(record.conditions):
            members = next(group for group in groups if weights in group)
            found = [record.pattern.get((w, variant, layer)) for w in members]
            cells.append(" / ".join(number_text(p.snr) for p in found if p) or "–")
        rows.append({"layer": layer, "cells": cells})
    return rows


def reach_section(record: Record) -> dict[str, Any] | None:
    """How far padding reaches."""
    profiles = profile_sections(record, best_score(record.table)[1])
    return (
        {"profiles": profiles, "readout": readout_record(record.provenance)} if profiles else None
    )


def pattern_section(record: Record) -> dict[str, Any] | None:
    """What position looks like."""
    blocks = pattern_sections(record, best_score(record.table)[0])
    return {"patterns": blocks, "snr": snr_rows(record)} if blocks else None
