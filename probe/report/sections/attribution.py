"""The section of a report on attribution."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from ...records.attribution import attribution_summary
from ...records.record import Record
from ...scores.tables import as_dicts
from ..figures.attribution import plot_attribution
from ..parts import svg
from .scores import interval_cell


def attribution_section(record: Record) -> dict[str, Any] | None:
    """Which units and sides bring position in, as a figure and a table."""
    table = record.attribution
    if table is None or table.empty:
        return None
    table = table.copy()
    for name in ("order", "value", "low", "high", "effect", "effect_low", "effect_high"):
        table[name] = pd.to_numeric(table[name], errors="coerce")
    figure = plot_attribution(table)
    plt.close(figure)
    spc = table[table["metric"] == "spc"]
    targets = list(dict.fromkeys(spc["target"]))
    cells = {
        (row["kind"], row["unit"], row["function"], row["keeps"], row["target"]): row
        for row in as_dicts(spc)
    }
    units = spc[spc["kind"] != "network"].drop_duplicates(["kind", "unit", "function"])
    rows = [
        {
            "unit": f"{unit} ({function})" if function not in ("", "conv2d") else unit,
            "kind": kind,
            "cells": [
                interval_cell(cells.get((kind, unit, function, keeps, target)))
                for target in targets
                for keeps in ("only", "all but")
            ],
        }
        for kind, unit, function in units[["kind", "unit", "function"]].itertuples(
            index=False, name=None
        )
    ]
    attribution = {
        "layer": spc["layer"].iloc[0],
        "summary": attribution_summary(table),
        "figure": svg(figure, "attribution", "SPC by unit and side that keeps its padding"),
        "targets": targets,
        "rows": rows,
    }
    return {"attribution": attribution}
