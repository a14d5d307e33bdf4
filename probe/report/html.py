"""HTML: the report of a run, its short form in a notebook, an index over runs, and a survey."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from markupsafe import Markup

from ..errors import ProbeError
from ..files import write_files
from ..planted import planted_by_snr, planted_summary
from ..results import Result, families, interval, load, number_text, short_name
from ..variants import DESCRIPTIONS, parse_variant
from . import figures
from .parts import png, svg, templates

_MAP_LAYERS = 8
_MIDDLE = "middle alone"
_PROFILES = 3  # targets
_PATTERN_LAYERS, _PATTERN_CHANNELS = 3, 8
_NUMBERS = [
    *("value", "low", "high", "chance", "difference", "difference_low", "difference_high"),
    *("padding_share", "padding_share_low", "padding_share_high"),
]


_OTHERS = {
    "survey": "Survey of timm's architectures: which are certified to be without position once "
    "padding is gone",
    "ladder": "From 0 to 80 to 100: one network without a border, with zero padding, and given "
    "coordinates",
    "coordconv": "The coordinate tasks: position to pixel and back, with CoordConv and without",
    "instances": "Telling identical objects apart: what segmentation asks of position",
    "reproduction": "The published table, measured",
}


def page(result: Result) -> str:
    """Render the report: one HTML document that loads nothing from elsewhere."""
    shown = [name for name in result.layers if name != figures.INPUT]
    layers = figures.evenly(shown, _MAP_LAYERS)
    best, target = figures.best_score(result)
    return (
        templates()
        .get_template("report.html")
        .render(
            result=result,
            options=result.provenance["options"],
            provenance=result.provenance,
            layer_count=len(shown),
            verdict=[s for s in result.verdict() if not _certified(s)],
            legend=_legend(result),
            lead=svg(figures.layer_figure(result, "spc", target), "lead", _by_depth(target)),
            lead_target=target,
            figures=_layer_figures(result),
            padding=_padding_tables(result),
            grids=[_grid(result, target, layers) for target in result.targets],
            left_out=len(shown) - len(layers),
            scale=png(np.linspace(0, 1, 64)[None, :]),
            pictured=figures.leading(result),
            profiles=_profiles(result, target),
            patterns=_patterns(result, best),
            snr=_snr(result),
            attribution=_attribution(result),
            controls=_controls(result),
            planted=_planted(result),
            seeds=len(families(w for w, _ in result.conditions).get("random", ())),
            chance=bool(result.table["chance"].notna().any()),
            rows=[_score_row(row) for row in result.table.to_dict("records")],
            variants=[
                (name, parse_variant(name).description)
                for name in dict.fromkeys(v for _, v in result.conditions)
            ],
            certificates=[
                {"weights": w, "variant": v, "certificate": c}
                for (w, v), c in result.certificates.items()
            ],
        )
    )


def fragment(result: Result) -> str:
    """Render what a notebook shows of a result: verdict and a table of SPC by layer."""
    spc, conditions = _scores(result, "spc"), figures.leading(result)
    rows = [
        {
            "layer": layer,
            "condition": figures.condition_label(condition),
            "scores": [spc.get((*condition, layer, target)) for target in result.targets],
            "first": place == 0,
        }
        for layer in result.layers
        if layer != figures.INPUT
        for place, condition in enumerate(conditions)
    ]
    return (
        templates()
        .get_template("fragment.html")
        .render(result=result, rows=rows, verdict=result.verdict(), span=len(conditions))
    )


def write_index(folder: Path) -> Path:
    """Write ``index.html`` over all results that lie in the folders of a folder.

    Returns
    -------
    Path
        Of the index.

    Raises
    ------
    ProbeError
        If it can't be written.
    """
    entries: list[dict[str, Any]] = []
    faults: list[str] = []
    for record in sorted(folder.glob("*/run.json")):
        try:
            entries.append(_entry(load(record.parent), record.parent))
        except (ProbeError, LookupError, TypeError, ValueError) as error:
            faults.append(f"{record.parent.name} is left out: {error}")
    others = {
        title: [p.relative_to(folder).as_posix() for p in sorted(folder.glob(f"*/{name}.html"))]
        for name, title in _OTHERS.items()
    }
    document = (
        templates().get_template("index.html").render(entries=entries, faults=faults, others=others)
    )
    write_files(folder, {"index.html": document.encode()})
    return folder / "index.html"


def _entry(result: Result, folder: Path) -> dict[str, Any]:
    spc = result.table[(result.table["metric"] == "spc") & (result.table["layer"] != figures.INPUT)]
    groups = families(w for w, _ in result.conditions).values()
    rows = []
    for weights, variant in figures.leading(result):
        members = next(group for group in groups if weights in group)
        mine = spc[spc["weights"].isin(members) & (spc["variant"] == variant)]
        named = f"random ({len(members)} seeds)" if len(members) > 1 else short_name(weights)
        rows.append(
            {
                "weights": named,
                "variant": variant,
                "best": mine.loc[mine["value"].idxmax()],
                "passed": all(result.certificates[w, variant].passed for w in members),
            }
        )
    has_report = (folder / "report.html").exists()
    return {
        "model": result.model,
        "link": f"{folder.name}/report.html" if has_report else "",
        "started": result.provenance["started"][:10],
        "stimuli": result.provenance["options"]["stimuli"],
        "rows": rows,
    }


Scores = dict[tuple[str, ...], dict[str, float]]


def _scores(result: Result, metric: str) -> Scores:
    """Numbers of a metric by weights, variant, layer and target."""
    rows = result.table[result.table["metric"] == metric]
    keys = rows[["weights", "variant", "layer", "target"]].itertuples(index=False, name=None)
    return dict(zip(keys, rows[_NUMBERS].to_dict("records"), strict=True))


# ---------------------------------------------------------------- sections


def _legend(result: Result) -> list[dict[str, str]]:
    """Legend of the figures over depth, which the page draws itself, once for all of them."""
    found = []
    for condition in figures.leading(result):
        colour, dashes, marker = figures.look(result, condition)
        found.append(
            {
                "label": figures.family_label(result, condition),
                "colour": colour,
                "dashes": "none" if dashes == "-" else " ".join(str(1.5 * d) for d in dashes[1]),
                "marker": marker,
            }
        )
    return found


def _certified(sentence: str) -> bool:
    """Whether it says that a certificate passes, which the page has in a table."""
    return sentence.startswith("Certificate of ") and ": passes, " in sentence


def _by_depth(target: str) -> str:
    return f"SPC by depth, {target.replace('_', ' ')}"


def _layer_figures(result: Result) -> list[Markup]:
    """SPC of each target by depth, and the localisation error."""
    found = [
        svg(figures.layer_figure(result, "spc", target), f"spc-{target}", _by_depth(target))
        for target in result.targets
    ]
    for target in figures.scored_targets(result, "error_px"):
        figure = figures.layer_figure(result, "error_px", target)
        found.append(svg(figure, "error", "Localisation error in pixels by depth"))
    return found


def _padding_tables(result: Result) -> list[dict[str, Any]]:
    """Of the first weights, what each variant took away of the scores as trained."""
    if result.table["difference"].isna().all():
        return []
    weights = result.conditions[0][0]
    columns = [("spc", target) for target in result.targets]
    columns += [("error_px", target) for target in figures.scored_targets(result, "error_px")]
    scores = {metric: _scores(result, metric) for metric in ("spc", "error_px")}
    layers = [name for name in result.layers if name != figures.INPUT]
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


def _profiles(result: Result, best: str) -> list[dict[str, Any]]:
    """Error by distance to the border: the best target, and two more to open."""
    if result.profile.empty:
        return []
    targets = list(dict.fromkeys((best, *result.targets)))[:_PROFILES]
    return [
        {
            "target": target,
            "figure": svg(
                figures.profile_figure(result, target, _MAP_LAYERS),
                f"profile-{target}",
                f"Error by distance to the border, {target.replace('_', ' ')}",
            ),
        }
        for target in targets
    ]


def _patterns(result: Result, best: str) -> list[dict[str, Any]]:
    """Mean maps of the most tuned channels of a few layers, the best among them."""
    there = {layer for _, _, layer in result.pattern}
    layers = [name for name in result.layers if name in there and name != figures.INPUT]
    if not layers:
        return []
    chosen = set(figures.evenly(layers, _PATTERN_LAYERS))
    if best not in chosen:
        middle = figures.evenly(layers, _PATTERN_LAYERS)[1:-1]
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
                        "picture": png((cell.relative + 1) / 2, figures.DIVERGING),
                    }
                    for cell in row.cells
                ],
            }
            for row in figures.pattern_rows(result, layer, _PATTERN_CHANNELS)
        ]
        if rows:
            blocks.append({"layer": layer, "rows": rows})
    return blocks


def _snr(result: Result) -> list[dict[str, Any]]:
    """Signal-to-noise ratio of each layer under every condition, seeds in one cell."""
    groups = families(w for w, _ in result.conditions).values()
    rows = []
    for layer in result.layers if result.pattern else ():
        cells = []
        for weights, variant in figures.leading(result):
            members = next(group for group in groups if weights in group)
            found = [result.pattern.get((w, variant, layer)) for w in members]
            cells.append(" / ".join(number_text(p.snr) for p in found if p) or "–")
        rows.append({"layer": layer, "cells": cells})
    return rows


def _controls(result: Result) -> list[dict[str, Any]]:
    """By layer: SPC, selectivity, and SPC with random weights, of the first variant."""
    if not (result.table["metric"] == "selectivity").any():
        return []
    weights, variant = result.conditions[0]
    spc, selectivity = _scores(result, "spc"), _scores(result, "selectivity")
    random = families(w for w, _ in result.conditions).get("random", [])
    random = [w for w in random if w != weights]
    found = []
    for layer in result.layers:
        keys = [(variant, layer, target) for target in result.targets]
        lines = [
            {
                "name": f"SPC, {short_name(weights)}",
                "cells": [_interval(spc.get((weights, *k))) for k in keys],
            }
        ]
        if layer != figures.INPUT:
            cells = [_interval(selectivity.get((weights, *k))) for k in keys]
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


def _planted(result: Result) -> dict[str, Any] | None:
    """Planted truth: how much of it was recovered, by signal-to-noise ratio."""
    if result.planted is None or result.planted.empty:
        return None
    rows = [
        {
            "snr": f"{row.snr:g}",
            "attainable": number_text(row.attainable, ".3f"),
            "value": number_text(row.value, ".3f"),
            "half_width": number_text(row.half_width, ".3f"),
            "recovered": f"{row.recovered} of {row.cases}",
        }
        for row in planted_by_snr(result.planted).itertuples()
    ]
    return {"summary": planted_summary(result.planted), "rows": rows}


def _interval(score: dict[str, float] | None) -> str:
    return "–" if score is None else interval(score["value"], score["low"], score["high"])


def _attribution(result: Result) -> dict[str, Any] | None:
    """Which units and sides bring position in, as a figure and a table."""
    table = result.attribution
    if table is None or table.empty:
        return None
    from ..attribution import Attribution
    from .attribution import plot_attribution

    table = table.copy()
    for name in ("order", "value", "low", "high", "effect", "effect_low", "effect_high"):
        table[name] = pd.to_numeric(table[name], errors="coerce")
    figure = plot_attribution(table)
    plt.close(figure)
    spc = table[table["metric"] == "spc"]
    targets = list(dict.fromkeys(spc["target"]))
    cells = {
        (row["kind"], row["unit"], row["function"], row["keeps"], row["target"]): row
        for row in spc.to_dict("records")
    }
    units = spc[spc["kind"] != "network"].drop_duplicates(["kind", "unit", "function"])
    rows = [
        {
            "unit": f"{unit} ({function})" if function not in ("", "conv2d") else unit,
            "kind": kind,
            "cells": [
                _interval(cells.get((kind, unit, function, keeps, target)))
                for target in targets
                for keeps in ("only", "all but")
            ],
        }
        for kind, unit, function in units[["kind", "unit", "function"]].itertuples(
            index=False, name=None
        )
    ]
    return {
        "layer": spc["layer"].iloc[0],
        "summary": Attribution(table, {}).summary(),
        "figure": svg(figure, "attribution", "SPC by unit and side that keeps its padding"),
        "targets": targets,
        "rows": rows,
    }


def _score_row(row: dict[str, Any]) -> dict[str, Any]:
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


def _grid(result: Result, target: str, layers: list[str]) -> dict[str, Any]:
    rows, spc = [], _scores(result, "spc")
    for layer in layers:
        cells = [
            {
                "picture": png(result.maps[(*condition, layer, target)]),
                "score": number_text(spc[(*condition, layer, target)]["value"]),
                "label": figures.condition_label(condition),
            }
            for condition in figures.leading(result)
        ]
        rows.append({"layer": layer, "true": png(result.true_map(layer, target)), "cells": cells})
    return {"target": target, "rows": rows}


def survey_page(table: pd.DataFrame) -> str:
    """Render a survey: one HTML document that loads nothing from elsewhere.

    Parameters
    ----------
    table : DataFrame
        What :func:`probe.surveys.survey` returned.

    Returns
    -------
    str
        The document: findings, a summary by file of timm, and a table for each status, which can
        be sorted and filtered.
    """
    from ..surveys import STATUSES, findings  # which write this page

    ran = table[table["status"] != "not run"]
    counts = pd.crosstab(table["file"], table["status"]).reindex(columns=STATUSES, fill_value=0)
    records = table.to_dict("records")
    rows = {s: [_survey_row(r) for r in records if r["status"] == s] for s in STATUSES}
    measures = ran[["threshold", "precision"]].dropna().drop_duplicates().sort_values("threshold")
    return (
        templates()
        .get_template("survey.html")
        .render(
            findings=findings(table),
            total=len(table),
            variants=[
                (name, "; ".join(DESCRIPTIONS.get(part, part) for part in name.split("+")))
                for name in dict.fromkeys(table["variant"])
            ],
            versions=list(dict.fromkeys(table["timm"])),
            largest=_number(table["parameters"].max(), ".0f"),
            measures=[(f"{m.threshold:.0e}", m.precision) for m in measures.itertuples()],
            files=[
                {"file": row[0], "total": sum(row[1:]), "counts": row[1:]}
                for row in counts.itertuples(name=None)
            ],
            **{status.replace(" ", "_"): found for status, found in rows.items()},
        )
    )


def _survey_row(row: dict[str, Any]) -> dict[str, str]:
    """A row of a survey as its page shows it."""
    reason, place, kinds = row["reason"], row["first_break"], row["sources"].replace("; ", ", ")
    if place and reason == f"position enters at or before {place}" + f": {kinds}" * bool(kinds):
        reason = "position enters"  # where, and what it is, have columns of their own
    return {
        "model": row["model"],
        "file": row["file"],
        "parameters": _number(row["parameters"], ".2f"),
        "residual": _number(row["residual"], ".1e"),
        "contrast": _number(row["contrast"], ".1e"),
        "size": f"{_number(row['height'], 'd')} × {_number(row['width'], 'd')}",
        "shift": "–" if row["shift"] in ("", "0x0") else row["shift"].replace("x", " × "),
        "calls": _number(row["padded_calls"], "d"),
        "reason": reason,
        "sources": kinds or "–",
        "first_break": place or "–",
    }


def _number(value: Any, form: str) -> str:
    """A number, 0 without decimals, and a dash for none."""
    if value is None or value == "" or pd.isna(value):
        return "–"
    return format(value, form) if value else "0"
