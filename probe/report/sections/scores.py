"""Sections of a report: scores by layer, what padding gives, controls."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from markupsafe import Markup

from ...readouts.spec import readout_record
from ...records.record import Record
from ...scores.tables import as_dicts
from ...text import families, interval, number_text, short_name
from ...variants.variant import parse_variant
from ..figures.conditions import condition_label, leading
from ..figures.depth import layer_figure, scored_targets
from ..parts import certified, picture, png, svg
from ..style import INPUT, evenly
from .planted import planted_section

MAP_LAYERS = 8

_MIDDLE = "middle alone"

_NUMBERS = [
    *("value", "low", "high", "chance", "difference", "difference_low", "difference_high"),
    *("share", "share_low", "share_high"),
]

Scores = dict[tuple[str, ...], dict[str, float]]


def scores_of(record: Record, metric: str) -> Scores:
    """Numbers of a metric by weights, variant, layer and target."""
    rows = record.table[record.table["metric"] == metric]
    keys = rows[["weights", "variant", "layer", "target"]].itertuples(index=False, name=None)
    return dict(zip(keys, as_dicts(rows[_NUMBERS]), strict=True))


def by_depth_title(target: str) -> str:
    return f"SPC by depth, {target.replace('_', ' ')}"


def layer_figures(record: Record) -> list[Markup]:
    """SPC of each target by depth, and the localisation error."""
    found = [
        svg(layer_figure(record.table, "spc", target), f"spc-{target}", by_depth_title(target))
        for target in record.targets
    ]
    for target in scored_targets(record.table, "error_px"):
        figure = layer_figure(record.table, "error_px", target)
        found.append(svg(figure, "error", "Localisation error in pixels by depth"))
    return found


def padding_tables(record: Record) -> list[dict[str, Any]]:
    """Of the first weights, what each variant took away of the scores as trained."""
    if record.table["difference"].isna().all():
        return []
    weights = record.conditions[0][0]
    columns = [("spc", target) for target in record.targets]
    columns += [("error_px", target) for target in scored_targets(record.table, "error_px")]
    scores = {metric: scores_of(record, metric) for metric in ("spc", "error_px")}
    layers = [name for name in record.layers if name != INPUT]
    tables = []
    for variant in dict.fromkeys(v for w, v in record.conditions if w == weights):
        rows: list[dict[str, Any]] = []
        for layer in layers:
            cells = [
                _effect(scores[metric], (weights, variant, layer, target), metric)
                for metric, target in columns
            ]
            if any(cells):
                rows.append({"layer": layer, "cells": cells})
        if rows:
            tables.append(
                {
                    "weights": weights,
                    "variant": variant,
                    "removes": bool(parse_variant(variant).removed_kinds),
                    "middle": any(
                        cell and cell["difference"] == _MIDDLE
                        for row in rows
                        for cell in row["cells"]
                    ),
                    "columns": [
                        "localisation, px" if metric == "error_px" else target.replace("_", " ")
                        for metric, target in columns
                    ],
                    "rows": rows,
                }
            )
    return tables


def _effect(scores: Scores, key: tuple[str, ...], metric: str) -> dict[str, str] | None:
    """A cell of the table of differences."""
    score, original = scores.get(key), scores.get((key[0], "original", *key[2:]))
    if score is None or original is None or score is original:
        return None
    form = ".1f" if metric == "error_px" else ".2f"
    numbers = {name: number_text(value, form) for name, value in score.items()}
    low, high = numbers["difference_low"], numbers["difference_high"]
    apart = numbers["difference"] + (f" [{low}, {high}]" if low != "–" else "")
    return {
        "original": number_text(original["value"], form),
        "value": numbers["value"],
        "difference": _MIDDLE if math.isnan(score["difference"]) else apart,
        "share": _percent(score["share"]),
    }


def control_rows(record: Record) -> list[dict[str, Any]]:
    """By layer: SPC, selectivity, and SPC with random weights, of the first variant."""
    if not (record.table["metric"] == "selectivity").any():
        return []
    weights, variant = record.conditions[0]
    spc, selectivity = scores_of(record, "spc"), scores_of(record, "selectivity")
    random = families(w for w, _ in record.conditions).get("random", [])
    random = [w for w in random if w != weights]
    found = []
    for layer in record.layers:
        keys = [(variant, layer, target) for target in record.targets]
        lines = [
            {
                "name": f"SPC, {short_name(weights)}",
                "cells": [interval_cell(spc.get((weights, *k))) for k in keys],
            }
        ]
        if layer != INPUT:
            cells = [interval_cell(selectivity.get((weights, *k))) for k in keys]
            lines.append({"name": "selectivity", "cells": cells})
            if random:
                seeds = f" ({len(random)} seeds)" if len(random) > 1 else ""
                drawn = [[spc[(w, *k)] for w in random if (w, *k) in spc] for k in keys]
                cells = [
                    " / ".join(number_text(score["value"]) for score in scores) or "–"
                    for scores in drawn
                ]
                lines.append({"name": f"SPC, random{seeds}", "cells": cells})
        found.append({"layer": layer, "lines": lines})
    return found


def interval_cell(score: dict[str, float] | None) -> str:
    return "–" if score is None else interval(score["value"], score["low"], score["high"])


def score_row(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the table of all scores as the page shows it."""
    numbers = {name: number_text(row[name], ".3f") for name in _NUMBERS}
    low, high = numbers["difference_low"], numbers["difference_high"]
    share = _percent(row["share"])
    if share != "–" and not math.isnan(row["share_low"]):
        bounds = (row["share_low"], row["share_high"])
        share += " [{}, {}]".format(*(number_text(100 * v, ".0f") for v in bounds))
    return {
        **row,
        **numbers,
        "chance": "0" if row["chance"] == 0 else numbers["chance"],
        "difference": numbers["difference"] + (f" [{low}, {high}]" if low != "–" else ""),
        "share": share,
    }


def _percent(share: float) -> str:
    text = number_text(100 * share, ".0f")
    return text if text == "–" else f"{text} %"


def map_grid(record: Record, target: str, layers: list[str]) -> dict[str, Any]:
    rows, spc = [], scores_of(record, "spc")
    for layer in layers:
        cells = [
            {
                "picture": png(record.maps[(*condition, layer, target)]),
                "score": number_text(spc[(*condition, layer, target)]["value"]),
                "label": condition_label(condition),
            }
            for condition in leading(record.conditions)
        ]
        rows.append({"layer": layer, "true": png(record.true_map(layer, target)), "cells": cells})
    return {"target": target, "rows": rows}


def images_section(record: Record) -> dict[str, Any]:
    """What the network saw."""
    return {"strip": None if record.picture is None else picture(record.picture)}


def depth_section(record: Record) -> dict[str, Any]:
    """Scores by depth."""
    return {"figures": layer_figures(record)}


def padding_section(record: Record) -> dict[str, Any] | None:
    """What each variant took away."""
    tables = padding_tables(record)
    return {"padding": tables} if tables else None


def maps_section(record: Record) -> dict[str, Any]:
    """Predicted maps beside true ones."""
    shown = [name for name in record.layers if name != INPUT]
    layers = evenly(shown, MAP_LAYERS)
    return {
        "layer_count": len(shown),
        "left_out": len(shown) - len(layers),
        "grids": [map_grid(record, target, layers) for target in record.targets],
        "scale": png(np.linspace(0, 1, 64)[None, :]),
    }


def controls_section(record: Record) -> dict[str, Any] | None:
    """Scores beside their controls."""
    rows = control_rows(record)
    return {"controls": rows, "planted": planted_section(record)} if rows else None


def certificate_section(record: Record) -> dict[str, Any]:
    """What was certified."""
    return {
        "certificates": [
            {"weights": w, "variant": v, "certificate": c, "certified": certified(v, c)}
            for (w, v), c in record.certificates.items()
        ]
    }


def scores_section(record: Record) -> dict[str, Any]:
    """Every row of the table."""
    return {"rows": [score_row(row) for row in as_dicts(record.table)]}


def variants_section(record: Record) -> dict[str, Any]:
    """How it was measured."""
    names = dict.fromkeys(v for _, v in record.conditions)
    return {
        "readout": readout_record(record.provenance),
        "variants": [(name, parse_variant(name).description) for name in names],
    }
