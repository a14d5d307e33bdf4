"""The leaderboard of a zoo: one page that needs nothing else."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from ...report.parts import templates, vendored
from ...report.style import PALETTE, evenly
from ...scores.tables import as_dicts
from ...text import is_random, number_text, short_name
from .accuracy import join_accuracy
from .curves import Curves
from .ranking import best_first, comparable, ranks, standing

_FIELDS = (
    *("cell", "model", "family", "parameters", "image_size", "layers", "seconds", "report"),
    *("localisation_error", "depth_known", "certified", "residual", "top1"),
)
_BYTES = 4e6  # that all curves may take


def zoo_page(
    models: pd.DataFrame, curves: Curves, accuracy: pd.DataFrame | None = None, title: str = "zoo"
) -> str:
    """Render the leaderboard: one HTML document that loads nothing from elsewhere.

    Parameters
    ----------
    models : DataFrame
        One row per cell, see :func:`~probe.analyses.zoo.models_table`.
    curves : mapping
        Scores by depth and by test image, see :data:`~probe.analyses.zoo.curves.Curves`.
    accuracy : DataFrame, optional
        Columns ``model`` and ``top1``, see :func:`~probe.analyses.zoo.accuracy.read_accuracy`.
    title : str
        What the page is called.

    Returns
    -------
    str
        The document: findings, pictures, a table for each group of comparable networks, which can
        be sorted and filtered, and the failures with their reasons.
    """
    models = models.reset_index(drop=True)
    missing: list[str] = []
    if accuracy is not None:
        models, missing = join_accuracy(models, accuracy)
    targets = targets_of(models)
    groups, words = comparable(models)
    rows = [_row(row, targets) for row in as_dicts(models)]
    findings: dict[str, list[str]] = {}
    for target in targets:
        for number in range(len(words)):
            members = models[groups == number]
            ranked, stands = ranks(members, target, curves), standing(members, target)
            for k, (place, cell) in enumerate(zip(members.index, members["cell"], strict=True)):
                row = rows[int(place)]
                row["group"] = number
                if cell in ranked.index:
                    row["ranks"][target] = _ranked(ranked.loc[cell], stands.iloc[k])
            if number == 0:
                findings[target] = _findings(members, stands, target)
    most = max(8, int(_BYTES / max(len(rows) * len(targets) * 20, 1)))
    for row in rows:
        shown = curves.get(row["cell"], {})
        row["curves"] = {t: _thousandths(shown[t], most) for t in targets if t in shown}
    failures = models[models["status"] != "finished"]
    data = {
        "targets": targets,
        "palette": PALETTE,
        "shares": share_names(models, targets),
        "groups": words,
        "findings": findings,
        "accuracy": "top1" in models and bool(models["top1"].notna().any()),
        "rows": [row for row in rows if "group" in row],
    }
    return (
        templates()
        .get_template("zoo.html")
        .render(
            title=title,
            data=in_script(data),
            finished=len(models) - len(failures),
            failures=[
                {**row, "weights": short_name(str(row["weights"]))}
                for row in as_dicts(failures.sort_values(["kind", "model"], kind="stable"))
            ],
            kinds=failures["kind"].value_counts().to_dict(),
            missing=missing,
            accuracy=accuracy is not None,
            versions=list(dict.fromkeys(models["version"].dropna().astype(str))),
            scripts=[vendored("chart.min.js"), vendored("tabulator.min.js")],
            sheet=vendored("tabulator.min.css"),
        )
    )


def network_name(model: Any, weights: Any) -> str:
    """A network as a page, a figure or a table names it: with its weights where they tell it."""
    if str(weights) in ("", "pretrained") or str(model).endswith(f".{weights}"):
        return str(model)
    return f"{model}, {short_name(str(weights))}"


def targets_of(models: pd.DataFrame) -> list[str]:
    """Targets that a table of models has scores of."""
    ends = ("_low", "_high")
    names = [n for n in models.columns if n.startswith("spc_") and not n.endswith(ends)]
    return [name.removeprefix("spc_") for name in names if models[name].notna().any()]


def share_names(models: pd.DataFrame, targets: list[str]) -> list[str]:
    """Sources of position that a table of models has shares of, some target's not missing."""
    ends = tuple(f"_{target}" for target in targets)
    names = [n for n in models.columns if n.startswith("share_") and n.endswith(ends)]
    sources = []
    for name in names:
        if models[name].notna().any():
            target = next(t for t in targets if name.endswith(f"_{t}"))
            sources.append(name.removeprefix("share_").removesuffix(f"_{target}"))
    return list(dict.fromkeys(sources))


def in_script(data: Any) -> Markup:
    """Data as JSON that can stand within a script element, whatever its names are."""
    text = json.dumps(_finite(data), ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def _finite(value: Any) -> Any:
    """Numbers short and without NaN, for a page."""
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value


def _thousandths(curve: Mapping[str, list[Any]], most: int) -> list[list[int | None]]:
    """Depth, value, low and high of at most so many layers, the best among them."""
    best = max(range(len(curve["value"])), key=lambda k: curve["value"][k] or 0.0, default=0)
    places = sorted({*evenly(range(len(curve["value"])), most), best} if curve["value"] else ())
    kept = [[curve[name][k] for k in places] for name in ("depth", "value", "low", "high")]
    return [[None if v is None else round(1000 * v) for v in values] for values in kept]


def _row(row: dict[str, Any], targets: list[str]) -> dict[str, Any]:
    """A row of the table of models as the page has it."""
    kept: dict[str, Any] = {name: row.get(name) for name in _FIELDS}
    by_target = {
        target: [row.get(f"spc_{target}{end}") for end in ("", "_low", "_high")]
        + [row.get(f"layer_{target}"), row.get(f"depth_{target}")]
        for target in targets
    }
    shares: dict[str, dict[str, Any]] = {}
    for name, value in row.items():
        for target in targets:
            if name.startswith("share_") and name.endswith(f"_{target}") and value is not None:
                source = name.removeprefix("share_").removesuffix(f"_{target}")
                shares.setdefault(target, {})[source] = value
    return {
        **kept,
        "name": network_name(row["model"], row["weights"]),
        "random": is_random(str(row["weights"])),
        "best": by_target,
        "share": shares,
        "ranks": {},
    }


def _ranked(rank: pd.Series, stands: pd.Series) -> dict[str, Any]:
    """Place of a row among those that it may be compared with."""
    return {
        "rank": int(rank["rank"]),
        "tied": bool(rank["tied"]),
        "step": [rank["difference"], rank["low"], rank["high"]],
        "paired": bool(rank["paired"] == True),  # noqa: E712  (it may be missing)
        "family": stands["from_family"],
        "equals": stands["from_equals"],
    }


def _findings(members: pd.DataFrame, stands: pd.DataFrame, target: str) -> list[str]:
    """Say who knows most and least, who does at equal accuracy, and who leaves its family.

    Trained networks come first, apart from those with random weights.
    """
    drawn = members["weights"].map(lambda w: is_random(str(w)))
    groups = {"trained": members[~drawn], "random": members[drawn]}
    return [
        sentence
        for kind, group in groups.items()
        for sentence in _group_findings(group, stands, target, kind)
    ]


def _group_findings(
    members: pd.DataFrame, stands: pd.DataFrame, target: str, kind: str
) -> Iterator[str]:
    ordered = best_first(members, target)
    if ordered.empty:
        return

    def said(row: pd.Series) -> str:
        name = network_name(row["model"], row["weights"])
        value, low, high = (number_text(row[f"spc_{target}{end}"]) for end in ("", "_low", "_high"))
        return f"{name}: SPC {value} [{low}, {high}]"

    count = len(ordered)
    who = "trained network" if kind == "trained" else "set of random weights"
    many = "trained networks" if kind == "trained" else "sets of random weights"
    what = target.replace("_", " ")
    first, last = ordered.iloc[0], ordered.iloc[-1]
    if count == 1:
        yield f"The one {who} knows of {what}: {said(first)}."
        return
    yield f"Knows most of {what}, of {count} {many}: {said(first)}; least: {said(last)}."
    stands = stands.loc[ordered.index]
    equals, apart = stands["from_equals"].to_numpy(float), stands["from_family"].to_numpy(float)
    if np.nanmin(equals, initial=0) < 0:
        k = int(np.nanargmin(equals))
        yield (
            f"Knows least at equal accuracy: {said(ordered.iloc[k])}, {number_text(-equals[k])} "
            f"below the median of the {stands['equals'].iloc[k]} networks within one point of its "
            f"top-1 ({ordered['top1'].iloc[k]:.1f} %)."
        )
    if np.nanmax(np.abs(apart), initial=0) > 0:
        k = int(np.nanargmax(np.abs(apart)))
        way = "above" if apart[k] > 0 else "below"
        yield (
            f"Farthest from its family, of {count} {many}: {said(ordered.iloc[k])}, "
            f"{number_text(abs(apart[k]))} {way} the median of the others of "
            f"{ordered['family'].iloc[k]}."
        )
