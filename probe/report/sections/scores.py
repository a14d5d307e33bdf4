"""Sections of a report: scores by layer, what padding gives, controls."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from ...text import families, interval, number_text, short_name
from ...variants.variant import parse_variant
from ..figures.conditions import condition_label, leading
from ..figures.depth import layer_figure, scored_targets
from ..parts import png, svg
from ..style import INPUT

if TYPE_CHECKING:
    from ...results import Result

MAP_LAYERS = 8

_MIDDLE = "middle alone"

_NUMBERS = [
    *("value", "low", "high", "chance", "difference", "difference_low", "difference_high"),
    *("padding_share", "padding_share_low", "padding_share_high"),
]

Scores = dict[tuple[str, ...], dict[str, float]]


def scores_of(result: Result, metric: str) -> Scores:
    """Numbers of a metric by weights, variant, layer and target."""
    rows = result.table[result.table["metric"] == metric]
    keys = rows[["weights", "variant", "layer", "target"]].itertuples(index=False, name=None)
    return dict(zip(keys, rows[_NUMBERS].to_dict("records"), strict=True))


def by_depth_title(target: str) -> str:
    return f"SPC by depth, {target.replace('_', ' ')}"


def layer_figures(result: Result) -> list[Markup]:
    """SPC of each target by depth, and the localisation error."""
    found = [
        svg(layer_figure(result, "spc", target), f"spc-{target}", by_depth_title(target))
        for target in result.targets
    ]
    for target in scored_targets(result, "error_px"):
        figure = layer_figure(result, "error_px", target)
        found.append(svg(figure, "error", "Localisation error in pixels by depth"))
    return found


def padding_tables(result: Result) -> list[dict[str, Any]]:
    """Of the first weights, what each variant took away of the scores as trained."""
    if result.table["difference"].isna().all():
        return []
    weights = result.conditions[0][0]
    columns = [("spc", target) for target in result.targets]
    columns += [("error_px", target) for target in scored_targets(result, "error_px")]
    scores = {metric: scores_of(result, metric) for metric in ("spc", "error_px")}
    layers = [name for name in result.layers if name != INPUT]
    tables = []
    for variant in dict.fromkeys(v for w, v in result.conditions if w == weights):
        rows = []
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
                    "removes": parse_variant(variant).removes_padding,
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
        "share": _percent(score["padding_share"]),
    }


def control_rows(result: Result) -> list[dict[str, Any]]:
    """By layer: SPC, selectivity, and SPC with random weights, of the first variant."""
    if not (result.table["metric"] == "selectivity").any():
        return []
    weights, variant = result.conditions[0]
    spc, selectivity = scores_of(result, "spc"), scores_of(result, "selectivity")
    random = families(w for w, _ in result.conditions).get("random", [])
    random = [w for w in random if w != weights]
    found = []
    for layer in result.layers:
        keys = [(variant, layer, target) for target in result.targets]
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
    share = _percent(row["padding_share"])
    if share != "–" and not math.isnan(row["padding_share_low"]):
        bounds = (row["padding_share_low"], row["padding_share_high"])
        share += " [{}, {}]".format(*(number_text(100 * v, ".0f") for v in bounds))
    return {
        **row,
        **numbers,
        "chance": "0" if row["chance"] == 0 else numbers["chance"],
        "difference": numbers["difference"] + (f" [{low}, {high}]" if low != "–" else ""),
        "padding_share": share,
    }


def _percent(share: float) -> str:
    text = number_text(100 * share, ".0f")
    return text if text == "–" else f"{text} %"


def map_grid(result: Result, target: str, layers: list[str]) -> dict[str, Any]:
    rows, spc = [], scores_of(result, "spc")
    for layer in layers:
        cells = [
            {
                "picture": png(result.maps[(*condition, layer, target)]),
                "score": number_text(spc[(*condition, layer, target)]["value"]),
                "label": condition_label(condition),
            }
            for condition in leading(result)
        ]
        rows.append({"layer": layer, "true": png(result.true_map(layer, target)), "cells": cells})
    return {"target": target, "rows": rows}
