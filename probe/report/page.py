"""The report of one record, and its short form for notebooks."""

from __future__ import annotations

from ..records.record import Condition, Record
from ..records.verdict import verdict_of
from ..text import families
from .figures.conditions import best_score, condition_label, family_label, leading, look
from .figures.depth import layer_figure
from .parts import legend_entry, svg, templates
from .sections.contents import SECTIONS
from .sections.scores import by_depth_title, scores_of
from .style import INPUT


def page(record: Record) -> str:
    """Render the report: one HTML document that loads nothing from elsewhere."""
    _, target = best_score(record.table)
    shared = {
        "result": record,
        "options": record.provenance["options"],
        "provenance": record.provenance,
        "legend": _legend(record.conditions),
        "pictured": leading(record.conditions),
        "pads": record.pads,
        "shares": bool(record.table["share"].notna().any()),
        "seeds": len(families(w for w, _ in record.conditions).get("random", ())),
        "chance": bool(record.table["chance"].notna().any()),
    }
    rendered = ((section, section.render(record, shared)) for section in SECTIONS.values())
    template = templates().get_template("report.html")
    return template.render(
        **shared,
        layer_count=len([name for name in record.layers if name != INPUT]),
        verdict=[s for s in verdict_of(record) if not _certified(s)],
        lead=svg(layer_figure(record.table, "spc", target), "lead", by_depth_title(target)),
        sections=[(section, content) for section, content in rendered if content is not None],
    )


def fragment(record: Record) -> str:
    """Render what a notebook shows of a result: verdict and a table of SPC by layer."""
    spc, conditions = scores_of(record, "spc"), leading(record.conditions)
    rows = [
        {
            "layer": layer,
            "condition": condition_label(condition),
            "scores": [spc.get((*condition, layer, target)) for target in record.targets],
            "first": place == 0,
        }
        for layer in record.layers
        if layer != INPUT
        for place, condition in enumerate(conditions)
    ]
    template = templates().get_template("fragment.html")
    sentences = verdict_of(record)
    return template.render(result=record, rows=rows, verdict=sentences, span=len(conditions))


def _legend(conditions: list[Condition]) -> list[dict[str, str]]:
    """Legend of the figures over depth, which the page draws itself, once for all of them."""
    entries = []
    for condition in leading(conditions):
        colour, dashes, marker = look(conditions, condition)
        label = family_label(conditions, condition)
        entries.append(legend_entry(label, colour, dashes, marker))
    return entries


def _certified(sentence: str) -> bool:
    """Whether it says that a certificate passes, which the page has in a table."""
    return sentence.startswith("Certificate of ") and ": passes, " in sentence
