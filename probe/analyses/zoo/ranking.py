"""Who may be compared with whom, who is told apart, and who stands out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ...runner.options import Options
from ...scores.intervals import bootstrap_interval
from ...scores.tables import as_dicts
from ...text import is_random
from .curves import Curves

_RULES = {
    "stimuli": "stimuli",
    "image_size": "image size",
    "readout": "readout",
    "kernel": "kernel",
    "concat": "concatenated layers",
    "targets": "targets",
    "layers": "layers",
    "train_images": "train images",
    "test_images": "test images",
    "precision": "precision",
    "seed": "seed",
    "mean": "mean",
    "std": "standard deviation",
    "version": "version of Probe",
}
"""What two cells must share to be ranked together, and how a difference is named."""

_COLUMNS = ("stimuli", "readout", "targets", "train_images", "test_images", "version")
_DEFAULTS = {f.name: f.default for f in dataclasses.fields(Options)}
OWN_SIZE = "each network's own"
NEAR = 1.0
"""Points of top-1 accuracy within which accuracies count as equal."""


def comparable(models: pd.DataFrame) -> tuple[pd.Series, list[str]]:
    """Sort finished cells into groups whose scores may be ranked together.

    Parameters
    ----------
    models : DataFrame
        One row per cell.

    Returns
    -------
    groups : Series of int
        Number of each row's group, 0 for the largest; −1 for failures.
    differences : list of str
        For each group in what it differs from the largest; of that, what it is.
    """
    finished = models["status"] == "finished"
    settings = [_setting(row) for row in as_dicts(models[finished])]
    order = pd.Series(settings, dtype=object).value_counts(sort=True).index.tolist()
    numbers = {setting: number for number, setting in enumerate(order)}
    left = iter(settings)
    groups = [numbers[next(left)] if done else -1 for done in finished]
    return pd.Series(groups, models.index), [_difference(setting, order[0]) for setting in order]


def _setting(row: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    try:
        options = json.loads(row.get("options") or "{}")
    except (TypeError, ValueError):
        options = {}
    known = {k: row[k] for k in _COLUMNS if not _missing(row.get(k))}
    if options.get("precision"):  # as many test images as it took
        known.pop("test_images", None)
    asked = {k: v for k, v in {**_DEFAULTS, **options}.items() if k in _RULES}
    size = options.get("image_size")
    if size is None:
        own = "image_size" in options or "options" in row or "image_size" not in row
        size = OWN_SIZE if own else row["image_size"]
    return tuple((k, _word(v)) for k, v in sorted(({**asked, **known, "image_size": size}).items()))


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and np.isnan(value))


def _word(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, dict.fromkeys(value)))
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).replace(",", ", ").replace(",  ", ", ")


def _difference(setting: tuple[tuple[str, str], ...], largest: tuple[tuple[str, str], ...]) -> str:
    """Say in what a group differs from the largest; of the largest, what all its cells share."""
    reference = dict(largest)
    if setting == largest:
        shown = ("stimuli", "image_size", "readout", "targets", "version")
        return "; ".join(f"{_RULES[k]}: {reference[k]}" for k in shown if k in reference)
    return "; ".join(
        f"{_RULES[k]}: {v} rather than {reference.get(k, 'none')}"
        for k, v in setting
        if v != reference.get(k)
    )


def best_first(models: pd.DataFrame, target: str) -> pd.DataFrame:
    """Rows that have a score of the target, the highest SPC first."""
    rows = models[models[f"spc_{target}"].notna()]
    return rows.sort_values([f"spc_{target}", "cell"], ascending=[False, True], kind="stable")


def differences(
    rows: pd.DataFrame, target: str, curves: Curves, pairs: Sequence[tuple[int, int]]
) -> pd.DataFrame:
    """Differences of SPC between rows of a table of models, each at its best layer.

    Paired over test images where both cells saw the same ones: equal stimuli, seed and image
    size. Elsewhere, or where the scores by image were not kept, from both rows' own intervals.

    Parameters
    ----------
    rows : DataFrame
        One row per cell, of one comparable group.
    target : str
        Of what.
    curves : mapping
        See :data:`~probe.analyses.zoo.curves.Curves`.
    pairs : sequence of (int, int)
        Positions of rows.

    Returns
    -------
    DataFrame
        Columns ``a``, ``b`` (cells), ``target``, ``difference`` (a less b), ``low``, ``high`` of
        its 95 % interval, and whether it is ``paired``.
    """
    value, low, high = (rows[f"spc_{target}{end}"].to_numpy(float) for end in ("", "_low", "_high"))
    cells, sizes = rows["cell"].tolist(), rows["image_size"].astype(str).tolist()
    a, b = np.array(pairs, int).reshape(-1, 2).T
    difference = value[a] - value[b]
    table = pd.DataFrame(
        {
            "a": [cells[i] for i in a],
            "b": [cells[i] for i in b],
            "target": target,
            "difference": difference,
            "low": difference - np.hypot(value[a] - low[a], high[b] - value[b]),
            "high": difference + np.hypot(high[a] - value[a], value[b] - low[b]),
            "paired": False,
        }
    )
    images: dict[int, tuple[tuple[int, ...], np.ndarray]] = {}
    for i in {*a, *b}:
        curve = curves.get(cells[i], {}).get(target, {})
        if curve.get("image"):
            images[i] = (tuple(curve["scene"]), np.array(curve["image"], float))
    together: dict[tuple[int, ...], list[int]] = {}
    for k, (i, j) in enumerate(zip(a, b, strict=True)):
        if i in images and j in images and sizes[i] == sizes[j] and images[i][0] == images[j][0]:
            together.setdefault(images[i][0], []).append(k)
    for scenes, places in together.items():
        values = np.stack([images[a[k]][1] - images[b[k]][1] for k in places], 1)
        bounds = bootstrap_interval(values, scenes=np.array(scenes))
        table.loc[places, ["difference", "low", "high"]] = np.stack([values.mean(0), *bounds], 1)
        table.loc[places, "paired"] = True
    return table


def ranks(rows: pd.DataFrame, target: str, curves: Curves) -> pd.DataFrame:
    """Rank rows of one comparable group; adjacent ones that are not told apart are ties.

    Returns
    -------
    DataFrame
        Indexed by cell, in order: ``rank``, ``tied`` (with the row above), and the
        ``difference`` of the row above less this one, with ``low``, ``high`` and ``paired``.
    """
    ordered = best_first(rows, target)
    steps = [(i, i + 1) for i in range(len(ordered) - 1)]
    table = differences(ordered, target, curves, steps).set_index("b")
    table = table.reindex(ordered["cell"])[["difference", "low", "high", "paired"]]
    tied = (table["low"] <= 0) & (table["high"] >= 0)
    unknown = table["low"].isna() | table["high"].isna()
    first = np.arange(len(table)) == 0
    return table.assign(rank=np.arange(1, len(table) + 1), tied=(tied | unknown) & ~first)


def standing(rows: pd.DataFrame, target: str) -> pd.DataFrame:
    """How far each row lies from its family, and from networks that are as accurate.

    Returns
    -------
    DataFrame
        Indexed as the rows: ``from_family``, SPC less the median of the other members of the
        family with the same kind of weights (at least two); ``from_equals``, less the median of
        the other networks within :data:`NEAR` points of top-1 (at least two), and ``equals``, of
        how many.
    """
    spc = rows[f"spc_{target}"].to_numpy(float)
    drawn = rows["weights"].map(lambda w: is_random(str(w))).to_numpy(bool)
    family, equals, count = (
        np.full_like(spc, np.nan),
        np.full_like(spc, np.nan),
        np.zeros(len(spc), int),
    )
    for places in rows.assign(drawn=drawn).groupby(["family", "drawn"]).indices.values():
        for k in places if len(places) > 2 else ():
            family[k] = spc[k] - np.nanmedian(spc[places[places != k]])
    top1 = rows["top1"].to_numpy(float) if "top1" in rows else np.full_like(spc, np.nan)
    for k in np.flatnonzero(np.isfinite(top1) & np.isfinite(spc)):
        near = (np.abs(top1 - top1[k]) <= NEAR) & np.isfinite(spc)
        near[k] = False
        if near.sum() > 1:
            equals[k], count[k] = spc[k] - np.median(spc[near]), near.sum()
    columns = {"from_family": family, "from_equals": equals, "equals": count}
    return pd.DataFrame(columns, index=rows.index)
