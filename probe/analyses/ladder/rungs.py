"""The rungs of a ladder, and those of the instance experiment."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ...errors import ProbeError
from ...instances.study import InstanceStudy
from ...studies.study import over_seeds

RUNGS: dict[str, tuple[bool, str]] = {
    "no border": (False, "circular"),
    "as trained": (False, "original"),
    "coordinates": (True, "original"),
    "coordinates, no border": (True, "circular"),
}
"""Rungs: whether coordinates are given, and the variant. The last is the control of the third."""

STEPS: tuple[str, ...] = ("no border", "as trained", "coordinates")
"""The three rungs of the story."""

INSTANCE_COLUMNS = ["border", "value", "low", "high", "least", "most", "seeds", "chance"]
"""Columns of the instance experiment's rungs."""

BORDERS = {
    "circular": "without a border",
    "zeros": "with zero padding",
    "coordconv": "with coordinates",
}


def with_rung(rung: str) -> str:
    words = {"no border": "without a border", "as trained": "as trained"}
    return words.get(rung, f"with {rung}")


def instance_rungs(folder: str | Path) -> pd.DataFrame | None:
    """Return the rungs of the instance experiment, if a folder holds it.

    Pairwise F1 of twin scenes with columns :data:`INSTANCE_COLUMNS`, a row for each of circular
    padding, zero padding and coordinates; None where it hasn't been run.
    """
    try:
        study = InstanceStudy.load(folder)
    except ProbeError:
        return None
    rows = study.table.query("scenes == 'twins' and task == 'instance'")
    scores = over_seeds(rows[rows["metric"] == "pair_f1"], ["borders"])
    scores = scores[scores["borders"].isin(BORDERS)].rename(columns={"borders": "border"})
    if len(scores) < len(BORDERS):
        return None
    chance = rows.loc[rows["metric"] == "chance_pair_f1", "value"].mean()
    return scores.assign(chance=chance)[INSTANCE_COLUMNS].reset_index(drop=True)
