"""What ways of taking position out of a layer leave: tables, and what they say in words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ..files import reading
from ..text import interval, number_text, short_name

TABLE_FILE, MATCHES_FILE, RECORD_FILE = "erasure.csv", "matches.csv", "erasure.json"

PLAIN = "plain"
"""Method of features as they are."""

_POSITION = ("spc", "top1")


@dataclass(frozen=True)
class ErasureRecord:
    """What each way of erasing leaves at one layer, as plain data.

    Attributes
    ----------
    table : DataFrame
        ``kind``: ``position`` (what a readout finds), ``content`` or ``change``; ``readout``,
        ``target``, ``metric``; ``method``: ``plain`` or a way; ``value``, ``low``, ``high``.
    matches : DataFrame
        As of :func:`probe.erasers.match`, with ``images``.
    provenance : dict
        Model, layer, weights, images, what each eraser removed (``erasers``), ``cautions``.
    """

    table: pd.DataFrame
    matches: pd.DataFrame
    provenance: dict[str, Any]

    @property
    def methods(self) -> list[str]:
        """``plain``, then the ways."""
        return [PLAIN, *self.provenance["erasers"]]

    def side_by_side(self, kind: str) -> list[dict[str, Any]]:
        """Rows of the table of a kind (or ``matches``) that have a cell of text for each method."""
        if kind == "matches":
            rows, keys = self.matches, ["images", "match"]
            rows = rows.assign(images=[short_name(name) for name in rows["images"]])
        else:
            rows, keys = self.table[self.table["kind"] == kind], ["readout", "target", "metric"]
            if kind == "position":
                explained = (rows["metric"] == "r2") & rows["readout"].str.startswith("ridge")
                rows = rows[rows["metric"].isin(_POSITION) | explained]
        lines = []
        for key, part in rows.groupby(keys, sort=False):
            by_method = {row["method"]: row for row in part.to_dict("records")}
            cells = [_cell(by_method.get(method)) for method in self.methods]
            chance = number_text(part["chance"].iloc[0], ".3f") if "chance" in part else ""
            lines.append(dict(zip(keys, key, strict=True)) | {"cells": cells, "chance": chance})
        return lines

    def summary(self) -> list[str]:
        """Say in sentences what was removed, what readouts still find, and what matches became."""
        spc = self.table[self.table["metric"] == "spc"]
        sentences: list[str] = []
        for readout in dict.fromkeys(spc["readout"]):
            plain, *left = (_most(spc, readout, method) for method in self.methods)
            after = ", ".join(map(" ".join, zip(self.methods[1:], left, strict=True)))
            where = "" if sentences else f" at {self.provenance['layer']}"
            reads = f"{readout.capitalize()} reads position{where} with |SPC| up to {plain}"
            sentences.append(f"{reads}; after {after}.")
        for way in self.methods[1:]:
            record = self.provenance["erasers"][way]
            takes = f"takes {100 * record['share']:.1f} % of the variance, rank {record['rank']}"
            found = takes if record["rank"] else "finds no position and changes nothing"
            sentences.append(f"{way.capitalize()} {found}.")
        for (images, match), rows in self.matches.groupby(["images", "match"], sort=False):
            said = "; ".join(
                f"{row['method']} {interval(row['value'], row['low'], row['high'])}"
                for row in rows.to_dict("records")
            )
            what = "Right matches" if match == "right" else "Pull to the same place"
            chance = number_text(rows["chance"].iloc[0])
            sentences.append(f"{what} on {short_name(str(images))}: {said} (chance {chance}).")
        return sentences + [f"Caution: {text}" for text in self.provenance["cautions"]]

    def files(self) -> dict[str, bytes]:
        """Tables as CSV files, by name."""
        return {
            TABLE_FILE: self.table.to_csv(index=False).encode(),
            MATCHES_FILE: self.matches.to_csv(index=False).encode(),
        }


def read_erasure(folder: str | Path) -> ErasureRecord:
    """Read what ``probe erase`` wrote into a folder.

    Raises
    ------
    ProbeError
        If the folder does not hold it, or it is something else.
    """
    folder = Path(folder)
    with reading(folder, "erasure"):
        record = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
        tables = [
            pd.read_csv(folder / name, keep_default_na=False, na_values={n: [""] for n in _NUMBERS})
            for name in (TABLE_FILE, MATCHES_FILE)
        ]
        erased = ErasureRecord(tables[0], tables[1], record)
        _ = erased.summary()
        return erased


_NUMBERS: Sequence[str] = ("value", "low", "high", "chance")


def _cell(row: Any) -> str:
    return "" if row is None else interval(row["value"], row["low"], row["high"])


def _most(spc: pd.DataFrame, readout: str, method: str) -> str:
    values = spc[(spc["readout"] == readout) & (spc["method"] == method)]["value"].abs()
    return number_text(values.max())
