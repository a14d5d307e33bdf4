"""The section of a report on taking position out."""

from __future__ import annotations

from typing import Any

from ...records.record import Record


def erasure_section(record: Record) -> dict[str, Any] | None:
    """What each way of erasing leaves at a layer."""
    erased = record.erasure
    if erased is None:
        return None
    return {
        "erased": erased.provenance,
        "sentences": erased.summary(),
        "methods": erased.methods,
        "position": erased.side_by_side("position"),
    }
