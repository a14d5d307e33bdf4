"""The section of a report on planted truth."""

from __future__ import annotations

from typing import Any

from ...records.planted import planted_by_snr, planted_summary
from ...records.record import Record
from ...scores.tables import as_dicts
from ...text import number_text


def planted_section(record: Record) -> dict[str, Any] | None:
    """Planted truth: how much of it was recovered, by signal-to-noise ratio."""
    if record.planted is None or record.planted.empty:
        return None
    rows = [
        {
            "snr": f"{row['snr']:g}",
            **{n: number_text(row[n], ".3f") for n in ("attainable", "value", "half_width")},
            "recovered": f"{row['recovered']} of {row['cases']}",
        }
        for row in as_dicts(planted_by_snr(record.planted))
    ]
    return {"summary": planted_summary(record.planted), "rows": rows}
