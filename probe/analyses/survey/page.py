"""The page of a survey."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ...report.parts import templates
from ...scores.tables import as_dicts
from ...variants.variant import VARIANTS


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
    from .table import STATUSES, findings

    ran = table[table["status"] != "not run"]
    counts = pd.crosstab([table["file"], table["variant"]], table["status"])
    counts = counts.reindex(columns=STATUSES, fill_value=0)
    records = as_dicts(table)
    rows = {s: [_survey_row(r) for r in records if r["status"] == s] for s in STATUSES}
    measures = ran[["threshold", "precision"]].dropna().drop_duplicates().sort_values("threshold")
    return (
        templates()
        .get_template("survey.html")
        .render(
            findings=findings(table),
            total=table["model"].nunique(),
            variants=[
                (
                    name,
                    "; ".join(
                        VARIANTS[part].words if part in VARIANTS else part
                        for part in name.split("+")
                    ),
                )
                for name in dict.fromkeys(table["variant"])
            ],
            versions=list(dict.fromkeys(table["timm"])),
            largest=_number(table["parameters"].max(), ".0f"),
            measures=[(f"{m.threshold:.0e}", m.precision) for m in measures.itertuples()],
            files=[
                {"file": row[0][0], "variant": row[0][1], "total": sum(row[1:]), "counts": row[1:]}
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
        "variant": row["variant"],
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
