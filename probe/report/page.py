"""The report of one result, and its short form for notebooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..analyses.attribution.section import attribution_section
from ..analyses.planted.section import planted_section
from ..readouts.spec import readout_record
from ..text import families
from ..variants.variant import parse_variant
from .figures.conditions import best_score, condition_label, family_label, leading, look
from .figures.depth import layer_figure
from .parts import png, svg, templates
from .sections.patterns import pattern_sections, profile_sections, snr_rows
from .sections.scores import (
    MAP_LAYERS,
    by_depth_title,
    control_rows,
    layer_figures,
    map_grid,
    padding_tables,
    score_row,
    scores_of,
)
from .style import INPUT, evenly

if TYPE_CHECKING:
    from ..results import Result


def page(result: Result) -> str:
    """Render the report: one HTML document that loads nothing from elsewhere."""
    shown = [name for name in result.layers if name != INPUT]
    layers = evenly(shown, MAP_LAYERS)
    best, target = best_score(result)
    return (
        templates()
        .get_template("report.html")
        .render(
            result=result,
            options=result.provenance["options"],
            provenance=result.provenance,
            readout=readout_record(result.provenance),
            layer_count=len(shown),
            verdict=[s for s in result.verdict() if not _certified(s)],
            legend=_legend(result),
            lead=svg(layer_figure(result, "spc", target), "lead", by_depth_title(target)),
            lead_target=target,
            figures=layer_figures(result),
            padding=padding_tables(result),
            grids=[map_grid(result, target, layers) for target in result.targets],
            left_out=len(shown) - len(layers),
            scale=png(np.linspace(0, 1, 64)[None, :]),
            pictured=leading(result),
            profiles=profile_sections(result, target),
            patterns=pattern_sections(result, best),
            snr=snr_rows(result),
            attribution=attribution_section(result),
            controls=control_rows(result),
            planted=planted_section(result),
            seeds=len(families(w for w, _ in result.conditions).get("random", ())),
            chance=bool(result.table["chance"].notna().any()),
            rows=[score_row(row) for row in result.table.to_dict("records")],
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
    spc, conditions = scores_of(result, "spc"), leading(result)
    rows = [
        {
            "layer": layer,
            "condition": condition_label(condition),
            "scores": [spc.get((*condition, layer, target)) for target in result.targets],
            "first": place == 0,
        }
        for layer in result.layers
        if layer != INPUT
        for place, condition in enumerate(conditions)
    ]
    return (
        templates()
        .get_template("fragment.html")
        .render(result=result, rows=rows, verdict=result.verdict(), span=len(conditions))
    )


def _legend(result: Result) -> list[dict[str, str]]:
    """Legend of the figures over depth, which the page draws itself, once for all of them."""
    found = []
    for condition in leading(result):
        colour, dashes, marker = look(result, condition)
        found.append(
            {
                "label": family_label(result, condition),
                "colour": colour,
                "dashes": "none" if dashes == "-" else " ".join(str(1.5 * d) for d in dashes[1]),
                "marker": marker,
            }
        )
    return found


def _certified(sentence: str) -> bool:
    """Whether it says that a certificate passes, which the page has in a table."""
    return sentence.startswith("Certificate of ") and ": passes, " in sentence
