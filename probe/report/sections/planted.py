"""The section of a report on planted truth."""

from __future__ import annotations

from typing import Any

from ...records.planted import planted_by_snr, planted_summary
from ...records.record import Record
from ...text import number_text


def planted_section(record: Record) -> dict[str, Any] | None:
    """Planted truth: how much of it was recovered, by signal-to-noise ratio."""
    if record.planted is None or record.planted.empty:
        return None
    rows = [
        {
            "snr": f"{row.snr:g}",
            "attainable": number_text(row.attainable, ".3f"),
            "value": number_text(row.value, ".3f"),
            "half_width": number_text(row.half_width, ".3f"),
            "recovered": f"{row.recovered} of {row.cases}",
        }
        for row in planted_by_snr(record.planted).itertuples()
    ]
    return {"summary": planted_summary(record.planted), "rows": rows}
