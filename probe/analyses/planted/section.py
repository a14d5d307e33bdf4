"""The section of a report on planted truth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...text import number_text
from .recovery import planted_by_snr, planted_summary

if TYPE_CHECKING:
    from ...results import Result


def planted_section(result: Result) -> dict[str, Any] | None:
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
