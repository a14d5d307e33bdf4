"""Tables of a zoo: pure functions of its folder.

Each cell keeps a summary of its own, written with it, so that a finished cell costs the same
however many there are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ...files import plain
from ...records.verdict import KNOWS
from ...results import Result
from ...variants.variant import parse_variant
from .schema import MODELS, SCHEMA, SCORES

CELLS = "cells"
SUMMARY, FAILURE, TRACEBACK = "cell.json", "failure.json", "traceback.txt"
CURVES = "curves.json"

_NUMBERS = {"nan": np.nan, "inf": np.inf, "-inf": -np.inf}


def summarise(result: Result, about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of a finished cell."""
    options = result.provenance["options"]
    row: dict[str, Any] = {
        **about,
        "schema": SCHEMA,
        "status": "finished",
        "kind": "",
        "sentence": "",
        "image_size": "{}x{}".format(*options["image_size"]),
        "stimuli": str(options["stimuli"]),
        "train_images": options["train_images"],
        "test_images": options["test_images"],
        "readout": str(result.table["readout"].iloc[0]),
        "targets": ",".join(result.targets),
        "version": result.provenance["versions"]["position-probe"],
        "sha256": result.provenance["backbones"][0]["sha256"],
        "layers": len(result.layers) - 1,
        "batch_size": options["batch_size"],
    }
    taken = _taken(result)
    most = max(taken, key=lambda name: len(taken[name]))  # the first of those that take as many
    if taken[most]:
        certificate = result.certificates[result.conditions[0][0], most]
        row |= {"certified": certificate.passed, "residual": certificate.residual}
    return row | _best(result)


def _taken(result: Result) -> dict[str, frozenset[str]]:
    """By variant, the kinds of sources that the network has and the variant takes away."""
    has = {s.partition(":")[0] for c in result.certificates.values() for s in c.sources}
    names = dict.fromkeys(variant for _, variant in result.conditions)
    return {name: parse_variant(name).removed_kinds & has for name in names}


def _best(result: Result) -> dict[str, Any]:
    """Best scores of the network as run first, by target."""
    table, row = result.table, dict[str, Any]()
    weights, variant = result.conditions[0]
    whole = table["depth"].max()
    ours = table[(table["weights"] == weights) & (table["depth"] > 0)]
    first = ours[ours["variant"] == variant]
    spc = first[first["metric"] == "spc"]
    known = spc.loc[spc["value"] >= KNOWS, "depth"]
    row["depth_known"] = known.min() / whole if len(known) else np.nan
    alone: dict[str, str] = {}
    for name, kinds in _taken(result).items():
        if len(kinds) == 1:
            alone.setdefault(next(iter(kinds)), name)
    errors = first.loc[first["metric"] == "error_px", "value"]
    row["localisation_error"] = errors.min() if len(errors) else np.nan
    for target, scores in spc.groupby("target", sort=False):
        if not scores["value"].notna().any():
            continue
        best = scores.iloc[int(scores["value"].argmax())]
        same = (ours["layer"] == best["layer"]) & (ours["target"] == target)
        shares = ours[same & (ours["metric"] == "spc")].set_index("variant")["share"].dropna()
        row |= {
            f"spc_{target}": best["value"],
            f"spc_{target}_low": best["low"],
            f"spc_{target}_high": best["high"],
            f"layer_{target}": best["layer"],
            f"depth_{target}": best["depth"] / whole,
            f"share_padding_{target}": np.nan,
        }
        row |= {
            f"share_{kind.replace(' ', '_')}_{target}": shares[variant]
            for kind, variant in alone.items()
            if variant in shares
        }
    return row


def models_table(folder: str | Path) -> pd.DataFrame:
    """One row per cell, finished or failed, by name; see :data:`probe.analyses.zoo.MODELS`."""
    rows = [row for _, row in cell_rows(folder)]
    table = pd.DataFrame(rows)
    added = [name for name in table.columns if name not in (*MODELS, "schema", "digest")]
    return table.reindex(columns=[*MODELS, *added])


def scores_table(folder: str | Path) -> pd.DataFrame:
    """One row per score of all finished cells; see :data:`~probe.analyses.zoo.SCORES`."""
    tables = []
    for path, row in cell_rows(folder):
        if row["status"] == "finished":
            table = pd.read_parquet(path / "scores.parquet")
            added = {k: row.get(k) for k in ("cell", "family", "parameters", "options", "version")}
            depth = table["depth"] / max(table["depth"].max(), 1)
            if table["weights"].nunique() == 1:
                table["weights"] = row["weights"]
            tables.append(table.assign(**added, relative_depth=depth))
    if not tables:
        return pd.DataFrame(columns=list(SCORES))
    return pd.concat(tables, ignore_index=True)[list(SCORES)]


def cell_rows(folder: str | Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the folder and the row of each cell, finished or failed."""
    for path in sorted((Path(folder) / CELLS).glob("[!.]*")):
        row = read_row(path)
        if row is not None:
            yield path, row


def read_row(path: Path) -> dict[str, Any] | None:
    """Read the row of a cell; nothing where there is none, or it can't be read."""
    for name in (SUMMARY, FAILURE):
        try:
            row = json.loads((path / name).read_text(encoding="utf-8"))
            options = row["options"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        row = {k: _NUMBERS.get(v, v) if isinstance(v, str) else v for k, v in row.items()}
        row["options"] = json.dumps(plain(options), sort_keys=True)
        for column, file in (("report", "report.html"), ("traceback", TRACEBACK)):
            there = (path / file).exists()
            row[column] = f"{CELLS}/{path.name}/{file}" if there else ""
        return row
    return None


def failure(about: Mapping[str, Any], kind: str, sentence: str, attempts: int) -> dict[str, Any]:
    """Return the record of a failure."""
    said = {"status": "failed", "kind": kind, "sentence": " ".join(sentence.split())[:500]}
    return {**about, "schema": SCHEMA, **said, "attempts": attempts}
