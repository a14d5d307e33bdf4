"""The page of a reproduction: tables, measured beside published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ...readouts.spec import ReadoutSpec
from ...report.parts import templates
from ...text import number_text
from .published import LEAVES, differences


def page(table: pd.DataFrame, provenance: Mapping[str, Any], sentences: Sequence[str]) -> str:
    """Render a reproduction: one HTML document that loads nothing from elsewhere."""
    head = ReadoutSpec(provenance["options"]["readout"], concat=True)
    first, padding = (rows for _, rows in table.groupby("table", sort=False))
    grids = [
        ("SPC", _grid(first[first["metric"] == "spc"], "stimuli")),
        ("MAE", _grid(first[first["metric"] == "mae"], "stimuli")),
        *(
            (
                f"Padding, on {stimuli}",
                _grid(rows.assign(metric=rows["metric"].str.upper()), "metric"),
            )
            for stimuli, rows in padding.groupby("stimuli", sort=False)
            if rows[["value", "published"]].notna().any(axis=None)
        ),
    ]
    return (
        templates()
        .get_template("reproduction.html")
        .render(
            title=provenance["title"],
            provenance=provenance,
            options=provenance["options"],
            sentences=sentences,
            grids=grids,
            readout=head.label,
            leaves=provenance["trained_on"] == LEAVES,
            differences=differences(provenance),
        )
    )


def _grid(table: pd.DataFrame, by: str) -> dict[str, Any]:
    """Rows by target and network; groups of columns with what is measured and published."""
    groups = [
        (name, bool(cells["value"].notna().any()), bool(cells["published"].notna().any()))
        for name, cells in table.groupby(by, sort=False)
    ]
    groups = [group for group in groups if any(group[1:])]
    targets = []
    for target, rows in table.groupby("target", sort=False):
        networks = []
        for network, cells in rows.groupby("row", sort=False):
            found = cells.set_index(by)
            networks.append((network, [_cell(found.loc[name]) for name, *_ in groups]))
        targets.append((target, networks))
    return {"groups": groups, "targets": targets}


def _cell(row: Any) -> dict[str, str]:
    value, low, high, published = (
        number_text(row[name], ".3f") for name in ("value", "low", "high", "published")
    )
    bounds = "" if np.isnan(row["low"]) else f"[{low}, {high}]"
    return {"value": value, "bounds": bounds, "published": published, "status": row["status"]}
