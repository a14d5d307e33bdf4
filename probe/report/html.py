"""HTML: the report of a run, its short form in a notebook, an index over runs, and a survey."""

from __future__ import annotations

import base64
import html as escape
import io
import re
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from ..errors import ProbeError
from ..results import Result, interval, load, short_name, write_files
from ..variants import DESCRIPTIONS, parse_variant
from . import figures

_MAP_LAYERS = 8


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("probe.report", "templates"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["interval"] = lambda row: interval(row["value"], row["low"], row["high"])
    environment.filters["words"] = lambda text: str(text).replace("_", " ")
    environment.filters["short"] = lambda text: short_name(str(text))
    return environment


def page(result: Result) -> str:
    """Render the report: one HTML document that loads nothing from elsewhere."""
    layers = figures.evenly(result.layers, _MAP_LAYERS)
    spc = _spc(result)
    return (
        _templates()
        .get_template("report.html")
        .render(
            result=result,
            options=result.provenance["options"],
            provenance=result.provenance,
            verdict=result.verdict(),
            figures=[_svg(figures.layer_figure(result, "spc", t), t) for t in result.targets],
            grids=[_grid(result, target, layers, spc) for target in result.targets],
            left_out=len(result.layers) - len(layers),
            scale=_png(np.linspace(0, 1, 64)[None, :]),
            rows=result.table.to_dict("records"),
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
    spc = _spc(result)
    rows = [
        {
            "layer": layer,
            "condition": figures.condition_label(condition),
            "scores": [spc.get((*condition, layer, target)) for target in result.targets],
            "first": place == 0,
        }
        for layer in result.layers
        for place, condition in enumerate(result.conditions)
    ]
    return (
        _templates()
        .get_template("fragment.html")
        .render(result=result, rows=rows, verdict=result.verdict(), span=len(result.conditions))
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
    surveys = [p.relative_to(folder).as_posix() for p in sorted(folder.glob("*/survey.html"))]
    document = (
        _templates()
        .get_template("index.html")
        .render(entries=entries, faults=faults, surveys=surveys)
    )
    write_files(folder, {"index.html": document.encode()})
    return folder / "index.html"


def _entry(result: Result, folder: Path) -> dict[str, Any]:
    spc = result.table[result.table["metric"] == "spc"]
    rows = []
    for weights, variant in result.conditions:
        mine = spc[(spc["weights"] == weights) & (spc["variant"] == variant)]
        best = mine.loc[mine["value"].idxmax()]
        certificate = result.certificates[(weights, variant)]
        rows.append(
            {"weights": weights, "variant": variant, "best": best, "certificate": certificate}
        )
    has_report = (folder / "report.html").exists()
    return {
        "model": result.model,
        "link": f"{folder.name}/report.html" if has_report else "",
        "started": result.provenance["started"][:10],
        "stimuli": result.provenance["options"]["stimuli"],
        "rows": rows,
    }


def _spc(result: Result) -> dict[tuple[str, ...], dict[str, float]]:
    rows = result.table[result.table["metric"] == "spc"]
    keys = rows[["weights", "variant", "layer", "target"]].itertuples(index=False, name=None)
    return dict(zip(keys, rows[["value", "low", "high"]].to_dict("records"), strict=True))


def _grid(
    result: Result, target: str, layers: list[str], spc: dict[tuple[str, ...], dict[str, float]]
) -> dict[str, Any]:
    rows = []
    for layer in layers:
        cells = [
            {
                "picture": _png(result.maps[(*condition, layer, target)]),
                "score": spc[(*condition, layer, target)],
                "label": figures.condition_label(condition),
            }
            for condition in result.conditions
        ]
        rows.append({"layer": layer, "true": _png(result.true_map(layer, target)), "cells": cells})
    return {"target": target, "rows": rows}


def _png(values: NDArray[Any]) -> Markup:
    """A map in [0, 1] as the address of a picture that carries its own data."""
    finite = np.clip(np.nan_to_num(np.asarray(values, np.float64)), 0, 1)
    colours = matplotlib.colormaps[figures.CMAP](finite, bytes=True)[..., :3]
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(colours)).save(file, "PNG", optimize=True)
    return Markup("data:image/png;base64," + base64.b64encode(file.getvalue()).decode())


def _svg(figure: Figure, name: str) -> Markup:
    """A figure as an inline SVG element, with identifiers of its own."""
    file = io.StringIO()
    with figures.style(), matplotlib.rc_context({"svg.hashsalt": name, "svg.id": name}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(?<=\sid=")(?=[^"]+")', f"{name}-", text)
    text = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r'<svg ([^>]*?)width="[^"]*"', r"<svg \1", text, count=1)
    text = re.sub(r'<svg ([^>]*?)height="[^"]*"', r"<svg \1", text, count=1)
    label = escape.escape(f"SPC by depth, {name.replace('_', ' ')}", quote=True)
    return Markup(text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1))


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
        _templates()
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
