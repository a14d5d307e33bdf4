"""What a leaderboard needs of one cell beside its row: scores by depth, and by test image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

Curves = Mapping[str, Mapping[str, Mapping[str, list[Any]]]]
"""By cell and target: ``depth`` (relative, in (0, 1]), ``value``, ``low``, ``high`` of each layer;
``scene`` and ``image`` scores of the test images at the best layer."""

_MOST = 40  # layers of a curve


def curves_of(table: pd.DataFrame, per_image: pd.DataFrame | None = None) -> dict[str, Any]:
    """Return the SPC by depth of a result as run first, and by image at its best layers.

    Parameters
    ----------
    table : DataFrame
        Of a result, see :class:`~probe.records.Record`.
    per_image : DataFrame, optional
        Its scores by test image.

    Returns
    -------
    dict
        By target, as in :data:`Curves`; of more than 40 layers 40 spread evenly and the best.
    """
    keys = ["weights", "variant"]
    weights, variant = table[keys].iloc[0]
    whole = max(table["depth"].max(), 1)
    spc = table[(table["metric"] == "spc") & (table["depth"] > 0)]
    spc = spc[(spc["weights"] == weights) & (spc["variant"] == variant) & spc["value"].notna()]
    curves: dict[str, Any] = {}
    for target, rows in spc.sort_values("depth", kind="stable").groupby("target", sort=False):
        best = int(np.argmax(rows["value"]))
        spread = np.linspace(0, len(rows) - 1, min(len(rows), _MOST)).round()
        shown = rows.iloc[np.unique([*spread.astype(int), best])]
        curves[str(target)] = {
            "depth": (shown["depth"] / whole).round(4).tolist(),
            **{name: _rounded(shown[name]) for name in ("value", "low", "high")},
        }
        if per_image is not None and len(per_image):
            chosen = per_image[
                (per_image["metric"] == "spc")
                & (per_image["target"] == target)
                & (per_image["layer"] == rows["layer"].iloc[best])
                & (per_image["weights"] == weights)
                & (per_image["variant"] == variant)
            ].sort_values("image", kind="stable")
            curves[str(target)] |= {
                "scene": chosen["scene"].astype(int).tolist(),
                "image": chosen["value"].astype(float).round(5).tolist(),
            }
    return curves


def cell_curves(scores: pd.DataFrame) -> dict[str, Any]:
    """Return the curves of all cells of a table of scores, see :data:`Curves`."""
    return {str(cell): curves_of(rows) for cell, rows in scores.groupby("cell", sort=False)}


def _rounded(values: pd.Series) -> list[float | None]:
    return [None if pd.isna(v) else round(float(v), 4) for v in values]
